"""The pieces of work that the cells disturb: how each is set up, asked for, and what it must have come to."""

import hashlib
import itertools
import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path

from sqlmodel import col, select, update

from shared.db import catalog, sleep
from shared.db.tables import Installation, Job
from shared.states import ResidencyState
from tests.conftest import until
from tests.faults.house import House, Plot
from tests.faults.invariants import Expected

_numbers = itertools.count(1)


class Scenario(ABC):
    """One piece of work in one house. `prepare`, then `ask` while the fault is armed, then `expected`."""

    PLOT: Plot = "wide"
    """Which house it needs."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.number = next(_numbers)

    @abstractmethod
    def prepare(self) -> None:
        """Bring the house to where the work can be asked for."""

    @abstractmethod
    def ask(self) -> str:
        """Ask for the work; answers the job's id."""

    @abstractmethod
    def expected(self, job_id: str) -> Expected:
        """What must hold once the job has ended; further checks of the scenario's own are made here."""

    def afterwards(self) -> None:
        """What must still work; here nothing more."""
        return

    def active(self) -> str | None:
        """The model that serves now."""
        with self.house.ledger.reading() as session:
            row = catalog.active(session, "llm")
        return row.model_id if row is not None else None

    def _installed(self, model_id: str) -> Installation | None:
        with self.house.ledger.reading() as session:
            return catalog.installation(session, model_id)

    def _have(self, model_id: str, repo: str) -> None:
        if self._installed(model_id) is None:
            self.house.pull(model_id, repo)

    def _expect(self, job_id: str, **changes: object) -> Expected:
        expected = Expected(active=self.active(), jobs=[job_id])
        for name, value in changes.items():
            setattr(expected, name, value)
        return expected


class Download(Scenario):
    """A model of several files comes down; the largest takes two chunks."""

    REPO = "tiny/oak"

    def prepare(self) -> None:
        self.model = f"oak-{self.number}"
        self.house.add(self.model, self.REPO)
        self._before = self.house.hub.sent(f"/cdn/{self.REPO}/")

    def ask(self) -> str:
        return self.house.post("/api/v1/models/download", {"model_id": self.model})

    def expected(self, job_id: str) -> Expected:
        sent = self.house.hub.sent(f"/cdn/{self.REPO}/") - self._before
        size = max(file.stat().st_size for file in (self.house.hub_root / self.REPO).iterdir())
        assert sent <= size + 64 * 1024**2, f"F-2: {sent} bytes were fetched for {size}"
        return self._expect(job_id, whole={self.model: self.REPO})

    def fetched_once(self) -> bool:
        """Whether the large file came over the wire once: a fault after its last byte costs no byte."""
        return self.fetched() == 1

    def fetched(self) -> float:
        """How often the bytes of the large file came over the wire."""
        sizes = [file.stat().st_size for file in (self.house.hub_root / self.REPO).iterdir()]
        return (self.house.hub.sent(f"/cdn/{self.REPO}/") - self._before) / max(sizes)


class Verify(Scenario):
    """A published model is proved again."""

    MODEL, REPO = "kept", "tiny/oak"

    def prepare(self) -> None:
        self._have(self.MODEL, self.REPO)

    def ask(self) -> str:
        return self.house.post(f"/api/v1/models/{self.MODEL}/verify")

    def expected(self, job_id: str) -> Expected:
        result = self.house.job(job_id).result
        assert result is not None
        assert result["ok"], result
        return self._expect(job_id, whole={self.MODEL: self.REPO})


class Repair(Scenario):
    """A byte of a published model has turned; the model is healed."""

    REPO = "tiny/oak"

    def prepare(self) -> None:
        self.model = f"ill-{self.number}"
        self.house.pull(self.model, self.REPO)
        installation = self._installed(self.model)
        assert installation is not None
        weights = max(Path(installation.path).iterdir(), key=lambda file: file.stat().st_size)
        before = weights.stat()
        weights.chmod(0o640)
        with weights.open("r+b") as file:
            file.seek(1_000_000)
            byte = file.read(1)
            file.seek(1_000_000)
            file.write(bytes([byte[0] ^ 1]))
        weights.chmod(0o440)
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # a disk that rots tells nobody

    def ask(self) -> str:
        return self.house.post(f"/api/v1/models/{self.model}/repair")

    def expected(self, job_id: str) -> Expected:
        return self._expect(job_id, whole={self.model: self.REPO}, replaced=[self.model])


class Remove(Scenario):
    """A model leaves. Afterwards one of the same name comes, and nothing of the removal touches it."""

    REPO = "tiny/elm"

    def prepare(self) -> None:
        self.model = f"elm-{self.number}"
        self.house.pull(self.model, self.REPO)

    def ask(self) -> str:
        return self.house.post(f"DELETE /api/v1/models/{self.model}", key=f"remove-{self.number}")

    def expected(self, job_id: str) -> Expected:
        return self._expect(job_id, gone=[self.model])

    def afterwards(self) -> None:
        self.house.pull(self.model, self.REPO)
        assert self.house.done(f"/api/v1/models/{self.model}/verify").result["ok"]  # type: ignore[index] # it has one
        self.house.done(f"DELETE /api/v1/models/{self.model}")


