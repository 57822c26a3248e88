"""Connections: what is sent before a body, how much of it, how slowly, and how many at a time."""

import pytest

from tests.api.conftest import Served

pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


@pytest.mark.fault("A-13")
def test_ranges_without_number_get_the_file_once_or_nothing(api: Served) -> None:
    whole = api.http.get("/dashboard/main.js")
    assert (api.http.get("/dashboard/main.js", headers={"Range": "bytes=0-1"}).content) == whole.content[:2]
    for ranges in (
        "0-0," * 10_000 + "0-0",
        "0-,1-," * 50 + "2-",
        "-1," * 500 + "-1",
        "5-1",
        "9999999-",
        "x",
        "0-" * 20,
    ):
        answer = api.http.get("/dashboard/main.js", headers={"Range": f"bytes={ranges}"})
        assert answer.status_code in (200, 206, 400, 416), ranges[:40]
        assert not answer.headers["content-type"].startswith("multipart"), ranges[:40]
        assert len(answer.content) <= len(whole.content), ranges[:40]
