"""The form of a lock: the same text for the same state, and nothing in it that could not be carried out."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.lock import Lock, LockedModel
from tests.factories.bundles import lock_of

FREE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def shuffled(value: Any, dice: random.Random) -> Any:
    """The same, its keys in another order."""
    if isinstance(value, dict):
        keys = list(value)
        dice.shuffle(keys)
        return {key: shuffled(value[key], dice) for key in keys}
    return [shuffled(each, dice) for each in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=5), FREE, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_what_comes_in_does_not_matter(config: dict[str, Any], dice: random.Random) -> None:
    one = lock_of(config=config)
    other = shuffled(one, dice)
    dice.shuffle(other["models"])
    for entry in other["models"]:
        dice.shuffle(entry["files"])
    first, second = Lock.model_validate(one), Lock.model_validate(other)
    assert first.text() == second.text()
    assert [entry.digest() for entry in first.models] == [entry.digest() for entry in second.models]
    assert Lock.model_validate(json.loads(first.text())) == first


def test_it_reads_well() -> None:
    text = Lock.model_validate(lock_of({"acorn": {"config.json": b"{}"}}, config={"b": 1, "a": 2})).text()
    assert text.endswith("}\n")
    assert [line.strip() for line in text.splitlines()[:5]] == [
        "{", '"lockVersion": 1,', '"models": [', "{", '"modelId": "acorn",',
    ]  # fmt: skip
    assert text.index('"a": 2') < text.index('"b": 1')


def test_both_spellings_are_read() -> None:
    (entry,) = lock_of({"acorn": {"config.json": b"{}"}})["models"]
    snake = {"model_id": entry.pop("modelId"), "model_type": entry.pop("modelType"), **entry}
    assert Lock.model_validate({"lock_version": 1, "models": [snake]}).models[0].model_id == "acorn"


@pytest.mark.parametrize(
    "changes",
    [
        {"modelId": "../x"}, {"modelId": "lock"}, {"modelType": "LLM"}, {"source": "ollama", "sourceUrl": "llama3:8b"},
        {"source": "file", "sourceUrl": "/models/x"}, {"sourceUrl": "no repository"}, {"revision": "main/../x"},
        {"revision": "a" * 201}, {"askedRevision": "-x"}, {"checksum": "sha1:00"}, {"files": []}, {"tags": "one"},
        {"enabled": "yes"}, {"config": None}, {"name": ""}, {"more": 1}, {"trust": {"allowPickle": True}},
    ],
    ids=str,
)  # fmt: skip
def test_an_entry_that_could_not_be_carried_out_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Lock.model_validate(lock_of(**changes))


@pytest.mark.parametrize("version", [None, 0, 2, "1", True])
def test_another_version_is_told_from_a_damaged_lock(version: object) -> None:
    with pytest.raises(ValidationError, match=r"(?i)version"):
        Lock.model_validate({**lock_of(), "lockVersion": version})


def test_the_digest_covers_everything() -> None:
    (entry, _) = Lock.model_validate(lock_of(config={"a": 1})).models
    other = {
        "name": "x", "description": "x", "asked_revision": "x", "enabled": False, "tags": ["x"], "config": {"a": 2},
        "requirements": {"x": 1}, "revision": "b" * 40, "files": entry.files[:1], "model_id": "x", "facts": {"x": 1},
    }  # fmt: skip
    digests = {entry.model_copy(update={field: value}).digest() for field, value in other.items()} | {entry.digest()}
    assert len(digests) == len(other) + 1
    assert LockedModel.model_validate(entry.to_dict()).digest() == entry.digest()