class Cleanup(Scenario):
    """Two models that nobody has used for sixty days leave the disk. Afterwards one of them comes back."""

    REPO = "tiny/elm"

    def prepare(self) -> None:
        self.models = [f"old-{self.number}-{letter}" for letter in "ab"]
        for name in self.models:
            self.house.pull(name, self.REPO)
        with self.house.ledger.session() as session:
            aged = {"published_at": Installation.published_at - 60 * 86_400}
            session.exec(update(Installation).where(col(Installation.model_id).in_(self.models)).values(**aged))

    def ask(self) -> str:
        return self.house.post("/api/v1/cleanup", {"models": self.models}, f"cleanup-{self.number}")

    def expected(self, job_id: str) -> Expected:
        result = self.house.job(job_id).result or {}
        assert sorted(removed["modelId"] for removed in result["removed"]) == self.models, result
        assert result["frees"] == result["promised"], result
        self.entries = {removed["modelId"]: removed["entries"][0] for removed in result["removed"]}
        return self._expect(job_id, cleaned=self.models)

    def afterwards(self) -> None:
        name = self.models[0]
        self.house.done(f"/api/v1/models/trash/{self.entries[name]}/restore")
        assert self.house.done(f"/api/v1/models/{name}/verify").result["ok"]  # type: ignore[index] # it has one


class Scrub(Repair):
    """A byte of a published model has turned; the scrub finds it, and has it healed."""

    def ask(self) -> str:
        return self.house.post(f"/api/v1/models/{self.model}/scrub")


class Update(Scenario):
    """A model with an earlier revision gets a third one; the first leaves."""

    BASE = "tiny/elm"

    def prepare(self) -> None:
        self.model, self.repo = f"yew-{self.number}", f"tiny/yew-{self.number}"
        shutil.copytree(self.house.hub_root / self.BASE, self.house.hub_root / self.repo)
        self.house.pull(self.model, self.repo)
        self._publish_anew()
        self.house.done(f"/api/v1/models/{self.model}/update")
        self._publish_anew()

    def _publish_anew(self) -> None:
        weights = max((self.house.hub_root / self.repo).iterdir(), key=lambda file: file.stat().st_size)
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        notes = weights.with_name("notes.txt")
        notes.write_text(notes.read_text() + "again\n" if notes.exists() else "anew\n")

    def ask(self) -> str:
        return self.house.post(f"/api/v1/models/{self.model}/update")

    def expected(self, job_id: str) -> Expected:
        return self._expect(job_id, whole={self.model: self.repo}, replaced=[self.model])


class Rollback(Update):
    """An update was a mistake: what served before serves again."""

    def prepare(self) -> None:
        super().prepare()
        self.old = f"old/yew-{self.number}"
        shutil.copytree(self.house.hub_root / self.repo, self.house.hub_root / self.old)
        self.house.done(f"/api/v1/models/{self.model}/update")
        self._publish_anew()
        self.house.done(f"/api/v1/models/{self.model}/update")

    def ask(self) -> str:
        return self.house.post(f"/api/v1/models/{self.model}/rollback")

    def expected(self, job_id: str) -> Expected:
        return self._expect(job_id, whole={self.model: self.old}, replaced=[self.model, self.model])


class Restore(Scenario):
    """A model that was removed comes back."""

    REPO = "tiny/elm"

    def prepare(self) -> None:
        self.model = f"ash-{self.number}"
        self.house.pull(self.model, self.REPO)
        self.house.done(f"DELETE /api/v1/models/{self.model}")
        entries = self.house.http.get("/api/v1/models/trash").json()["entries"]
        self.entry = next(entry["id"] for entry in entries if entry["modelId"] == self.model)

    def ask(self) -> str:
        return self.house.post(f"/api/v1/models/trash/{self.entry}/restore", key=self.entry)

    def expected(self, job_id: str) -> Expected:
        return self._expect(job_id, whole={self.model: self.REPO})


class Bundle(Scenario):
    """A model is written into a bundle."""

    REPO = "tiny/oak"

    def prepare(self) -> None:
        self.model, self.name = f"box-{self.number}", f"b-{self.number}.tar"
        self.house.pull(self.model, self.REPO)

    def ask(self) -> str:
        return self.house.post("/api/v1/models/bundles", {"name": self.name, "models": [self.model]})

    def expected(self, job_id: str) -> Expected:
        result = self.house.job(job_id).result
        assert result is not None
        folder = self.house.settings.bundles_folder
        assert [path.name for path in folder.glob(f"*{self.name}*")] == [self.name], "one bundle, and nothing half"
        assert hashlib.sha256((folder / self.name).read_bytes()).hexdigest() == result["sha256"]
        return self._expect(job_id, whole={self.model: self.REPO})


