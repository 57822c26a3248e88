"""A model in Ollama's memory as a server of ours: loaded, proved, watched and let go of, however Ollama behaves."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Cancelled, ModelyardError
from shared.settings import RunnerSettings, SourceSettings
from shared.states import Output
from tests.fakes.ollama import FakeOllama, published
from workers.runtimes import ollama as module
from workers.runtimes.base import Request
from workers.runtimes.ollama import OllamaModel, OllamaRuntime

NAME, VECTORS = "llama3:8b", "nomic-embed-text:latest"


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with FakeOllama() as fake:
        fake.models[NAME] = published(NAME)
        fake.models[VECTORS] = published(VECTORS, family="bert")
        yield fake


@pytest.fixture
def runtime(fake: FakeOllama, monkeypatch: pytest.MonkeyPatch) -> OllamaRuntime:
    """Every question is answered by a look of that moment."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    return OllamaRuntime(RunnerSettings(), SourceSettings(ollama_host=fake.url, read_timeout=5))


def nothing() -> None:
    """A checkpoint at which nobody asks for anything."""


def begun(runtime: OllamaRuntime, name: str = NAME) -> OllamaModel:
    request = Request(Path(f"ollama:{name}"), "llama", "127.0.0.1", 0, "the-runner-key", "cpu", 512)
    with ThreadPoolExecutor(1) as spawn:
        return runtime.start(request, spawn)


def ready(runtime: OllamaRuntime, name: str = NAME) -> OllamaModel:
    model = begun(runtime, name)
    model.wait_ready(nothing)
    model.probe()
    return model


def refused(action: Callable[[], object]) -> ModelyardError:
    with pytest.raises(ModelyardError) as caught:
        action()
    assert caught.value.hint, "every refusal says what to do next"
    return caught.value


def test_it_is_loaded_kept_and_let_go_of(runtime: OllamaRuntime, fake: FakeOllama) -> None:
    assert runtime.accepts(Path(f"ollama:{NAME}"))
    assert not runtime.accepts(Path("/models/ollama"))
    model = begun(runtime)
    assert fake.asked == []
    model.wait_ready(nothing)
    assert fake.memory.models[NAME].keep_alive == -1
    model.probe()
    assert model.alive()
    assert not model.hangs(60)
    assert (model.url, model.known_as, model.pid) == (fake.url, NAME, None)
    assert model.memory() == (fake.models[NAME].size + 1_000_000, 0)
    model.stop(5)
    assert fake.memory.models == {}
    assert not model.alive()
    model.stop(5)
    told = [body for method, path, body in fake.asked if path == "/api/generate"]
    assert [(body["keep_alive"], "options" in body) for body in told] == [(-1, False), (0, False)]
    assert set(fake.keys) == {None}, "nothing of ours is told to Ollama"


def test_one_that_makes_vectors(runtime: OllamaRuntime, fake: FakeOllama) -> None:
    model = ready(replace(runtime, output=Output.VECTORS), VECTORS)
    assert fake.paths()[-3:] == ["POST /api/embed", "GET /api/ps", "POST /v1/embeddings"]
    model.stop(5)
    assert fake.memory.models == {}


@pytest.mark.parametrize(("on_gpu", "offloaded"), [(1.0, 0), (0.25, 0.75), (0.0, 1.0)])
def test_what_lies_on_the_cpu_is_told_of_a_gpu(
    runtime: OllamaRuntime, fake: FakeOllama, on_gpu: float, offloaded: float
) -> None:
    fake.memory.on_gpu = on_gpu
    memory = ready(runtime).memory()
    size = fake.models[NAME].size + 1_000_000
    assert memory.offloaded("gpu") == size * offloaded
    assert memory.offloaded("cpu") is None


