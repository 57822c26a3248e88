"""What a lock and a place do not agree on, case by case."""

from typing import Any

import pytest

from api.drift import Action, Here, What, drift, plan
from shared.lock import Lock, LockedModel
from tests.factories.bundles import lock_of

LOCK = Lock.model_validate(lock_of(config={"context": 4096}))
ACORN, BIRCH = LOCK.models
ALONE = Lock.of([ACORN])


def here(entry: LockedModel, **changes: Any) -> Here:
    """The model as the lock says, but for this."""
    facts: dict[str, Any] = {
        "model_id": entry.model_id, "stands_for": entry.stands_for, "settings": entry.settings,
        "revision": entry.revision, "digests": entry.digests, "size": entry.size,
    }  # fmt: skip
    return Here(**{**facts, **changes})


def settings(**changes: Any) -> dict[str, Any]:
    return {**ACORN.settings, **changes}


OTHER_BYTES = frozenset({("config.json", 2, "0" * 64)})
CASES: list[tuple[str, Here | None, list[tuple[What, str | None]], Action | None, bool]] = [
    ("as locked", here(ACORN), [], None, False),
    ("unknown", None, [(What.MISSING, None)], Action.ADD, True),
    ("known, not on disk", here(ACORN, revision=None, digests=frozenset()), [(What.MISSING, None)], Action.ADD, True),
    ("another revision", here(ACORN, revision="b" * 40), [(What.REVISION, None)], Action.CHANGE, True),
    ("other bytes", here(ACORN, digests=OTHER_BYTES), [(What.FILES, None)], Action.CHANGE, True),
    ("a file less", here(ACORN, digests=frozenset(list(ACORN.digests)[1:])), [(What.FILES, None)], Action.CHANGE, True),
    ("a file more", here(ACORN, digests=ACORN.digests | OTHER_BYTES), [(What.FILES, None)], Action.CHANGE, True),
    ("damaged", here(ACORN, damaged=True), [(What.DAMAGED, None)], Action.REPAIR, False),
    (
        "damaged, and of another revision",
        here(ACORN, damaged=True, revision="b" * 40), [(What.REVISION, None)], Action.CHANGE, True,
    ),
    ("another name", here(ACORN, settings=settings(name="x")), [(What.SETTING, "name")], Action.CHANGE, False),
    (
        "another branch", here(ACORN, settings=settings(asked_revision="v2")), [(What.SETTING, "askedRevision")],
        Action.CHANGE, False,
    ),
    (
        "settings that differ", here(ACORN, settings=settings(config={"context": 512, "threads": 4}, enabled=False)),
        [(What.SETTING, "enabled"), (What.SETTING, "config.context"), (What.SETTING, "config.threads")],
        Action.CHANGE, False,
    ),
    (
        "true is not 1", here(ACORN, settings=settings(config={"context": True})), [(What.SETTING, "config.context")],
        Action.CHANGE, False,
    ),
    (
        "damaged, with another setting", here(ACORN, damaged=True, settings=settings(tags=["x"])),
        [(What.DAMAGED, None), (What.SETTING, "tags")], Action.REPAIR, False,
    ),
    (
        "another source", here(ACORN, stands_for=("llm", "huggingface", "else/acorn")), [(What.OTHER_MODEL, None)],
        Action.BLOCKED, False,
    ),
    ("another type", here(ACORN, stands_for=("tts", *ACORN.stands_for[1:])), [(What.OTHER_MODEL, None)],
     Action.BLOCKED, False),
    ("kept by others", here(ACORN, elsewhere=True), [(What.OTHER_MODEL, None)], Action.BLOCKED, False),
    ("told by capital letters", here(ACORN, model_id="ACORN"), [(What.OTHER_MODEL, None)], Action.BLOCKED, False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "one", "differences", "action", "fetches"), CASES, ids=[case[0] for case in CASES])
def test_what_differs_and_what_would_be_done(
    name: str, one: Here | None, differences: list[tuple[What, str | None]], action: Action | None, fetches: bool
) -> None:
    place = {} if one is None else {one.model_id: one}
    found = drift(ALONE, place)
    assert found.drift == bool(differences)
    told = [(each.what, each.field) for finding in found.findings for each in finding.differences]
    assert sorted(told, key=str) == sorted(differences, key=str)
    made = plan(ALONE, place, prune=True)
    assert [(step.action, step.fetches) for step in made.steps] == ([] if action is None else [(action, fetches)])
    assert all(step.hint for step in made.steps if step.action is Action.BLOCKED)
    assert made.unchanged == (action is None)


EXTRAS: list[tuple[str, Here, bool, Action | None]] = [
    ("in the store", here(BIRCH), True, Action.REMOVE),
    ("in memory", here(BIRCH, in_memory=True), True, Action.BLOCKED),
    ("kept by others", here(BIRCH, elsewhere=True), False, None),
    ("known, not on disk", here(BIRCH, revision=None), False, None),
]


@pytest.mark.parametrize(("name", "one", "drifts", "action"), EXTRAS, ids=[case[0] for case in EXTRAS])
def test_what_the_lock_does_not_name(name: str, one: Here, drifts: bool, action: Action | None) -> None:
    place = {ACORN.model_id: here(ACORN), BIRCH.model_id: one}
    assert drift(ALONE, place).drift is drifts
    left = plan(ALONE, place, prune=False)
    assert (left.steps, left.extra) == ([], [BIRCH.model_id] if drifts else [])
    assert [step.action for step in plan(ALONE, place, prune=True).steps] == ([] if action is None else [action])


def test_what_the_store_has_already_is_not_counted() -> None:
    shared = next(iter(ACORN.digests))
    place = {BIRCH.model_id: here(BIRCH, digests=BIRCH.digests | {shared})}
    made = plan(ALONE, place, prune=False)
    assert made.bytes_to_fetch == ACORN.size - shared[1]
    assert made.counts == {Action.ADD: 1}


def test_an_id_stands_for_exactly_one_plan() -> None:
    place = {ACORN.model_id: here(ACORN, revision="b" * 40)}
    ids = {
        plan(LOCK, {}, prune=False).plan_id, plan(LOCK, {}, prune=True).plan_id, plan(ALONE, {}, prune=False).plan_id,
        plan(ALONE, place, prune=False).plan_id, plan(Lock.of([BIRCH]), {}, prune=False).plan_id,
        plan(Lock.of([ACORN.model_copy(update={"files": ACORN.files[:1]})]), {}, prune=False).plan_id,
    }  # fmt: skip
    assert len(ids) == 6
    assert plan(LOCK, {}, prune=False).plan_id == plan(LOCK, {}, prune=False).plan_id


def test_a_plan_that_was_carried_out_leaves_nothing_to_do() -> None:
    made = plan(LOCK, {entry.model_id: here(entry) for entry in LOCK.models}, prune=True)
    assert (made.steps, made.counts, made.unchanged) == ([], {}, 2)
