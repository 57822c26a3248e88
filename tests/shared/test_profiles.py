"""Profiles: what applying one does, as a function of what is there; and their rows."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlmodel import select

from shared.contracts import ApplyProfile, Download
from shared.db import catalog, profiles
from shared.db.session import Database
from shared.db.tables import Model
from shared.errors import Conflict, NotFound
from shared.fallback import context_of
from shared.jobs import Ledger
from shared.profiles import Difference, Known, Profile, ToLoad, difference

NAMES = ["ash", "elm", "oak", "fir"]
TYPES = {"ash": "llm", "elm": "llm", "oak": "embedding", "fir": "llm"}


def known(name: str, **values: Any) -> Known:
    about: dict[str, Any] = {
        "enabled": False, "pinned": False, "config": {}, "fallback": [], "installed": True, "size": 10,
        "ready": False, "held": False, "active": False, **values,
    }  # fmt: skip
    return Known(name, TYPES[name], **about)


def a_profile(*names: str, **settings: dict[str, Any]) -> Profile:
    return Profile.model_validate({"name": "one", "enabledModels": list(names), "settings": settings})


def test_what_is_missing_is_fetched_and_loaded_and_the_rest_leaves() -> None:
    here = {
        "ash": known("ash", installed=False),
        "elm": known("elm", enabled=True, pinned=True, ready=True, held=True),
        "oak": known("oak", enabled=True),
        "fir": known("fir", enabled=True, pinned=True, ready=True, held=True, active=True),
    }
    assert difference(a_profile("ash", "elm", "oak", "pine"), here) == Difference(
        enable=["ash"], disable=["fir"],
        change={"fir": {"pinned": False}, "ash": {"pinned": True}, "oak": {"pinned": True}},
        unload=["fir"], download=["ash"], load=[ToLoad("ash", True), ToLoad("oak", True)], unchanged=["elm"],
        unknown=["pine"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("there", "settings", "load", "change"),
    [
        ({}, {}, [ToLoad("oak", True)], {"oak": {"pinned": True}}),
        ({}, {"load": False}, [], {}),
        ({"pinned": True, "ready": True, "held": True}, {}, [ToLoad("oak", True)], {}),
        ({"pinned": True, "ready": True, "held": True, "active": True}, {}, [], {}),
        ({"pinned": True, "held": True, "active": True}, {}, [ToLoad("oak", True)], {}),
        (
            {"config": {"a": 1}}, {"load": False, "contextLength": 512},
            [], {"oak": {"config": {"a": 1, "context_length": 512}}},
        ),
        ({"config": {"context_length": 512}}, {"load": False, "context_length": 512}, [], {}),
        (
            {}, {"load": False, "fallback": [{"contextLength": 256}]},
            [], {"oak": {"fallback": [{"contextLength": 256}]}},
        ),
        ({"fallback": [{"model": "ash"}]}, {"load": False, "fallback": []}, [], {"oak": {"fallback": []}}),
    ],
)  # fmt: skip
def test_a_model_gets_what_its_settings_say(
    there: dict[str, Any], settings: dict[str, Any], load: list[ToLoad], change: dict[str, Any]
) -> None:
    found = difference(a_profile("oak", oak=settings), {"oak": known("oak", enabled=True, **there)})
    assert (found.load, found.change) == (load, change)


def test_who_answers_for_one_of_the_profile_stays() -> None:
    stands_in = known("elm", enabled=True, ready=True, held=True, stands_in_for=frozenset({"ash"}))
    found = difference(a_profile("ash"), {"ash": known("ash", enabled=True, pinned=True), "elm": stands_in})
    assert (found.unload, found.disable) == ([], ["elm"])


flags = st.fixed_dictionaries(
    {name: st.booleans() for name in ("enabled", "pinned", "installed", "ready", "active")}
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(NAMES), flags), st.lists(st.sampled_from(NAMES), unique=True), st.booleans())
def test_once_it_is_done_nothing_is_left(here: dict[str, dict[str, bool]], names: list[str], load: bool) -> None:
    profile = a_profile(*names, **{name: {"load": load} for name in names})
    there = {name: known(name, **values, held=values["ready"]) for name, values in here.items()}
    found = difference(profile, there)
    serving = {one.model_id for one in found.load if one.serves}
    for name, one in there.items():
        loaded = name in {each.model_id for each in found.load}
        gone = name in found.unload
        there[name] = one._replace(
            enabled=name in names, installed=one.installed or name in found.download,
            ready=loaded or (one.ready and not gone), held=loaded or (one.held and not gone),
            active=name in serving or (one.active and not gone), **found.change.get(name, {}),
        )  # fmt: skip
    again = difference(profile, there)
    assert (again.enable, again.disable, again.change, again.unload, again.download, again.load) == (
        [],
        [],
        {},
        [],
        [],
        [],
    )
    firsts = [name for name in names if name in there and there[name].active and there[name].ready]
    assert not load or {TYPES[name] for name in firsts} == {TYPES[name] for name in names if name in there}


@pytest.mark.parametrize(
    "content",
    [
        {"name": "a b", "enabledModels": []},
        {"name": "a", "enabledModels": ["x", "x"]},
        {"name": "a", "enabledModels": ["x"], "settings": {"y": {}}},
        {"name": "a", "enabledModels": ["x"], "settings": {"x": {"contextLength": 1}}},
        {"name": "a", "enabledModels": ["x"], "settings": {"x": {"contextlength": 512}}},
        {"name": "a", "enabledModels": ["../x"]},
        {"name": "a"},
    ],
)
def test_what_is_no_profile(content: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Profile.model_validate(content)


@pytest.mark.parametrize(
    ("config", "tokens"), [({}, 4096), ({"context_length": 512}, 512), ({"context_length": "8"}, 4096)]
)
def test_a_model_may_have_a_context_of_its_own(config: dict[str, Any], tokens: int) -> None:
    assert context_of(config, 4096) == tokens


# -- rows ---------------------------------------------------------------------------------------------------


def put(database: Database, profile: Profile) -> None:
    with database.session() as session:
        profiles.put(session, profile, in_file=False)


def test_it_takes_effect_at_once_for_all_models(database: Database) -> None:
    with database.session() as session:
        for name in NAMES:
            row = Model(id=name, type="llm", name=name, source="file", source_url="/x", created_at=0.0, updated_at=0.0)
            catalog.add_model(session, row)
    put(database, a_profile("oak", oak={"contextLength": 512}))
    with database.session() as session:
        profiles.take_effect(session, a_profile("oak", oak={"contextLength": 512}))
    with database.reading() as session:
        rows = {row.id: row for row in session.exec(select(Model)).all()}
        active = profiles.active(session)
    assert [name for name in rows if rows[name].enabled] == ["oak"]
    assert (rows["oak"].config, rows["oak"].pinned) == ({"context_length": 512}, True)
    assert active is not None
    assert active.name == "one"


def test_what_was_changed_meanwhile_is_not_applied(database: Database) -> None:
    before = a_profile("oak")
    put(database, before)
    put(database, a_profile("ash"))
    with database.reading() as session:
        assert profiles.read(session, "one", None) == a_profile("ash")
        with pytest.raises(Conflict, match="something else"):
            profiles.read(session, "one", before.digest)
        with pytest.raises(NotFound):
            profiles.read(session, "two", None)


def test_the_newest_ask_counts(ledger: Ledger) -> None:
    first = ledger.submit(ApplyProfile(name="one"), origin="test").job
    ledger.submit(Download(model_id="ash"), origin="test")
    with ledger.database.reading() as session:
        assert profiles.overtaken_by(session, first) is None
    second = ledger.submit(ApplyProfile(name="two"), origin="test").job
    with ledger.database.reading() as session:
        assert profiles.overtaken_by(session, first) == second.id
        assert profiles.overtaken_by(session, second) is None
    ledger.cancel(second.id)
    with ledger.database.reading() as session:
        assert profiles.overtaken_by(session, first) is None
