"""Our side, driven the way the API drives it: a ledger in this process, a worker in another."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from sqlmodel import col, func, select

from api.doorbell import Doorbell
from shared.broker import Broker, make_app
from shared.contracts import Download
from shared.db.session import Database
from shared.db.tables import Job
from shared.jobs import Ledger
from shared.progress import Events, connect
from shared.settings import Settings
from shared.states import JobState, Priority
from tests.benchmarks.starts import Starts


@dataclass
class Yard:
    """A ledger, and the starts of its jobs."""

    ledger: Ledger
    starts: Starts
    submitted: int = 0

    def submit(self, priority: Priority = Priority.MEDIUM) -> str:
        """One job that joins no other. Answers its id."""
        self.submitted += 1
        contract = Download(model_id=f"bench-{self.submitted}")
        return self.ledger.submit(contract, origin="bench", priority=priority).job.id

    def wait_ended(self, count: int, seconds: float) -> None:
        """Until the ledger knows that so many have succeeded."""
        deadline = time.monotonic() + seconds
        self.starts.wait(count, seconds)  # a look at a file, so that the ledger is not asked all the time
        while self.succeeded() < count:
            if time.monotonic() > deadline:
                message = f"{self.succeeded()} of {count} succeeded within {seconds:g} s"
                raise TimeoutError(message)
            time.sleep(0.005)

    def succeeded(self) -> int:
        with self.ledger.database.reading() as session:
            return session.exec(select(func.count()).where(col(Job.state) == JobState.SUCCEEDED)).one()


@contextlib.contextmanager
def open_yard(settings: Settings, starts: Starts) -> Iterator[Yard]:
    database, client, app = Database(settings.database), connect(settings.redis), make_app(settings, publisher=True)
    doorbell = Doorbell()  # as in the API
    ledger = Ledger(database, settings.jobs, Broker(app), Events(client, settings.redis), doorbell)
    doorbell.start(ledger.announce)
    yield Yard(ledger, starts)
    doorbell.close()
    app.close()
    client.close()
    database.close()
