"""More work than may wait is refused with a time to come again, and what waits already is left alone."""

from shared.jobs import Ledger
from tests.api.conftest import BEFORE_THE_DATABASE, Serve
from tests.conftest import until

DOWNLOAD = "/api/v1/models/download"


@BEFORE_THE_DATABASE
def test_a_full_queue_says_when_to_come_again(serve: Serve, ledger: Ledger) -> None:
    api = serve(max_waiting_jobs=1)
    named = {"Idempotency-Key": "one"}
    job = api.http.post(DOWNLOAD, json={"model_id": "one"}, headers=named).json()["job"]

    def ask() -> int:
        refused = api.http.post(DOWNLOAD, json={"model_id": "two"})
        if refused.status_code == 429:
            assert refused.json()["code"] == "too_many_jobs"
            assert "MODELYARD_API__MAX_WAITING_JOBS" in refused.json()["hint"]
            assert refused.headers["Retry-After"] == "30"
        return refused.status_code

    api.front.backlog._looked_at -= 2
    assert ask() == 429
    assert api.http.post(DOWNLOAD, json={"model_id": "one"}, headers=named).json()["job"]["id"] == job["id"]
    assert len(api.http.get("/api/v1/jobs").json()["jobs"]) == 1
    api.http.post(f"/api/v1/jobs/{job['id']}/cancel")
    until(lambda: ask() == 202, what="room")
