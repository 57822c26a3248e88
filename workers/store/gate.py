"""The trust gate: what of a model's files and settings could run code. Content decides, not the names of files.

Nothing here opens more of a file than its first bytes, its header, or the directory at the end of a zip.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from shared.trust import Trust
from workers.formats import CODE, LOADABLE, PICKLES, TORCH
from workers.headers import Content, GgufHeader, check_torch_zip, read_gguf, read_safetensors, sniff
from workers.headers.plain import Openable

WEIGHT_NAMES = (*LOADABLE, *PICKLES)
_TEXT_NAMES = (".txt", ".json", ".jsonl", ".md", ".yaml", ".yml", ".model", ".jinja", ".tiktoken", ".vocab", ".csv")

_REMOTE_KEYS = frozenset(
    (
        *("auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines", "custom_generate"),
        "_attn_implementation_internal",
    )
)
_KERNEL_KEYS = frozenset({"attn_implementation", "_attn_implementation"})


class Refused(Exception):
    """A file that is not what may be loaded."""

    def __init__(self, code: str, message: str, /) -> None:
        super().__init__(message)
        self.code = code


def examine(name: str, file: Openable, trust: Trust) -> tuple[bool, GgufHeader | None]:
    """Does it hold weights, and its header if it is GGUF.

    Raises:
        Corrupt: its header is wrong.
        Refused: it is something else than weights, under a name of weights or dangerous under any.
    """
    content = sniff(file)
    if _named(name, *CODE) and not trust.remote_code:
        raise Refused("remote_code_required", "it is code that comes with the model, and it is never run.")
    if content is Content.PICKLE or (content is Content.ARCHIVE and _named(name, *WEIGHT_NAMES, *_TEXT_NAMES)):
        return _pickled(name, file, content, trust), None
    wrong = (_named(name, ".safetensors") and content is Content.GGUF) or (
        _named(name, ".gguf") and content is Content.SAFETENSORS
    )
    if wrong or (content in (Content.PAGE, Content.POINTER) and _named(name, *WEIGHT_NAMES)):
        raise Refused("content_mismatch", f"it is {content.value}.")
    if content is Content.GGUF or _named(name, ".gguf"):
        return True, read_gguf(file)
    if content is Content.SAFETENSORS or _named(name, ".safetensors"):
        read_safetensors(file)
        return True, None
    if _named(name, *PICKLES) and content is not Content.ARRAY:
        raise Refused("unsafe_format", "its name is that of a pickle, and it holds neither safetensors nor GGUF.")
    return False, None


def remote_keys(config: Any) -> list[str]:
    """Keys, at any depth, that make a library fetch or run code of the model's own; sorted."""
    return sorted(set(_remote_keys(config)))


def is_real_config(name: str) -> bool:
    """Could a library read settings from it? Vocabularies and indexes hold data."""
    last = name.lower().rpartition("/")[2]
    return last.endswith(".json") and not last.endswith(".index.json") and last not in ("tokenizer.json", "vocab.json")


def twin_of(name: str, names: Iterable[str]) -> str | None:
    """The safetensors file that holds what a pickle holds, where there is one beside it."""
    folder, _, last = name.rpartition("/")
    stem = last.rsplit(".", 1)[0].replace("pytorch_model", "model")
    wanted = {f"{stem}.safetensors", f"{last.rsplit('.', 1)[0]}.safetensors"}
    beside = (other for other in names if other.rpartition("/")[0] == folder)
    return next((other for other in sorted(beside) if other.rpartition("/")[2] in wanted), None)


def without_idle(refused: Mapping[str, Refused], safe: Iterable[str]) -> dict[str, Refused]:
    """Refusals that matter to a load: no runner of ours opens a pickle or a code file where weights in a safe format
    lie beside it."""
    covered = {name.rpartition("/")[0] for name in safe}
    idle = (*PICKLES, *CODE)
    return {
        name: why for name, why in refused.items() if not (_named(name, *idle) and name.rpartition("/")[0] in covered)
    }


def _pickled(name: str, file: Openable, content: Content, trust: Trust) -> bool:
    """True where it may be loaded all the same.

    Raises:
        Refused: see `examine`.
        Corrupt: it is a zip that no torch wrote.
    """
    if not trust.pickle or not _named(name, *TORCH):
        raise Refused("unsafe_format", f"it is {content.value}; loading it could run code that came with it.")
    check_torch_zip(file)
    return True


def _remote_keys(value: Any) -> Iterable[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            yield from (key for key in _REMOTE_KEYS & value.keys() if value[key])
            if isinstance(value.get("_class_name"), list):
                yield "_class_name"
            # a slash makes these the name of a repository with compiled code
            yield from (key for key in _KERNEL_KEYS & value.keys() if "/" in str(value[key]))
            # in a pipeline's index, `[library, class]`: a library with a slash is a file or a repository
            yield from (key for key, part in value.items() if _is_foreign_part(part))


def _is_foreign_part(part: Any) -> bool:
    pair = isinstance(part, list) and len(part) == 2 and all(isinstance(one, str) for one in part)  # noqa: PLR2004 - a pair
    return pair and part[1].isidentifier() and ("/" in part[0] or "--" in part[0] or part[0].endswith(".py"))


def _named(name: str, *endings: str) -> bool:
    return name.lower().endswith(endings)
