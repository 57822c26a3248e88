"""What is damaged or missing is asked for, once, in the order in which it matters."""

import pytest

from shared.contracts import Ensure
from shared.db import catalog, jobs
from shared.db.tables import Installation, Model
from shared.order import Policy
from shared.states import Priority
from tests.workers.jobs.conftest import Place
from workers.upkeep import start_chore


@pytest.fixture
def library(place: Place) -> Place:
    """Of each kind one: damaged, missing, missing and important, disabled, of the catalogue, whole, in a folder."""
    with place.services.database.session() as session:
        for name, more in {
            "broken": {}, "gone": {}, "dear": {"priority": int(Priority.HIGH)}, "off": {"enabled": False},
            "listed": {"from_catalogue": True}, "whole": {}, "mine": {"source": "file", "source_url": "/x"},
        }.items():  # fmt: skip
            values = {"source": "huggingface", "source_url": f"tiny/{name}", **more}
            catalog.add_model(
                session, Model(id=name, type="llm", name=name, created_at=0.0, updated_at=0.0, **values)
            )  # fmt: skip
        for name, state in (("broken", "corrupt"), ("whole", "published")):
            session.add(Installation(
                model_id=name, model_type="llm", revision="r", state=state, path="/x", size=1, files=1, integrity=1.0,
                published_at=1.0, verified_at=1.0,
            ))  # fmt: skip
        for name in ("one", "two"):
            catalog.forget_model(session, name)
    return place


@pytest.mark.parametrize(
    ("policy", "repairs", "downloads"),
    [
        (Policy.OFF, [], []),
        (Policy.REPAIR, ["broken"], []),
        (Policy.WANTED, ["broken"], ["dear", "gone"]),
        (Policy.ALL, ["broken"], ["dear", "gone", "listed"]),
    ],
)
def test_each_policy_asks_for_its_models_in_order(
    library: Place, policy: Policy, repairs: list[str], downloads: list[str]
) -> None:
    told = library.run(Ensure(policy=policy))
    assert (told["repairs"], told["downloads"], told["first"]) == (len(repairs), len(downloads), repairs + downloads)
    with library.services.database.reading() as session:
        made = {(job.kind, job.model_id): job for job in jobs.live(session, [*repairs, *downloads])}
    assert made.keys() == {
        *(("model.repair", name) for name in repairs), *(("model.download", name) for name in downloads)
    }  # fmt: skip
    if downloads:
        assert made["model.download", "dear"].priority == Priority.HIGH
        assert made["model.repair", "broken"].priority == Priority.HIGH
        assert made["model.download", "gone"].priority == Priority.LOW
    assert library.run(Ensure(policy=policy))["downloads"] == 0, "what waits is not asked for again"


def test_a_start_asks_once_and_only_where_it_is_wanted(library: Place) -> None:
    def asked() -> int:
        with library.services.database.reading() as session:
            return len(jobs.find(session, kind=Ensure.kind))

    start_chore(library.services)()
    assert asked() == 0, "off by default"
    store = library.services.settings.store.model_copy(update={"ensure_at_start": "wanted"})
    library.services.settings.store = store
    for _ in range(2):
        chore = start_chore(library.services)
        chore()
        chore()
    assert asked() == 1
