"""Who allowed a model what; and ids that are no ids, wherever a path takes one."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from shared.db import trust
from shared.db.session import Database
from shared.settings import Settings
from shared.trust import Trust

MODEL = {"model_id": "acorn", "model_type": "llm", "name": "Acorn", "source": "huggingface", "source_url": "a/b"}
COMMIT = "c" * 40
STRANGE = (
    "../../pwned", "..", ".", "sub/nested", "/etc/pwned", "..\\pwned", "C:\\pwned", "D:foo", "\\\\host\\share",
    "nul\x00", "%2e%2e%2f", "..%c0%af", "．．／", "a.", "a ", "~root", "-rf", "$(id)", "`id`", "A" * 5000,
)  # fmt: skip

ACTIONS = (
    ("GET", ""),
    ("DELETE", ""),
    ("POST", "/verify"),
    ("POST", "/repair"),
    ("POST", "/switch"),
    ("PUT", "/trust"),
)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        assert client.post("/api/v1/models/add", json=MODEL).status_code == 201
        yield client


@pytest.mark.fault("A-75", "A-77")
class TestTrust:
    def test_it_is_recorded_with_who_and_when_and_shown(self, client: TestClient, database: Database) -> None:
        answer = client.put("/api/v1/models/acorn/trust", json={"revision": COMMIT, "allow_pickle": True})
        assert answer.status_code == 200, answer.text
        (row,) = client.get("/api/v1/models/acorn").json()["trusted"]
        assert row.pop("grantedAt")
        assert row.pop("grantedBy").endswith("no key is set")
        assert row == {
            "revision": COMMIT, "allowPickle": True, "allowRemoteCode": False, "allowUnverified": False,
        }  # fmt: skip
        with database.reading() as session:
            found = trust.grants(session, "acorn")
        assert found.of(COMMIT) == Trust("acorn", COMMIT, pickle=True)
        assert found.of("d" * 40) == Trust("acorn", "d" * 40)

    def test_it_can_be_taken_back(self, client: TestClient) -> None:
        client.put("/api/v1/models/acorn/trust", json={"revision": COMMIT, "allowRemoteCode": True})
        assert client.put("/api/v1/models/acorn/trust", json={"revision": COMMIT}).json()["trusted"] == []

    def test_without_a_revision_there_is_nothing_to_trust_yet(self, client: TestClient) -> None:
        answer = client.put("/api/v1/models/acorn/trust", json={"allow_pickle": True})
        assert (answer.status_code, answer.json()["code"]) == (422, "revision_needed")

    @pytest.mark.parametrize("body", [{"revision": "../x"}, {"allow_pickle": 1}, {"allow": True}, {"revision": ""}])
    def test_what_makes_no_sense_is_refused(self, client: TestClient, body: dict[str, object]) -> None:
        assert client.put("/api/v1/models/acorn/trust", json=body).status_code == 422

    def test_a_model_that_comes_again_is_another_one(self, client: TestClient, database: Database) -> None:
        client.put("/api/v1/models/acorn/trust", json={"revision": COMMIT, "allow_pickle": True})
        with database.session() as session:
            trust.forget(session, "acorn")
        assert client.get("/api/v1/models/acorn").json()["trusted"] == []


@pytest.mark.fault("A-20", "A-21", "A-22")
def test_what_is_no_id_is_not_found_and_touches_nothing(client: TestClient, settings: Settings) -> None:
    before = _everything(settings.data_dir)
    named = [strange for strange in STRANGE if strange not in (".", "..")]  # clients resolve those
    once = [*(quote(strange, safe="") for strange in named), "%252e", "%252e%252e"]
    for part in (*once, *(quote(one, safe="") for one in once)):
        for method, path in ACTIONS:
            body = {"json": {"revision": COMMIT}} if method == "PUT" else {}
            answer = client.request(method, f"/api/v1/models/{part}{path}", **body)
            assert answer.status_code in (404, 405, 422), (part, method, path, answer.text)
            assert "Traceback" not in answer.text
    assert client.get("/api/v1/jobs").json()["jobs"] == []
    assert _everything(settings.data_dir) == before


@pytest.mark.fault("A-20")
def test_what_is_no_id_cannot_be_added(client: TestClient) -> None:
    for strange in STRANGE:
        answer = client.post("/api/v1/models/add", json=MODEL | {"model_id": strange})
        assert answer.status_code == 422, strange
        assert answer.json()["hint"]


def _everything(folder: Path) -> set[str]:
    names = {str(path.relative_to(folder.parent)) for path in folder.parent.rglob("*")}
    return {name for name in names if not name.endswith(("-wal", "-shm", ".log"))}
