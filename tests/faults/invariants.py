"""What must hold after every fault, whatever it was and wherever it struck.

I1 every accepted job has ended (`House.settle` has seen to it)     I5 no child without a live owner
I2 published means proven: manifest, disk and source agree          I6 one end per job, and nothing after it
I3 no folder without a row, no row without its folder               I8 attempts and lost workers within their limits
I4 exactly one active model per type, and it answers                and the effect happened once
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
from sqlmodel import Session, select

from shared.db.tables import Installation, Job, Model, Residency
from shared.errors import ModelyardError
from shared.queues import EVENTS_STREAM
from shared.states import ENDED, HELD, InstallationState, ResidencyState
from tests.faults.house import House
from workers.store.manifest import read

SECONDS = 60.0


@dataclass
class Expected:
    """What the world should look like once it has settled."""

    whole: dict[str, str] = field(default_factory=dict)
    """Models that are published, each with its repository."""
    gone: list[str] = field(default_factory=list)
    cleaned: list[str] = field(default_factory=list)
    """Models that the registry still knows, and whose files lie in the trash, once."""
    active: str | None = None
    in_its_room: str | None = None
    """A model for which who is active has made room, unless that came back already."""
    sleeps: bool = False
    """Who was put out may sleep."""
    jobs: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    """Models whose published folder was replaced, once for each time, so that the one before lies in the trash."""
    events_kept: bool = True
    """Redis was there all the time."""


def check(house: House, expected: Expected) -> None:
    """Insist on every invariant; what takes a moment gets it."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            violations = list(_violations(house, expected))
        except (ModelyardError, redis.RedisError, psutil.NoSuchProcess, FileNotFoundError) as passing:
            violations = [repr(passing)]
        if not violations:
            break
        assert time.monotonic() < deadline, "\n".join(violations)
        time.sleep(0.1)
    for model_id, repo in expected.whole.items():
        _insist_on_bytes(house, model_id, house.hub_root / repo)
    if expected.active is not None:
        house.ready()
        told = house.say()
        assert told.status_code == 200, f"I4: {told.status_code} {told.text}"
        assert told.headers["x-modelyard-model"] == expected.active


def _violations(house: House, expected: Expected) -> Iterator[str]:
    with house.ledger.reading() as session:
        yield from _jobs(house, session, expected)
        yield from _store(house, session, expected)
        yield from _cleaned(house, session, expected)
        yield from _memory(house, session, expected)
    yield from _events(house, expected)


def _jobs(house: House, session: Session, expected: Expected) -> Iterator[str]:
    limits = house.settings.jobs
    for job in session.exec(select(Job)).all():
        if job.state not in ENDED:
            yield f"I1: job {job.id} ({job.kind}) is {job.state}"
        if job.lost > limits.max_lost or job.attempt > 1 + job.lost + job.retries + 8:
            yield f"I8: job {job.id} took {job.attempt} attempts and lost {job.lost} workers"
    for job_id in expected.jobs:
        mine = session.get(Job, job_id)
        if mine is None or mine.state != "succeeded":
            yield f"I1: job {job_id} is {mine.state if mine else 'not there'}: {mine.error if mine else ''}"


def _store(house: House, session: Session, expected: Expected) -> Iterator[str]:
    root = house.settings.store_root
    installed = session.exec(select(Installation)).all()
    rows = {Path(str(row.path)) for row in installed}
    rows |= {Path(str(row.path)).with_name(row.previous_revision) for row in installed if row.previous_revision}
    folders = {path for path in (root / "models").glob("*/*/*") if path.is_dir()}
    manifests = {path.relative_to(root / "manifests") for path in (root / "manifests").glob("*/*.json")}
    if rows != folders:
        yield f"I3: rows without folder {rows - folders}, folders without row {folders - rows}"
    if manifests != {Path(path.parent.name) / f"{path.name}.json" for path in rows}:
        yield f"I3: manifests {manifests} beside {rows}"
    if staged := [str(path) for path in (root / "staging").rglob("*") if path.is_file()]:
        yield f"I3: left in staging: {staged}"
    for model_id in expected.whole:
        installation = session.get(Installation, model_id)
        if installation is None or installation.state != InstallationState.PUBLISHED:
            yield f"I2: {model_id} is {installation.state if installation else 'not installed'}"
        trashed = len(list((root / "trash").glob(f"*-{model_id}-*")))
        if trashed != expected.replaced.count(model_id):
            yield f"effect: {model_id} was put in the trash {trashed} times"
    for model_id in expected.gone:
        if session.get(Model, model_id) is not None or session.get(Installation, model_id) is not None:
            yield f"I3: {model_id} is still in the registry"


