"""Forty models, sixty days: what the table of `make life` must show, worked out by hand."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.retention.life import MIB, Life, table
from tests.retention.yard import Yard

CAME, TRIED = 30, 35
"""Days on which 30 days without a use are over: at 20 on day 30 it is 30.5 days since day 0 at 8, and at 20 on day 35
30.3 days since day 5 at 12."""
UNUSED = ("tried-7", "never-3", "tried-6", "tried-5", "never-2", "tried-4", "tried-3", "never-1", "twin-1",
          "tried-2", "tried-1", "boxed")  # fmt: skip
"""What leaves on day 45, by value = (60 s + MiB / 11.92 MiB/s) / (idle days × GiB):

tried-7 219.7, never-3 226.9, tried-6 256.0, tried-5 306.8, never-2 339.4, tried-4 382.6, tried-3 510.2, never-1 678.7,
twin-1 678.7 (it holds 0.5 MiB and half of 3), tried-2 763.7, tried-1 1525.4; boxed has a day more to fetch.
"""
FREES = 7 + 6 + 6 + 5 + 4 + 4 + 3 + 2 + 0.5 + 2 + 1 + 3
"""MiB; twin-1 frees what is its alone."""
STORAGE = ("rare-5", "rare-4")
"""6 MiB too many: rare-5 and rare-4, the largest of those that are used twice in thirty days, are just enough."""
HIGH = {*(f"daily-{number}" for number in range(1, 7)), "wanted"}
MEDIUM = {*(f"third-{number}" for number in range(1, 6)), "undone", "damaged"}
KEPT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys([f"daily-{number}" for number in range(1, 7)], ("priority", "used")),
    **dict.fromkeys([f"third-{number}" for number in range(1, 6)], ("used",)),
    **dict.fromkeys(["rare-1", "rare-2", "rare-3", "in-place"], ()),
    **dict.fromkeys(["pinned-1", "pinned-2", "twin-2"], ("pinned",)),
    **{name: (hold,) for name, hold in (("wanted", "priority"), ("fallback", "fallback"), ("locked", "locked"))},
    **dict.fromkeys(["new-1", "new-2"], ("recent",)), **dict.fromkeys(["undone", "damaged"], ("used",)),
    "loaded": ("loaded",),
}  # fmt: skip
"""Who is there at the end, and what holds it then."""


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, fresh_sqlite: Path) -> Iterator[Life]:
    folder = tmp_path_factory.mktemp("life")
    with pytest.MonkeyPatch.context() as patch:
        yard = Yard(folder, fresh_sqlite, patch)
        life = Life(yard, folder / "elsewhere")
        life.play()
        print(f"\n{table(life)}")
        yield life
        yard.close()


def test_forty_models_have_these_statuses_and_priorities(life: Life) -> None:
    assert len(life.fates) == 40
    expected = dict.fromkeys((*UNUSED, *STORAGE), ("missing", "LOW"))
    for name in KEPT:
        priority = "HIGH" if name in HIGH else "MEDIUM" if name in MEDIUM else "LOW"
        expected[name] = ("corrupted" if name == "damaged" else "available", priority)
    assert {name: (fate.status, fate.priority) for name, fate in life.fates.items()} == expected


def test_who_leaves_when_and_why(life: Life) -> None:
    expected = dict.fromkeys(UNUSED, (45, "unused")) | dict.fromkeys(STORAGE, (50, "storage"))
    expected["undone"] = (32, "unused")
    left = {name: (fate.left, fate.reason) for name, fate in life.fates.items() if fate.left is not None}
    assert left == expected
    since = {name: fate.recommended for name, fate in life.fates.items() if fate.recommended is not None}
    tried = dict.fromkeys([name for name in UNUSED if name.startswith("tried")], TRIED)
    came = dict.fromkeys([name for name in UNUSED if not name.startswith("tried")], CAME)
    assert since == {**tried, **came, "undone": CAME, **dict.fromkeys(STORAGE, 50)}


def test_what_is_worth_least_goes_first_and_frees_what_was_promised(life: Life) -> None:
    looks = {look.day: look for look in life.looks}
    promised, real, tight = looks[44], looks[45], looks[50]
    assert (promised.what, real.what, tight.what) == ("may leave", "left", "left")
    assert promised.names == real.names == list(UNUSED)
    assert promised.frees == real.frees == pytest.approx(FREES * MIB, rel=0.001)
    assert real.trash == real.frees, "all that lies in the trash then"
    assert (tight.names, tight.frees) == (list(STORAGE), pytest.approx(9 * MIB, rel=0.001))
    assert [day for day, look in looks.items() if look.what == "left"] == [45, 50], "and never again"


def test_who_stays_is_held_by_what(life: Life) -> None:
    assert {name: life.fates[name].holds for name in KEPT} == KEPT


def test_the_disk_has_what_is_left(life: Life) -> None:
    """After the trash of day 50 was emptied: all that came, but for what left; what twin-1 shared is twin-2's alone."""
    sizes = {role.name: role.size for role in life.roles}
    there = sum(size for name, size in sizes.items() if name in KEPT and name != "in-place")
    assert life.yard.used() == pytest.approx(there * MIB, rel=0.001)
    assert life.yard.trash() == []
    assert [path.name for path in life.elsewhere.iterdir()] == ["model.safetensors"], "never touched"
