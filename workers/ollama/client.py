"""Ollama through its HTTP API: it brings, proves and keeps the bytes of its models by itself; we ask and look on.

The address is the operator's (`OLLAMA_HOST`), the names are ours to judge: none ever names a registry. What comes back
is read with limits and checked by its form, and what Ollama or its registry wrote into an error is not passed on.
"""

import re
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, NamedTuple

import structlog

from shared.errors import Failed, ModelyardError, NotFound, Unavailable
from shared.settings import SourceSettings
from workers.ollama.address import address
from workers.ollama.errors import interrupted, invalid_manifest, malformed, refused
from workers.ollama.pulling import MAX_SIZE, STALL_SECONDS, Layer, OnLayers, follow
from workers.ollama.talk import Checkpoint, Refusal, lines, talk, whole

log = structlog.get_logger()

OLDEST = (0, 17, 1)
"""Versions before it write where a registry's manifest tells them to."""
MAX_BODY = 16 * 1024**2
MAX_TEXT = 200
FOR_EVER = -1
"""How long Ollama keeps a model that it was asked to load: until it is told otherwise, or needs the room."""
MISSING, NOT_RUNNING, SILENT = "ollama_missing", "ollama_not_running", "ollama_silent"

_MANIFEST_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?!\d)")


class Here(NamedTuple):
    """A model that Ollama has. `digest` is that of its manifest, 64 hex digits; `size` in bytes."""

    digest: str
    size: int
    details: dict[str, Any]


class Loaded(NamedTuple):
    """A model in Ollama's memory. `size` are all the bytes that it takes, `on_gpu` those of them on GPUs; the length of
    its context is in tokens, None where Ollama does not tell."""

    digest: str
    size: int
    on_gpu: int
    context_length: int | None = None


class Ollama:
    """One Ollama server.

    Every method raises, beside what it names itself:
        Unavailable: `ollama_not_running`, `ollama_silent`, or it went away.
        Failed: `ollama_missing`; `protocol_error`, what answers is no Ollama.
        Stop: from the checkpoint.
    """

    def __init__(self, settings: SourceSettings, checkpoint: Checkpoint, patience: float | None = None) -> None:
        """
        Args:
            patience: longest wait for an answer, in seconds; that for sources where None.

        Raises:
            Invalid: OLLAMA_HOST is no address.
        """
        self.address = address(settings.ollama_host)
        self._settings = settings
        self._checkpoint = checkpoint
        self._patience = patience or settings.read_timeout
        self._connect_patience = min(settings.connect_timeout, self._patience)

    def check(self) -> str:
        """Is it there, and of a version that may be trusted with other people's manifests? Answers the version.

        Raises:
            Failed: `ollama_too_old`.
        """
        match = _VERSION.match(str(self.ask("GET", "/api/version").get("version")))
        if match is None:
            raise malformed("its version cannot be read")
        if tuple(map(int, match.groups())) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise Failed(
                "ollama_too_old",
                f"Ollama is version {match[0]}; before {oldest} a model's manifest can make it write anywhere.",
                f"Update it to {oldest} or newer (https://ollama.com/download), then retry.",
            )
        return match[0].removeprefix("v")

    def find(self, name: str) -> Here | None:
        """The model as Ollama has it, None if it has none of that name."""
        return next((_here(entry) for entry in self._listed("/api/tags", name)), None)

    def facts(self, name: str) -> dict[str, Any]:
        """What Ollama tells of a model that it has: `format`, `architecture`, `quantization` and the like.

        Raises:
            NotFound: `source_not_found`.
        """
        shown = self.ask("POST", "/api/show", {"model": name})
        details, info = (
            {} if not isinstance(shown.get(key), dict) else shown[key] for key in ("details", "model_info")
        )
        architecture = info.get("general.architecture")
        known = {
            "format": details.get("format"), "architecture": architecture,
            "quantization": details.get("quantization_level"), "parameterCount": info.get("general.parameter_count"),
            "contextLength": info.get(f"{architecture}.context_length"), **_shape(info, f"{architecture}."),
        }  # fmt: skip
        told = {key: value for key, value in known.items() if _is_plain(value)}
        able = shown.get("capabilities")
        return {**told, "thinking": "thinking" in able} if isinstance(able, list) else told

    def pull(self, name: str, on_layers: OnLayers) -> dict[str, Layer]:
        """Have Ollama fetch the newest of that name, and look on until it has proven all of it.

        Stopped by the checkpoint, the stream is closed; Ollama keeps what it has and goes on from there.

        Raises:
            NotFound, Forbidden, Exhausted, Corrupt, Failed: final; `source_invalid_manifest` for a malformed one.
            Unavailable: also where its registry does not answer; asking again goes on.
        """
        body = {"model": name, "stream": True}  # and never `insecure`
        with self._speaking(name):
            told = lines(talk(self._connection(), "POST", "/api/pull", body, self._checkpoint, STALL_SECONDS))
            return follow(told, name, on_layers)

    def delete(self, name: str) -> None:
        """Have Ollama delete a model; one that it has not is deleted already."""
        try:
            self.ask("DELETE", "/api/delete", {"model": name})
        except NotFound:
            log.info("ollama.gone_already", name=name)

    # -- its memory ------------------------------------------------------------------------------------------

    def loaded(self, name: str) -> Loaded | None:
        """The model as it lies in Ollama's memory, None if it does not."""
        return next((_loaded(entry) for entry in self._listed("/api/ps", name)), None)

    def load(self, name: str, seconds: float, *, embeds: bool) -> None:
        """Have Ollama load a model and keep it; one that is in memory already is kept from now on.

        Its context is as long as Ollama's own settings say: another one would go by with the first request, which
        cannot ask for it, and for which Ollama would load the model again.

        Args:
            seconds: longest wait.
            embeds: it makes vectors of texts.

        Raises:
            Failed: `ollama_out_of_memory`, `ollama_cannot_load`, `ollama_wrong_type`.
            NotFound: `source_not_found`.
        """
        path = "/api/embed" if embeds else "/api/generate"  # without an input, and without a prompt
        self.ask("POST", path, {"model": name, "keep_alive": FOR_EVER, "stream": False}, seconds)

    def unload(self, name: str) -> None:
        """Have Ollama let go of a model, once the requests have ended that it works on.

        Raises:
            NotFound: `source_not_found`; it has the model no more, and cannot be told of it.
        """
        self.ask("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})

    # -- the wire --------------------------------------------------------------------------------------------

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, patience: float | None = None
    ) -> dict[str, Any]:
        """Send one request, and return the JSON object that comes back.

        Raises:
            ModelyardError: what its answer means where that is none.
        """
        with self._speaking((body or {}).get("model", "")):
            pieces = talk(self._connection(), method, path, body, self._checkpoint, patience or self._patience)
            return whole(pieces, MAX_BODY)

    def _listed(self, path: str, name: str) -> Iterator[dict[str, Any]]:
        """Entries of that name in one of Ollama's lists."""
        listed = self.ask("GET", path).get("models")
        if not isinstance(listed, list):
            raise malformed("its list of models cannot be read")
        wanted = full_name(name).lower()
        return (entry for entry in listed if isinstance(entry, dict) and str(entry.get("name")).lower() == wanted)

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
                SILENT, "Ollama does not answer in time.", "Look at its log, or start it again."
            ) from None
        except (OSError, HTTPException) as error:
            log.warning("ollama.lost", error=repr(error)[:200])
            raise interrupted() from None
        except ValueError:
            raise malformed("it is not the JSON that it should be") from None

    def _nobody(self) -> ModelyardError:
        """Nothing listens there. On this machine it can be told whether there is an Ollama to be started."""
        where = f"{self.address.host}:{self.address.port}"
        if self.address.is_here and shutil.which("ollama") is None:
            return Failed(
                MISSING,
                f"Nothing answers at {where}, and Ollama is not installed here.",
                "Install it from https://ollama.com/download, or set OLLAMA_HOST to a machine that has it; then retry.",
            )
        return Unavailable(
            NOT_RUNNING,
            f"Ollama does not answer at {where}.",
            "Start it with `ollama serve`, or set OLLAMA_HOST to where it runs.",
        )

    def _connection(self) -> HTTPConnection:
        scheme, host, port = self.address
        if scheme == "https":
            return HTTPSConnection(host, port, timeout=self._connect_patience, context=self._tls())
        return HTTPConnection(host, port, timeout=self._connect_patience)

    def _tls(self) -> ssl.SSLContext:
        bundle = self._settings.ca_bundle
        return ssl.create_default_context(cafile=str(bundle) if bundle else None)


