"""The Hub, through the real client, against a hub of ours and an origin that misbehaves."""

import contextlib
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, snapshot_download

from deploy.demo.hub import Hub
from shared.errors import Failed, Forbidden, Invalid, ModelyardError, NotFound, Unavailable, Unsafe
from shared.refs import Ref, SourceKind
from shared.settings import SourceSettings
from shared.trust import Grants, Trust
from tests.fakes.origin import Origin
from workers.sources.base import Snapshot
from workers.sources.https import Https
from workers.sources.huggingface import HuggingFace, choose
from workers.sources.transfer import fetch
from workers.sources.wire.policy import HostPolicy

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"s" * 100_000,
    "pytorch_model.bin": b"p" * 10,
    "modeling_x.py": b"print()",
    "onnx/model.onnx": b"o" * 10,
    "tokenizer/vocab.txt": b"a\nb\n",
    ".gitattributes": b"*",
}
COMMIT = "c" * 40


@pytest.fixture(autouse=True)
def _no_open_session() -> Iterator[None]:
    """The Hub's client keeps one session per process; a test must not inherit connections to a hub that is gone."""
    yield
    close_session()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    for name, content in FILES.items():
        place = tmp_path / "hub/acme/small" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    with Hub(tmp_path / "hub") as running:
        yield running


def resolve(url: str, revision: str | None = None, **changes: Any) -> Snapshot:
    settings = SourceSettings.model_validate({"hf_endpoint": url, "read_timeout": 5, **changes})
    return HuggingFace(settings).resolve(Ref(SourceKind.HUGGINGFACE, "acme/small", revision))


def listing(names: list[str], **changes: Any) -> bytes:
    siblings = [{"rfilename": name, "size": 1, "blobId": "0" * 40} for name in names]
    return json.dumps({"id": "acme/small", "sha": COMMIT, "siblings": siblings, "gated": False} | changes).encode()


class TestAgainstTheHub:
    def test_a_repository_is_pinned_to_its_commit(self, hub: Hub) -> None:
        snapshot = resolve(hub.url)
        assert [file.name for file in snapshot.files] == ["config.json", "model.safetensors", "tokenizer/vocab.txt"]
        assert set(snapshot.skipped) == set(FILES) - {file.name for file in snapshot.files}
        weights = snapshot.files[1]
        assert weights.sha256 is not None
        assert weights.git_sha1 is None
        assert snapshot.files[0].git_sha1 is not None
        assert all(snapshot.revision in file.url for file in snapshot.files)
        assert resolve(hub.url, snapshot.revision) == snapshot
        assert not any(request.authorized for request in hub.requests)

    def test_its_files_arrive_and_match(self, hub: Hub, tmp_path: Path) -> None:
        settings = SourceSettings.model_validate({"hf_endpoint": hub.url, "hf_token": "hf_secret"})
        snapshot = resolve(hub.url, hf_token="hf_secret")
        for file in snapshot.files:
            partial = tmp_path / file.name.replace("/", "-")
            fetch(file, partial, HostPolicy(settings), settings, lambda: None, lambda _: None)
            assert partial.read_bytes() == FILES[file.name]
        assert hub.requests[0].authorized
        assert "hf_secret" not in repr(snapshot)

    def test_the_real_client_can_download_from_our_hub(self, hub: Hub, tmp_path: Path) -> None:
        folder = snapshot_download("acme/small", endpoint=hub.url, cache_dir=tmp_path / "cache", token=False)
        assert {name: (Path(folder) / name).read_bytes() for name in FILES} == FILES

    @pytest.mark.parametrize("revision", ["nope", "0" * 40])
    def test_a_missing_revision(self, hub: Hub, revision: str) -> None:
        with pytest.raises(NotFound) as raised:
            resolve(hub.url, revision)
        assert raised.value.code == "source_not_found"


