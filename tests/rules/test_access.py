"""Every way into the service has a class, and asks for what that class needs."""

import re
from pathlib import Path

import pytest

from api.access import ADMIN, LOCAL, OPEN, OPEN_MOUNTS, OPERATOR, VIEWER, needed
from api.app import create_app
from api.audit import ACTIONS, BY_JOBS
from shared.db.keys import Role
from shared.settings import Settings
from tests.api.walk import MOUNT, Way, ways

PAGE = Path(__file__).resolve().parents[2] / "docs" / "access.md"
CLASSES = (set(OPEN), LOCAL, VIEWER, OPERATOR, ADMIN)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Way]:
    return ways(create_app(Settings(data_dir=tmp_path_factory.mktemp("data"))))


@pytest.mark.fault("A-94")
def test_every_route_has_one_class(found: list[Way]) -> None:
    """Mend by naming the route in one of the sets of `api/access.py`, and writing docs/access.md anew:
    `ACCESS=write python -m pytest tests/api/test_access.py`.
    """
    names = {way.name for way in found if way.method != MOUNT}
    assert len(names) > 100
    assert names == set().union(*CLASSES)
    assert sum(map(len, CLASSES)) == len(set().union(*CLASSES)), "one is named twice"
    assert {way.path for way in found if way.method == MOUNT} == set(OPEN_MOUNTS)


@pytest.mark.fault("A-94")
def test_every_route_asks(found: list[Way]) -> None:
    """Mend by including the router with `LET_IN` among its dependencies."""
    assert [way for way in found if way.method != MOUNT and not way.asked] == []


def test_the_page_has_every_route(found: list[Way]) -> None:
    """Mend with `ACCESS=write python -m pytest tests/api/test_access.py`."""
    told = PAGE.read_text(encoding="utf-8")
    versioned = {way.path for way in found if way.path.startswith("/api/v1/")}
    own = [way for way in found if way.path.replace("/api/", "/api/v1/", 1) not in versioned]
    assert [way for way in own if not re.search(rf"^\| {way.method} {re.escape(way.path)} ", told, re.MULTILINE)] == []


def test_what_is_not_named_is_the_admins() -> None:
    assert needed("nowhere.nothing", local=True) is Role.ADMIN


def test_viewers_change_nothing() -> None:
    assert not VIEWER & (set(ACTIONS) | BY_JOBS)
