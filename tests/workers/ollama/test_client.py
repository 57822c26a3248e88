"""Ollama's client against a server on loopback that speaks as Ollama does, and against some that do not."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared.errors import Cancelled, ModelyardError
from shared.settings import SourceSettings
from tests.conftest import free_port
from tests.fakes.ollama import FakeOllama, published
from workers.ollama import client as module
from workers.ollama import pulling
from workers.ollama.address import address
from workers.ollama.client import Ollama
from workers.ollama.pulling import Layer

NAME = "llama3:8b"
DIGEST = f"sha256:{'a' * 64}"


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with FakeOllama() as fake:
        fake.library[NAME] = published(NAME)
        yield fake


def client(fake: FakeOllama | str, checkpoint: Callable[[], None] = lambda: None, **changes: Any) -> Ollama:
    url = fake if isinstance(fake, str) else fake.url
    return Ollama(SourceSettings.model_validate({"ollama_host": url, "read_timeout": 5, **changes}), checkpoint)


def refused(action: Callable[[], object]) -> ModelyardError:
    with pytest.raises(ModelyardError) as caught:
        action()
    assert caught.value.hint, "every refusal says what to do next"
    return caught.value


def test_a_pull_tells_every_byte_and_comes_to_its_end(fake: FakeOllama) -> None:
    told: list[tuple[str, int, int]] = []

    def on_layers(status: str, layers: dict[str, Layer]) -> None:
        told.append((status, sum(layer.done for layer in layers.values()), sum(one.total for one in layers.values())))

    ollama = client(fake)
    ollama.check()
    assert ollama.find(NAME) is None
    layers = ollama.pull(NAME, on_layers)
    assert {digest: layer.total for digest, layer in layers.items()} == fake.library[NAME].layers
    done = [count for _, count, _ in told]
    assert done == sorted(done)
    assert done[-1] == fake.library[NAME].size
    assert [status for status, _, _ in told][-2:] == ["verifying sha256 digest", "writing manifest"]
    here = ollama.find(NAME)
    assert here is not None
    assert (here.digest, here.size) == (fake.models[NAME].digest, fake.models[NAME].size)
    assert ollama.facts(NAME) == {
        "format": "gguf", "architecture": "llama", "quantization": "Q4_0", "parameterCount": 8_030_261_248,
        "contextLength": 8192, "thinking": False,
    }  # fmt: skip


def test_nothing_is_sent_but_a_name(fake: FakeOllama) -> None:
    """No `insecure`, no credentials."""
    client(fake).pull(NAME, lambda *_: None)
    assert fake.asked == [("POST", "/api/pull", {"model": NAME, "stream": True})]


def test_a_name_without_a_tag_is_the_latest(fake: FakeOllama) -> None:
    fake.models["llama3:latest"] = published("llama3")
    assert client(fake).find("llama3") is not None
    assert client(fake).find("llama3:8b") is None


def test_delete_once_and_again(fake: FakeOllama) -> None:
    fake.models[NAME] = fake.library[NAME]
    client(fake).delete(NAME)
    client(fake).delete(NAME)
    assert fake.models == {}


@pytest.mark.parametrize("where", ["before the first byte", "in the middle"])
def test_a_cancel_is_heard_within_half_a_second_and_closes_the_stream(fake: FakeOllama, where: str) -> None:
    stop = threading.Event()

    def checkpoint() -> None:
        if stop.is_set():
            raise Cancelled("cancelled")

    if where == "in the middle":
        fake.manners.pause = 0.1
    else:
        fake.manners.silent = True
    threading.Timer(0.4, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        client(fake, checkpoint).pull(NAME, lambda *_: None)
    assert time.monotonic() - began < 1.5
    if where == "in the middle":
        assert fake.closed.wait(5), "the server sees the client go"
    assert not [thread for thread in threading.enumerate() if thread.name == "talk"]


@pytest.mark.fault("F-49")
def test_a_daemon_that_restarts_is_asked_again_and_goes_on(fake: FakeOllama) -> None:
    fake.manners.cut = 4
    error = refused(lambda: client(fake).pull(NAME, lambda *_: None))
    assert (error.code, error.retryable) == ("ollama_interrupted", True)
    client(fake).pull(NAME, lambda *_: None)
    assert fake.fetched == fake.library[NAME].size, "nothing came twice"


@pytest.mark.parametrize(
    ("said", "code", "retryable"),
    [
        ("pull model manifest: file does not exist", "source_not_found", False),
        ("pull model manifest: 412: \n\nThe model requires a newer version of Ollama", "ollama_too_old", False),
        ("pull model manifest: 401: unauthorized", "auth_required", False),
        ("write /root/.ollama/models/blobs/x: no space left on device", "insufficient_space", False),
        ("digest mismatch, file must be downloaded again: want sha256:1, got sha256:2", "checksum_mismatch", False),
        ("invalid digest format", "source_invalid_manifest", False),
        ("max retries exceeded: dial tcp 10.0.0.1:443: i/o timeout", "ollama_failed", True),
    ],
)
@pytest.mark.fault("A-34")
def test_what_ollama_says_is_understood_and_not_passed_on(
    fake: FakeOllama, said: str, code: str, retryable: bool
) -> None:
    fake.manners.cut, fake.manners.error = 2, said
    error = refused(lambda: client(fake).pull(NAME, lambda *_: None))
    assert (error.code, error.retryable) == (code, retryable)
    assert "10.0.0.1" not in str(error) + error.hint
    assert "/root" not in str(error) + error.hint


def test_a_name_that_the_library_has_not(fake: FakeOllama) -> None:
    assert refused(lambda: client(fake).pull("nobody:1b", lambda *_: None)).code == "source_not_found"


def line(**fields: Any) -> bytes:
    import json

    return json.dumps({"status": "pulling x", "digest": DIGEST, "total": 10, "completed": 1, **fields}).encode() + b"\n"


@pytest.mark.fault("A-38")
@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../../../../../traversal", "sha256-" + "a" * 64, "sha256:" + "a" * 63, "sha256:" + "A" * 64,
        "sha256:" + "a" * 64 + "/../x", "sha256:" + "g" * 64, "md5:" + "a" * 32, "a" * 64, "../etc/passwd", None, 7, [],
    ],
)  # fmt: skip
def test_a_malformed_digest_ends_the_pull(fake: FakeOllama, digest: Any) -> None:
    fake.manners.instead = [line(digest=digest), b'{"status": "success"}\n']
    assert refused(lambda: client(fake).pull(NAME, lambda *_: None)).code == "source_invalid_manifest"


@pytest.mark.fault("A-39")
@pytest.mark.parametrize(
    "lines",
    [
        [line(total=-1)],
        [line(total=2**63)],
        [line(total=None)],
        [line(total="10")],
        [line(total=1.5)],
        [line(completed=-1)],
        [line(completed=True)],
        [line(), line(total=11)],
        [line(digest=f"sha256:{number:064x}") for number in range(1_001)],
    ],
    ids=["negative", "2^63", "null", "text", "float", "negative done", "true", "two sizes", "too many"],
)
def test_a_malformed_manifest_ends_the_pull(fake: FakeOllama, lines: list[bytes]) -> None:
    fake.manners.instead = [*lines, b'{"status": "success"}\n']
    assert refused(lambda: client(fake).pull(NAME, lambda *_: None)).code == "source_invalid_manifest"


@pytest.mark.parametrize(
    "raw",
    [b"not json\n", b"[]\n", b"{}\n", b'{"status": 1}\n', b'{"a":' * 100_000 + b"\n", b"x" * 2_000_000],
    ids=["text", "list", "empty", "number", "deep", "long"],
)
def test_what_is_no_ollama_is_told_so(fake: FakeOllama, raw: bytes) -> None:
    fake.manners.instead = [raw]
    assert refused(lambda: client(fake).pull(NAME, lambda *_: None)).code == "protocol_error"


def test_an_answer_without_end_is_cut_off(fake: FakeOllama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY", 1000)
    fake.manners.refusals = [(200, b'{"version": "' + b"9" * 5000 + b'"}')]
    assert refused(client(fake).check).code == "protocol_error"


@pytest.mark.parametrize(
    ("version", "code"),
    [("0.17.0", "ollama_too_old"), ("0.1.33", "ollama_too_old"), ("", "protocol_error"), ("9" * 50, "protocol_error")],
)
def test_an_old_ollama_is_not_trusted(fake: FakeOllama, version: str, code: str) -> None:
    fake.manners.version = version
    assert refused(client(fake).check).code == code


@pytest.mark.parametrize("version", ["0.17.1", "0.17.10", "0.18.0-rc1", "1.0.0"])
def test_a_new_one_is(fake: FakeOllama, version: str) -> None:
    fake.manners.version = version
    client(fake).check()


def test_not_installed_and_not_running_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("PATH", "/nowhere")
    error = refused(client(nobody).check)
    assert (error.code, error.retryable) == ("ollama_missing", False)
    assert "https://ollama.com/download" in error.hint
    monkeypatch.setattr(module.shutil, "which", lambda _: "/usr/bin/ollama")
    error = refused(client(nobody).check)
    assert (error.code, error.retryable) == ("ollama_not_running", True)
    assert "ollama serve" in error.hint


def test_a_silence_is_longer_than_a_connect_may_be(fake: FakeOllama) -> None:
    """Ollama says nothing while it hashes a large layer."""
    fake.manners.pause = 0.6
    fake.library[NAME] = published(NAME, 10)
    client(fake, connect_timeout=0.2, read_timeout=0.2).pull(NAME, lambda *_: None)
    assert NAME in fake.models


def test_a_silent_one_is_given_up(fake: FakeOllama) -> None:
    fake.manners.silent = True
    error = refused(client(fake, read_timeout=0.5).check)
    assert (error.code, error.retryable) == ("ollama_silent", True)


def test_a_pull_in_which_nothing_moves_is_given_up(fake: FakeOllama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "STALL_SECONDS", 0.5)
    fake.manners.pause = 0.05
    fake.manners.instead = [line()] * 1000
    assert refused(lambda: client(fake).pull(NAME, lambda *_: None)).code == "ollama_silent"


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("127.0.0.1", ("http", "127.0.0.1", 11434)),
        ("0.0.0.0:8", ("http", "127.0.0.1", 8)),
        (":77", ("http", "127.0.0.1", 77)),
        ("http://gpu-box", ("http", "gpu-box", 80)),
        ("https://ollama.example.com/", ("https", "ollama.example.com", 443)),
        ("[::1]:8", ("http", "::1", 8)),
        ("::1", ("http", "::1", 11434)),
    ],
)
def test_the_address_is_read_as_ollama_reads_it(setting: str, meant: tuple[str, str, int]) -> None:
    assert address(setting) == meant


@pytest.mark.parametrize("setting", ["ftp://x", "a b", "user@host:1", "host:0", "host:x", "host:70000", "http://a/b"])
def test_what_is_no_address_is_refused(setting: str) -> None:
    assert refused(lambda: address(setting)).code == "invalid_setting"
