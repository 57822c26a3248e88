"""Bodies of jobs on real parts: a ledger on SQLite, a store, and a hub on loopback."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.hub import Hub
from shared.contract import Contract
from shared.contracts import Download
from shared.db import catalog, jobs
from shared.db.facts import Facts
from shared.db.tables import Installation, Model
from shared.jobs import Ledger
from shared.progress import Leases, Workers
from shared.settings import Settings, SourceSettings, StoreSettings
from tests.conftest import RealRedis, put_database
from workers import app
from workers.job import BODIES, Services, Work
from workers.store.layout import Layout
from workers.store.manifest import Manifest, read

assert app.ALL_BODIES, "bodies register when they are imported"


class Place:
    """A worker's services and a hub, and shorthands for what tests do with them."""

    def __init__(self, services: Services, hub: Hub, repositories: Path) -> None:
        self.services = services
        self.layout = services.layout
        self.hub = hub
        self.repositories = repositories

    def add(self, model_id: str, repo: str, *, source: str = "huggingface") -> None:
        with self.services.database.session() as session:
            catalog.add_model(
                session,
                Model(
                    id=model_id, type="llm", name=model_id, source=source, source_url=repo,
                    description=f"made for {model_id}", created_at=0.0, updated_at=0.0,
                ),
            )  # fmt: skip

    def work(self, contract: Contract, origin: str = "test") -> Work:
        """One claimed attempt."""
        ledger = self.services.ledger
        job = ledger.submit(contract, origin=origin).job
        claimed = ledger.claim(job.id, job.ticket, self.services.owner)
        assert claimed is not None
        return Work(self.services, claimed)

    def next_attempt(self, work: Work) -> Work:
        """That of a job whose worker died."""
        ledger = self.services.ledger
        assert ledger.again(work.job_id, work.attempt, 0)
        with self.services.database.reading() as session:
            job = jobs.get(session, work.job_id)
        claimed = ledger.claim(job.id, job.ticket, self.services.owner)
        assert claimed is not None
        return Work(self.services, claimed)

    def run(self, contract: Contract, origin: str = "test") -> dict[str, Any]:
        """Carry a job out and answer its result; what its body raises is raised."""
        work = self.work(contract, origin)
        try:
            result = BODIES[contract.kind](contract, work)
        except BaseException:
            self.services.ledger.cancel(work.job_id)
            self.services.ledger.stop(work.job_id, work.attempt)
            raise
        self.services.ledger.succeed(work.job_id, work.attempt, result)
        return result

    def pull(self, model_id: str, repo: str) -> dict[str, Any]:
        self.add(model_id, repo)
        return self.run(Download(model_id=model_id))

    def row(self, model_id: str) -> Installation:
        with self.services.database.reading() as session:
            found = catalog.installation(session, model_id)
        assert found is not None
        return found

    def status(self, model_id: str) -> str:
        with self.services.database.reading() as session:
            return Facts(session, [model_id]).availability(model_id)

    def folder(self, model_id: str) -> Path:
        row = self.row(model_id)
        return self.layout.published(row.model_type, model_id, row.revision)

    def manifest(self, model_id: str) -> Manifest:
        return read(self.layout.manifest(model_id, self.row(model_id).revision))

    def damage(self, path: Path, *places: int) -> None:
        """Flip a bit at each place as a failing disk does it: in the same inode, times and rights as before."""
        before = path.stat()
        path.chmod(0o600)
        with path.open("r+b") as file:
            for place in places:
                file.seek(place)
                byte = file.read(1)
                file.seek(place)
                file.write(bytes([byte[0] ^ 1]))
        path.chmod(before.st_mode & 0o777)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def settings(tmp_path: Path, redis_server: RealRedis, fresh_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """SQLite alone: what differs between databases is tested where their rows are."""
    put_database(fresh_sqlite, tmp_path / "data")
    monkeypatch.setenv("MODELYARD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MODELYARD_REDIS__URL", redis_server.url)
    return Settings()


@pytest.fixture
def place(ledger: Ledger, settings: Settings, tmp_path: Path) -> Iterator[Place]:
    client = ledger.events.client
    repositories = tmp_path / "hub"
    repositories.mkdir()
    with Hub(repositories) as hub:
        changed = settings.model_copy(
            update={
                "store": StoreSettings(root=tmp_path / "store", reserve_bytes=0, scrub_rate=0),
                "sources": SourceSettings(hf_endpoint=hub.url, allowed_hosts=[hub.url.removeprefix("http://")]),
            }
        )
        layout = Layout(tmp_path / "store")
        layout.ensure()
        services = Services(
            changed, ledger.database, ledger.broker, ledger.events, Leases(client), Workers(client), ledger,
            layout, "worker@test",
        )  # fmt: skip
        yield Place(services, hub, repositories)
