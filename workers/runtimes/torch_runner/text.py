"""From tokens to text, piece by piece: whole characters only, and nothing from a stop string on."""

from collections.abc import Callable, Sequence

MAX_PENDING = 16
"""Tokens held back for the rest of a character; a character never needs more, garbage might ask for ever."""
UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Turns token ids into text that only ever grows.

    A token may hold half a character, and its text may depend on its neighbours: a short window of tokens is decoded
    with and without the newest ones, and the difference is what they add.

    Args:
        decode: ids to text, as a tokenizer does.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._known = 0

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        self._window.append(token)
        text = self._decode(self._window)
        if text.endswith(UNFINISHED) and len(self._window) - self._known < MAX_PENDING:
            return ""
        return self._advance(text)

    def flush(self) -> str:
        """What was still held back."""
        return self._advance(self._decode(self._window)) if len(self._window) > self._known else ""

    def _advance(self, text: str) -> str:
        added = text[len(self._decode(self._window[: self._known])) :]
        self._window = self._window[self._known :]
        self._known = len(self._window)
        return added


class StopStrings:
    """Lets text through up to the first of the stop strings, holding back what might be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """The text that is safe to show now; nothing more once a stop string was `hit`."""
        if self.hit:
            return ""
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.hit = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back and turned out to be no stop string."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that starts `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
