"""Row 7: a published model is proven again, all of it in the page cache.

Ours with the source's digests asks the hub, as `hf cache verify` does; with the manifest's chunks it has no need to. It
is measured in a process that runs already, as a worker's does, and from the start of one. `sha256sum -c` asks nobody,
and starts in no time.
"""

from functools import partial
from pathlib import Path

from tests.benchmarks import limits
from tests.benchmarks.clients import OURS, Resident, Run, hf_download, hf_verify, resident, said, speed, timed
from tests.benchmarks.goods import repository
from tests.benchmarks.hosting import Host, host
from tests.benchmarks.measure import Context, RowResult, in_turns

REPO = "bench/tree"
FILES = 8


def run(context: Context) -> RowResult:
    each = context.pick(512 * 1024**2, 4 * 1024**2)
    root, work = context.stage.folder / "hub", context.stage.folder
    repository(root, REPO, each, FILES)
    where, store, home = host(context.stage, root), work / "ours", work / "hf"
    worker = context.stage.enter(resident(**where.environment))
    _run, pulled = worker.ask(do="pull", ref=f"hf:{REPO}", store=store)
    hf_download(REPO, where.endpoint, home)
    found = in_turns(context.repetitions, {
        "source, started": partial(_started, where, store, "source"),
        "blake3, started": partial(_started, where, store, "blake3"),
        "hf": lambda _: hf_verify(REPO, where.endpoint, home),
        "source": partial(_kept, worker, store, "source"),
        "blake3": partial(_kept, worker, store, "blake3"),
        "sha256sum": partial(_summed, Path(pulled["folder"]), _sums(worker, pulled["folder"], work)),
    })  # fmt: skip
    size = each * FILES
    hf, summed = (found["hf"], "hf cache verify"), (found["sha256sum"], "sha256sum -c")
    lines = [
        speed("sha256, by a running worker", size, found["source"], 1.8, *hf),
        speed("sha256, from the start of a process", size, found["source, started"], 1.8, *hf),
        speed("BLAKE3, by a running worker", size, found["blake3"], 3.5, *hf),
        speed("BLAKE3, from the start of a process", size, found["blake3, started"], 3.5, *hf),
        speed("sha256, by a running worker", size, found["source"], 13, *summed),
    ]
    facts = {"runs": found, "files": FILES, "sha256 GB/s a core": limits.sha256() / 1e9}
    return RowResult(7, f"verify a tree of {size / 1024**3:g} GiB", lines, facts)


def _started(where: Host, store: Path, tier: str, _: int) -> Run:
    return timed(OURS, said(do="verify", ref=f"hf:{REPO}", store=store, tier=tier), **where.environment)


def _kept(worker: Resident, store: Path, tier: str, _: int) -> Run:
    return worker.ask(do="verify", ref=f"hf:{REPO}", store=store, tier=tier)[0]


def _sums(worker: Resident, folder: str, work: Path) -> Path:
    """What `sha256sum -c` is to compare with, as it writes it itself."""
    import hashlib

    lines = []
    for path in sorted(Path(folder).iterdir()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path}\n")
    sums = work / "sums"
    sums.write_text("".join(lines))
    return sums


def _summed(folder: Path, sums: Path, _: int) -> Run:
    return timed(["sha256sum", "--quiet", "-c", sums])
