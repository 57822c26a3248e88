"""When a limit counts: windows of the week, by a clock of the test's."""

from datetime import datetime, time

import pytest

from shared.limits import WEEK, Day, Limit, Window, holding

WORKDAYS = WEEK[:5]
OFFICE = Window(WORKDAYS, time(8), time(18))
NIGHT = Window((Day.FRI,), time(22), time(6))
BERLIN = Window((Day.MON,), time(0), time(1), "Europe/Berlin")
WHOLE_DAY = Window((Day.SUN,), time(0), time(0))


@pytest.mark.parametrize(
    ("window", "moment", "open_"),
    [
        (OFFICE, "2026-06-05T07:59:59+00:00", False),  # a Friday
        (OFFICE, "2026-06-05T08:00:00+00:00", True),
        (OFFICE, "2026-06-05T17:59:59+00:00", True),
        (OFFICE, "2026-06-05T18:00:00+00:00", False),
        (OFFICE, "2026-06-06T12:00:00+00:00", False),
        (NIGHT, "2026-06-05T21:59:59+00:00", False),
        (NIGHT, "2026-06-05T22:00:00+00:00", True),
        (NIGHT, "2026-06-06T05:59:59+00:00", True),
        (NIGHT, "2026-06-06T06:00:00+00:00", False),
        (NIGHT, "2026-06-06T22:00:00+00:00", False),
        (NIGHT, "2026-06-05T05:00:00+00:00", False),  # Thursday's night is not in it
        (BERLIN, "2026-06-07T22:30:00+00:00", True),  # Monday there, in summer
        (BERLIN, "2026-06-07T23:30:00+00:00", False),
        (BERLIN, "2026-12-06T23:30:00+00:00", True),  # and in winter
        (WHOLE_DAY, "2026-06-07T00:00:00+00:00", True),
        (WHOLE_DAY, "2026-06-07T23:59:59+00:00", True),
        (WHOLE_DAY, "2026-06-08T00:00:00+00:00", False),
    ],
)
def test_windows(window: Window, moment: str, open_: bool) -> None:
    seconds = datetime.fromisoformat(moment).timestamp()
    assert window.covers(seconds) is open_
    always, sometimes = Limit("always"), Limit("sometimes", window=window)
    assert holding([always, sometimes], seconds) == [always, sometimes][: 2 if open_ else 1]
