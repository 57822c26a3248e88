"""What went wrong at Ollama, in our words: its own are judged by what they contain, logged, and not passed on."""

import json
from collections.abc import Callable
from http import HTTPStatus

import structlog

from shared.errors import Conflict, Corrupt, Exhausted, Failed, Forbidden, ModelyardError, NotFound, Unavailable
from workers.ollama.talk import Refusal

log = structlog.get_logger()

AGAIN_SECONDS = 5.0
"""A server that restarts gets so long."""

Words = tuple[str, ...]

_MEANINGS: tuple[tuple[Words, Callable[..., ModelyardError], str, str, str], ...] = (
    (("newer version of ollama", "manifest: 412"), Failed, "ollama_too_old",
     "{name} needs a newer Ollama.", "Update it (https://ollama.com/download), then retry."),
    (("invalid digest", "invalid manifest", "unsupported manifest", "invalid character", "cannot unmarshal"),
     Failed, "source_invalid_manifest",
     "Ollama cannot read the manifest of {name}.", "Take another model or tag."),
    (("file does not exist", "manifest unknown", "not found", "invalid model name", "manifest: 404"),
     NotFound, "source_not_found",
     "Ollama knows no model {name}.", "Check name and tag at https://ollama.com/library."),
    (("no space left", "disk quota", "not enough space"), Exhausted, "insufficient_space",
     "The disk of Ollama is full.", "Free some space there, then retry; it goes on."),
    (("digest mismatch",), Corrupt, "checksum_mismatch",
     "Ollama received other bytes of {name} than it was promised.", "Retry the job; Ollama has dropped them."),
    (("unauthorized", "access denied", "manifest: 401", "manifest: 403"), Forbidden, "auth_required",
     "Ollama's registry does not hand out {name}.", "Sign in with `ollama signin`, then retry."),
    (("requires more system memory", "out of memory", "cudamalloc failed"), Failed, "ollama_out_of_memory",
     "Ollama has not enough memory for {name}.",
     "Unload another model (modelyard ps), or one that others have loaded there (ollama ps)."),
    (("does not support",), Failed, "ollama_wrong_type",
     "{name} does not do what models of its type do.",
     "Enter it anew with its type: modelyard pull ollama:{name} --type embedding makes vectors, --type llm words."),
    (("unable to load model", "failed to load", "unknown model architecture", "has terminated"),
     Failed, "ollama_cannot_load",
     "Ollama could not load {name}.", "`ollama run {name}` on its machine, and its log, say why."),
)  # fmt: skip
"""Words in what Ollama says, and the error that they stand for; the first that fits."""


def meaning(said: str, name: str) -> ModelyardError:
    """The error that Ollama's words stand for; those that nobody knows may pass by themselves."""
    log.warning("ollama.error", name=name, said=said[:300])
    for words, kind, code, message, hint in _MEANINGS:
        if any(word in said.lower() for word in words):
            return kind(code, message.format(name=name), hint.format(name=name))
    return Unavailable(
        "ollama_failed", f"Ollama could not do it for {name}.", f"`ollama pull {name}` on its machine says why.",
        None, AGAIN_SECONDS,
    )  # fmt: skip


def refused(refusal: Refusal, name: str) -> ModelyardError:
    """The error that a status other than 200 stands for."""
    try:
        said = str(json.loads(refusal.body)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        said = ""
    if refusal.status == HTTPStatus.NOT_FOUND and not said:
        return malformed("it does not know a path that every Ollama knows")
    if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not said:
        return interrupted()
    return meaning(said or f"status {refusal.status}", name)


def interrupted() -> Unavailable:
    """It went away in the middle."""
    return Unavailable(
        "ollama_interrupted",
        "Ollama ended the connection before it was done; it may be starting again.",
        "It goes on by itself from where it was.",
        None,
        AGAIN_SECONDS,
    )


def malformed(reason: str) -> Failed:
    """What answers there is no Ollama, or none that we know."""
    return Failed(
        "protocol_error",
        f"What answers at OLLAMA_HOST does not speak as Ollama does: {reason}.",
        "Check OLLAMA_HOST: it must name an Ollama server.",
    )


def invalid_manifest(reason: str) -> Failed:
    """It names what no manifest may."""
    return Failed(
        "source_invalid_manifest",
        f"Ollama's manifest of this model cannot be trusted: {reason}.",
        "Take another model or tag, and report this one to Ollama.",
    )


def model_gone(name: str, model_id: str) -> Conflict:
    """Somebody has deleted it in Ollama."""
    return Conflict(
        "model_gone", f"Ollama does not have {name} any more.", f"Bring it again: modelyard pull {model_id}."
    )