def tokens(origin: Origin) -> list[str | None]:
    """Of each request."""
    return [{name.lower(): each for name, each in seen.headers.items()}.get("authorization") for seen in origin.seen]


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "headers", "kind", "code"),
        [
            (401, {}, Forbidden, "auth_required"),
            (403, {}, Forbidden, "auth_required"),
            (403, {"X-Error-Code": "GatedRepo"}, Forbidden, "license_required"),
            (404, {"X-Error-Code": "RepoNotFound"}, NotFound, "source_not_found"),
            (404, {"X-Error-Code": "RevisionNotFound"}, NotFound, "source_not_found"),
            (429, {"Retry-After": "9"}, Unavailable, "source_busy"),
            (500, {}, Unavailable, "source_busy"),
            (400, {}, Failed, "source_refused"),
        ],
    )
    def test_statuses(self, status: int, headers: dict[str, str], kind: type[ModelyardError], code: str) -> None:
        with Origin(refusals=deque([(status, headers)])) as origin, pytest.raises(kind) as raised:
            resolve(origin.url)
        assert raised.value.code == code
        assert origin.count() == 1
        if isinstance(raised.value, Unavailable) and headers:
            assert raised.value.retry_after == 9

    @pytest.mark.fault("A-47")
    def test_a_gated_repository_is_refused_before_its_files_are_asked_for(self) -> None:
        with Origin(listing(["a.safetensors"], gated="auto")) as origin:
            origin.manners.moved["/api/models/acme/small/auth-check"] = "/refused"
            origin.manners.gone.add("/refused")
            with pytest.raises(Forbidden) as raised:
                resolve(origin.url)
        assert raised.value.details == {"gated": True, "size": 1, "revision": COMMIT}, "so much everybody may know"

    @pytest.mark.fault("A-112")
    @pytest.mark.parametrize("status", [401, 200])
    def test_where_an_answer_points_to_the_token_does_not_follow(self, status: int) -> None:
        with Origin() as evil:
            headers = {
                "WWW-Authenticate": f'Bearer realm="{evil.url}/token"', "Link": f'<{evil.url}/next>; rel="next"',
                "X-Linked-Etag": "x", "Refresh": f"0; url={evil.url}",
            }  # fmt: skip
            refusals = deque([(status, headers)]) if status != 200 else deque()
            with Origin(listing(["a.safetensors"]), refusals=refusals, more=headers) as origin:
                if status == 200:
                    assert resolve(origin.url, hf_token="hf_secret").files
                else:
                    with pytest.raises(Forbidden) as raised:
                        resolve(origin.url, hf_token="hf_secret")
                    assert "hf_secret" not in f"{raised.value} {raised.value.hint} {raised.value.details}"
                assert tokens(origin)[0] == "Bearer hf_secret"
            assert evil.count() == 0

    @pytest.mark.fault("A-111")
    def test_only_the_endpoint_is_sent_the_token(self) -> None:
        """Not another host to which it moves the question, and no address that has the Hub's name in it."""
        with Origin(listing(["a.safetensors"])) as other, Origin(b"") as origin:
            origin.manners.moved["/api/models/acme/small"] = f"{other.url}/api/models/acme/small"
            with contextlib.suppress(ModelyardError):
                resolve(origin.url, hf_token="hf_secret")
            for path in ("/huggingface.co/a.safetensors", "/a.safetensors?huggingface.co"):
                allowed = [f"127.0.0.1:{other.port}"]
                settings = SourceSettings.model_validate({"hf_token": "hf_secret", "allowed_hosts": allowed})
                Https(settings).resolve(Ref(SourceKind.URL, f"{other.url}{path}"))
            assert tokens(origin)[0] == "Bearer hf_secret"
            assert set(tokens(other)) == {None}

    def test_nobody_listens(self) -> None:
        with Origin() as origin:
            url = origin.url
        with pytest.raises(Unavailable):
            resolve(url)

    @pytest.mark.parametrize("content", [b"<html>Sign in</html>", b"[]", b'{"id": 1}'])
    def test_something_else_than_a_hub(self, content: bytes) -> None:
        with Origin(content) as origin, pytest.raises(Failed) as raised:
            resolve(origin.url)
        assert raised.value.code == "protocol_error"

    @pytest.mark.fault("A-45", "A-58")
    def test_a_listing_without_end(self) -> None:
        with Origin(b" " * (11 * 1024**2)) as origin, pytest.raises(Invalid) as raised:
            resolve(origin.url)
        assert raised.value.code == "source_too_large"

    @pytest.mark.fault("A-45")
    def test_too_many_files(self) -> None:
        names = [f"{index}.safetensors" for index in range(5_001)]
        with Origin(listing(names)) as origin, pytest.raises(Invalid) as raised:
            resolve(origin.url)
        assert raised.value.code == "source_too_large"

    @pytest.mark.fault("A-37")
    @pytest.mark.parametrize("names", [["../x.safetensors"], ["A.gguf", "a.gguf"], ["a.gguf", "a.gguf/b"], ["/etc/x"]])
    def test_names_that_leave_the_folder(self, names: list[str]) -> None:
        with Origin(listing(names)) as origin, pytest.raises(Invalid) as raised:
            resolve(origin.url)
        assert raised.value.code == "source_invalid_filename"


