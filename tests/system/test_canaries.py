"""Secrets of every kind go through the whole service, good ways and bad, and are found nowhere afterwards."""

import secrets
from pathlib import Path

import pytest

from tests.canaries import EVERYWHERE, leaks
from tests.conftest import until
from tests.fakes.receiver import Receiver
from tests.system.conftest import Yard, opened

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]


def _made(name: str) -> str:
    return f"CANARY{name}{secrets.token_hex(12)}"


@pytest.mark.fault("A-111", "A-113", "A-114", "A-115")
def test_no_secret_is_found_anywhere(tmp_path: Path, hub_root: Path) -> None:
    key, wrong_key = _made("key"), _made("wrong")
    password, signature, hook_path = _made("password"), _made("signature"), _made("hook")
    settings = {**EVERYWHERE, "MODELYARD_API_KEY": key}
    said: list[str] = []
    with Receiver() as receiver:
        settings |= {
            "MODELYARD_WEBHOOKS__ALLOWED_HOSTS": receiver.place, "MODELYARD_WEBHOOKS__TRIES": "2",
            "MODELYARD_WEBHOOKS__BACKOFF_SECONDS": "0.1",
        }  # fmt: skip
        with opened(tmp_path / "yard", hub_root, flower=True, **settings) as yard:
            yard.http.event_hooks["response"].append(lambda answer: said.append(answer.read().decode()))
            for given in ({}, {"Authorization": f"Bearer {wrong_key}"}):
                assert yard.http.get("/api/v1/models", headers=given).status_code == 401
            assert yard.http.get(f"/api/v1/models?key={wrong_key}").status_code == 401
            yard.http.headers["Authorization"] = f"Bearer {key}"
            hook = yard.post("/api/v1/webhooks", {"url": f"{receiver.url}/{hook_path}", "events": ["job.*"]}).json()
            said.pop()  # the one answer that tells a secret: whoever makes a webhook is told its own, once
            receiver.manners.answers.extend([(500, {}), (500, {})])
            _use(yard, password, signature)
            receiver.wait(lambda messages: len(messages) >= 3)
            assert any(request.authorized for request in yard.hub.requests), "the token was used"
            until(lambda: _deliveries(yard, hook["id"]), what="a delivery")
            canaries = {
                **settings, "a password in a URL": password, "a wrong key": wrong_key, "a webhook's": hook["secret"],
            }  # fmt: skip
            hidden = {name: value for name, value in canaries.items() if "CANARY" in value or name == "a webhook's"}
            assert leaks(yard.instance, hidden, key=key, said=said) == []
            urls = {"a signature": signature, "a webhook's path": hook_path}
            places = leaks(yard.instance, urls, key=key)
            assert not [place for place in places if not _is_its_row(place)], "what is asked with, is kept to ask with"


def _use(yard: Yard, password: str, signature: str) -> None:
    """Downloads that work and that fail, a model in memory, references with credentials."""
    hub = yard.hub.url.removeprefix("http://")
    yard.pull("acorn", "tiny/acorn")
    yard.done("/api/v1/models/activate", {"model_id": "acorn"})
    assert yard.say("acorn").status_code == 200
    body = {"model_type": "llm", "name": "x", "source": "url"}
    refused = yard.post("/api/v1/models/add", {
        **body, "model_id": "cedar", "source_url": f"http://user:{password}@{hub}/files/tiny/cedar/cedar.gguf"
    })  # fmt: skip
    assert refused.status_code == 422
    assert yard.post("/api/v1/models/add", {**body, "token": password}).status_code == 422
    assert yard.post("/api/pull", {"model": f"hf.co/user:{password}@x/y", "stream": False}).status_code == 422
    for name, file in (("signed", "tiny/cedar/cedar.gguf"), ("lost", "tiny/cedar/none.gguf")):
        yard.add(name, f"http://{hub}/files/{file}?X-Amz-Signature={signature}", source="url")
        job = yard.ended(yard.submitted("/api/v1/models/download", {"model_id": name}))
        assert job["status"] == ("succeeded" if name == "signed" else "failed"), job["error"]
    yard.add("nowhere", "tiny/nowhere")
    assert yard.ended(yard.submitted("/api/v1/models/download", {"model_id": "nowhere"}))["status"] == "failed"


def _deliveries(yard: Yard, webhook_id: str) -> bool:
    told = yard.http.get(f"/api/v1/webhooks/{webhook_id}/deliveries").json()["deliveries"]
    return any(each["status"] != "pending" for each in told)


def _is_its_row(place: str) -> bool:
    """Without them nothing could be fetched or delivered; the model and the webhook have them for whoever has a key."""
    kept = ('INSERT INTO "models"', 'INSERT INTO "webhooks"', "modelyard.db", "in /api/v1/webhooks")
    return any(each in place for each in kept)
