"""Models of Ollama as jobs: pulled, looked after and removed through its API, on a server that speaks it."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from shared.contracts import Download, Remove, Repair, Scan, Verify
from shared.db import catalog
from shared.db.tables import Model
from shared.errors import Cancelled, ModelyardError, Unavailable
from shared.states import Availability, Holder
from tests.fakes.ollama import FakeOllama, Published, published
from tests.workers.jobs.conftest import Place
from workers.job import BODIES

NAME = "llama3:8b"


@pytest.fixture
def fake(place: Place) -> Iterator[FakeOllama]:
    with FakeOllama() as fake:
        fake.library[NAME] = published(NAME)
        place.services.settings.sources.ollama_host = fake.url
        yield fake


def enter(place: Place, model_id: str, name: str = NAME) -> None:
    with place.services.database.session() as session:
        catalog.add_model(
            session,
            Model(id=model_id, type="llm", name=name, source="ollama", source_url=name, created_at=0.0, updated_at=0.0),
        )


def pull(place: Place, model_id: str, name: str = NAME) -> dict[str, Any]:
    enter(place, model_id, name)
    return place.run(Download(model_id=model_id))


def test_what_was_pulled_is_there_in_place(place: Place, fake: FakeOllama) -> None:
    result = pull(place, "llama")
    model = fake.library[NAME]
    assert result == {
        "revision": model.digest, "size": model.size, "inOllama": True, "owned": True, "alreadyPresent": False,
    }  # fmt: skip
    row = place.row("llama")
    assert (row.holder, row.owned, row.path, row.size) == (Holder.OLLAMA, True, f"ollama:{NAME}", model.size)
    assert row.facts["architecture"] == "llama"
    assert row.facts["contextLength"] == 8192
    assert place.status("llama") == Availability.AVAILABLE
    assert place.run(Download(model_id="llama"))["alreadyPresent"] is True


def test_its_progress_is_the_jobs_progress(place: Place, fake: FakeOllama) -> None:
    enter(place, "llama")
    fake.manners.pause = 0.05
    work = place.work(Download(model_id="llama"))
    seen: list[tuple[str, float | None, int | None]] = []
    report = work.report

    def watch(phase: str, **facts: Any) -> None:
        report(phase, **facts)
        if work.progress is not None:
            seen.append((work.progress.phase, work.progress.fraction, work.progress.bytes_done))

    work.report = watch  # type: ignore[method-assign] # the body's own report, listened to
    BODIES["model.download"](Download(model_id="llama"), work)
    assert {"resolving", "downloading", "verifying", "publishing"} <= {phase for phase, _, _ in seen}
    assert work.progress is not None
    assert work.progress.fraction == 1.0
    done = [count for _, _, count in seen if count is not None]
    assert done == sorted(done)


def test_a_cancel_closes_the_stream_and_nothing_is_recorded(place: Place, fake: FakeOllama) -> None:
    enter(place, "llama")
    fake.manners.pause = 0.1
    work = place.work(Download(model_id="llama"))
    threading.Thread(target=lambda: (fake.pulling.wait(10), work.stop(Cancelled("cancelled")))).start()
    with pytest.raises(Cancelled):
        BODIES["model.download"](Download(model_id="llama"), work)
    assert fake.closed.wait(5)
    assert place.status("llama") != Availability.AVAILABLE
    assert 0 < fake.fetched < fake.library[NAME].size


@pytest.mark.fault("F-49")
def test_a_daemon_that_restarts_in_the_middle_is_waited_for(place: Place, fake: FakeOllama) -> None:
    enter(place, "llama")
    fake.manners.cut = 4
    with pytest.raises(Unavailable) as caught:
        place.run(Download(model_id="llama"))
    assert caught.value.retry_after == 5.0
    place.run(Download(model_id="llama"))
    assert fake.fetched == fake.library[NAME].size


@pytest.mark.fault("A-39")
def test_a_model_without_layers_is_none(place: Place, fake: FakeOllama) -> None:
    fake.library["empty:1b"] = Published({})
    with pytest.raises(ModelyardError) as caught:
        pull(place, "empty", "empty:1b")
    assert caught.value.code == "source_invalid_manifest"


def test_verify_says_what_ollama_can_tell(place: Place, fake: FakeOllama) -> None:
    pull(place, "llama")
    report = place.run(Verify(model_id="llama"))
    assert report["ok"] is True
    assert report["checkedBytes"] == 0
    assert "Ollama proves" in report["note"]
    fake.models[NAME] = published("another")
    report = place.run(Verify(model_id="llama"))
    assert report["ok"] is False
    assert report["problems"][0]["code"] == "content_mismatch"
    assert place.status("llama") == Availability.CORRUPTED
    fake.library[NAME] = fake.models[NAME]
    place.run(Repair(model_id="llama"))
    assert place.status("llama") == Availability.AVAILABLE


@pytest.mark.fault("F-49")
@pytest.mark.parametrize("found_by", [Verify(model_id="llama"), Scan()], ids=["verify", "scan"])
def test_a_model_removed_behind_our_back_is_missing(place: Place, fake: FakeOllama, found_by: Any) -> None:
    pull(place, "llama")
    taken = fake.models.pop(NAME)
    place.services.settings.sources.scan_roots = [str(place.repositories.parent / "none")]
    place.run(found_by)
    assert place.status("llama") == Availability.MISSING
    fake.models[NAME] = taken
    assert place.run(Scan())["returned"] == ["llama"]
    assert place.status("llama") == Availability.AVAILABLE


@pytest.mark.fault("F-49")
def test_an_ollama_that_is_away_makes_its_models_unavailable_and_no_more(place: Place, fake: FakeOllama) -> None:
    pull(place, "llama")
    place.services.settings.sources.scan_roots = [str(place.repositories.parent / "none")]
    fake.stop()
    assert place.run(Scan())["unavailable"] == ["llama"]
    assert place.status("llama") == Availability.UNAVAILABLE
    with FakeOllama(fake.port) as back:
        back.models[NAME] = fake.models[NAME]
        assert place.run(Scan())["returned"] == ["llama"]
    assert place.status("llama") == Availability.AVAILABLE


def test_remove_deletes_what_we_had_pulled_and_nothing_else(place: Place, fake: FakeOllama) -> None:
    fake.models["theirs:1b"] = fake.library["theirs:1b"] = published("theirs")
    pull(place, "ours")
    assert pull(place, "theirs", "theirs:1b")["owned"] is False
    assert place.run(Remove(model_id="ours"))["deletedInOllama"] is True
    assert place.run(Remove(model_id="theirs"))["deletedInOllama"] is False
    assert list(fake.models) == ["theirs:1b"]


def test_remove_waits_for_an_ollama_that_is_away(place: Place, fake: FakeOllama) -> None:
    pull(place, "llama")
    fake.manners.refusals = [(503, b"")]
    with pytest.raises(Unavailable):
        place.run(Remove(model_id="llama"))
    assert place.status("llama") == Availability.AVAILABLE
    place.run(Remove(model_id="llama"))
    assert fake.models == {}


def test_a_model_with_two_entries_stays_until_the_last_one_goes(place: Place, fake: FakeOllama) -> None:
    pull(place, "one-name")
    pull(place, "another-name")
    assert place.run(Remove(model_id="one-name"))["deletedInOllama"] is False
    assert NAME in fake.models
