"""The trust gate on a model's whole way: refused, allowed for one revision, verified, refused again at the load."""

import json
import pickle
from pathlib import Path

import pytest

from shared.contracts import Download, Verify
from shared.db import catalog, trust
from shared.errors import Conflict, Unsafe
from shared.trust import Trust
from tests.conformance.corpus import WEIGHTS, torch_zip
from tests.factories.folders import gguf
from tests.fakes.origin import Origin
from tests.workers.jobs.conftest import Place
from workers.store.essentials import check_loadable, files_of

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def repository(folder: Path, config: dict[str, object], **files: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)


def allow(place: Place, revision: str, *, pickle: bool = False, remote_code: bool = False) -> None:
    with place.services.database.session() as session:
        trust.decide(session, Trust("oak", revision, pickle, remote_code), "a test")


def load_gate(place: Place) -> None:
    """What the device worker asks before it starts a runner."""
    with place.services.database.reading() as session:
        granted = trust.grants(session, "oak").of(place.row("oak").revision)
    check_loadable(files_of(place.folder("oak")), granted)


@pytest.mark.fault("A-77")
def test_pickles_come_only_with_leave_and_are_loaded_only_while_it_stands(place: Place) -> None:
    repository(place.repositories / "tiny/oak", CONFIG, pytorch_model__bin=torch_zip(pickle.dumps({})))
    with pytest.raises(Unsafe) as refused:
        place.pull("oak", "tiny/oak")
    assert refused.value.code == "unsafe_format"
    revision = refused.value.details["revision"]
    assert f'PUT /api/v1/models/oak/trust {{"revision": "{revision}"' in refused.value.hint
    assert not [request for request in place.hub.requests if "pytorch_model" in request.path]

    allow(place, revision, pickle=True)
    place.run(Download(model_id="oak"))
    assert place.run(Verify(model_id="oak"))["ok"]
    load_gate(place)

    allow(place, revision)
    assert place.run(Verify(model_id="oak"))["ok"], "its bytes are still right"
    with pytest.raises(Unsafe) as gone:
        load_gate(place)
    assert "PUT /api/v1/models/oak/trust" in gone.value.hint


@pytest.mark.fault("A-75", "A-76")
def test_code_comes_only_with_leave(place: Place) -> None:
    config = CONFIG | {"auto_map": {"AutoModel": "own.Own"}}
    repository(place.repositories / "tiny/oak", config, model__safetensors=WEIGHTS, own__py=b"import os\n")
    with pytest.raises(Unsafe) as refused:
        place.pull("oak", "tiny/oak")
    assert (refused.value.code, refused.value.details["keys"]) == ("remote_code_required", ["auto_map"])
    assert not place.layout.published("llm", "oak", "any").parent.exists()
    revision = next(place.layout.staging("oak", "x").parent.iterdir()).name

    allow(place, revision, remote_code=True)
    place.run(Download(model_id="oak"))
    assert (place.folder("oak") / "own.py").exists()
    assert place.run(Verify(model_id="oak"))["ok"]
    load_gate(place)


@pytest.mark.fault("A-51")
def test_a_file_of_which_nothing_tells_the_end_is_kept_and_not_loaded_unasked(place: Place) -> None:
    with Origin(gguf("Cut"), length=False, ranges=False) as origin:
        place.services.settings.sources.allowed_hosts.append(origin.url.removeprefix("http://"))
        place.add("oak", f"{origin.url}/oak.gguf", source="url")
        place.run(Download(model_id="oak"))
    row = place.row("oak")
    assert row.unverified
    assert place.manifest("oak").unverified, "a row that a crash cost is written from it"
    with place.services.database.reading() as session, pytest.raises(Conflict) as refused:
        catalog.installed(session, "oak")
    assert refused.value.code == "model_unverified"
    assert place.run(Verify(model_id="oak"))["ok"]
    assert place.row("oak").unverified, "that its bytes are those that came says nothing about those that did not"

    with place.services.database.session() as session:
        trust.decide(session, Trust("oak", row.revision, unverified=True), "a test")
    with place.services.database.reading() as session:
        assert catalog.installed(session, "oak").revision == row.revision


@pytest.mark.parametrize("wanted", [{"pickle": True}, {"remote_code": True}, {"unverified": True}])
def test_no_hint_takes_back_what_is_allowed(wanted: dict[str, bool]) -> None:
    allowed = Trust("oak", "r", pickle=True, remote_code=True, unverified=True)
    told = json.loads(allowed.way(**wanted).rpartition("/trust ")[2])
    assert all(told[name] for name in ("allowPickle", "allowRemoteCode", "allowUnverified"))
