"""Row 6: files of the right length in which one bit is wrong: how many are refused.

The hub has named the digests of what it was given; then one bit of each file flips where it lies. `hf download` ends
well, and what it then calls the model's files is compared with what they were.
"""

import hashlib
import os
import random
from pathlib import Path

from tests.benchmarks.clients import Resident, emptied, hf_download, resident
from tests.benchmarks.goods import repository
from tests.benchmarks.hosting import Host, host
from tests.benchmarks.measure import Context, Line, RowResult, Target, in_turns

REPO = "bench/many"
SIZE = 1024**2


def run(context: Context) -> RowResult:
    files = context.pick(100, 10)
    root, memory = context.stage.folder / "hub", context.stage.memory
    folder = repository(root, REPO, SIZE, files)
    where = host(context.stage, root)
    worker = context.stage.enter(resident(**where.environment))
    before, _ = _refused(worker, memory / "whole", 0)  # the hub learns the digests; all of them are right so far
    assert before == 0
    weights = sorted(folder.glob("*.safetensors"))
    right = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}
    chance = random.Random(files)
    for path in weights:
        _flip(path, chance.randrange(SIZE), chance.randrange(8))
    found = in_turns(context.repetitions, {
        "ours": lambda number: _refused(worker, memory / "ours", number)[0],
        "hf": lambda _: _missing(where, memory / "hf", right),
    })  # fmt: skip
    percent = {name: [100 * count / files for count in counts] for name, counts in found.items()}
    line = Line("refused", "%", percent["ours"], Target(100, at_most=False), percent["hf"], "hf download")
    return RowResult(6, f"{files} files with a flipped bit", [line], {"files": files, "bytes each": SIZE})


def _flip(path: Path, place: int, bit: int) -> None:
    """As a disk does it: the file looks as old as before."""
    state = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _refused(worker: Resident, folder: Path, _: int) -> tuple[int, int]:
    """Files that ours refused for their digest, and those that it left all the same."""
    _run, answer = worker.ask(do="fetch", ref=f"hf:{REPO}", into=emptied(folder))
    return answer["refused"].get("checksum_mismatch", 0), len(list(folder.glob("*.safetensors.partial")))


def _missing(where: Host, home: Path, right: dict[str, str]) -> int:
    """Wrong files that the Hub's tool did not hand out."""
    hf_download(REPO, where.endpoint, emptied(home))
    handed = {path.name: path for path in home.rglob("snapshots/*/*.safetensors")}
    return sum(
        name not in handed or hashlib.sha256(handed[name].read_bytes()).hexdigest() == digest
        for name, digest in right.items()
    )