def _cleaned(house: House, session: Session, expected: Expected) -> Iterator[str]:
    for model_id in expected.cleaned:
        if session.get(Model, model_id) is None or session.get(Installation, model_id) is not None:
            yield f"I3: {model_id} is not known, or still installed"
        trashed = len(list((house.settings.store_root / "trash").glob(f"*-{model_id}-*")))
        if trashed != 1:
            yield f"effect: {model_id} was put in the trash {trashed} times"


def _memory(house: House, session: Session, expected: Expected) -> Iterator[str]:
    held = [row for row in session.exec(select(Residency)).all() if row.state in HELD]
    others = [(row.model_id, row.state) for row in held if not row.active]
    made_room = (expected.in_its_room, ResidencyState.READY) in others
    serving = ResidencyState.IDLE if made_room else ResidencyState.READY
    active = [row.model_id for row in held if row.active and row.state == serving]
    if active != ([expected.active] if expected.active else []):
        yield f"I4: active is {active}, not {expected.active}"
    sleeping = {(name, state) for name, state in others if expected.sleeps and state == ResidencyState.ASLEEP}
    if strays := set(others) - sleeping - {(expected.in_its_room, ResidencyState.READY)}:
        yield f"I5: in memory and of no use: {strays}"
    owner = psutil.Process(house.pid("device-cpu"))
    owned = {owner.pid, *(child.pid for child in owner.children(recursive=True))}
    runners = set(_runners(house.settings.store_root))
    if runners - owned:
        yield f"I5: runners without an owner: {runners - owned}"
    if missing := {row.pid for row in held if row.pid} - runners:
        yield f"I5: rows whose runner is gone: {missing}"
    there = [row.model_id for row in held if row.state in (ResidencyState.READY, ResidencyState.ASLEEP)]
    if len(runners) != len(there):
        yield f"I5: {len(runners)} runners for {there}"


def _runners(store: Path) -> Iterator[int]:
    """Processes that were started on a model of this store."""
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(
            str(store) in word for word in process.info["cmdline"] or ()
        ):
            yield process.info["pid"]


def _events(house: House, expected: Expected) -> Iterator[str]:
    """What reaches a listener: attempts and progress never go back, and after the end comes nothing."""
    with contextlib.closing(redis.Redis(port=house.redis.port, decode_responses=True)) as client:
        entries: Any = client.xrange(EVENTS_STREAM)
    told = [json.loads(fields["event"]) for _, fields in entries]
    for job_id in expected.jobs:
        mine = [event for event in told if event.get("jobId") == job_id]
        ends = [event["status"] for event in mine if event.get("status") in ENDED]
        if len(ends) > 1 or (ends and mine[-1].get("status") not in ENDED):
            yield f"I6: events of {job_id}: {[(event['type'], event.get('status')) for event in mine]}"
        if not ends and expected.events_kept:
            yield f"I6: nobody was told of the end of {job_id}: {mine[-5:]} of {len(told)}"
        attempts = [event["attempt"] for event in mine if "attempt" in event]
        if attempts != sorted(attempts):
            yield f"I6: attempts of {job_id} went back: {attempts}"


def _insist_on_bytes(house: House, model_id: str, source: Path) -> None:
    with house.ledger.reading() as session:
        row = session.get(Installation, model_id)
    assert row is not None
    manifest = read(house.layout.manifest(model_id, row.revision))
    promised = {file.name: file.sha256 for file in manifest.files}
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(str(row.path)).iterdir()}
    theirs = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in source.iterdir()}
    assert there == promised == theirs, f"I2: {model_id} is not what its source has"
