"""The weights of a model in one buffer of host memory, from which a model is made without a second copy."""

import mmap
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from shared.errors import Corrupt
from workers.headers import Tensor, read_safetensors
from workers.runtimes.torch_runner.reading import PAGE, read

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip


class Arena:
    """Memory for the files of one model at a time; made with the first, and anew only for larger ones.

    Each file lies there as it is, from the start of a page on, so that a disk writes right into it. The pages are huge
    where the system has such: fewer are sooner made.
    """

    def __init__(self) -> None:
        self._memory = _memory(PAGE)
        self._bytes = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._used = [(0, PAGE)]
        self._pinned: list[int] = []

    def load(self, files: Sequence[Path]) -> dict[str, torch.Tensor]:
        """The tensors of these files by their names, as views of this memory; of the same name the last one.

        One that does not lie in its file as its type has to lie in memory is a copy.

        Raises:
            Corrupt: code `invalid_format`; a file is not what its header says.
            OSError: the disk refuses.
        """
        with ExitStack() as stack:
            handles = [_open(file, stack) for file in files]
            found = [_tensors(handle) for handle in handles]
            sizes = [-(-os.fstat(handle).st_size // PAGE) * PAGE for handle in handles]
            if sum(sizes) > self._bytes.numel():
                self._memory = _memory(sum(sizes))
                self._bytes = torch.frombuffer(self._memory, dtype=torch.uint8)
                self._used = [(0, self._bytes.numel())]
            places = torch.split(self._bytes[: sum(sizes)], sizes)
            read(list(zip(handles, places, strict=True)))
        return {
            name: _view(memory, tensor)
            for memory, tensors in zip(places, found, strict=True)
            for name, tensor in tensors.items()
        }

    def keep(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give all pages back in which none of these has a byte: what a model does not use, or has made another of."""
        first, size = self._bytes.data_ptr(), self._bytes.numel()
        places = [(tensor.data_ptr() - first, tensor.nbytes) for tensor in tensors]
        self._used = _pages(sorted(place for place in places if 0 <= place[0] < size and place[1]))
        ends, starts = [0, *(end for _, end in self._used)], [*(start for start, _ in self._used), size]
        for end, start in zip(ends, starts, strict=True):
            if start > end:
                self._memory.madvise(mmap.MADV_DONTNEED, end, start - end)

    def pin(self) -> bool:
        """Lock it for the GPU, which then copies from it as fast as its bus is; False where the system forbids that."""
        first = self._bytes.data_ptr()
        for start, end in self._used:
            if int(_cudart().cudaHostRegister(first + start, end - start, 0)):
                self.unpin()
                _forget_error()
                return False
            self._pinned.append(first + start)
        return True

    def unpin(self) -> None:
        """The GPU forgets it, so that it can be given back."""
        while self._pinned:
            _cudart().cudaHostUnregister(self._pinned.pop())


def _cudart() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call] # torch gives it no types


def _forget_error() -> None:
    """CUDA keeps the error of a call for whoever asks for the last one, as torch does after each kernel that it starts;
    its bindings have no other way to ask. So one is started that nobody needs, and the error ends with it."""
    with suppress(RuntimeError):
        torch.ones(1, device="cuda")


def _memory(size: int) -> mmap.mmap:
    made = mmap.mmap(-1, -(-size // PAGE) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        made.madvise(mmap.MADV_HUGEPAGE)
    return made


def _open(file: Path, stack: ExitStack) -> int:
    handle = os.open(file, os.O_RDONLY)  # links are followed: the Hub's own cache is made of them
    stack.callback(os.close, handle)
    return handle


def _tensors(handle: int) -> dict[str, Tensor]:
    """Raises: Corrupt: see `Arena.load`."""
    tensors = read_safetensors(partial(os.dup, handle)).tensors
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            message = f"Tensor {name!r} is of the type {tensor.dtype}, which torch does not have."
            raise Corrupt("invalid_format", message, "Choose another variant of the model.")
    return tensors


def _view(memory: torch.Tensor, tensor: Tensor) -> torch.Tensor:
    raw, dtype = memory[tensor.begin : tensor.begin + tensor.nbytes], DTYPES[tensor.dtype]
    if tensor.begin % dtype.itemsize:
        raw = raw.clone()
    return raw.view(dtype).view(tensor.shape)


def _pages(places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where the pages begin and end in which these lie, given by begin and size and in order; neighbours joined."""
    found: list[tuple[int, int]] = []
    for begin, size in places:
        start, end = begin // PAGE * PAGE, -(-(begin + size) // PAGE) * PAGE
        if found and start <= found[-1][1]:
            start = found.pop()[0]
        found.append((start, end))
    return found
