"""Sources are asked whether they have a model, who may have it and how large it is; nothing is fetched."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.contracts import SourceCheck
from shared.db import catalog
from shared.errors import Failed, Unavailable
from shared.refs import SourceKind
from tests.factories.folders import gguf, write
from tests.factories.repository import make_repository
from tests.fakes.origin import Origin
from tests.workers.jobs.conftest import Place

MIB = 1024**2


def remote(place: Place, model_id: str) -> dict[str, Any] | None:
    with place.services.database.reading() as session:
        return catalog.get_model(session, model_id).remote


def ask(place: Place, url: str, kind: SourceKind = SourceKind.HUGGINGFACE) -> dict[str, Any]:
    return place.run(SourceCheck(source=kind, source_url=url))


def test_what_a_hub_has_is_told_and_kept(place: Place) -> None:
    make_repository(place.repositories / "tiny/oak", a=MIB)
    place.add("oak", "tiny/oak")
    assert remote(place, "oak") is None
    told = place.run(SourceCheck(model_id="oak"))
    assert (told["exists"], told["gated"], told["accessible"], told["files"]) == (True, False, True, 2)
    assert told["size"] > MIB
    kept = remote(place, "oak")
    assert kept is not None
    assert kept.pop("checkedAt") > 1e9
    assert kept == told
    assert place.hub.sent("/cdn/") == 0
    assert ask(place, "tiny/oak")["revision"] == told["revision"]


def test_what_a_hub_does_not_have_is_told(place: Place) -> None:
    place.add("oak", "tiny/nothing")
    told = place.run(SourceCheck(model_id="oak"))
    assert (told["exists"], told["accessible"], told["problem"]["code"]) == (False, False, "source_not_found")
    assert remote(place, "oak") is not None


def test_a_repository_of_pickles_is_there_and_would_not_be_fetched(place: Place) -> None:
    write(place.repositories / "tiny/old" / "config.json", {})
    write(place.repositories / "tiny/old" / "pytorch_model.bin", b"x")
    told = ask(place, "tiny/old")
    assert (told["exists"], told["accessible"], told["problem"]["code"]) == (True, False, "unsafe_format")


def test_a_gate_is_told_with_what_is_behind_it(place: Place) -> None:
    listing = {
        "id": "acme/small", "sha": "1" * 40, "gated": "manual",
        "siblings": [{"rfilename": "a.safetensors", "size": 7 * MIB, "blobId": "0" * 40}],
    }  # fmt: skip
    with Origin(json.dumps(listing).encode()) as origin:
        origin.manners.moved["/api/models/acme/small/auth-check"] = "/refused"
        origin.manners.gone.add("/refused")
        place.services.settings.sources = place.services.settings.sources.model_copy(update={"hf_endpoint": origin.url})
        told = ask(place, "acme/small")
    assert (told["exists"], told["gated"], told["accessible"], told["size"]) == (True, True, False, 7 * MIB)


def test_a_source_that_does_not_answer_says_nothing(place: Place) -> None:
    place.add("oak", "tiny/oak")
    place.hub.stop()
    with pytest.raises(Unavailable):
        place.run(SourceCheck(model_id="oak"))
    assert remote(place, "oak") is None


def test_urls_folders_and_ollama(place: Place, tmp_path: Path) -> None:
    with Origin(b"x" * 1000) as origin:
        sources = place.services.settings.sources
        sources.allowed_hosts.append(origin.url.removeprefix("http://"))
        told = ask(place, f"{origin.url}/m.gguf", SourceKind.URL)
        assert (told["exists"], told["size"]) == (True, 1000)
        assert ask(place, f"{origin.url}/m.pt", SourceKind.URL)["problem"]["code"] == "unsafe_format"
    assert ask(place, "http://10.0.0.1/m.gguf", SourceKind.URL)["exists"] is None
    root = tmp_path / "mine"
    write(root / "x.gguf", gguf())
    sources.scan_roots.append(str(root))
    assert ask(place, str(root / "x.gguf"), SourceKind.FILE)["size"] == (root / "x.gguf").stat().st_size
    assert ask(place, str(root / "y.gguf"), SourceKind.FILE)["exists"] is False
    sources.ollama_host = place.hub.url  # it is no Ollama
    place.hub.stop()
    with pytest.raises((Unavailable, Failed)):  # where Ollama is not installed, waiting for it is in vain
        ask(place, "llama3:8b", SourceKind.OLLAMA)


@pytest.mark.parametrize(
    "args",
    [{}, {"source": "url"}, {"source_url": "a/b"}, {"model_id": "x", "source": "url", "source_url": "https://e.com"}],
)
def test_either_a_model_or_a_source(args: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="either a model_id"):
        SourceCheck.model_validate(args)
