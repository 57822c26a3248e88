"""Which lists of Redis are ours, and which of those somebody reads."""

import pytest

from shared.queues import is_ours, read_lists

READ = ["celery", "celery\x06\x163", "modelyard.intake", "modelyard.p0.io", "modelyard.p2.io\x06\x169"]
ASTRAY = ["celery:5", "celery\x06\x165", "modelyard.p1-hihg", "modelyard.p2.io\x06\x164", "modelyard.p1.device.nosuch"]
THEIRS = ["celery.urgent", "celery-5", "celeryev", "modelyard:events:stream", "other", "unacked"]


@pytest.mark.parametrize("name", [*READ, "modelyard.p1.device.cpu"])
def test_what_is_read_is_left_alone(name: str) -> None:
    assert name in read_lists(["device.cpu"])


@pytest.mark.parametrize("name", ASTRAY)
def test_what_was_meant_for_us_is_found(name: str) -> None:
    assert is_ours(name)
    assert name not in read_lists(["device.cpu"])


@pytest.mark.parametrize("name", THEIRS)
def test_what_is_somebody_elses_is_not_ours(name: str) -> None:
    assert not is_ours(name)
