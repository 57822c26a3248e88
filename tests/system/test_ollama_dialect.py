"""Clients that were written for Ollama, pointed at us."""

import hashlib
import json
from collections.abc import Iterator

import httpx
import pytest
from ollama import Client, ResponseError

from tests.system.conftest import Yard

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture
def client(yard: Yard) -> Iterator[Client]:
    client = Client(yard.instance.url, trust_env=False)
    yield client
    client._client.close()


def test_pull_list_show_and_delete(yard: Yard, client: Client) -> None:
    steps = list(client.pull("hf.co/tiny/acorn", stream=True))
    assert steps[0].status == "pulling manifest"
    assert steps[-1].status == "success"
    assert all(step.completed <= step.total for step in steps if step.total and step.completed is not None)
    (model,) = [model for model in client.list().models if model.model == "hf.co-tiny-acorn"]
    installed = yard.http.get("/api/v1/models/hf.co-tiny-acorn").json()
    assert model.size == installed["size"]
    assert len(str(model.digest)) == len(hashlib.sha256().hexdigest())
    for name in ("hf.co-tiny-acorn", "hf.co-tiny-acorn:latest", "hf.co/tiny/acorn"):
        shown = client.show(name)
        assert shown.details == model.details
    assert client.pull("hf.co/tiny/acorn").status == "success", "what is there is not fetched again"
    assert client.delete("hf.co/tiny/acorn").status == "success"
    assert "hf.co-tiny-acorn" not in [model.model for model in client.list().models]
    assert "hf.co-tiny-acorn" in yard.http.get("/api/v1/models/trash").text


def test_what_is_in_memory(yard: Yard, client: Client) -> None:
    yard.pull("oak", "tiny/birch")
    assert client.ps().models == []
    yard.done("/api/v1/models/activate", {"model_id": "oak"})
    (model,) = client.ps().models
    assert model.model == "oak"
    assert model.size is not None
    assert model.size > 0
    assert model.size_vram == 0, "this machine's device is its CPU"
    with pytest.raises(ResponseError, match="in memory") as refused:
        client.delete("oak")
    assert refused.value.status_code == 409
    yard.done("/api/v1/models/deactivate/oak")
    assert client.ps().models == []


@pytest.mark.parametrize("name", ["nobody", "nobody:latest", "\ud800", "a\0b", "../etc", "x" * 300, "hf.co/a/b/c/d"])
def test_a_name_that_nobody_has(yard: Yard, name: str) -> None:
    for path, method in (("show", "POST"), ("delete", "DELETE")):
        answer = yard.http.request(
            method, f"/api/{path}", content=json.dumps({"model": name}), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (404, 422), answer.text
        assert answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [({"model": "evil.example/a/b"}, 422), ({"model": "../../etc"}, 422), ({}, 422), ({"model": ""}, 422), ([], 422)],
)
def test_what_cannot_be_pulled(yard: Yard, body: object, status: int) -> None:
    answer = yard.http.post("/api/pull", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_a_pull_that_fails_says_why_in_the_stream(yard: Yard, client: Client) -> None:
    with pytest.raises(ResponseError, match=r"Type the reference|not found|no such|There is no"):
        list(client.pull("hf.co/tiny/absent", stream=True))


def test_it_speaks_a_version(yard: Yard) -> None:
    assert httpx.get(f"{yard.instance.url}/api/version", trust_env=False).json()["version"].count(".") == 2
