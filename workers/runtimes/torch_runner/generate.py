"""The model itself: loading it, and generating from it one request at a time, in the order they came."""

import contextlib
import gc
import os
import queue
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn, cast

import psutil

from workers.devices.base import CPU_ID
from workers.runtimes.torch_runner.request import Generation, Options, Outcome, Prompt, Refused
from workers.runtimes.torch_runner.text import Detokenizer, StopStrings

MAX_QUEUED = 64
GREEDY_BELOW = 1e-3
"""Temperatures under this would overflow half precision; the limit they approach is greedy."""


def libraries_are_there() -> None:
    """From now on garbage is looked for, where it was not until now, and never among them."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


class Engine:
    """One loaded model and the thread that generates from it.

    Args:
        folder: transformers layout.
        device: `cpu`, or anything else for the one GPU that this process sees.
        context_length: most tokens of prompt and completion together.
        pickle: its weights are in torch's pickles, which are read as tensors and nothing else; else in safetensors.
        remote_code: it may import the Python files of the model.
        keep_weights: they stay in host memory, so that it can sleep.
        piece_by_piece: they are not read into host memory all at once.
        precision: of its numbers, as torch names it; None: as in its files.
    """

    def __init__(
        self, folder: Path, device: str, context_length: int, *, pickle: bool = False, remote_code: bool = False,
        keep_weights: bool = False, piece_by_piece: bool = False, precision: str | None = None,
    ) -> None:  # fmt: skip
        self._folder = folder
        self._device = "cpu" if device == CPU_ID else "cuda"
        self._context_length = context_length
        self._pickle = pickle
        self._remote_code = remote_code
        self._keep_weights = keep_weights
        self._piece_by_piece = piece_by_piece or precision is not None  # else the full ones would be there beside
        self._precision = precision
        self._working = threading.Lock()
        """Held while something is done with the model."""
        self._asleep = False
        self._queue: queue.Queue[Generation] = queue.Queue(MAX_QUEUED)
        self._model: Any = None
        self._weights: Any = None
        self._tokenizer: Any = None
        self._closing = threading.Event()
        self._memory_before: int | None = None
        self._weight_bytes = sum(file.stat().st_size for file in folder.glob("*.bin" if pickle else "*.safetensors"))
        self.ready = threading.Event()

    def run(self) -> None:
        """Load, then generate for ever; the body of a daemon thread. Ends the process where loading fails."""
        try:
            self._load()
        except Exception as error:  # noqa: BLE001 - whatever it is, the process ends with it
            _give_up(error)
        self.ready.set()
        while True:
            generation = self._queue.get()
            try:
                with self._working:
                    self._check_awake()
                    if not generation.cancelled.is_set():
                        generation.deliver(self._answer(generation))
            except Exception as error:  # noqa: BLE001 - it belongs to the request, which hears of it
                generation.deliver(self._recover(error))

    def submit(self, generation: Generation) -> None:
        """Queue a request.

        Raises:
            Refused: 503, the queue is full, or the runner is stopping or sleeps.
        """
        if self._closing.is_set():
            raise Refused(503, "stopping", "This runner is stopping.")
        self._check_awake()
        try:
            self._queue.put_nowait(generation)
        except queue.Full:
            raise Refused(503, "busy", f"{MAX_QUEUED} requests are waiting already.") from None

    @property
    def asleep(self) -> bool:
        return self._asleep

    def sleep(self) -> None:
        """Hold no memory but that of the weights on the host, and answer nothing until `wake`. Again: does nothing.

        Raises:
            Refused: 409, a request is under way, or the weights are not kept on the host.
        """
        if self._weights is None:
            raise Refused(409, "cannot_sleep", "This runner does not keep its weights in host memory.")
        if self.waiting or not self._working.acquire(blocking=False):
            raise Refused(409, "busy", "A request is under way.")
        try:
            self._asleep = True
            self._weights.drop()
        finally:
            self._working.release()

    def wake(self) -> None:
        """Be as before the sleep. Again: does nothing."""
        with self._working:
            if self._asleep:
                self._weights.to(self._device)
                self._asleep = False

    def _check_awake(self) -> None:
        """Raises: Refused: 503."""
        if self._asleep:
            raise Refused(503, "asleep", "The model sleeps.")

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return self._queue.qsize()

    def progress(self) -> float:
        """Share of the weights that is in memory, 0 to 1: measured, so it may end a little under 1 until ready."""
        if self.ready.is_set():
            return 1.0
        if self._memory_before is None:
            return 0.0
        return max(0.0, min(0.99, (self._memory() - self._memory_before) / max(1, self._weight_bytes)))

    def close(self) -> None:
        """End the running generation at its next token, and take no more. May be called from a signal handler."""
        self._closing.set()

    def _load(self) -> None:
        from transformers import AutoTokenizer

        from workers.runtimes.torch_runner.loading import load_model

        self._check_device()
        self._tokenizer = AutoTokenizer.from_pretrained(
            self._folder, local_files_only=True, trust_remote_code=self._remote_code
        )
        libraries_are_there()
        self._memory_before = self._memory()
        self._model, self._weights = load_model(
            self._auto_class(), self._folder, self._device, pickle=self._pickle, remote_code=self._remote_code,
            keep_weights=self._keep_weights, piece_by_piece=self._piece_by_piece, precision=self._precision,
        )  # fmt: skip
        longest = getattr(self._model.config, "max_position_embeddings", None) or self._context_length
        self._context_length = min(self._context_length, longest)

    def _check_device(self) -> None:
        import torch

        if self._device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU here")

    def _auto_class(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def _memory(self) -> int:
        """Bytes in use where the weights go first: a GPU gets them from the host's memory."""
        return int(psutil.Process().memory_info().rss)

    def _answer(self, generation: Generation) -> Outcome:
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        from workers.runtimes.torch_runner.chat import render
        from workers.runtimes.torch_runner.watch import Finite, Watch

        started = time.monotonic()
        options = generation.options
        text, special = render(cast("Prompt", generation.prompt), self._tokenizer, options.thinking)
        ids = self._tokenizer(text, return_tensors="pt", add_special_tokens=special).input_ids.to(self._device)
        size = int(ids.shape[1])
        room = self._context_length - size
        if size < 1:
            raise Refused(400, "empty_prompt", "The prompt holds no token.")
        if room < 1:
            message = f"The prompt has {size} tokens; prompt and completion may have {self._context_length} together."
            raise Refused(400, "context_length_exceeded", message)
        watch = Watch(
            Detokenizer(lambda ids: str(self._tokenizer.decode(ids, skip_special_tokens=True))),
            StopStrings(options.stop),
            generation.deliver,
            lambda: self._closing.is_set() or generation.cancelled.is_set(),
        )
        if options.seed is not None:
            torch.manual_seed(options.seed)
        with torch.inference_mode():
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=min(options.max_tokens or room, room),
                stopping_criteria=StoppingCriteriaList([watch]),
                logits_processor=LogitsProcessorList([Finite()] if options.check_numbers else []),
                **self._sampling(options),
            )
        watch.flush()
        stopped = watch.stopped or watch.last in self._end_tokens()
        return Outcome("stop" if stopped else "length", size, watch.count, time.monotonic() - started)

    def _sampling(self, options: Options) -> dict[str, Any]:
        end = sorted(self._end_tokens())
        values: dict[str, Any] = {"pad_token_id": end[0]} if end else {}
        if options.repeat_penalty is not None:
            values |= {"repetition_penalty": options.repeat_penalty}
        if options.temperature is not None and options.temperature < GREEDY_BELOW:
            return values | {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
        if options.temperature is not None:
            values |= {"do_sample": True, "temperature": options.temperature}
        if options.top_p is not None:
            values |= {"do_sample": True, "top_p": options.top_p}
        if options.top_k is not None:
            values |= {"top_k": options.top_k}
        if options.min_p is not None:
            values |= {"min_p": options.min_p}
        return values

    def _end_tokens(self) -> set[int]:
        end = self._model.generation_config.eos_token_id
        return set(end) if isinstance(end, list) else {end} - {None}

    def _recover(self, error: Exception) -> Exception:
        """What to tell the client. A GPU that ran out of memory goes on; one in a broken state can only be left
        behind, with this process."""
        import torch

        if isinstance(error, torch.AcceleratorError):
            _give_up(error)
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return Refused(507, "out_of_memory", "The device has no memory left for this request.")
        if not isinstance(error, Refused):
            _report(error)
        return error


def _report(error: Exception) -> None:
    """To stderr, the reason being the last line."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    with contextlib.suppress(OSError):
        traceback.print_exception(error, file=sys.stderr)
        sys.stderr.write(f"{type(error).__name__}: {lines[0]}\n")
        sys.stderr.flush()


def _give_up(error: Exception) -> NoReturn:
    """End the whole process at once."""
    _report(error)
    os._exit(1)