def full_name(name: str) -> str:
    """A name with its tag, as Ollama lists it."""
    return name if ":" in name else f"{name}:latest"


def _here(entry: dict[str, Any]) -> Here:
    digest, size, details = entry.get("digest"), entry.get("size"), entry.get("details")
    digest = digest.removeprefix("sha256:") if isinstance(digest, str) else ""
    if not _MANIFEST_DIGEST.fullmatch(digest) or type(size) is not int or not 0 < size < MAX_SIZE:
        raise invalid_manifest("its digest or size is none")
    return Here(digest, size, details if isinstance(details, dict) else {})


def _loaded(entry: dict[str, Any]) -> Loaded:
    digest, size, on_gpu = entry.get("digest"), entry.get("size"), entry.get("size_vram", 0)
    if not (type(size) is int and type(on_gpu) is int and 0 <= size < MAX_SIZE and 0 <= on_gpu < MAX_SIZE):
        raise malformed("what a model takes of its memory is no sane number")
    context = entry.get("context_length")
    told = context if type(context) is int and 0 < context < MAX_SIZE else None
    return Loaded(str(digest).removeprefix("sha256:"), size, min(on_gpu, size), told)


def _shape(info: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What decides how much a model keeps of each token."""

    def told(key: str) -> int | None:
        value = info.get(prefix + key)
        return value if type(value) is int and value > 0 else None

    heads, width = told("attention.head_count"), told("embedding_length")
    size = width // heads if width and heads else None
    return {
        "layers": told("block_count"), "kvHeads": told("attention.head_count_kv") or heads,
        "keySize": told("attention.key_length") or size, "valueSize": told("attention.value_length") or size,
    }  # fmt: skip


def _is_plain(value: object) -> bool:
    """Something to show: short text, or a whole number."""
    if isinstance(value, str):
        return value.isprintable() and 0 < len(value) <= MAX_TEXT
    return type(value) is int and 0 <= value < MAX_SIZE
