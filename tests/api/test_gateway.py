"""Requests that wait for a model, without a model."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from shared.db.tables import Residency
from shared.jobs import Ledger
from tests.api.conftest import Serve
from tests.conftest import until

pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)

BODY = {"model": "llm", "messages": [{"role": "user", "content": "Hello"}]}


def test_as_many_wait_as_may_and_the_next_one_is_told(serve: Serve, ledger: Ledger) -> None:
    lost = Residency(
        id="r", model_id="one", model_type="llm", revision="1", device="cpu", runtime="torch", state="lost",
        active=True, started_at=0.0,
    )  # fmt: skip
    with ledger.database.session() as session:
        session.add(lost)
    api = serve(held_requests=2, hold_seconds=5)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(api.http.post, "/v1/chat/completions", json=BODY) for _ in range(2)]

        def refused() -> httpx.Response | None:
            answer = api.http.post("/v1/chat/completions", json=BODY)
            return answer if answer.json()["code"] == "too_many_waiting" else None

        answer: httpx.Response = until(refused, what="a refusal")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert [one.result().json()["code"] for one in waiting] == ["model_not_ready"] * 2
    assert api.http.post("/v1/chat/completions", json=BODY).json()["code"] == "model_not_ready", "there is room again"
