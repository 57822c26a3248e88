"""A store, a registry and their jobs under a clock that the test moves; all is real but the time and the disk's size.

Bodies of jobs run here one after another, without a broker; what another process would do meanwhile is done at the
named points of the code.
"""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import event
from sqlmodel import SQLModel, col, delete, select, update

from shared.contract import Contract
from shared.contracts import Cleanup, Download, Remove, Restore
from shared.db import catalog, residency, usage
from shared.db.session import Database, now
from shared.db.tables import Installation, Job, Model, Residency
from shared.jobs import Ledger
from shared.settings import JobSettings, RetentionSettings, Settings, StoreSettings
from shared.states import Desired, JobState, Priority, ResidencyState
from tests.factories.stored import manifest_file
from workers import app
from workers.job import BODIES, Services, Work
from workers.jobs.download import record
from workers.store.layout import Layout
from workers.store.manifest import Manifest
from workers.store.publish import publish

assert app.ALL_BODIES, "bodies register when they are imported"
DAY = 86_400.0
BEGIN = 20_000 * DAY
UNIX_EPOCH = 2_440_587.5
"""As a Julian day."""


class Heard:
    """Takes events, as Redis would."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.client = redis.Redis(port=1)  # to which nothing connects

    def publish(self, type_: str, /, **fields: Any) -> None:
        self.events.append({"type": type_, **fields})


class Usage(NamedTuple):
    """Of a disk, as `shutil.disk_usage` tells."""

    total: int
    used: int
    free: int


class Yard:
    """The clock, the disk, and what people and programs do."""

    def __init__(self, folder: Path, fresh_sqlite: Path, patch: pytest.MonkeyPatch) -> None:
        self.clock = BEGIN
        self.disk_total = 2**40
        file = folder / "modelyard.db"
        shutil.copy(fresh_sqlite, file)
        self.database = Database(f"sqlite:///{file}")
        event.listen(self.database.engine, "connect", self._set_clock)
        self.layout = Layout(folder / "store")
        self.layout.ensure()
        settings = Settings(
            data_dir=folder, database_url=SecretStr(f"sqlite:///{file}"), retention=RetentionSettings(),
            store=StoreSettings(root=folder / "store", reserve_bytes=0),
        )  # fmt: skip
        self.heard = Heard()
        ledger = Ledger(self.database, JobSettings(), None, self.heard)  # type: ignore[arg-type] # rings nobody
        self.services = Services(
            settings, self.database, None, self.heard, None, None, ledger, self.layout, "worker@test"  # type: ignore[arg-type] # not used by these bodies
        )  # fmt: skip
        self._numbers = itertools.count(1)
        self._places: dict[bytes, list[Path]] = {}
        self.reached: Callable[[str], None] = lambda _: None
        patch.setattr("workers.store.layout.time", SimpleNamespace(time=lambda: self.clock))
        patch.setattr("shutil.disk_usage", lambda _: Usage(self.disk_total, self.used(), self.disk_total - self.used()))
        for module in ("workers.jobs.cleanup", "workers.jobs.remove", "workers.stock", "workers.store.publish"):
            patch.setattr(f"{module}.reached", lambda *name: self.reached(".".join(name)))

    def _set_clock(self, connection: Any, _: Any) -> None:
        connection.create_function("julianday", -1, lambda *_: self.clock / DAY + UNIX_EPOCH)
        connection.execute("PRAGMA synchronous=OFF")

    def close(self) -> None:
        self.database.close()

    # -- what people and programs do ------------------------------------------------------------------------

    def add(self, model_id: str) -> None:
        with self.database.session() as session:
            catalog.add_model(session, Model(
                id=model_id, type="llm", name=model_id, source="huggingface", source_url=f"tiny/{model_id}",
                created_at=0.0, updated_at=0.0,
            ))  # fmt: skip

    def fetch(self, model_id: str, files: dict[str, bytes], revision: str, *, came_from: str | None = None) -> None:
        """Publish a revision as a download does; equal files of others are linked, as a download links them."""
        with self.layout.lock(model_id):
            work, partials = self.work(Download(model_id=model_id)), {}
            for name, data in files.items():
                partials[name] = partial = self.layout.partial(model_id, revision, name)
                twin = next((path for path in self._places.get(data, ()) if path.exists()), None)
                if twin is not None:
                    os.link(twin, partial)
                else:
                    partial.write_bytes(data)
                place = self.layout.published("llm", model_id, revision) / name
                self._places.setdefault(data, []).append(place)
            described = [manifest_file(name, data) for name, data in files.items()]
            source = f"huggingface:tiny/{model_id}"
            manifest = Manifest.of(model_id, "llm", revision, source, described, came_from=came_from)
            publish(self.layout, manifest, partials)
            record(work, manifest)
            self.ended(work)

    def use(self, model_id: str, times: int = 1) -> None:
        with self.database.session() as session:
            usage.record(session, [usage.Use(model_id, 1.0, failed=False)] * times)

    def change(self, model_id: str, **values: Any) -> None:
        with self.database.session() as session:
            session.exec(update(Model).where(col(Model.id) == model_id).values(**values))

    def load(self, model_id: str) -> None:
        """Raises: Conflict, where nothing is installed."""
        with self.database.session() as session:
            row = catalog.installed(session, model_id)
            residency.start(session, Residency(
                id=f"r{next(self._numbers)}", model_id=model_id, model_type=f"t{next(self._numbers)}",
                revision=row.revision, device="cpu", runtime="torch", state=ResidencyState.READY, started_at=0.0,
            ))  # fmt: skip

    def unload(self, model_id: str) -> None:
        with self.database.session() as session:
            mine = update(Residency).where(col(Residency.model_id) == model_id)
            session.exec(mine.values(state=ResidencyState.STOPPED))

    # -- jobs -----------------------------------------------------------------------------------------------

    def work(self, contract: Contract) -> Work:
        """One attempt at a job that is claimed already."""
        job = Job(
            id=f"job-{next(self._numbers)}", kind=contract.kind, model_id=contract.subject, lane="io", origin="test",
            args=contract.model_dump(mode="json", exclude_none=True), state=JobState.RUNNING, desired=Desired.RUN,
            priority=int(Priority.LOW), urgency=int(Priority.LOW), attempt=1, created_at=self.clock,
            started_at=self.clock, lease_until=self.clock + 10**9, lease_owner="worker@test",
        )  # fmt: skip
        with self.database.session() as session:
            session.add(job)
        return Work(self.services, job)

    def again(self, work: Work) -> Work:
        """The next attempt at a job whose worker died."""
        with self.database.session() as session:
            job = session.get(Job, work.job_id)
            assert job is not None
            job.attempt += 1
            session.add(job)
        return Work(self.services, job)

    def ended(self, work: Work, state: JobState = JobState.SUCCEEDED) -> None:
        with self.database.session() as session:
            mine = update(Job).where(col(Job.id) == work.job_id)
            session.exec(mine.values(state=state, finished_at=now(), unique_key=None))

    def carry_out(self, contract: Contract, work: Work | None = None) -> dict[str, Any]:
        """Run a job to its end; what its body raises is raised, and the job has ended."""
        work = work or self.work(contract)
        try:
            result = BODIES[contract.kind](contract, work)
        except Exception:
            self.ended(work, JobState.FAILED)
            raise
        self.ended(work)
        return json.loads(json.dumps(result))  # type: ignore[no-any-return] # as a client gets it

    def cleanup(self, *, dry_run: bool = False, models: list[str] | None = None) -> dict[str, Any]:
        return self.carry_out(Cleanup(dry_run=dry_run, models=models))

    def remove(self, model_id: str) -> dict[str, Any]:
        return self.carry_out(Remove(model_id=model_id))

    def restore(self, model_id: str, entry: str) -> dict[str, Any]:
        return self.carry_out(Restore(model_id=model_id, entry=entry))

    # -- what there is --------------------------------------------------------------------------------------

    def installed(self) -> dict[str, Installation]:
        with self.database.reading() as session:
            return {row.model_id: row for row in session.exec(select(Installation)).all()}

    def were_in_memory(self) -> set[Path]:
        """Folders of what is loaded, or was."""
        with self.database.reading() as session:
            rows = session.exec(select(Residency)).all()
        return {self.layout.published("llm", row.model_id, row.revision) for row in rows}

    def trash(self) -> list[str]:
        return sorted(path.name for path in self.layout.trash_root.iterdir())

    def used(self) -> int:
        """Bytes on the disk, each inode once."""
        return sum(size for size, _, _ in self._inodes().values())

    def only_in_trash(self) -> int:
        """Bytes that are free once the trash is empty."""
        return sum(size for size, inside, outside in self._inodes().values() if inside and not outside)

    def _inodes(self) -> dict[int, tuple[int, int, int]]:
        """Size, and names inside and outside of the trash; what describes the store is left out."""
        found: dict[int, tuple[int, int, int]] = {}
        for folder in (self.layout.models_root, self.layout.staging_root, self.layout.trash_root):
            for parent, _, names in os.walk(folder):
                for name in names:
                    if not name.startswith(".modelyard"):
                        state = Path(parent, name).lstat()
                        _, inside, outside = found.get(state.st_ino, (0, 0, 0))
                        trashed = folder == self.layout.trash_root
                        found[state.st_ino] = (state.st_size, inside + trashed, outside + (not trashed))
        return found

    def clear(self) -> None:
        """As on the first day."""
        self.clock, self.reached = BEGIN, lambda _: None
        self._places.clear()
        with self.database.session() as session:
            for table in reversed(SQLModel.metadata.sorted_tables):
                session.exec(delete(table))
        for folder in (self.layout.models_root, self.layout.staging_root, self.layout.trash_root,
                       self.layout.manifests_root):  # fmt: skip
            shutil.rmtree(folder)
            folder.mkdir()
