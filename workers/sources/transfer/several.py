"""The files of one job: small ones several at a time, large ones one after another, over shared connections."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial as bound
from pathlib import Path
from typing import NamedTuple

from shared.errors import Interrupted
from shared.settings import SourceSettings
from workers.sources.base import Checkpoint, RemoteFile
from workers.sources.transfer.board import CHUNK_BYTES
from workers.sources.transfer.engine import Fetched, fetch
from workers.sources.transfer.throttle import Throttle
from workers.sources.wire.lines import Lines
from workers.sources.wire.policy import HostPolicy

AT_ONCE = 4
"""Small files at a time; each waits for an answer and for the disk, and hardly for bytes."""
LOOK_SECONDS = 0.1

OnFile = Callable[[RemoteFile, int], None]
"""Told how many more bytes of a file are proven."""


class _News(NamedTuple):
    """What a thread tells of its file: bytes, or its end."""

    file: RemoteFile
    fresh: int = 0
    fetched: Fetched | None = None
    failure: BaseException | None = None


def fetch_several(
    files: Sequence[tuple[RemoteFile, Path]], policy: HostPolicy, settings: SourceSettings, checkpoint: Checkpoint,
    on_bytes: OnFile, throttle: Throttle | None = None,
) -> Generator[tuple[RemoteFile, Fetched]]:  # fmt: skip
    """Bring each file to its place, as `fetch` does, and hand it over as soon as it is whole.

    `checkpoint` and `on_bytes` are called on this thread only; no thread and no connection outlives the iteration.

    Raises:
        as `fetch`, of the first file that fails; what was brought of the others is kept.
    """
    small = [pair for pair in files if _is_small(pair[0])]
    with Lines() as lines:
        bring = bound(fetch, policy=policy, settings=settings, lines=lines, throttle=throttle)
        if small:
            yield from _at_once(small, bring, checkpoint, on_bytes)
        for file, partial in files:
            if not _is_small(file):
                yield file, bring(file, partial, checkpoint=checkpoint, on_bytes=bound(on_bytes, file))


def _is_small(file: RemoteFile) -> bool:
    return file.size is not None and file.size < CHUNK_BYTES


def _at_once(
    files: Sequence[tuple[RemoteFile, Path]], bring: Callable[..., Fetched], checkpoint: Checkpoint, on_bytes: OnFile
) -> Iterator[tuple[RemoteFile, Fetched]]:
    news: queue.SimpleQueue[_News] = queue.SimpleQueue()
    stop = threading.Event()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="files") as threads:
        try:
            for file, partial in files:
                threads.submit(_bring_one, bring, file, partial, news, stop)
            left = len(files)
            while left:
                checkpoint()
                try:
                    found = news.get(timeout=LOOK_SECONDS)
                except queue.Empty:
                    continue
                if found.failure is not None:
                    raise found.failure
                on_bytes(found.file, found.fresh)
                if found.fetched is not None:
                    left -= 1
                    yield found.file, found.fetched
        finally:
            stop.set()


def _bring_one(
    bring: Callable[..., Fetched], file: RemoteFile, partial: Path, news: "queue.SimpleQueue[_News]",
    stop: threading.Event,
) -> None:  # fmt: skip
    """On a thread of its own: one file, told as it comes."""

    def look() -> None:
        if stop.is_set():
            raise Interrupted("another file failed, or the job ends")

    try:
        look()
        told = bring(file, partial, checkpoint=look, on_bytes=lambda count: news.put(_News(file, count)))
    except BaseException as failure:  # noqa: BLE001 - carried to the caller's thread
        news.put(_News(file, failure=failure))
    else:
        news.put(_News(file, fetched=told))
