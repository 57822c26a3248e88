"""A registry and a ledger as they look after months, written in bulk."""

import random
import time
import uuid
from collections.abc import Iterator
from typing import Any

from sqlmodel import insert

from shared.db.reports import UsageCount
from shared.db.session import Database
from shared.db.tables import Installation, Job, Model
from shared.db.usage import DAY_SECONDS
from shared.settings import Settings
from shared.states import InstallationState, JobState, Priority, Tier

NOW = 1_750_000_000.0
QUEUED_SHARE = 10
"""One job in so many waits."""
TYPES = ("llm", "embedding", "image_gen", "tts")
KINDS = ("model.download", "model.verify", "model.repair")
TIERS = (*Tier, None)
USED_DAYS = 5
BATCH = 5000


def model_id(number: int) -> str:
    return f"model-{number:06}"


def fill(settings: Settings, *, models: int, jobs: int) -> None:
    """So many models, half of them installed, and so many jobs, a tenth of them queued; always the same ones."""
    chance = random.Random(models)
    database = Database(settings.database)
    for table, rows in (
        (Model, map(_model, range(models))),
        (Installation, map(_installation, range(0, models, 2))),
        (UsageCount, (_use(number, back) for number in range(0, models, 2) for back in range(USED_DAYS))),
        (Job, (_job(number, models, jobs, chance) for number in range(jobs))),
    ):
        for batch in _batches(rows):
            with database.session() as session:
                session.execute(insert(table), batch)
    database.close()


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _model(number: int) -> dict[str, Any]:
    name = model_id(number)
    return {
        "id": name, "type": TYPES[number % len(TYPES)], "name": f"Model {number}", "description": "x" * 200,
        "source": "huggingface", "source_url": f"owner/{name}", "file_size": 10**9, "requirements": {"memory": 10**9},
        "tags": ["one", "two"], "config": {}, "enabled": True, "created_at": NOW, "updated_at": NOW,
        "tier": TIERS[number % len(TIERS)],
    }  # fmt: skip


def _installation(number: int) -> dict[str, Any]:
    name = model_id(number)
    return {
        "model_id": name, "model_type": TYPES[number % len(TYPES)], "revision": "0" * 40,
        "state": InstallationState.PUBLISHED, "path": f"/models/{name}", "size": 10**9, "files": 9, "integrity": 1.0,
        "problems": [], "published_at": NOW, "verified_at": NOW,
    }  # fmt: skip


def _use(number: int, back: int) -> dict[str, Any]:
    """Some uses of a model on a day, so many days ago."""
    at = time.time() - back * DAY_SECONDS
    return {
        "model_id": model_id(number), "day": int(at // DAY_SECONDS), "length": number % 60, "uses": 1 + number % 3,
        "failures": 0, "seconds": 2.5, "last_used_at": at,
    }  # fmt: skip


def _job(number: int, models: int, jobs: int, chance: random.Random) -> dict[str, Any]:
    """The newest wait, the others have ended, one in a hundred of them badly."""
    queued = number >= jobs - jobs // QUEUED_SHARE
    state = JobState.QUEUED if queued else JobState.FAILED if number % 100 == 0 else JobState.SUCCEEDED
    name, at = model_id(number % models), NOW + number
    kind = KINDS[number % len(KINDS)]  # so that a third of the models wait for their files, and not all of them
    priority = int(Priority.MEDIUM if number % 2 else Priority.LOW)
    row = {
        "id": str(uuid.UUID(int=chance.getrandbits(128), version=4)), "kind": kind, "lane": "io", "priority": priority,
        "unique_key": f"{kind}:{number}", "model_id": name, "args": {"model_id": name}, "origin": "rest",
        "state": state, "desired": "run", "attempt": 0 if queued else 1, "ticket": 1, "not_before": 0.0,
        "created_at": at, "sent_at": at, "parts": [], "result": None if queued else {"size": 10**9},
        "started_at": None if queued else at + 1, "finished_at": None if queued else at + 60,
    }  # fmt: skip
    return {**row, "urgency": priority} if "urgency" in Job.model_fields else row
