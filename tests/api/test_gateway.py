"""Requests that wait for a model, without a model."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import httpx
import pytest
from sqlmodel import col, select, update

from shared.contracts import Load, Switch
from shared.db import jobs
from shared.db.session import now
from shared.db.tables import Installation, Job, Model, Residency
from shared.errors import Conflict
from shared.jobs import Ledger
from shared.settings import Settings
from tests.api.conftest import Serve, Served
from tests.fakes.ollama import FakeOllama, published

pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)

BODY = {"model": "llm", "messages": [{"role": "user", "content": "Hello"}]}


def serving(ledger: Ledger, state: str) -> None:
    """`one` serves its type, and is in this state."""
    row = Residency(
        id="r", model_id="one", model_type="llm", revision="1", device="cpu", runtime="torch", state=state, active=True,
        started_at=0.0,
    )  # fmt: skip
    with ledger.database.session() as session:
        session.add(row)


def test_as_many_wait_as_may_and_the_next_one_is_told(serve: Serve, ledger: Ledger) -> None:
    installed(ledger, "one")
    serving(ledger, "lost")
    api = serve(held_requests=2, hold_seconds=10)
    with ThreadPoolExecutor(3) as pool:  # whichever comes last of the three
        answers = list(pool.map(lambda _: api.http.post("/v1/chat/completions", json=BODY), range(3)))
    told = {answer.json()["code"]: answer for answer in answers}
    assert sorted(answer.json()["code"] for answer in answers) == [*["model_not_ready"] * 2, "too_many_waiting"]
    refused = told["too_many_waiting"]
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert api.http.post("/v1/chat/completions", json=BODY).json()["code"] == "model_not_ready", "there is room again"


def installed(ledger: Ledger, model_id: str, **more: object) -> None:
    row = Installation(
        model_id=model_id, model_type="llm", revision="1", state="published", path="/", size=1, files=1,
        integrity=1.0, published_at=0.0, verified_at=0.0,
    )  # fmt: skip
    with ledger.database.session() as session:
        session.add(row)
        model = session.get(Model, model_id)
        assert model is not None
        for name, value in more.items():
            setattr(model, name, value)
        session.add(model)


def loads(ledger: Ledger) -> list[Job]:
    with ledger.database.reading() as session:
        return list(session.exec(select(Job).where(col(Job.kind) == "model.load")).all())


def ask(api: Served, model: str) -> httpx.Response:
    return api.http.post("/v1/chat/completions", json={**BODY, "model": model})


@pytest.mark.fault("F-49")
def test_who_is_lost_and_cannot_come_back_is_told_at_once(serve: Serve, ledger: Ledger) -> None:
    installed(ledger, "one")
    with ledger.database.session() as session:
        session.exec(update(Installation).values(state="gone", holder="ollama"))
    serving(ledger, "lost")
    answer = serve().http.post("/v1/chat/completions", json=BODY)
    assert (answer.status_code, answer.json()["code"]) == (409, "model_gone")
    assert answer.json()["hint"] == "Bring it again: modelyard pull one."


@pytest.mark.fault("A-91")
def test_a_model_in_ollama_is_asked_by_its_name_there_and_gets_no_key(serve: Serve, ledger: Ledger) -> None:
    serving(ledger, "ready")
    with FakeOllama() as ollama:
        ollama.models["llama3:8b"] = published("llama3:8b")
        with ledger.database.session() as session:
            session.exec(update(Residency).values(url=ollama.url, known_as="llama3:8b"))
        answer = serve().http.post("/v1/chat/completions", json={**BODY, "max_completion_tokens": 2, "user": "me"})
        assert answer.json()["choices"][0]["message"]["content"] == "one two"
        assert answer.headers["x-modelyard-model"] == "one"
        (asked,) = ollama.asked
    assert asked[2] == {**BODY, "model": "llama3:8b", "max_tokens": 2, "stream": False}
    assert ollama.keys == [None]


def test_a_model_of_ollama_falls_back_to_another_model_and_not_to_fewer_tokens(serve: Serve, ledger: Ledger) -> None:
    with ledger.database.session() as session:
        session.exec(update(Model).values(source="ollama"))
    http = serve().http
    assert http.put("/api/v1/models/one/fallback", json={"steps": [{"model": "two"}]}).status_code == 200
    answer = http.put("/api/v1/models/one/fallback", json={"steps": [{"contextLength": 512}]})
    assert (answer.status_code, answer.json()["code"]) == (422, "unfit_fallback")


def test_an_answer_tells_what_its_model_has_less_of(serve: Serve, ledger: Ledger) -> None:
    serving(ledger, "ready")
    less = {"gpuLayers": 20, "precision": "bfloat16"}
    with FakeOllama() as ollama, ledger.database.session() as session:
        ollama.models["one"] = published("one")
        values = {"url": ollama.url, "known_as": "one", "context_length": 512, "lowered": less, "fallback_for": ["one"]}
        session.exec(update(Residency).values(**values))
        session.commit()
        told = serve().http.post("/v1/chat/completions", json=BODY).headers
    names = ("fallback-for", "context-length", "gpu-layers", "precision", "device")
    assert [told.get(f"x-modelyard-{name}") for name in names] == ["one", "512", "20", "bfloat16", None]


def test_many_who_name_a_model_are_one_load(serve: Serve, ledger: Ledger) -> None:
    installed(ledger, "one")
    api = serve(hold_seconds=1)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(api, "one"), range(8)))
    assert {answer.json()["code"] for answer in answers} == {"model_not_ready"}
    assert "requests wait for it" in answers[0].json()["detail"]
    (job,) = loads(ledger)
    assert (job.model_id, job.origin, job.args["fresh"]) == ("one", "request", False)


@pytest.mark.parametrize(
    ("name", "more", "code"),
    [
        ("nobody", {}, "model_not_found"),
        ("llm", {}, "model_not_active"),
        ("two", {}, "model_not_installed"),
        ("one", {"enabled": False}, "model_not_active"),
        ("one", {"type": "embedding"}, "wrong_type"),
        ("one", {"type": "image_gen"}, "wrong_type"),
    ],
)
def test_what_cannot_or_must_not_be_loaded_is_told(
    serve: Serve, ledger: Ledger, name: str, more: dict[str, object], code: str
) -> None:
    installed(ledger, "one", **more)
    assert ask(serve(), name).json()["code"] == code
    assert loads(ledger) == []


def test_who_makes_something_else_is_not_loaded_for_that(serve: Serve, ledger: Ledger) -> None:
    paths = {
        "llm": ("/v1/chat/completions", BODY), "embedding": ("/v1/embeddings", {"input": "x"}),
        "image_gen": ("/v1/images/generations", {"prompt": "x"}), "tts": ("/v1/audio/speech", {"input": "x"}),
    }  # fmt: skip
    installed(ledger, "one")
    api = serve()
    for type_, own in product(paths, paths):
        if type_ == own:
            continue
        with ledger.database.session() as session:
            session.exec(update(Model).where(col(Model.id) == "one").values(type=own))
        path, body = paths[type_]
        for name in ("one", own):
            answer = api.http.post(path, json={**body, "model": name})
            assert (answer.status_code, answer.json()["code"]) == (409, "wrong_type"), (type_, own)
            assert paths[own][0] in answer.json()["hint"]
        assert api.http.post(path, json={**body, "model": "nobody"}).status_code == 404
    assert loads(ledger) == []


def test_a_model_without_a_runner_is_told_apart(serve: Serve, ledger: Ledger) -> None:
    installed(ledger, "one")
    api = serve()
    anew = api.http.post("/api/v1/models/one/reload").json()
    assert (anew["code"], anew["hint"]) == ("model_not_loaded", "Load it: modelyard load one.")


def test_loading_on_use_can_be_off(serve: Serve, ledger: Ledger, settings: Settings) -> None:
    settings.runners.load_on_use = False
    installed(ledger, "one")
    assert ask(serve(), "one").json()["code"] == "model_not_active"
    assert loads(ledger) == []


def test_a_load_that_failed_is_told_and_not_tried_with_every_request(serve: Serve, ledger: Ledger) -> None:
    installed(ledger, "one")
    api = serve(hold_seconds=0)
    assert ask(api, "one").json()["code"] == "model_not_ready"
    (job,) = loads(ledger)
    claimed = ledger.claim(job.id, job.ticket, "worker@test")
    assert claimed is not None
    reason = Conflict("will_not_fit", "It needs more.", "Unload two.", {"needBytes": 3})
    ledger.fail(claimed.id, claimed.attempt, reason)
    refused = ask(api, "one")
    told = refused.json()
    assert (refused.status_code, told["code"], told["detail"]) == (503, "will_not_fit", "It needs more.")
    assert told["hint"].startswith("Unload two. It is tried again")
    assert told["details"] == {"needBytes": 3}
    assert 0 < int(refused.headers["retry-after"]) <= 15
    assert len(loads(ledger)) == 1
    with ledger.database.session() as session:
        session.exec(update(Job).values(finished_at=1.0))
    assert ask(api, "one").json()["code"] == "model_not_ready"
    assert len(loads(ledger)) == 2, "that was long ago"


@pytest.mark.parametrize(
    ("ends", "age", "left"),
    [
        (["failed"], 10, 5), (["failed"], 16, None), (["failed", "failed"], 16, 14), (["failed"] * 8, 16, 584),
        (["failed", "succeeded"], 1, None), (["succeeded", "failed"], 10, 5), (["cancelled"], 10, 5),
        (["outdated"], 1, None),
    ],
)  # fmt: skip
def test_the_pause_after_loads_that_failed_grows(
    ledger: Ledger, ends: list[str], age: float, left: float | None
) -> None:
    for number, end in enumerate(ends):
        job = ledger.submit(Load(model_id="one"), origin="test").job
        claimed = ledger.claim(job.id, job.ticket, "worker@test")
        assert claimed is not None
        if end in ("failed", "outdated"):
            code = "plan_outdated" if end == "outdated" else "will_not_fit"
            ledger.fail(job.id, claimed.attempt, Conflict(code, "No.", "Yes."))
        elif end == "succeeded":
            ledger.succeed(job.id, claimed.attempt, {})
        else:
            ledger.cancel(job.id)
            ledger.stop(job.id, claimed.attempt)
        with ledger.database.session() as session:
            moved = {"created_at": 1.0 + number, "finished_at": now() - age}
            session.exec(update(Job).where(col(Job.id) == job.id).values(**moved))
    assert _load_failed(ledger, changed_at=100.0) is None, "whoever changed the model wants to see whether it helped"
    found = _load_failed(ledger, changed_at=0.0)
    assert (found is None) is (left is None)
    if found is not None and left is not None:
        assert left - 3 < found <= left


def _load_failed(ledger: Ledger, changed_at: float) -> float | None:
    """Seconds for which `one` is not loaded again, if its entry was changed then."""
    with ledger.database.session() as session:
        session.exec(update(Model).where(col(Model.id) == "one").values(updated_at=changed_at))
    with ledger.database.reading() as session:
        found = jobs.load_failed(session, "one", 15, 600)
    return found[1] if found else None


def test_who_waits_for_a_type_waits_for_switches_and_not_for_loads(ledger: Ledger) -> None:
    def on_its_way(name: str) -> bool:
        with ledger.database.reading() as session:
            return jobs.switching(session, name)

    loading = ledger.submit(Load(model_id="one"), origin="test").job
    assert (on_its_way("one"), on_its_way("two"), on_its_way("llm")) == (True, False, False)
    ledger.pause(loading.id)
    assert not on_its_way("one"), "nobody works on it"
    ledger.submit(Switch(model_id="two"), origin="test")
    assert (on_its_way("two"), on_its_way("llm")) == (True, True)


@pytest.mark.fault("F-45")
def test_a_crash_loop_is_told_at_once(serve: Serve, ledger: Ledger) -> None:
    serving(ledger, "crash_loop")
    api = serve()
    for name in ("llm", "one"):
        answer = ask(api, name)
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "crash_loop", "60")
    assert loads(ledger) == []


def test_one_of_a_pinned_model_that_is_lost_is_waited_for(serve: Serve, ledger: Ledger) -> None:
    """It comes back by itself, though it serves no type: nobody need ask for a load."""
    installed(ledger, "one", pinned=True)
    serving(ledger, "lost")
    with ledger.database.session() as session:
        session.exec(update(Residency).values(active=False))
    answer = ask(serve(hold_seconds=0.2), "one")
    assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")
    assert loads(ledger) == []


def test_a_pin_of_what_is_not_on_disk_says_what_to_do(serve: Serve, ledger: Ledger) -> None:
    answer = serve().http.post("/api/v1/models/one/pin")
    assert (answer.status_code, answer.json()["code"]) == (409, "model_not_installed")
    assert "modelyard pull one" in answer.json()["hint"]


def test_servers_are_told_with_what_failed_lately(serve: Serve, ledger: Ledger) -> None:
    with ledger.database.session() as session:
        moment = session.exec(select(now())).one()
        for name, state, age, more in (
            ("one", "failed", 60, {}), ("one", "ready", 30, {"active": True, "url": "http://127.0.0.1:1234", "pid": 7}),
            ("two", "stopped", 50, {}), ("two", "failed", 40, {}), ("old", "failed", 4000, {}),
            ("idle", "idle", 10, {"active": True, "model_type": "tts"}),
        ):  # fmt: skip
            values = {"model_type": "llm", "revision": "1", "device": "cpu", "runtime": "torch", **more}
            session.add(
                Residency(id=f"{name}-{age}", model_id=name, state=state, started_at=moment - age, **values)
            )  # fmt: skip
    told = serve().http.get("/api/v1/models/servers").json()
    found = [(one["modelId"], one["state"], one["port"], one["pid"]) for one in told["servers"]]
    assert found == [("idle", "idle", None, None), ("one", "ready", 1234, 7), ("two", "failed", None, None)]
    counts = [told[name] for name in ("totalServers", "readyServers", "startingServers", "failedServers", "ready")]
    assert counts == [3, 1, 0, 1, False]
    assert 30 <= told["servers"][1]["uptimeSeconds"] < 90


@pytest.mark.fault("A-91")
@pytest.mark.parametrize(
    "more",
    [
        {"n_discard": -1}, {"n_predict": 10**9}, {"max_tokens": 10**9}, {"max_tokens": -1}, {"id_slot": 0},
        {"grammar": "root ::= root root"}, {"json_schema": {"type": "object"}}, {"cache_prompt": True},
        {"response_format": {"type": "json_schema", "json_schema": {}}}, {"logit_bias": {"1": 100}},
        {"tools": [{"type": "function"}]}, {"n": 10**6}, {"lora": [{"id": 0, "scale": 1}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
    ],
    ids=lambda more: next(iter(more)),
)  # fmt: skip
def test_what_a_runner_must_not_be_told_never_reaches_one(serve: Serve, more: dict[str, object]) -> None:
    answer = serve().http.post("/v1/chat/completions", json={**BODY, **more})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.fault("A-91")
def test_what_a_pipeline_must_not_be_told_never_reaches_one(serve: Serve) -> None:
    api, wrong = serve(), []
    for more in (
        {"prompt": ""}, {"prompt": "x" * 4001}, {"prompt": ["one", "two"]}, {"negative_prompt": "x" * 4001},
        {"n": 0}, {"n": 5}, {"steps": 0}, {"steps": 101}, {"seed": -1}, {"seed": 2**32}, {"guidance_scale": -1},
        {"guidance_scale": 101}, {"size": "1024"}, {"size": "1024x1025"}, {"size": "56x64"}, {"size": "64x2056"},
        {"size": "-64x64"}, {"response_format": "url"}, {"output_type": "latent"}, {"num_inference_steps": 1},
        {"image": "file:///etc/passwd"}, {"callback_on_step_end": "os.system"}, {"cross_attention_kwargs": {}},
    ):  # fmt: skip
        body = {"model": "image_gen", "prompt": "A lighthouse", **more}
        answer = api.http.post("/v1/images/generations", json=body)
        told = answer.json()
        if (answer.status_code, told["code"]) != (422, "invalid_request") or not told["error"]["message"]:
            wrong.append((more, answer.text))
    assert not wrong
