"""A profile comes into force, job by job, with real children as runners."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from shared.contracts import ApplyProfile, Load, parse
from shared.db import catalog, devices, jobs, profiles
from shared.db.profiles import Fit
from shared.db.reports import Device
from shared.errors import Failed, Snooze
from shared.profiles import Profile
from shared.states import JobState
from tests.factories.repository import make_repository
from tests.fakes.runtimes import FakeRuntime
from tests.workers.jobs.conftest import Place
from workers.devices import base
from workers.job import BODIES, Work
from workers.jobs import apply
from workers.residency.manager import Manager


@pytest.fixture
def yard(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """`oak` and `ash` are on disk, `elm` is not; what waits for other jobs says so at once."""
    monkeypatch.setattr(apply, "PATIENCE_SECONDS", 0.0)
    for name in ("oak", "ash", "elm"):
        make_repository(place.repositories / "tiny" / name, weights=1000)
        place.pull(name, f"tiny/{name}") if name != "elm" else place.add(name, f"tiny/{name}")
    device = base.Device(id="cpu", kind="cpu", name="test", memory_total=10**9, memory_free=10**9)
    with closing(Manager(place.services, device)) as manager:
        manager.runtimes = (FakeRuntime(),)
        place.services.manager = manager
        yield place


def profile(place: Place, *names: str, **settings: dict[str, Any]) -> ApplyProfile:
    found = Profile.model_validate({"name": "one", "enabledModels": list(names), "settings": settings})
    with place.services.database.session() as session:
        profiles.put(session, found, in_file=False)
    return ApplyProfile(name="one", digest=found.digest)


def to_the_end(place: Place, contract: ApplyProfile, *, work: Work | None = None) -> dict[str, Any]:
    """Carry it out, and what it asks for in between."""
    work = work or place.work(contract)
    for _ in range(10):
        try:
            result = BODIES[contract.kind](contract, work)
            place.services.ledger.succeed(work.job_id, work.attempt, result)
            return result
        except Snooze:
            place.services.ledger.beat(work.job_id, work.attempt, work.progress)  # as its worker does every second
            run_all(place)
        with place.services.database.reading() as session:
            work = Work(place.services, jobs.get(session, work.job_id))
    pytest.fail("it asks for more and more")


def run_all(place: Place) -> None:
    with place.services.database.reading() as session:
        waiting = [job for job in jobs.find(session, state=JobState.QUEUED) if job.kind != ApplyProfile.kind]
    for job in waiting:
        contract = parse(job.kind, job.args)
        place.run(contract)


def loaded(place: Place) -> dict[str, bool]:
    """What is in memory, and whether it serves its type."""
    with place.services.database.reading() as session:
        rows = catalog.residencies(session, ["oak", "ash", "elm"])
    return {row.model_id: row.active for row in rows if row.state == "ready"}


def enabled(place: Place) -> list[str]:
    with place.services.database.reading() as session:
        return [name for name in ("ash", "elm", "oak") if catalog.get_model(session, name).enabled]


def test_what_is_missing_is_fetched_all_is_loaded_and_the_rest_leaves(yard: Place) -> None:
    yard.run(Load(model_id="ash"))
    done = to_the_end(yard, profile(yard, "elm", "oak", oak={"contextLength": 512}))
    assert (loaded(yard), enabled(yard)) == ({"elm": True, "oak": False}, ["elm", "oak"])
    assert sorted(done["loaded"]) == ["elm", "oak"]
    with yard.services.database.reading() as session:
        lengths = {row.model_id: row.context_length for row in catalog.residencies(session, ["elm", "oak"])}
        assert catalog.get_model(session, "oak").pinned
        assert jobs.find(session, kind="model.download")[0].origin == "profile"
    assert lengths == {"elm": 4096, "oak": 512}


def test_applied_twice_it_does_nothing_more(yard: Place) -> None:
    asked = profile(yard, "oak")
    to_the_end(yard, asked)
    before = loaded(yard)
    work = yard.work(asked)
    assert BODIES[asked.kind](asked, work)["jobs"] == [], "nothing was left to ask for"
    assert loaded(yard) == before == {"oak": True}


def test_what_cannot_be_had_is_told_and_the_rest_is_done(yard: Place) -> None:
    asked = profile(yard, "elm", "oak")
    work = yard.work(asked)
    with pytest.raises(Snooze):
        BODIES[asked.kind](asked, work)
    yard.services.ledger.beat(work.job_id, work.attempt, work.progress)
    with yard.services.database.reading() as session:
        (download,) = jobs.find(session, kind="model.download", state=JobState.QUEUED)
    claimed = yard.services.ledger.claim(download.id, download.ticket, "worker@test")
    assert claimed is not None
    yard.services.ledger.fail(download.id, claimed.attempt, Failed("no_such_revision", "There is no such revision."))
    with pytest.raises(Failed) as caught:
        to_the_end(yard, asked, work=work)
    assert caught.value.code == "profile_incomplete"
    assert list(caught.value.details["models"]) == ["elm"]
    assert loaded(yard) == {"oak": False}
    yard.services.ledger.fail(work.job_id, work.attempt, caught.value)
    again = yard.services.ledger.retry(work.job_id)
    claimed = yard.services.ledger.claim(again.id, again.ticket, "worker@test")
    assert claimed is not None
    to_the_end(yard, asked, work=Work(yard.services, claimed))
    assert loaded(yard) == {"elm": True, "oak": False}, "what had failed is tried again"


def test_a_newer_ask_counts_instead(yard: Place) -> None:
    first = profile(yard, "oak")
    work = yard.work(first)
    second = profile(yard, "ash")
    newer = yard.services.ledger.submit(second, origin="test").job
    assert BODIES[first.kind](ApplyProfile(name="one"), work) == {"profile": "one", "overtakenBy": newer.id}
    assert enabled(yard) == ["ash", "elm", "oak"]


def test_a_newer_ask_of_the_last_moment_counts_instead(yard: Place) -> None:
    first = profile(yard, "oak")
    job = yard.work(first)
    with yard.services.database.reading() as session:
        work = AskedMeanwhile(yard.services, jobs.get(session, job.job_id))
    second = Profile(name="two", enabled_models=["ash"])
    with yard.services.database.session() as session:
        profiles.put(session, second, in_file=False)

    def ask() -> None:
        yard.services.ledger.submit(ApplyProfile(name="two", digest=second.digest), origin="test")

    work.meanwhile = ask
    assert "overtakenBy" in BODIES[first.kind](first, work)
    assert enabled(yard) == ["ash", "elm", "oak"], "what the newer one has done by then is not undone"


class AskedMeanwhile(Work):
    """Something happens once it has made sure that it is still the one to do it."""

    meanwhile: Callable[[], None]

    def confirm(self) -> None:
        super().confirm()
        self.meanwhile()


def test_what_does_not_fit_beside_the_rest_is_not_loaded_in_its_place(yard: Place) -> None:
    both = Profile(name="x", enabled_models=["oak", "ash"])
    need = fits(yard, both, 10**9)["oak"].need
    assert need is not None
    found = fits(yard, both, need + need // 2)
    assert found["oak"].served_by == "oak"
    error = found["ash"].error
    assert error is not None
    assert (error.code, error.details["freeBytes"]) == ("will_not_fit", need // 2)


def fits(place: Place, wanted: Profile, memory: int) -> dict[str, Fit]:
    """On a device of so much memory."""
    services = place.services
    with services.database.session() as session:
        row = Device(
            id="cpu", kind="cpu", name="test", node="test", memory_total=memory, details={"memoryFree": memory},
            seen_at=0.0,
        )  # fmt: skip
        devices.report(session, row)
    return {one.model_id: one for one in profiles.outlook(services.database, services.leases, wanted, 4096).fits}
