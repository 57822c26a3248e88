"""Operations on the same model at the same time, in every order that chance brings."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from celery import Celery
from sqlmodel import select

from shared.db import catalog
from shared.db.tables import Installation, Job
from shared.states import JobState
from tests.faults import invariants, results
from tests.faults.conftest import Street
from tests.faults.house import House
from tests.faults.invariants import Expected
from tests.faults.scenarios import Download, Remove, Switch
from workers.store.trash import empty_trash

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

REPO = "tiny/elm"


@pytest.fixture
def house(street: Street) -> Iterator[House]:
    yield street.house("sqlite")
    street.house("sqlite").disarm()


@pytest.mark.fault("F-55")
def test_fifty_requests_at_once_are_one_job(house: House) -> None:
    house.add("crowd", REPO)
    with ThreadPoolExecutor(25) as pool:
        ids = set(pool.map(lambda _: house.post("/api/v1/models/download", {"model_id": "crowd"}), range(50)))
    house.settle()
    with house.ledger.reading() as session:
        rows = session.exec(select(Job).where(Job.model_id == "crowd")).all()
    assert {row.id for row in rows} == ids
    fetched = [row for row in rows if not (row.result or {}).get("alreadyPresent")]
    assert len(fetched) == 1, "whoever came after its end found it there"
    invariants.check(house, Expected(whole={"crowd": REPO}, active=_active(house), jobs=sorted(ids)))


@pytest.mark.fault("F-55")
def test_two_jobs_of_two_askers_are_one_download(house: House) -> None:
    """One asked over REST and is being carried out; the other one's message goes straight to the reserved worker."""
    download = Download(house)
    download.prepare()
    house.arm("download.written", "hold", 2)
    asked = download.ask()
    house.await_held()
    plain = Celery(broker=house.redis.url)
    message = plain.send_task(
        "model.download", kwargs={"model_id": download.model}, queue="modelyard.p0.io", ignore_result=True
    )
    second = house.ended(message.id)
    house.release()
    house.settle()
    assert house.ended(asked).state == JobState.SUCCEEDED
    assert (second.state, (second.error or {})["code"]) == (JobState.REJECTED, "joined")
    assert download.fetched() < 2, "where the hold takes long, a chunk comes again"
    invariants.check(house, Expected(whole={download.model: download.REPO}, active=_active(house), jobs=[asked]))


@pytest.mark.fault("F-51")
def test_what_is_in_use_is_not_removed(house: House) -> None:
    switch = Switch(house)
    switch.prepare()
    refused = house.http.delete(f"/api/v1/models/{switch.active()}")
    assert (refused.status_code, refused.json()["code"]) == (409, "model_in_use")
    assert house.say().status_code == 200


@pytest.mark.fault("F-51")
def test_a_removal_waits_for_no_download(house: House) -> None:
    """Refused while the model comes down; afterwards done once, and then there is nothing to remove."""
    download = Download(house)
    download.prepare()
    house.arm("download.written", "hold", 5)
    job_id = download.ask()
    house.await_held()
    refused = house.http.delete(f"/api/v1/models/{download.model}")
    assert (refused.status_code, refused.json()["code"]) == (409, "model_busy")
    house.release()
    assert house.ended(job_id).state == JobState.SUCCEEDED
    house.done(f"DELETE /api/v1/models/{download.model}")
    assert house.http.delete(f"/api/v1/models/{download.model}").status_code == 404
    invariants.check(house, Expected(gone=[download.model], active=_active(house)))


