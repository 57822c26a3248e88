"""Requests that wait for a model, without a model."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.db.tables import Residency
from shared.jobs import Ledger
from tests.api.conftest import Serve

pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)

BODY = {"model": "llm", "messages": [{"role": "user", "content": "Hello"}]}


def test_as_many_wait_as_may_and_the_next_one_is_told(serve: Serve, ledger: Ledger) -> None:
    lost = Residency(
        id="r", model_id="one", model_type="llm", revision="1", device="cpu", runtime="torch", state="lost",
        active=True, started_at=0.0,
    )  # fmt: skip
    with ledger.database.session() as session:
        session.add(lost)
    api = serve(held_requests=2, hold_seconds=10)
    with ThreadPoolExecutor(3) as pool:  # whichever comes last of the three
        answers = list(pool.map(lambda _: api.http.post("/v1/chat/completions", json=BODY), range(3)))
    told = {answer.json()["code"]: answer for answer in answers}
    assert sorted(answer.json()["code"] for answer in answers) == [*["model_not_ready"] * 2, "too_many_waiting"]
    refused = told["too_many_waiting"]
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert api.http.post("/v1/chat/completions", json=BODY).json()["code"] == "model_not_ready", "there is room again"
