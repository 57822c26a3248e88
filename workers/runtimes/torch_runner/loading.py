"""Making a model of its folder: of an arena where its weights are plain safetensors, else by transformers alone."""

import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from workers.runtimes.torch_runner.arena import Arena
from workers.runtimes.torch_runner.config import weight_files


class Weights:
    """The numbers of a model in host memory, which its device has a copy of; on a CPU they are the ones it works with.

    Nothing is ever copied back: no inference changes them.
    """

    def __init__(self, model: Any) -> None:
        self._kept = [(tensor, tensor.data) for tensor in (*model.parameters(), *model.buffers())]

    def to(self, device: str) -> None:
        """Have the model work with a copy on the device."""
        for tensor, kept in self._kept:
            tensor.data = kept.to(device, non_blocking=True)
        if device == "cuda":
            torch.cuda.synchronize()

    def drop(self) -> None:
        """Have it hold no memory but the host's, and give back what was used for requests."""
        for tensor, kept in self._kept:
            tensor.data = kept
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        ctypes.CDLL(None).malloc_trim(0)


def load_model(
    auto: Any,
    folder: Path,
    device: str,
    *,
    pickle: bool,
    remote_code: bool,
    keep_weights: bool,
    piece_by_piece: bool = False,
    precision: str | None = None,
) -> tuple[Any, Weights | None]:
    """A model on the device, and its weights where they stay in host memory.

    Args:
        auto: the class of transformers that finds the model's own.
        device: `cpu` or `cuda`.
        pickle, remote_code, keep_weights, piece_by_piece, precision: as `Engine` has them.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=remote_code)
    files = weight_files(folder)
    if piece_by_piece or pickle or not files or not _plain(config, remote_code=remote_code):
        model = auto.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=not pickle,
            weights_only=True,
            trust_remote_code=remote_code,
            dtype=getattr(torch, precision) if precision else "auto",
            device_map=device if device == "cuda" else None,
        )
        return model.eval(), None
    arena = Arena()
    tensors = arena.load(files)
    with torch.device("meta"):
        shape = auto.from_config(config)  # of no numbers: it tells the class that is to be made
    if not isinstance(shape.config, type(config)):  # what reads images too, of which this is the part for texts
        config = config.get_text_config()
    model = type(shape).from_pretrained(
        None, config=config, state_dict=tensors, dtype="auto", generation_config=_generation_config(folder)
    )
    del tensors
    arena.keep([*model.parameters(), *model.buffers()])
    if device == "cuda" and not arena.pin():
        sys.stderr.write("this system lets nobody lock memory for the GPU: loads and wakes are slower\n")
    weights = Weights(model)
    weights.to(device)
    if keep_weights:
        return model.eval(), weights
    if device == "cuda":
        arena.unpin()
    return model.eval(), None


def _plain(config: Any, *, remote_code: bool) -> bool:
    """Is the model made of the tensors in its files and nothing else?"""
    own_code = remote_code and bool(getattr(config, "auto_map", None))
    elsewhere = getattr(config, "transformers_weights", None) or type(config).extra_files
    return not own_code and not elsewhere and getattr(config, "quantization_config", None) is None


def _generation_config(folder: Path) -> GenerationConfig:
    """As transformers finds it: in a file of its own, else what older models say of it in `config.json`."""
    try:
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:
        return GenerationConfig.from_pretrained(
            folder, config_file_name="config.json", local_files_only=True, _from_model_config=True
        )
