"""When a waiting job will start: told where it can be, absent where it cannot."""

import pytest

from api.forecast import seconds_left, seconds_until_start


@pytest.mark.parametrize(
    ("position", "left", "usual", "expected"),
    [
        (1, [30.0, 10.0], None, 10.0),
        (2, [30.0, 10.0], 60.0, 30.0),
        (3, [30.0, 10.0], 60.0, 70.0),  # 10 + 60: behind the one that starts first
        (5, [0.0], 2.0, 8.0),
        (2, [30.0, 10.0], None, None),
        (1, [30.0, None], 60.0, None),
        (1, [], 60.0, None),
    ],
)
def test_the_next_free_slot_takes_the_next_job(
    position: int, left: list[float | None], usual: float | None, expected: float | None
) -> None:
    assert seconds_until_start(position, left, usual) == expected


def test_long_queues_count_by_the_mean() -> None:
    assert seconds_until_start(10_001, [0.0, 0.0], 2.0) == pytest.approx(10_000.0)


def test_a_running_job_is_judged_by_its_own_word_first() -> None:
    assert seconds_left(5.0, 90.0, 60.0) == 90.0
    assert seconds_left(5.0, None, 60.0) == 55.0
    assert seconds_left(70.0, None, 60.0) == 0.0
    assert seconds_left(5.0, None, None) is None
