"""Who is in memory: loaded by a request, put out where another needs its room, kept where pinned."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from openai import OpenAI

from deploy.demo.load import Load
from deploy.demo.models import make_gguf_llm
from tests.conftest import until
from tests.system.conftest import Yard, needs_llama_server, opened
from tests.system.test_upkeep import modelyard

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

LIMIT = "72MB"
"""Room for two of the models in their llama-server, and not for three."""
NAMES = ("alder", "beech", "cedar")


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    needs_llama_server()
    root = tmp_path_factory.mktemp("hub")
    for seed, name in enumerate(NAMES):
        make_gguf_llm(root / "tiny" / name / f"{name}.gguf", seed, name=name)
    settings = {
        "MODELYARD_RUNNERS__MEMORY_LIMIT": LIMIT, "MODELYARD_RUNNERS__CONTEXT_LENGTH": "256",
        "MODELYARD_RUNNERS__MIN_RESIDENCE_SECONDS": "2",
    }  # fmt: skip
    with opened(tmp_path_factory.mktemp("yard"), root, **settings) as yard:
        for name in NAMES:
            yard.pull(name, f"tiny/{name}")
        yield yard


@pytest.fixture(autouse=True)
def _empty(yard: Yard) -> Iterator[None]:
    """Every test begins with nothing pinned and nothing in memory."""
    yield
    for model in yard.http.get("/api/v1/models").json()["models"]:
        if model["pinned"]:
            modelyard(yard, "unpin", model["modelId"])
        if model["loadState"]:
            yard.done(f"/api/v1/models/deactivate/{model['modelId']}")


def told(yard: Yard, name: str) -> dict[str, Any]:
    model: dict[str, Any] = yard.http.get(f"/api/v1/models/{name}").json()
    return model


def states(yard: Yard) -> dict[str, str]:
    """Of those that are in memory, or come back to it."""
    models = yard.http.get("/api/v1/models").json()["models"]
    return {model["modelId"]: model["loadState"] for model in models if model["loadState"]}


def test_the_first_request_brings_a_model_into_memory(yard: Yard) -> None:
    answer = yard.say("alder")
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-modelyard-model"] == "alder"
    assert float(answer.headers["x-modelyard-waited"]) > 0
    assert answer.headers["x-modelyard-place"] == "1"
    assert "x-modelyard-waited" not in yard.say("alder").headers
    assert not told(yard, "alder")["active"], "nobody said that it is to serve its type"
    assert yard.say("llm").json()["code"] == "model_not_active"


def test_the_longest_unused_makes_room_and_comes_back_when_asked(yard: Yard) -> None:
    yard.done("/api/v1/models/activate", {"model_id": "alder"})
    yard.done("/api/v1/models/beech/load")
    assert states(yard) == {"alder": "ready", "beech": "ready"}
    assert yard.say("cedar").headers["x-modelyard-model"] == "cedar"
    assert states(yard) == {"alder": "ready", "cedar": "ready"}, "who serves a type goes last"
    modelyard(yard, "pin", "cedar")
    assert yard.say("beech").headers["x-modelyard-model"] == "beech"
    assert states(yard) == {"alder": "idle", "beech": "ready", "cedar": "ready"}
    assert yard.http.get("/api/v1/models/active/llm").json()["modelId"] == "alder"
    answer = yard.say("llm")
    assert answer.headers["x-modelyard-model"] == "alder", "it serves its type all the same"
    assert states(yard) == {"alder": "ready", "cedar": "ready"}


def test_what_is_pinned_stays_and_the_refusal_says_so(yard: Yard) -> None:
    for name in ("alder", "beech"):
        yard.done(f"/api/v1/models/{name}/load")
        assert modelyard(yard, "pin", name)["pinned"]
    before = loads_of(yard, "cedar")
    refused = [yard.say("cedar") for _ in range(3)]
    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(503, "will_not_fit")] * 3
    assert "Unpin alder" in refused[0].json()["hint"]
    assert 0 < int(refused[0].headers["retry-after"]) <= 15
    assert loads_of(yard, "cedar") == before + 1, "one try for all who ask within a few seconds"
    assert states(yard) == {"alder": "ready", "beech": "ready"}


def test_one_that_does_not_fit_is_served_by_what_it_falls_back_to(yard: Yard) -> None:
    for name in ("alder", "beech"):
        yard.done(f"/api/v1/models/{name}/load")
        modelyard(yard, "pin", name)
    steps = modelyard(yard, "fallback", "cedar", "context=128", "model=beech")["fallback"]
    assert steps == [{"contextLength": 128}, {"model": "beech"}]
    plan = modelyard(yard, "plan", "load", "cedar")
    ways = [(way["modelId"], way["contextLength"], way["code"]) for way in plan["tried"]]
    assert ways == [("cedar", 256, "will_not_fit"), ("cedar", 128, "will_not_fit")]
    assert (plan["modelId"], plan["servedBy"], plan["steps"]) == ("cedar", "beech", [])

    answer = yard.say("cedar")
    assert (answer.headers["x-modelyard-model"], answer.headers["x-modelyard-fallback-for"]) == ("beech", "cedar")
    assert "x-modelyard-fallback-for" not in yard.say("beech").headers
    result = yard.done("/api/v1/models/cedar/load")["result"]
    assert (result["servedBy"]["modelId"], result["fallback"]) == ("beech", True)
    assert [way["code"] for way in result["tried"]] == ["will_not_fit"] * 2
    assert all(way["needBytes"] > way["freeBytes"] for way in result["tried"])
    servers = yard.http.get("/api/v1/models/servers").json()["servers"]
    assert {server["modelId"]: server["fallbackFor"] for server in servers} == {"alder": [], "beech": ["cedar"]}

    modelyard(yard, "unpin", "alder")
    assert yard.done("/api/v1/models/cedar/load")["result"]["fallback"] is False, "there is room for itself by now"
    assert yard.say("cedar").headers["x-modelyard-model"] == "cedar"
    assert "x-modelyard-fallback-for" not in yard.say("beech").headers
    assert modelyard(yard, "fallback", "cedar", "--strict")["fallback"] == []


def test_every_answer_is_counted_for_the_model_that_gave_it(yard: Yard) -> None:
    def uses() -> tuple[int, int]:
        found = modelyard(yard, "usage", "alder")
        return found["uses"], found["failures"]

    before = uses()
    for _ in range(3):
        assert yard.say("alder").status_code == 200
    assert yard.http.post("/v1/embeddings", json={"model": "alder", "input": "x"}).status_code == 409
    until(lambda: uses() == (before[0] + 3, before[1]), 30, "three more uses")
    told = modelyard(yard, "usage")
    assert told["models"][0]["p95Seconds"] >= 0.001
    assert told["types"]["llm"]["uses"] == sum(model["uses"] for model in told["models"])


def test_a_model_is_asked_in_a_job(yard: Yard) -> None:
    ask = {"request": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, "seed": 1}}
    result = yard.done("/api/v1/models/alder/run", ask)["result"]
    assert result["answer"]["usage"]["completion_tokens"] <= 5, "it was loaded for that"
    assert (result["servedBy"]["modelId"], result["fallback"]) == ("alder", False)
    refused = yard.http.post("/api/v1/models/llm/run?wait=60", json=ask).json()["job"]
    assert (refused["status"], refused["error"]["code"]) == ("failed", "model_not_active")
    yard.done("/api/v1/models/activate", {"model_id": "alder"})
    assert yard.done("/api/v1/models/llm/run", ask)["result"]["servedBy"]["modelId"] == "alder"
    wrong = yard.http.post(
        "/api/v1/models/alder/run?wait=60", json={"path": "embeddings", "request": {"input": "x"}}
    ).json()["job"]
    assert wrong["error"]["code"] == "wrong_type"


@pytest.mark.parametrize(
    "body",
    [
        {}, {"request": {}}, {"request": {"messages": []}}, {"path": "audio/translations", "request": {"input": "x"}},
        {"request": {"messages": [{"role": "user", "content": "x"}], "stream": True}},
        {"request": {"messages": [{"role": "user", "content": "x"}], "model": "beech"}},
        {"request": {"messages": [{"role": "user", "content": "x"}], "n_discard": -1}},
    ],
)  # fmt: skip
def test_what_no_model_takes_is_refused_before_there_is_a_job(yard: Yard, body: dict[str, Any]) -> None:
    answer = yard.http.post("/api/v1/models/alder/run", json=body)
    assert answer.status_code == 422
    assert answer.json()["hint"]


def test_a_pinned_one_outlives_a_switch(yard: Yard) -> None:
    yard.done("/api/v1/models/activate", {"model_id": "alder"})
    modelyard(yard, "pin", "alder")
    plan = modelyard(yard, "plan", "switch", "beech")
    assert [step["do"] for step in plan["steps"]] == ["start", "route"]
    assert yard.done("/api/v1/models/beech/switch")["result"]["replaced"] == []
    assert states(yard) == {"alder": "ready", "beech": "ready"}
    assert [yard.say(name).headers["x-modelyard-model"] for name in ("llm", "alder")] == ["beech", "alder"]


def test_started_anew_it_cuts_nobody(yard: Yard) -> None:
    yard.done("/api/v1/models/activate", {"model_id": "alder"})
    before = llama_servers(yard)
    with Load(yard.instance.url, "llm") as load:
        load.reach(20)
        result = modelyard(yard, "reload", "alder")["result"]
        load.reach(60)
    assert load.tally.failures == []
    assert result["active"] is True
    assert states(yard) == {"alder": "ready"}
    now = llama_servers(yard)
    assert (len(now), before & now) == (1, set()), "another runner"


def test_two_who_take_turns_at_one_place_are_both_served(yard: Yard) -> None:
    """Without a time to stay, each request would put out the other's model, and nobody would be served for long."""
    for name in ("alder", "cedar"):
        yard.done(f"/api/v1/models/{name}/load")
    modelyard(yard, "pin", "alder")
    before = loads_of(yard, "beech") + loads_of(yard, "cedar")
    with Load(yard.instance.url, "beech") as some, Load(yard.instance.url, "cedar") as others:
        until(lambda: min(some.tally.whole, others.tally.whole) >= 12, 120, "answers of both")
    assert some.tally.failures == others.tally.failures == []
    loads = loads_of(yard, "beech") + loads_of(yard, "cedar") - before
    assert loads < (some.tally.whole + others.tally.whole) / 4, "most requests found their model there"


