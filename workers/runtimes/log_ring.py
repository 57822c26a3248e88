"""The last words of a child process, however much it says."""

import threading
from collections import deque

MAX_LINES = 200
MAX_BYTES = 1024 * 1024
MAX_LINE_BYTES = 8 * 1024


class LogRing:
    """Keeps the end of a stream of bytes: at most 200 lines and 1 MB, long lines cut. Safe between threads.

    Args:
        secret: shown as `***` wherever it occurs in a line.
    """

    def __init__(self, secret: str = "") -> None:
        self._secret = secret.encode()
        self._lines: deque[bytes] = deque()
        self._open = b""
        self._size = 0
        self._lock = threading.Lock()

    def feed(self, data: bytes) -> None:
        """Take the next bytes, cut anywhere."""
        with self._lock:
            *lines, self._open = (self._open + data).split(b"\n")
            if len(self._open) > 2 * MAX_LINE_BYTES:
                # the end of an endless line is worth more than its start, and must not grow
                self._open = self._open[-MAX_LINE_BYTES:]
            for line in lines[-MAX_LINES:]:
                self._keep(line)

    def tail(self, count: int = MAX_LINES) -> list[str]:
        """The last `count` lines, oldest first, without line ends and control characters."""
        with self._lock:
            lines = [*self._lines, *([self._cut(self._open)] if self._open.strip() else [])]
        return [_printable(line) for line in lines[-count:]] if count > 0 else []

    def _keep(self, line: bytes) -> None:
        line = self._cut(line)
        self._lines.append(line)
        self._size += len(line)
        while len(self._lines) > MAX_LINES or self._size > MAX_BYTES:
            self._size -= len(self._lines.popleft())

    def _cut(self, line: bytes) -> bytes:
        if self._secret:
            line = line.replace(self._secret, b"***")
        return line[-MAX_LINE_BYTES:]


def _printable(line: bytes) -> str:
    text = line.decode("utf-8", errors="replace").rstrip("\r")
    # a progress bar overwrites itself: only what a terminal would show last is kept
    text = text.rsplit("\r", 1)[-1]
    return "".join(letter if letter.isprintable() or letter == "\t" else "\N{REPLACEMENT CHARACTER}" for letter in text)
