import logging
import os
from pathlib import Path

import pytest

from deploy.programs import Plan, find_devices, standard


def test_the_workers_say_which_devices_there_are() -> None:
    devices = find_devices(os.environ)
    assert devices
    assert all(each == "cpu" or each.startswith("gpu-") for each in devices)


def test_where_they_cannot_the_cpu_is_used_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert find_devices({**os.environ, "PYTHONHOME": "/nowhere"}) == ("cpu",)
    assert "CPU alone" in caplog.text


def test_event_streams_do_not_hold_the_api_longer_than_it_has(tmp_path: Path) -> None:
    plan = Plan("::1", 8000, ("cpu",), None, None, tmp_path / "flower.db")
    api = next(each for each in standard(plan) if each.name == "api")
    grace = int(api.argv[api.argv.index("--timeout-graceful-shutdown") + 1])
    assert grace < api.stop_seconds
    assert api.argv[api.argv.index("--host") + 1] == "::1"