NOTHING = Trust("acorn", COMMIT)
PICKLE = Trust("acorn", COMMIT, pickle=True)
CODE = Trust("acorn", COMMIT, remote_code=True)


@pytest.mark.fault("A-76", "A-77")
class TestChoice:
    KEEP = frozenset({"model.safetensors", "config.json", "tokenizer.model", "q4.gguf", "README.md"})
    LEAVE = frozenset(
        {"a.py", "x.pt", "pytorch_model-00001-of-2.bin", "tf_model.h5", "flax_model.msgpack", "onnx/m.json", "lib.so",
         "openvino/openvino_model.xml", "evil.PKL", ".gitattributes", "sitecustomize.py", "evil.pth", "m.zip"}
    )  # fmt: skip

    @pytest.mark.parametrize("trust", [NOTHING, PICKLE])
    def test_code_pickles_and_other_frameworks_are_left(self, trust: Trust) -> None:
        """Pickles are left also where they are allowed: something safer is there."""
        assert choose([*self.KEEP, *self.LEAVE], trust) == (self.KEEP, self.LEAVE)

    def test_allowed_code_comes_along_and_nothing_else_does(self) -> None:
        keep, _ = choose([*self.KEEP, *self.LEAVE], CODE)
        assert keep - self.KEEP == {"a.py", "lib.so", "sitecustomize.py"}

    @pytest.mark.parametrize(
        "weights", ["pytorch_model.bin", "x.ckpt", "x.PT", "x.pth", "x.pkl", "x.joblib", "x.npy", "m.nemo"]
    )
    def test_pickles_alone_are_unsafe(self, weights: str) -> None:
        with pytest.raises(Unsafe) as raised:
            choose(["config.json", weights], NOTHING)
        assert raised.value.code == "unsafe_format"
        assert raised.value.details == {"revision": COMMIT, "files": [weights]}
        torch = weights.lower().endswith((".bin", ".ckpt", ".pt", ".pth"))
        way = (
            f'PUT /api/v1/models/acorn/trust {{"revision": "{COMMIT}", "allowPickle": true, "allowRemoteCode": false}}'
        )
        assert (way in raised.value.hint) == torch

    def test_allowed_pickles_are_brought_and_code_is_not(self) -> None:
        assert choose(["config.json", "pytorch_model.bin", "x.pkl", "m.py"], PICKLE) == (
            {"config.json", "pytorch_model.bin"},
            {"x.pkl", "m.py"},
        )

    def test_pickles_that_nothing_here_reads_cannot_be_allowed(self) -> None:
        with pytest.raises(Unsafe):
            choose(["config.json", "x.joblib"], PICKLE)

    def test_no_weights_at_all(self) -> None:
        with pytest.raises(Invalid):
            choose(["README.md"], NOTHING)

    def test_leave_for_one_commit_is_none_for_the_next(self) -> None:
        settings = {"hf_endpoint": "", "read_timeout": 5}
        with Origin(listing(["config.json", "pytorch_model.bin"])) as origin:
            source = SourceSettings.model_validate(settings | {"hf_endpoint": origin.url})
            ref = Ref(SourceKind.HUGGINGFACE, "acme/small")
            here = Grants("acorn", {COMMIT: PICKLE})
            assert len(HuggingFace(source, here).resolve(ref).files) == 2
            origin.content = listing(["config.json", "pytorch_model.bin"], sha="d" * 40)
            with pytest.raises(Unsafe):
                HuggingFace(source, here).resolve(ref)
