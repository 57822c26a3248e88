"""Ollama through its HTTP API: it brings, proves and keeps the bytes of its models by itself; we ask and look on.

The address is the operator's (`OLLAMA_HOST`), the names are ours to judge: none ever names a registry. What comes back
is read with limits and checked by its form, and what Ollama or its registry wrote into an error is not passed on.
"""

import ipaddress
import re
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, NamedTuple

import structlog

from shared.errors import Failed, Invalid, ModelyardError, NotFound, Unavailable
from shared.settings import SourceSettings
from workers.sources.base import Checkpoint
from workers.sources.ollama_errors import interrupted, malformed, meaning, refused
from workers.sources.wire.talk import Refusal, lines, talk, whole

log = structlog.get_logger()

OLDEST = (0, 17, 1)
"""Versions before it write where a registry's manifest tells them to."""
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 11434
MAX_BODY = 16 * 1024**2
MAX_DIGESTS = 1_000
MAX_SIZE = 2**53
MAX_TEXT = 200
STALL_SECONDS = 600.0
"""A pull that tells nothing new for so long is given up. Hashing a large layer takes minutes, in silence."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MANIFEST_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?!\d)")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_ANY = {"": DEFAULT_HOST, "0.0.0.0": DEFAULT_HOST, "::": "::1"}  # noqa: S104 - what servers bind is read, not bound


class Address(NamedTuple):
    scheme: str
    host: str
    port: int


class Here(NamedTuple):
    """A model that Ollama has. `digest` is that of its manifest, 64 hex digits; `size` in bytes."""

    digest: str
    size: int
    details: dict[str, Any]


class Layer(NamedTuple):
    """How far Ollama is with one layer, in bytes."""

    done: int
    total: int


OnLayers = Callable[[str, dict[str, Layer]], None]
"""Told what Ollama does, and all layers that it has named so far, by digest."""


class Ollama:
    """One Ollama server.

    Every method raises, beside what it names itself:
        Unavailable: `ollama_not_running`, or it went away.
        Failed: `ollama_missing`; `protocol_error`, what answers is no Ollama.
        Stop: from the checkpoint.
    """

    def __init__(self, settings: SourceSettings, checkpoint: Checkpoint) -> None:
        """Raises: Invalid, OLLAMA_HOST is no address."""
        self.address = address(settings.ollama_host)
        self._settings = settings
        self._checkpoint = checkpoint

    def check(self) -> None:
        """Is it there, and of a version that may be trusted with other people's manifests?

        Raises:
            Failed: `ollama_too_old`.
        """
        match = _VERSION.match(str(self._ask("GET", "/api/version").get("version")))
        if match is None:
            raise malformed("its version cannot be read")
        if tuple(map(int, match.groups())) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise Failed(
                "ollama_too_old",
                f"Ollama is version {match[0]}; before {oldest} a model's manifest can make it write anywhere.",
                f"Update it to {oldest} or newer (https://ollama.com/download), then retry.",
            )

    def find(self, name: str) -> Here | None:
        """The model as Ollama has it, None if it has none of that name."""
        listed = self._ask("GET", "/api/tags").get("models")
        if not isinstance(listed, list):
            raise malformed("its list of models cannot be read")
        wanted = full_name(name).lower()
        entries = (entry for entry in listed if isinstance(entry, dict))
        return next((_here(entry) for entry in entries if str(entry.get("name")).lower() == wanted), None)

    def facts(self, name: str) -> dict[str, Any]:
        """What Ollama tells of a model that it has: `format`, `architecture`, `quantization` and the like.

        Raises:
            NotFound: `source_not_found`.
        """
        shown = self._ask("POST", "/api/show", {"model": name})
        details, info = (
            {} if not isinstance(shown.get(key), dict) else shown[key] for key in ("details", "model_info")
        )
        architecture = info.get("general.architecture")
        known = {
            "format": details.get("format"), "architecture": architecture,
            "quantization": details.get("quantization_level"), "parameterCount": info.get("general.parameter_count"),
            "contextLength": info.get(f"{architecture}.context_length"),
        }  # fmt: skip
        return {key: value for key, value in known.items() if _is_plain(value)}

    def pull(self, name: str, on_layers: OnLayers) -> dict[str, Layer]:
        """Have Ollama fetch the newest of that name, and look on until it has proven all of it.

        Stopped by the checkpoint, the stream is closed; Ollama keeps what it has and goes on from there.

        Raises:
            NotFound, Forbidden, Exhausted, Corrupt, Failed: final; `source_invalid_manifest` for a malformed one.
            Unavailable: also where its registry does not answer; asking again goes on.
        """
        layers: dict[str, Layer] = {}
        body = {"model": name, "stream": True}  # and never `insecure`
        last, moved = None, time.monotonic()
        with self._speaking(name):
            for line in lines(talk(self._connection(), "POST", "/api/pull", body, self._checkpoint, STALL_SECONDS)):
                if "error" in line:
                    raise meaning(str(line["error"]), name)
                status = _status(line, layers)
                if status == "success":
                    return layers
                on_layers(status, layers)
                if last != (last := (status, sum(layer.done for layer in layers.values()))):
                    moved = time.monotonic()
                elif time.monotonic() - moved > STALL_SECONDS:
                    raise TimeoutError
        raise interrupted()

    def delete(self, name: str) -> None:
        """Have Ollama delete a model; one that it has not is deleted already."""
        try:
            self._ask("DELETE", "/api/delete", {"model": name})
        except NotFound:
            log.info("ollama.gone_already", name=name)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        patience = self._settings.read_timeout
        with self._speaking((body or {}).get("model", "")):
            return whole(talk(self._connection(), method, path, body, self._checkpoint, patience), MAX_BODY)

    @contextmanager
    def _speaking(self, name: str) -> Iterator[None]:
        """What goes wrong on the way, in our words."""
        try:
            yield
        except Refusal as refusal:
            raise refused(refusal, name) from None
        except (ConnectionRefusedError, socket.gaierror):
            raise self._nobody() from None
        except TimeoutError:
            raise Unavailable(
                "ollama_silent", "Ollama does not answer in time.", "Look at its log, or start it again."
            ) from None
        except (OSError, HTTPException) as error:
            log.warning("ollama.lost", error=repr(error)[:200])
            raise interrupted() from None
        except ValueError:
            raise malformed("it is not the JSON that it should be") from None

    def _nobody(self) -> ModelyardError:
        """Nothing listens there. On this machine it can be told whether there is an Ollama to be started."""
        where = f"{self.address.host}:{self.address.port}"
        here = self.address.host == "localhost" or _is_loopback(self.address.host)
        if here and shutil.which("ollama") is None:
            return Failed(
                "ollama_missing",
                f"Nothing answers at {where}, and Ollama is not installed here.",
                "Install it from https://ollama.com/download, or set OLLAMA_HOST to a machine that has it; then retry.",
            )
        return Unavailable(
            "ollama_not_running",
            f"Ollama does not answer at {where}.",
            "Start it with `ollama serve`, or set OLLAMA_HOST to where it runs.",
        )

    def _connection(self) -> HTTPConnection:
        scheme, host, port = self.address
        timeout = self._settings.connect_timeout
        if scheme == "https":
            return HTTPSConnection(host, port, timeout=timeout, context=self._tls())
        return HTTPConnection(host, port, timeout=timeout)

    def _tls(self) -> ssl.SSLContext:
        bundle = self._settings.ca_bundle
        return ssl.create_default_context(cafile=str(bundle) if bundle else None)


def full_name(name: str) -> str:
    """A name with its tag, as Ollama lists it."""
    return name if ":" in name else f"{name}:latest"


def address(setting: str) -> Address:
    """What `OLLAMA_HOST` means, read as Ollama reads it: `host`, `host:port`, `:port`, with or without a scheme.

    Raises:
        Invalid: code `invalid_setting`.
    """
    text = setting.strip().strip("\"'")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    ports = {"http": DEFAULT_PORT if not separator else 80, "https": 443}
    host, _, port = rest.rstrip("/").rpartition(":")
    if not port.isdigit() or (":" in host and not host.endswith("]")):
        host, port = rest.rstrip("/"), ""
    host = host.strip("[]")
    number = int(port or ports.get(scheme, 0))
    if scheme not in ports or not 0 < number < 2**16 or not (_HOST.fullmatch(host or DEFAULT_HOST) or _is_ip(host)):
        raise Invalid(
            "invalid_setting", "OLLAMA_HOST is no address of a server.", "Use host:port, such as 127.0.0.1:11434."
        )
    return Address(scheme, _ANY.get(host, host), number)


def _status(line: dict[str, Any], layers: dict[str, Layer]) -> str:
    """What one line of a pull tells; the layer that it names is noted.

    Raises:
        Failed: `source_invalid_manifest`.
    """
    status, digest = line.get("status"), line.get("digest")
    if not isinstance(status, str):
        raise malformed("a line has no status")
    if "digest" not in line or digest == "":
        return status
    total, done = line.get("total", 0), line.get("completed", 0)
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise _invalid_manifest("a digest is not sha256: with 64 hex digits")
    if not (type(total) is int and type(done) is int and 0 <= total < MAX_SIZE and 0 <= done < MAX_SIZE):
        raise _invalid_manifest("the size of a layer is no sane number")
    before = layers.get(digest)
    if before is None and len(layers) >= MAX_DIGESTS:
        raise _invalid_manifest(f"it has more than {MAX_DIGESTS:,} layers")
    if before is not None and total and before.total not in (0, total):
        raise _invalid_manifest("a layer has two sizes")
    size = total or (before.total if before else 0)
    layers[digest] = Layer(max(min(done, size), before.done if before else 0), size)
    return status


def _here(entry: dict[str, Any]) -> Here:
    digest, size, details = entry.get("digest"), entry.get("size"), entry.get("details")
    digest = digest.removeprefix("sha256:") if isinstance(digest, str) else ""
    if not _MANIFEST_DIGEST.fullmatch(digest) or type(size) is not int or not 0 < size < MAX_SIZE:
        raise _invalid_manifest("its digest or size is none")
    return Here(digest, size, details if isinstance(details, dict) else {})


def _invalid_manifest(reason: str) -> Failed:
    return Failed(
        "source_invalid_manifest",
        f"Ollama's manifest of this model cannot be trusted: {reason}.",
        "Take another model or tag, and report this one to Ollama.",
    )


def _is_plain(value: object) -> bool:
    """Something to show: short text, or a whole number."""
    if isinstance(value, str):
        return value.isprintable() and 0 < len(value) <= MAX_TEXT
    return type(value) is int and 0 <= value < MAX_SIZE


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return _is_ip(host) and ipaddress.ip_address(host).is_loopback
