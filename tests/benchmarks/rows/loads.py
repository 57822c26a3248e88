"""Row 9: weights come into a buffer of host memory that is there already, from the disk and from the page cache.

The peer is safetensors' own `load_file`, whose tensors are then copied into such a buffer. The limit is the best of
several plain reads of the same files in the same repetition, which know nothing of tensors: by one thread and by
several, through the page cache and past it.
"""

import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.benchmarks.clients import Run, speed
from tests.benchmarks.goods import weights
from tests.benchmarks.measure import Context, RowResult, in_turns

FILES = 4
BLOCK_BYTES = 8 * 1024**2
THREADS = 4
PLAIN = {"one thread": (1, 0), "threads": (THREADS, 0), "threads, past the cache": (THREADS, os.O_DIRECT)}


def run(context: Context) -> RowResult:
    from safetensors.torch import load_file

    from workers.runtimes.torch_runner.arena import Arena

    each = context.pick(512 * 1024**2, 4 * 1024**2)
    files = [weights(context.stage.folder / f"{number}.safetensors", each) for number in range(FILES)]
    size, arena = each * FILES, Arena()
    buffer = mmap.mmap(-1, size)
    view = memoryview(buffer)

    def theirs() -> None:
        at = 0
        for file in files:
            for tensor in load_file(file).values():
                view[at : at + tensor.nbytes] = memoryview(tensor.numpy())
                at += tensor.nbytes

    arena.load(files)  # so that every buffer is there before anything is timed
    theirs()
    works: dict[str, Callable[[], object]] = {"ours": partial(arena.load, files), "load_file": theirs}
    works |= {name: partial(_read, files, view, *how) for name, how in PLAIN.items()}
    lines, facts = [], {}
    for state, target in (("cold", 1.4), ("warm", 1.8)):
        found = in_turns(
            context.repetitions,
            {name: partial(_timed, work, files, cold=state == "cold") for name, work in works.items()},
        )
        best = [min(runs, key=lambda run: run.wall) for runs in zip(*(found[name] for name in PLAIN), strict=True)]
        lines += [
            speed(f"{state}, into a buffer", size, found["ours"], target, found["load_file"], "load_file + copy"),
            speed(f"{state}, into a buffer", size, found["ours"], 0.95, best, "best plain read"),
        ]
        facts[state] = found
    return RowResult(9, f"load {size / 1024**3:g} GiB of weights to host memory", lines, facts)


def _timed(work: Callable[[], object], files: list[Path], _: int, *, cold: bool) -> Run:
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if not cold:
                while opened.read(BLOCK_BYTES):
                    pass
    began, before = time.perf_counter(), time.process_time()
    work()
    return Run(time.perf_counter() - began, time.process_time() - before)


def _read(files: list[Path], view: memoryview, threads: int, flags: int) -> None:
    """All bytes of the files, one file behind the other; their sizes are whole pages."""
    handles = [os.open(file, os.O_RDONLY | flags) for file in files]
    each = files[0].stat().st_size

    def block(start: int) -> None:
        file, at = divmod(start, each)
        end, done = min(each - at, BLOCK_BYTES), 0
        while done < end:
            done += os.preadv(handles[file], [view[start + done : start + end]], at + done)

    starts = [file * each + at for file in range(len(files)) for at in range(0, each, BLOCK_BYTES)]
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(block, starts))
    finally:
        for handle in handles:
            os.close(handle)
