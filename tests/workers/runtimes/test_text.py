from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from workers.runtimes.torch_runner.text import Detokenizer, StopStrings


def decode(ids: Sequence[int]) -> str:
    """A byte-level tokenizer without merges."""
    return bytes(ids).decode("utf-8", errors="replace")


@given(st.text(max_size=40))
def test_text_comes_whole_and_never_shrinks(text: str) -> None:
    detokenizer = Detokenizer(decode)
    shown = "".join(detokenizer.push(byte) for byte in text.encode()) + detokenizer.flush()
    assert shown == text


def test_half_a_character_waits_for_the_other_half() -> None:
    detokenizer = Detokenizer(decode)
    assert [detokenizer.push(byte) for byte in "aé".encode()] == ["a", "", "é"]


def test_garbage_is_not_held_back_for_ever() -> None:
    detokenizer = Detokenizer(decode)
    assert "".join(detokenizer.push(0xFF) for _ in range(100))


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.integers(1, 4))
def test_stops_at_the_first_stop_string_however_it_is_cut(text: str, stops: list[str], size: int) -> None:
    scanner = StopStrings(stops)
    shown = "".join(scanner.push(text[at : at + size]) for at in range(0, len(text), size))
    shown += scanner.flush()
    found = [at for at in map(text.find, stops) if at >= 0]
    assert scanner.hit == bool(found)
    if scanner.hit:
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
    else:
        assert shown == text


def test_text_that_starts_like_a_stop_string_is_held_back() -> None:
    scanner = StopStrings(["END"])
    assert [scanner.push(piece) for piece in ("oneE", "N", "x", "END", "two")] == ["one", "", "ENx", "", ""]
    assert scanner.hit