@pytest.mark.fault("F-52")
@pytest.mark.parametrize("point", ["remove.taken_off", "remove.trashed", "remove.forgotten"])
def test_a_model_added_again_while_it_is_removed(house: House, point: str) -> None:
    """Before it is forgotten its name is taken; after that a new one comes, and the old removal does not touch it."""
    removal = Remove(house)
    removal.prepare()
    house.arm(point, "hold", 1)
    job_id = removal.ask()
    house.await_held()
    body = {
        "model_id": removal.model, "model_type": "llm", "name": "again", "source": "huggingface", "source_url": REPO,
    }  # fmt: skip
    told = house.http.post("/api/v1/models/add", json=body)
    assert told.status_code == (201 if point == "remove.forgotten" else 409), told.text
    again = None
    if told.status_code == httpx.codes.CREATED:
        again = house.post("/api/v1/models/download", {"model_id": removal.model})
    house.release()
    assert house.ended(job_id).state == JobState.SUCCEEDED
    if again is None:
        house.pull(removal.model, REPO)
    else:
        assert house.ended(again).state == JobState.SUCCEEDED
    house.settle()
    assert house.done(f"/api/v1/models/{removal.model}/verify").result["ok"]  # type: ignore[index] # it has one


@pytest.mark.fault("F-53")
def test_two_models_of_the_same_files(house: House) -> None:
    """One is repaired (whole files are linked, not copied) and removed, the trash is emptied: the other is whole."""
    for name in ("twin-a", "twin-b"):
        house.pull(name, REPO)
    with house.ledger.reading() as session:
        installation = session.get(Installation, "twin-a")
    assert installation is not None
    folder = house.layout.published("llm", "twin-a", installation.revision)
    smallest = min(folder.iterdir(), key=lambda file: file.stat().st_size)
    smallest.chmod(0o640)
    smallest.write_bytes(b"x")
    house.done("/api/v1/models/twin-a/repair")
    empty_trash(house.layout, -1, 2**40)
    for name in ("twin-a", "twin-b"):
        assert house.done(f"/api/v1/models/{name}/verify").result["ok"]  # type: ignore[index] # it has one
    house.done("DELETE /api/v1/models/twin-a")
    empty_trash(house.layout, -1, 2**40)
    invariants.check(house, Expected(whole={"twin-b": REPO}, gone=["twin-a"], active=_active(house)))


@pytest.mark.fault("F-50")
def test_everything_at_once_on_two_models(house: House) -> None:
    """Downloads, verifications, repairs, loads, unloads, removals and the trash's end, by four clients at random.

    Each is accepted or refused with a reason; in the end everything has ended and every invariant holds.
    """
    switch = Switch(house)
    switch.prepare()
    for _ in range(10 if results.FILE else 1):
        seed = random.randrange(10**6)
        print(f"seed {seed}")
        with ThreadPoolExecutor(4) as pool:
            played = [pool.submit(_play, house, random.Random(f"{seed} {client}")) for client in range(4)]
        for client in played:
            client.result()
        house.settle()
        for name in Switch.MODELS:
            house.add(name, f"tiny/{name}")
            house.done("/api/v1/models/download", {"model_id": name, "force_redownload": True})
        house.settle()
        assert all(house.done(f"/api/v1/models/{name}/verify").result["ok"] for name in Switch.MODELS)  # type: ignore[index] # each has one
        empty_trash(house.layout, -1, 2**40)
        invariants.check(house, Expected(active=_active(house)))


OPERATIONS = (
    ("POST", "/api/v1/models/download", True),
    ("POST", "/api/v1/models/{}/verify", False),
    ("POST", "/api/v1/models/{}/repair", False),
    ("POST", "/api/v1/models/{}/switch", False),
    ("POST", "/api/v1/models/deactivate/{}", False),
    ("DELETE", "/api/v1/models/{}", False),
)
ANSWERS = {200, 202, 404, 409, 422}


def _play(house: House, chance: random.Random) -> None:
    for _ in range(12):
        name = chance.choice(Switch.MODELS)
        method, path, in_body = chance.choice(OPERATIONS)
        body = {"model_id": name, "force_redownload": chance.random() < 0.5} if in_body else None
        if method == "DELETE":
            house.add(name, f"tiny/{name}")
        told = house.http.request(method, path.format(name), json=body, params={"wait": chance.choice((0, 0, 1))})
        assert told.status_code in ANSWERS, f"{method} {path}: {told.status_code} {told.text}"
        empty_trash(house.layout, -1, 2**40)


def _active(house: House) -> str | None:
    with house.ledger.reading() as session:
        row = catalog.active(session, "llm")
    return row.model_id if row is not None else None
