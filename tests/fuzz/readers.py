"""Everything here that reads what strangers wrote, as functions of bytes: they read it or refuse it in our words.

Whoever guides the bytes (tests/fuzz/guided.py by coverage, tests/fuzz/test_readers.py at random) calls `TARGETS`.
"""

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from http.client import HTTPMessage
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import safetensors
from pydantic import ValidationError

from api.cursor import decode_cursor
from api.strict import strict_json
from shared.errors import ModelyardError
from shared.lock import Lock
from shared.refs import check_alias, check_model_id, check_path, check_url, parse_ref
from shared.trust import Trust
from tests.factories import malformed
from workers.headers import check_torch_zip, read_gguf, read_safetensors, sniff
from workers.headers.plain import Openable
from workers.ollama.pulling import follow
from workers.ollama.talk import lines
from workers.sources.names import check_names
from workers.sources.wire.answers import condition, content_range, seconds_after, unsatisfied_size
from workers.sources.wire.route import place
from workers.store import gate, manifest
from workers.store.bundle import OpenBundle
from workers.store.essentials import check_files
from workers.store.facts import read_facts

JSON_FILES = (
    "config.json", "model_index.json", "model.safetensors.index.json", "tokenizer_config.json", "adapter_config.json",
    "generation_config.json",
)  # fmt: skip
TRUSTS = Trust("a", "c"), Trust("a", "c", pickle=True)


class Target(NamedTuple):
    """Args: read: raises nothing, whatever the bytes. seeds: honest ones, to begin with."""

    read: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


def opening(data: bytes) -> Openable:
    """A file that is in no folder; every opening of it has a handle of its own."""

    def open_() -> int:
        handle = os.memfd_create("fuzzed")
        os.write(handle, data)
        os.lseek(handle, 0, os.SEEK_SET)
        return handle

    return open_


def _safetensors(data: bytes) -> None:
    """What is taken is taken by the library as well, whose runner would load it."""
    try:
        header = read_safetensors(opening(data))
    except ModelyardError:
        return
    assert {name for name, _ in safetensors.deserialize(data)} == set(header.tensors)


def _gguf(data: bytes) -> None:
    try:
        header = read_gguf(opening(data))
    except ModelyardError:
        return
    assert all(tensor.nbytes >= 0 for tensor in header.tensors.values())


def _archive(data: bytes) -> None:
    """Python's own reader finds no more in it than was judged."""
    try:
        check_torch_zip(opening(data))
    except ModelyardError:
        return
    if not data.startswith(b"PK\x03\x04"):
        return
    try:
        found = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, NotImplementedError):  # what it refuses as well, nobody reads with it
        return
    for info in found:
        assert ".." not in info.filename
        assert info.file_size <= 10 * max(info.compress_size, 1)


def _weights(data: bytes) -> None:
    sniff(opening(data))
    for name in ("model.safetensors", "model.gguf", "pytorch_model.bin", "notes.txt"):
        for trust in TRUSTS:
            try:
                gate.examine(name, opening(data), trust)
            except (ModelyardError, gate.Refused):
                continue


def _json_files(data: bytes) -> None:
    """Settings, indexes and tokenizers, among them a chat template: read for facts and faults, never rendered."""
    whole = malformed.good_safetensors()
    for name in JSON_FILES:
        files = {"model.safetensors": opening(whole), name: opening(data)}
        try:
            if not check_files(files):
                read_facts(files)
        except ModelyardError:
            continue


def _manifest(data: bytes) -> None:
    handle = os.memfd_create("fuzzed")
    try:
        os.write(handle, data)
        manifest.read(Path(f"/proc/self/fd/{handle}"))
    except ModelyardError:
        return
    finally:
        os.close(handle)


def _bundle(data: bytes) -> None:
    try:
        opened = OpenBundle(io.BytesIO(data), len(data), whole=True)
        for _, file in opened.members():
            opened.prove(file, _nothing, _nothing)
    except ModelyardError:
        return


def _nothing(*_: Any) -> None:
    pass


def _lock(data: bytes) -> None:
    try:
        Lock.model_validate(strict_json(data))
    except (ModelyardError, ValidationError):
        return


def _body(data: bytes) -> None:
    try:
        value = strict_json(data)
    except ModelyardError:
        return
    assert value == json.loads(data)


def _words(data: bytes) -> None:
    """Ids, names, paths, references and cursors."""
    text = data.decode(errors="surrogateescape")
    for check in (check_model_id, check_alias, check_path, parse_ref, lambda it: check_names([it]), _cursor):
        try:
            check(text)
        except ModelyardError:
            continue


