"""Events of real work, while what carries them is killed."""

import json
import os
import signal
import threading
from typing import Any

import httpx
import pytest

from tests.conftest import until
from tests.system.conftest import MIB, Yard

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]


class Follower(threading.Thread):
    """A page that is open all the time: comes back after every break, with the last id it saw."""

    def __init__(self, yard: Yard, job_id: str) -> None:
        super().__init__(daemon=True)
        self._url = f"{yard.instance.url}/api/v1/jobs/{job_id}/events"
        self.events: list[dict[str, Any]] = []
        self.breaks = 0
        self._last: str | None = None
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        with httpx.Client(timeout=30, trust_env=False) as http:
            while not self.ended.wait(0.1):
                try:
                    self._listen(http)
                except httpx.HTTPError:
                    self.breaks += 1

    def _listen(self, http: httpx.Client) -> None:
        with http.stream("GET", self._url, headers={"Last-Event-ID": self._last} if self._last else {}) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    self._last = line.removeprefix("id: ")
                elif line.startswith("data: "):
                    self.events.append(json.loads(line.removeprefix("data: ")))
                    if (self.events[-1].get("status") or self.events[-1].get("job", {}).get("status")) == "succeeded":
                        self.ended.set()
                        return

    @property
    def shares(self) -> list[float]:
        found = [event.get("progress", event.get("job", {}).get("progress")) for event in self.events]
        return [share for share in found if share is not None]


@pytest.mark.fault("F-6", "F-14", "F-19", "F-20")
def test_a_page_sees_a_download_to_its_end_whatever_dies(yard: Yard) -> None:
    yard.hub.throttle(0.1 * MIB)  # so slow that it outlasts three restarts on a loaded machine
    yard.add("acorn", "tiny/acorn")
    job_id = yard.submitted("/api/v1/models/download", {"model_id": "acorn"})
    page = Follower(yard, job_id)
    for name in ("api", "redis", "io"):
        seen = len(page.shares)
        until(lambda n=seen: len(page.shares) > n + 1, 60, f"progress before the end of {name}")
        before = yard.pid(name)
        os.kill(before, signal.SIGKILL)
        until(lambda n=name, p=before: yard.pid(n) != p, 60, f"another {name}")
    yard.hub.throttle(None)
    assert page.ended.wait(120), page.events[-3:]
    assert page.breaks > 0
    assert page.shares == sorted(page.shares), "never back"
    assert page.shares[-1] == 1.0 or page.events[-1]["status"] == "succeeded"
    ids = [event["id"] for event in page.events if event["id"]]
    assert len(ids) == len(set(ids)), "nothing twice"
    yard.ready()
