from hypothesis import given
from hypothesis import strategies as st

from workers.runtimes.log_ring import MAX_LINE_BYTES, LogRing


@given(st.lists(st.binary(max_size=50)))
def test_where_the_stream_is_cut_does_not_matter(pieces: list[bytes]) -> None:
    whole, cut = LogRing(), LogRing()
    whole.feed(b"".join(pieces))
    for piece in pieces:
        cut.feed(piece)
    assert cut.tail() == whole.tail()


def test_keeps_the_end() -> None:
    ring = LogRing()
    ring.feed(b"".join(b"%d\n" % number for number in range(1000)) + b"half")
    assert ring.tail(3) == ["998", "999", "half"]
    assert len(ring.tail(10_000)) == 201
    assert ring.tail(0) == []


def test_long_lines_are_cut_from_the_left() -> None:
    ring = LogRing()
    for _ in range(100):
        ring.feed(b"x" * 100_000)
    ring.feed(b"the end\n")
    (line,) = ring.tail()
    assert line.endswith("xthe end")
    assert len(line) <= MAX_LINE_BYTES


def test_a_megabyte_at_most() -> None:
    ring = LogRing()
    ring.feed((b"x" * MAX_LINE_BYTES + b"\n") * 500)
    assert sum(map(len, ring.tail(1000))) <= 1024 * 1024


def test_shows_no_secret_no_control_characters_and_the_last_of_a_progress_bar() -> None:
    ring = LogRing("s3cret")
    ring.feed(b"key is s3cret\n\x1b[31mred\xff\n10%\r50%\r99%\n")
    assert ring.tail() == ["key is ***", "�[31mred�", "99%"]
