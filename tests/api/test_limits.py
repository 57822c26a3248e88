"""Limits on downloads over REST, and as the command line writes them."""

from typing import Any

import pytest

from api.cli.client import Refused
from api.cli.limits import read_rate, read_window
from shared.db import limits
from shared.limits import Limit
from shared.refs import SourceKind
from shared.states import Priority
from tests.api.conftest import BEFORE_THE_DATABASE, Served

OFFICE = {"days": ["MON", "FRI"], "start": "08:00", "end": "18:00", "timeZone": "Europe/Berlin"}
ALL_WEEK = ["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"]
PATH = "/api/v1/limits"


def test_a_limit_is_set_shown_changed_and_cleared(api: Served) -> None:
    assert api.http.get(PATH).json() == {"limits": []}
    body = {"bytesPerSecond": 20_000_000, "source": "url", "priority": "LOW", "jobs": 2, "window": OFFICE}
    (shown,) = api.http.put(f"{PATH}/office", json=body).json()["limits"]
    assert isinstance(shown.pop("inForce"), bool)
    assert shown == {"name": "office", **body}
    (shown,) = api.http.put(f"{PATH}/office", json={"jobs": 1}).json()["limits"]
    assert (shown["jobs"], shown["bytesPerSecond"], shown["window"], shown["inForce"]) == (1, None, None, True)
    with api.front.database.reading() as session:
        assert limits.every(session) == limits.in_force(session) == [Limit("office", jobs=1)]
    assert api.http.delete(f"{PATH}/office").json() == {"limits": []}
    answer = api.http.delete(f"{PATH}/office")
    assert (answer.status_code, answer.json()["code"]) == (404, "limit_not_found")


def test_what_is_left_out_of_a_window_is_every_day_by_utc(api: Served) -> None:
    body = {"bytesPerSecond": 1, "window": {"start": "22:00", "end": "06:00"}}
    (shown,) = api.http.put(f"{PATH}/night", json=body).json()["limits"]
    assert shown["window"] == {"days": ALL_WEEK, "start": "22:00", "end": "06:00", "timeZone": "UTC"}


def test_it_comes_back_from_the_database_as_it_was(api: Served) -> None:
    wanted = Limit("both", SourceKind.URL, Priority.CRITICAL, bytes_per_second=2**40)
    with api.front.database.session() as session:
        limits.put(session, wanted)
    with api.front.database.reading() as session:
        assert limits.every(session) == [wanted]


NO_LIMITS: list[tuple[str, dict[str, Any]]] = [
    ("a", {}),
    ("a", {"source": "url"}),
    ("a", {"bytesPerSecond": 0}),
    ("a", {"bytesPerSecond": 2**63}),
    ("a", {"bytesPerSecond": "20MB"}),
    ("a", {"jobs": 0}),
    ("a", {"jobs": 1, "source": "nowhere"}),
    ("a", {"jobs": 1, "priority": "URGENT"}),
    ("a", {"jobs": 1, "limit": 1}),
    ("a", {"jobs": 1, "window": {"start": "8:00", "end": "18:00"}}),
    ("a", {"jobs": 1, "window": {"start": "08:00", "end": "24:00"}}),
    ("a", {"jobs": 1, "window": {"start": "08:00", "end": "18:00", "days": []}}),
    ("a", {"jobs": 1, "window": {"start": "08:00", "end": "18:00", "days": ["Monday"]}}),
    ("a", {"jobs": 1, "window": {"start": "08:00", "end": "18:00", "timeZone": "Europe"}}),
    ("a", {"jobs": 1, "window": {"start": "08:00", "end": "18:00", "timeZone": "../../etc/passwd"}}),
    ("A", {"jobs": 1}),
    ("a" * 65, {"jobs": 1}),
]


@BEFORE_THE_DATABASE
def test_what_is_no_limit_is_refused(api: Served) -> None:
    taken = [(name, body) for name, body in NO_LIMITS if api.http.put(f"{PATH}/{name}", json=body).status_code != 422]
    assert taken == []
    assert api.http.get(PATH).json() == {"limits": []}


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20MB/s", 20_000_000), ("20M", 20_000_000), ("500 kb/s", 500_000), ("1.5GiB/s", 3 * 2**29), ("1024", 1024),
        ("1 B/s", 1), ("fast", None), ("-1MB/s", None), ("20MB/h", None), ("", None),
    ],
)  # fmt: skip
def test_rates_are_read_as_people_write_them(text: str, rate: int | None) -> None:
    if rate is None:
        with pytest.raises(Refused, match="no rate"):
            read_rate(text)
    else:
        assert read_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("Mo-Fr 08:00-18:00", ALL_WEEK[:5]),
        ("mon-fri 08:00-18:00", ALL_WEEK[:5]),
        ("08:00-18:00", ALL_WEEK),
        ("sat,SUN 08:00-18:00", ALL_WEEK[5:]),
        ("Sa-Mo,We 08:00-18:00", ["MON", "WED", "SAT", "SUN"]),
        ("Fr 08:00-18:00", ["FRI"]),
        ("m 08:00-18:00", None),
        ("Mo-We-Fr 08:00-18:00", None),
        ("Mo- 08:00-18:00", None),
        ("Xx 08:00-18:00", None),
        ("Mo 8-18", None),
        ("", None),
    ],
)
def test_windows_are_read_as_people_write_them(text: str, days: list[str] | None) -> None:
    if days is None:
        with pytest.raises(Refused, match="no window"):
            read_window(text)
    else:
        assert read_window(text) == {"days": days, "start": "08:00", "end": "18:00"}
