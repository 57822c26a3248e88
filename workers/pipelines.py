"""What a diffusers folder says about itself: which of its weights are loaded, and how large its images are."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_WEIGHTS = re.compile(
    r"(?P<part>[^/]+)/(?:diffusion_pytorch_model|model)(?:-\d{5}-of-\d{5})?(?:\.(?P<variant>\w+))?(?:-\d{5}-of-\d{5})?"
    r"\.safetensors"
)
_IN_16_BITS = ("fp16", "bf16")
_DENOISERS = ("unet", "transformer")
MOTION = "motion_adapter"
LATENT_SCALE = 8
"""Pixels to one number of a latent, each way, where the decoder does not say; all common families have this."""


def parts(index: Mapping[str, Any]) -> set[str]:
    """The folders that a `model_index.json` names: each part is a library and a class, or two nulls."""
    named = {name: value for name, value in index.items() if isinstance(value, list) and not name.startswith("_")}
    return {name for name, value in named.items() if value[:1] not in ([], [None])}


def variant(names: Iterable[str], wanted: set[str]) -> str | None:
    """Which edition of the weights is loaded: the one in 16 bits where all parts have it, else the one without a name,
    which is None here, or another where a part comes in no other.

    Args:
        names: of the model's files.
        wanted: the parts.
    """
    found = _editions(names, wanted)
    for edition in (*_IN_16_BITS, None):
        if found and all(edition in editions for editions in found.values()):
            return edition
    others = sorted({each for editions in found.values() for each in editions if each is not None})
    return next((each for each in others if all(editions & {None, each} for editions in found.values())), None)


def weights(names: Iterable[str], wanted: set[str]) -> list[str]:
    """The files that are loaded: of each part that edition, or where it has none of it the one without a name."""
    names = sorted(names)
    chosen, found = variant(names, wanted), _editions(names, wanted)
    return [
        name for name in names
        if (match := _WEIGHTS.fullmatch(name)) and match["part"] in found
        and match["variant"] == (chosen if chosen in found[match["part"]] else None)
    ]  # fmt: skip


def image_size(config: Callable[[str], Mapping[str, Any] | None]) -> int | None:
    """Pixels of the side of an image that it was made for; None where it does not tell.

    Args:
        config: the settings of a part.
    """
    told = next((found for part in _DENOISERS if (found := config(part))), {})
    size = told.get("sample_size")
    size = max((each for each in size if type(each) is int), default=None) if isinstance(size, list) else size
    blocks = (config("vae") or {}).get("block_out_channels")
    scale = 2 ** (len(blocks) - 1) if isinstance(blocks, list) and 0 < len(blocks) < LATENT_SCALE else LATENT_SCALE
    return size * scale if type(size) is int and size > 0 else None


def frames(config: Callable[[str], Mapping[str, Any] | None]) -> int | None:
    """The most frames that its motion was made for; None where it has none, or does not tell.

    Args:
        config: the settings of a part.
    """
    told = (config(MOTION) or {}).get("motion_max_seq_length")
    return told if type(told) is int and told > 0 else None


def _editions(names: Iterable[str], wanted: set[str]) -> dict[str, set[str | None]]:
    found: dict[str, set[str | None]] = {}
    for match in map(_WEIGHTS.fullmatch, names):
        if match and match["part"] in wanted:
            found.setdefault(match["part"], set()).add(match["variant"])
    return found