def loads_of(yard: Yard, name: str) -> int:
    jobs = yard.http.get("/api/v1/jobs", params={"kind": "model.load", "modelId": name, "limit": 500}).json()["jobs"]
    return len(jobs)


def llama_servers(yard: Yard) -> set[int]:
    device = psutil.Process(yard.pid("device-cpu"))
    return {child.pid for child in device.children(recursive=True) if "llama" in child.name()}


@pytest.mark.fault("F-46")
def test_asked_for_in_every_way_at_once_it_is_one_runner(yard: Yard) -> None:
    with ThreadPoolExecutor(6) as pool:
        requests = [pool.submit(yard.say, "alder") for _ in range(4)]
        jobs = [yard.submitted(f"/api/v1/models/alder/{how}") for how in ("load", "switch")]
        assert [request.result().status_code for request in requests] == [200] * 4
    assert [yard.ended(job)["status"] for job in jobs] == ["succeeded"] * 2
    assert states(yard) == {"alder": "ready"}
    assert len(llama_servers(yard)) == 1
    told = yard.http.get("/api/v1/models/servers").json()
    assert (told["totalServers"], told["readyServers"], told["ready"]) == (1, 1, True)
    (server,) = told["servers"]
    assert (server["modelId"], server["active"], {server["pid"]}) == ("alder", True, llama_servers(yard))


def test_a_real_openai_client_gets_vectors(yard: Yard) -> None:
    """Of a GGUF that is entered as an embedding model; the type `embedding` reaches it."""
    yard.add("vectors", "tiny/alder", model_type="embedding")
    yard.done("/api/v1/models/download", {"model_id": "vectors"})
    yard.done("/api/v1/models/activate", {"model_id": "vectors"})
    with OpenAI(base_url=f"{yard.instance.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="embedding", input=["one text", "another"])
    assert [len(one.embedding) > 1 for one in answer.data] == [True, True]
    assert answer.usage.total_tokens > 0
    assert yard.post("/v1/embeddings", {"model": "nobody", "input": "x"}).json()["code"] == "model_not_found"
    assert yard.post("/v1/embeddings", {"model": "embedding", "input": "x", "dimensions": 2}).status_code == 422
