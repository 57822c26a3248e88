"""Row 8: the bytes that come from the server to mend one bad byte of a large file, by the running service.

The file is of zeros and takes no room at its source; the service's copy is real. The peer is who can only fetch a file
anew: that costs all of it, and is not tried.
"""

import os
import random
from pathlib import Path

from tests.benchmarks.clients import emptied
from tests.benchmarks.goods import repository
from tests.benchmarks.hosting import Host, host
from tests.benchmarks.measure import Context, Line, Meter, RowResult, Target
from tests.benchmarks.service import Service, serve

REPO, MODEL = "bench/large", "large"
MIB = 1024**2


def run(context: Context) -> RowResult:
    size = context.pick(5 * 10**9, 128 * MIB)
    root = context.stage.folder / "hub"
    repository(root, REPO, size, hollow=True)
    where = host(context.stage, root)
    service = serve(context.stage, where, emptied(context.stage.folder / "store"))
    service.add(MODEL, REPO)
    service.carry_out("/models/download", model_id=MODEL)
    chance, mended = random.Random(size), []
    for _ in range(context.repetitions):
        with Meter(**service.pids) as meter:
            fetched = _mended(service, where, chance.randrange(4096, size))
        mended.append((fetched, meter.wall))
    line = Line(
        "fetched to mend one byte", "MiB", [fetched for fetched, _ in mended], Target(32),
        [size / MIB] * len(mended), "the whole file",
    )  # fmt: skip
    facts = {"file bytes": size, "seconds, verify and all": [wall for _, wall in mended]}
    return RowResult(8, f"repair of one byte in {size / 1e9:.2g} GB", [line], facts)


def _mended(service: Service, where: Host, place: int) -> float:
    """MiB that the server sent, after which the byte is right again."""
    (path,) = service.store.glob(f"models/llm/{MODEL}/*/model-0.safetensors")
    _flip(path, place)
    before = where.sent()
    result = service.carry_out(f"/models/{MODEL}/repair")
    assert result["repaired"] == [path.name], result
    (path,) = service.store.glob(f"models/llm/{MODEL}/*/model-0.safetensors")
    with path.open("rb") as file:
        file.seek(place)
        assert file.read(1) == b"\0"
    return (where.sent() - before) / MIB


def _flip(path: Path, place: int) -> None:
    """As a disk does it: same file, same times and rights."""
    state = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\1")
    path.chmod(state.st_mode & 0o777)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