def _cursor(text: str) -> None:
    decode_cursor(text, float, str)


def _url(data: bytes) -> None:
    """Of a URL that is taken, the host that is judged is the one that others would ask."""
    text = data.decode(errors="surrogateescape")
    try:
        check_url(text)
    except ModelyardError:
        return
    scheme, host, port = place(text)
    assert scheme in ("http", "https")
    assert host == (urlsplit(text).hostname or "")
    other = httpx.URL(text)
    assert (other.scheme, other.host.strip("[]"), other.port or {"http": 80, "https": 443}[scheme]) == (
        scheme,
        host,
        port,
    )


def _headers(data: bytes) -> None:
    text = data.decode("latin-1").replace("\n", "").replace("\r", "")
    headers = HTTPMessage()
    headers["Content-Range"] = text
    span = content_range(headers)
    assert span is None or 0 <= span.first <= span.last
    unsatisfied_size(headers)
    condition(text, None)
    wait = seconds_after(text)
    assert wait is None or wait >= 0


def _ollama(data: bytes) -> None:
    """What an Ollama says while it pulls."""
    try:
        follow(lines(iter([data[:7], data[7:]])), "tiny", _nothing)
    except (ModelyardError, ValueError):  # ValueError is what `talk` makes an error of ours of
        return


def _torch_zip() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(64))
    return held.getvalue()


def _texts(*texts: str) -> Callable[[], Iterator[bytes]]:
    return lambda: (text.encode() for text in texts)


CONFIG = json.dumps({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "torch_dtype": "float16",
    "weight_map": {"a": "model-00001-of-00002.safetensors"}, "metadata": {"total_size": 24}, "_class_name": "X",
    "unet": ["diffusers", "UNet2DConditionModel"], "chat_template": "{% for m in messages %}<think>{{ m }}{% endfor %}",
    "auto_map": {"AutoModel": "x.Y"}, "base_model_name_or_path": "a/b", "text_config": {"num_hidden_layers": 2},
})  # fmt: skip
LOCK = json.dumps({
    "lockVersion": 1, "models": [{
        "modelId": "a", "modelType": "llm", "name": "A", "source": "huggingface", "sourceUrl": "a/b", "revision": "c",
        "files": [{"name": "config.json", "size": 1, "sha256": "0" * 64}],
    }],
})  # fmt: skip
MANIFEST = json.dumps({
    "v": 1, "model_id": "a", "model_type": "llm", "revision": "c", "source": "huggingface:a/b", "skipped": [],
    "created_at": "2026-01-01T00:00:00+00:00", "came_from": None,
    "files": [{
        "name": "a", "size": 1, "sha256": "0" * 64, "chunks": ["0" * 64], "etag": None, "source_checksum": True,
    }],
})  # fmt: skip
PULL = '{"status":"pulling","digest":"sha256:' + "0" * 64 + '","total":10,"completed":5}\n{"status":"success"}\n'

TARGETS: dict[str, Target] = {
    "safetensors": Target(_safetensors, lambda: iter([malformed.good_safetensors()])),
    "gguf": Target(_gguf, lambda: iter([malformed.Gguf().to_bytes()])),
    "archives": Target(_archive, lambda: iter([_torch_zip()])),
    "weights": Target(
        _weights, lambda: iter([malformed.good_safetensors(), malformed.Gguf().to_bytes(), _torch_zip()])
    ),
    "settings and indexes": Target(_json_files, _texts(CONFIG)),
    "manifests": Target(_manifest, _texts(MANIFEST)),
    "bundles": Target(_bundle, _texts(LOCK)),
    "locks": Target(_lock, _texts(LOCK)),
    "bodies": Target(_body, _texts(LOCK, r'{"a": ["\ud83d\ude00", 1e308, -9223372036854775808]}')),
    "words": Target(_words, _texts("qwen3-0.6b", "/models/a", "hf:a/b@main", "ollama:tiny:latest", "WzEuMCwgIngiXQ")),
    "URLs": Target(_url, _texts("https://example.com:8443/a%20b.gguf?x=1#y", "http://[::1]:80/x", "http://127.1/")),
    "headers": Target(_headers, _texts("bytes 0-1/2", "bytes */9", '"etag"', "120", "Wed, 21 Oct 2026 07:28:00 GMT")),
    "Ollama": Target(_ollama, _texts(PULL)),
}