class Unbundle(Bundle):
    """A model that is not here any more comes in a bundle."""

    def prepare(self) -> None:
        super().prepare()
        self.house.done("/api/v1/models/bundles", {"name": self.name, "models": [self.model]})
        self.house.done(f"DELETE /api/v1/models/{self.model}")

    def ask(self) -> str:
        return self.house.post(f"/api/v1/models/bundles/{self.name}/import")

    def expected(self, job_id: str) -> Expected:
        return self._expect(job_id, whole={self.model: self.REPO}, replaced=[self.model])


class Switch(Scenario):
    """One of two models serves; the other takes over."""

    MODELS = ("acorn", "birch")

    def prepare(self) -> None:
        for name in self.MODELS:
            self._have(name, f"tiny/{name}")
        if self.active() is None:
            self.house.done("/api/v1/models/activate", {"model_id": self.MODELS[0]})
        # A worker that was ended may not have asked yet for what it had in memory: there would be nothing to drain.
        until(self._serves, 90, "a model that serves")
        self.target = next(name for name in self.MODELS if name != self.active())

    def ask(self) -> str:
        return self.house.post(f"/api/v1/models/{self.target}/switch")

    def expected(self, job_id: str) -> Expected:
        return self._expect(job_id, active=self.target)

    def _serves(self) -> bool:
        with self.house.ledger.reading() as session:
            row = catalog.active(session, "llm")
        return row is not None and row.state == ResidencyState.READY


class Swap(Switch):
    """Only one of the two models fits: the one that serves leaves before the other comes."""

    PLOT = "narrow"


class Room(Switch):
    """Only one of the two models fits: the one that serves makes room for a load, and comes back when it is asked."""

    PLOT = "narrow"

    def ask(self) -> str:
        return self.house.post(f"/api/v1/models/{self.target}/load")

    def expected(self, job_id: str) -> Expected:
        return self._expect(job_id, in_its_room=self.target)

    def afterwards(self) -> None:
        other = next(name for name in self.MODELS if name != self.target)
        assert self.house.say("llm").headers["x-modelyard-model"] == other


class Nap(Switch):
    """The model that served falls asleep once the other has taken over."""

    PLOT = "sleepy"
    MODELS = ("larch", "maple")

    def expected(self, job_id: str) -> Expected:
        return self._expect(job_id, active=self.target, sleeps=True)


class Wake(Nap):
    """The model that takes over was asleep."""

    def prepare(self) -> None:
        super().prepare()
        if not self._sleeping():
            self.house.done(f"/api/v1/models/{self.target}/switch")
            self.target = next(name for name in self.MODELS if name != self.target)
        assert self._sleeping() == [self.target]

    def _sleeping(self) -> list[str]:
        with self.house.ledger.reading() as session:
            return [row.model_id for row in sleep.asleep(session, "cpu")]


class Load(Switch):
    """No model serves; one is made to."""

    def prepare(self) -> None:
        super().prepare()
        if (active := self.active()) is not None:
            self.house.done(f"/api/v1/models/deactivate/{active}")
            self.target = active


class Reload(Switch):
    """The model that serves is started anew."""

    def prepare(self) -> None:
        super().prepare()
        self.target = self.active() or ""

    def ask(self) -> str:
        return self.house.post(f"/api/v1/models/{self.target}/reload")


class Unload(Switch):
    """The model that serves leaves memory."""

    def prepare(self) -> None:
        super().prepare()
        self.target = self.active() or ""

    def ask(self) -> str:
        return self.house.post(f"/api/v1/models/deactivate/{self.target}")

    def expected(self, job_id: str) -> Expected:
        return self._expect(job_id, active=None)


class Ask(Scenario):
    """A client asks for a download, and asks again under the same key where it got no answer."""

    REPO = "tiny/elm"

    def prepare(self) -> None:
        self.model = f"ask-{self.number}"
        self.house.add(self.model, self.REPO)

    def ask(self) -> str:
        return self.house.post("/api/v1/models/download", {"model_id": self.model}, f"ask-{self.number}")

    def expected(self, job_id: str) -> Expected:
        with self.house.ledger.reading() as session:
            ids = list(session.exec(select(Job.id).where(Job.model_id == self.model)).all())
        assert ids == [job_id], "asked twice, done once"
        return self._expect(job_id, whole={self.model: self.REPO})


SCENARIOS: dict[str, type[Scenario]] = {
    "download": Download,
    "verify": Verify,
    "repair": Repair,
    "remove": Remove,
    "cleanup": Cleanup,
    "scrub": Scrub,
    "update": Update,
    "rollback": Rollback,
    "restore": Restore,
    "bundle": Bundle,
    "unbundle": Unbundle,
    "switch": Switch,
    "swap": Swap,
    "room": Room,
    "nap": Nap,
    "wake": Wake,
    "load": Load,
    "reload": Reload,
    "unload": Unload,
    "ask": Ask,
}