@pytest.mark.fault("F-49")
@pytest.mark.parametrize(
    ("goes_wrong", "code"),
    [
        (lambda fake: setattr(fake.manners, "version", "0.17.0"), "ollama_too_old"),
        (lambda fake: fake.models.pop(NAME), "model_gone"),
        (lambda fake: setattr(fake.memory, "load_error", "model requires more system memory (9 GiB)"),
         "ollama_out_of_memory"),
        (lambda fake: setattr(fake.memory, "load_error", "llama runner process has terminated: exit status 2"),
         "ollama_cannot_load"),
        (lambda fake: setattr(fake.memory, "load_error", "model failed to load, this may be due to resource "
                              "limitations or an internal error, check ollama server logs for details"),
         "ollama_cannot_load"),
        (lambda fake: setattr(fake.memory, "load_error", "something new"), "ollama_failed"),
        (lambda fake: fake.models.update({NAME: published(NAME, family="bert")}), "ollama_wrong_type"),
        (lambda fake: setattr(fake.memory, "garbage", True), "probe_failed"),
        (lambda fake: setattr(fake.manners, "refusals", [(503, b"")]), "ollama_interrupted"),
        (lambda fake: setattr(fake.manners, "refusals", [(200, b"<html>")]), "protocol_error"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_told_and_leaves_nothing_in_memory(
    runtime: OllamaRuntime, fake: FakeOllama, goes_wrong: Callable[[FakeOllama], Any], code: str
) -> None:
    goes_wrong(fake)
    model = begun(runtime)

    def load() -> None:
        model.wait_ready(nothing)
        model.probe()

    assert refused(load).code == code
    model.stop(5)
    assert fake.memory.models == {}


@pytest.mark.fault("F-49")
def test_where_there_is_no_ollama(runtime: OllamaRuntime, fake: FakeOllama, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.kill()
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert refused(runtime.version).code == "ollama_missing"
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/ollama")
    assert refused(lambda: begun(runtime).wait_ready(nothing)).code == "ollama_not_running"


def test_a_load_that_takes_too_long_is_given_up(runtime: OllamaRuntime, fake: FakeOllama) -> None:
    fake.memory.may_load.clear()
    runtime.settings.max_startup_seconds = 0.2
    error = refused(lambda: begun(runtime).wait_ready(nothing))
    assert (error.code, "MAX_STARTUP_TIME" in error.hint) == ("runner_start_timeout", True)
    fake.memory.may_load.set()


def test_a_load_can_be_cancelled(runtime: OllamaRuntime, fake: FakeOllama) -> None:
    fake.memory.may_load.clear()

    def checkpoint() -> None:
        if fake.memory.loading.is_set():
            raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        begun(runtime).wait_ready(checkpoint)
    assert fake.paths()[-2:] == ["POST /api/generate", "GET /api/ps"], "it was told to let go"
    fake.memory.may_load.set()


@pytest.mark.fault("F-49")
@pytest.mark.parametrize(
    "ends",
    [
        lambda fake: fake.memory.evict(NAME),
        lambda fake: fake.models.pop(NAME),
        lambda fake: fake.models.update({NAME: published("a newer one")}),
        lambda fake: fake.kill(),
    ],
    ids=["evicted", "deleted", "replaced", "the daemon ended"],
)
def test_one_that_ollama_lets_go_of_is_not_alive(
    runtime: OllamaRuntime, fake: FakeOllama, ends: Callable[[FakeOllama], Any]
) -> None:
    model = ready(runtime)
    assert model.alive()
    ends(fake)
    assert not model.alive()
    model.stop(0)


def test_silence_is_no_end_and_lasts_only_so_long(
    runtime: OllamaRuntime, fake: FakeOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GLANCE_SECONDS", 0.2)
    model = ready(runtime)
    fake.manners.silent = True
    assert model.alive()
    assert model.hangs(0.0)
    assert not model.hangs(60.0)
    model.stop(0)
    assert not model.alive()


def test_a_reload_loads_it_anew_and_the_one_before_does_not_take_it_along(
    runtime: OllamaRuntime, fake: FakeOllama
) -> None:
    old = ready(runtime)
    new = ready(runtime)
    assert fake.memory.loads == [NAME, NAME]
    old.stop(5)
    assert new.alive()
    new.stop(5)
    assert fake.memory.models == {}


@pytest.mark.parametrize("keeps", ["requests", "other clients"])
def test_it_leaves_with_its_last_request(
    runtime: OllamaRuntime, fake: FakeOllama, monkeypatch: pytest.MonkeyPatch, keeps: str
) -> None:
    model = ready(runtime)
    if keeps == "other clients":
        monkeypatch.setattr(module, "UNLOAD_SECONDS", 0.2)
        fake.memory.keeps = True
        error = refused(lambda: model.stop(5))
        assert (error.code, f"ollama stop {NAME}" in error.hint) == ("ollama_keeps_model", True)
        return
    with fake.memory.using(NAME, fake.models[NAME]):
        stopping = threading.Thread(target=model.stop, args=(5,))
        stopping.start()
        assert NAME in fake.memory.models
    stopping.join(30)
    assert fake.memory.models == {}


def test_what_a_worker_has_left_behind_is_let_go_of(runtime: OllamaRuntime, fake: FakeOllama) -> None:
    ready(runtime)
    anew = OllamaRuntime(runtime.settings, runtime.sources)
    assert not anew.end_stray(123, "a runner's", None)
    assert anew.end_stray(None, "its residency", NAME)
    assert fake.memory.models == {}
    assert not anew.end_stray(None, "its residency", NAME)
    fake.kill()
    assert not anew.end_stray(None, "its residency", NAME)
