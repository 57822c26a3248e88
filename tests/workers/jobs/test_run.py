"""A model is asked in a job, and its server answers well or badly."""

import base64
import io
import wave
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import av
import httpx
import pytest
from sqlmodel import col, select

from shared.contracts import Download, Run, Switch
from shared.db import catalog, usage
from shared.db.tables import Job, Residency
from shared.errors import Cancelled, Conflict, Exhausted, Failed, Invalid, Snooze, Unavailable
from tests.factories.pipelines import animate_diff
from tests.factories.repository import make_repository
from tests.factories.speech import vits
from tests.fakes.answers import Server, in_memory
from tests.workers.jobs.conftest import Place
from workers.devices.base import Device
from workers.jobs.run import MOST_BYTES
from workers.jobs.run import run as body
from workers.residency.manager import Manager

ASK = Run(model_id="oak", path="completions", request={"prompt": "Once", "user": "me"})


@pytest.fixture
def oak(place: Place) -> Iterator[Place]:
    """In memory, as far as anybody knows."""
    make_repository(place.repositories / "tiny" / "oak", weights=1000)
    place.pull("oak", "tiny/oak")
    with in_memory(place.services, "oak", "r"):
        yield place


def says(monkeypatch: pytest.MonkeyPatch, answer: tuple[int, bytes] | None) -> None:
    monkeypatch.setattr(Server, "answer", answer)


def uses(place: Place) -> tuple[int, int]:
    with place.services.database.reading() as session:
        found = usage.total(usage.since(session, 1, "oak").get("oak", {}).values())
    return found.uses, found.failures


def test_its_answer_is_the_result(oak: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, (200, b'{"choices": []}'))
    result = oak.run(ASK)
    assert (result["answer"], result["servedBy"]) == ({"choices": []}, {"modelId": "oak", "contextLength": 256})
    assert Server.asked == [{"model": "oak", "prompt": "Once", "stream": False}], "nothing that is not for a runner"
    assert oak.services.leases.count("r") == 0, "it was held, and is no more"
    assert uses(oak) == (1, 0)


@contextmanager
def device_of(place: Place) -> Iterator[None]:
    place.services.settings.jobs.lease_seconds = 600  # nobody renews it here
    device = Device(id="cpu", kind="cpu", name="test", memory_total=10**12, memory_free=10**12)
    with closing(Manager(place.services, device)) as manager:
        place.services.manager = manager
        yield


def test_a_model_that_speaks_leaves_its_file_in_the_result(place: Place) -> None:
    """A real one, from its files on a hub to what is heard."""
    vits(place.repositories / "tiny" / "wren")
    place.add("wren", "tiny/wren")
    with place.services.database.session() as session:
        catalog.change_model(session, "wren", type="tts")
    place.run(Download(model_id="wren"))
    with device_of(place):
        assert place.run(Switch(model_id="wren"))["runtime"] == "torch"
        asked = Run(model_id="tts", path="audio/speech", request={"input": "good morning", "seed": 1})
        result = place.run(asked)
        with pytest.raises(Conflict, match="makes sound"):
            place.run(Run(model_id="wren", path="completions", request={"prompt": "Once"}))
    (made,) = result["answer"]["data"]
    with wave.open(io.BytesIO(base64.b64decode(made["b64_json"]))) as file:
        assert (made["format"], file.getframerate(), file.getnframes() > 1000) == ("wav", 16000, True)


def test_a_model_that_makes_videos_does_too(place: Place) -> None:
    animate_diff(place.repositories / "tiny" / "heron")
    place.add("heron", "tiny/heron")
    with place.services.database.session() as session:
        catalog.change_model(session, "heron", type="animation")
    place.run(Download(model_id="heron"))
    request = {"prompt": "a ship", "steps": 1, "frames": 3, "fps": 6, "seed": 1}
    with device_of(place):
        assert place.run(Switch(model_id="heron"))["runtime"] == "diffusers"
        result = place.run(Run(model_id="animation", path="videos/generations", request=request))
        with pytest.raises(Conflict, match="makes video"):
            place.run(Run(model_id="heron", path="images/generations", request={"prompt": "a ship"}))
    (made,) = result["answer"]["data"]
    with av.open(io.BytesIO(base64.b64decode(made["b64_json"]))) as file:
        assert (made["format"], len(list(file.decode(video=0)))) == ("mp4", 3)
    assert place.row("heron").facts["frames"] == 24


@pytest.mark.parametrize(
    ("answer", "error", "code", "counted"),
    [
        ((400, b"too long"), Invalid, "request_refused", (0, 0)), ((500, b"oh"), Failed, "model_failed", (1, 1)),
        ((200, b"[1]"), Failed, "model_failed", (1, 0)), ((200, b"\xff"), Failed, "model_failed", (1, 0)),
        ((200, b" " * (MOST_BYTES + 1)), Exhausted, "answer_too_large", (0, 0)),
    ],
)  # fmt: skip
def test_what_is_no_answer_says_why(
    oak: Place, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, bytes], error: type[Any], code: str, counted: Any
) -> None:
    says(monkeypatch, answer)
    with pytest.raises(error) as caught:
        oak.run(ASK)
    assert (caught.value.code, uses(oak)) == (code, counted)
    assert caught.value.hint
    assert oak.services.leases.count("r") == 0


def test_one_that_starts_is_waited_for(oak: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, (503, b"{}"))
    with pytest.raises(Snooze):
        oak.run(ASK)


def test_one_that_drains_is_not_held(oak: Place) -> None:
    oak.services.leases.close("r")
    with pytest.raises(Snooze):
        oak.run(ASK)
    assert Server.asked == []


def test_one_that_is_gone_is_asked_again_later(oak: Place) -> None:
    with oak.services.database.session() as session:
        session.exec(select(Residency)).one().url = "http://127.0.0.1:9"
    with pytest.raises(Unavailable):
        oak.run(ASK)


def test_one_that_is_not_in_memory_is_loaded_first(oak: Place) -> None:
    with oak.services.database.session() as session:
        session.exec(select(Residency)).one().state = "stopped"
    with pytest.raises(Snooze):
        oak.run(ASK)
    with oak.services.database.reading() as session:
        loads = session.exec(select(Job).where(col(Job.kind) == "model.load", col(Job.model_id) == "oak")).all()
    assert len(loads) == 1


def test_where_requests_do_not_load_a_job_does_not_either(oak: Place) -> None:
    oak.services.settings.runners.load_on_use = False
    with oak.services.database.session() as session:
        session.exec(select(Residency)).one().state = "stopped"
    with pytest.raises(Conflict, match="not in memory"):
        oak.run(ASK)


def test_an_answer_that_takes_too_long_is_not_asked_for_again(oak: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, None)
    monkeypatch.setattr("workers.jobs.run.TIMEOUT", httpx.Timeout(0.5))
    with pytest.raises(Failed) as caught:
        oak.run(ASK)
    assert (caught.value.code, len(Server.asked)) == ("answer_timeout", 1)


def test_a_cancel_hangs_up(oak: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, None)
    work = oak.work(ASK)
    oak.services.ledger.cancel(work.job_id)

    def checkpoint() -> None:
        if Server.asked:
            raise Cancelled

    monkeypatch.setattr(work, "checkpoint", checkpoint)
    with pytest.raises(Cancelled):
        body(ASK, work)
    assert Server.hung_up.wait(30)
    assert oak.services.leases.count("r") == 0
