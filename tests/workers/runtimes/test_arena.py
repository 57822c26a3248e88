"""Weights read into one buffer, whatever their types, their order and the files that they lie in."""

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from shared.errors import Corrupt
from tests.factories.malformed import safetensors, tensor
from workers.runtimes.torch_runner import reading
from workers.runtimes.torch_runner.arena import DTYPES, Arena
from workers.runtimes.torch_runner.config import weight_files
from workers.runtimes.torch_runner.reading import BLOCK_BYTES, PAGE

MIB = 1024**2


def numbers(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Any bytes that are numbers of that type."""
    size = torch.empty(shape, dtype=dtype, device="meta").nbytes
    raw = torch.randint(0, 2, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    return raw.view(dtype).view(shape)


def same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Bit by bit: some of these numbers are equal to nothing."""
    raw = [each.contiguous().view(-1).view(torch.uint8) for each in (found, wanted)]
    return (found.dtype, found.shape) == (wanted.dtype, wanted.shape) and torch.equal(*raw)


def saved(folder: Path, **files: dict[str, torch.Tensor]) -> list[Path]:
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    return [folder / f"{name}.safetensors" for name in files]


def out_of_the_page_cache(files: list[Path]) -> None:
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_type_of_torch(tmp_path: Path, dtype: torch.dtype) -> None:
    made = {"a": numbers(dtype, 3, 5), "scalar": numbers(dtype), "none": numbers(dtype, 0, 4), "b": numbers(dtype, 7)}
    found = Arena().load(saved(tmp_path, model=made))
    assert found.keys() == made.keys()
    assert all(same(found[name], made[name]) for name in made)
    assert all(each.data_ptr() % dtype.itemsize == 0 for each in found.values())


@pytest.mark.parametrize("before", [lambda _: None, out_of_the_page_cache], ids=["warm", "cold"])
def test_shards_of_many_blocks(tmp_path: Path, before: Callable[[list[Path]], None]) -> None:
    """Sizes that end neither with a block nor with a page."""
    made = {
        shard: {f"{shard}.{at}": numbers(torch.uint8, BLOCK_BYTES + 4099 * at + 1) for at in range(3)}
        for shard in ("x", "y")
    }
    files = saved(tmp_path, **made)
    before(files)
    found = Arena().load(files)
    assert all(same(found[name], wanted) for shard in made.values() for name, wanted in shard.items())
    assert len(found) == 6


def test_the_memory_is_used_again_and_grows(tmp_path: Path) -> None:
    small, large = saved(tmp_path, small={"a": numbers(torch.float32, 10)}, large={"b": numbers(torch.int8, MIB)})
    arena = Arena()
    first = arena.load([small])["a"].data_ptr()
    assert arena.load([small])["a"].data_ptr() == first
    assert same(arena.load([large])["b"], numbers(torch.int8, MIB))
    place = arena.load([large])["b"].data_ptr() // PAGE
    assert arena.load([small])["a"].data_ptr() // PAGE == place


def test_what_is_not_kept_is_given_back(tmp_path: Path) -> None:
    made = {name: numbers(torch.uint8, 32 * MIB + odd) for odd, name in enumerate("abc")}
    arena = Arena()
    found = arena.load(saved(tmp_path, model=made))
    before = psutil.Process().memory_info().rss
    arena.keep([found["b"]])
    assert psutil.Process().memory_info().rss < before - 60 * MIB
    assert same(found["b"], made["b"])
    assert all(same(again, made[name]) for name, again in arena.load([tmp_path / "model.safetensors"]).items())


@pytest.mark.parametrize(
    "data",
    [
        safetensors({"a": tensor()}, bytes(15)),
        safetensors({"a": tensor()}, bytes(17)),
        safetensors({"a": tensor("F4", [4], [0, 2])}, bytes(2)),
        b"",
    ],
    ids=["truncated", "longer", "of a type that torch does not have", "empty"],
)
def test_bad_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(Corrupt) as caught:
        Arena().load([tmp_path / "file"])
    assert caught.value.code == "invalid_format"


@pytest.mark.parametrize("before", [lambda _: None, out_of_the_page_cache], ids=["warm", "cold"])
def test_a_file_cut_short_while_it_is_read_is_refused(tmp_path: Path, before: Callable[[list[Path]], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB))
    before([path])
    with path.open("rb") as opened:
        file = reading._File(opened.fileno(), torch.empty(MIB, dtype=torch.uint8))
        os.truncate(path, MIB - PAGE)
        with pytest.raises(Corrupt):
            file.read(0)
        file.close()


def test_a_tensor_that_lies_askew_is_a_copy(tmp_path: Path) -> None:
    """Of which torch could make no view."""
    header = {"a": tensor("U8", [3], [0, 3]), "b": tensor("F32", [2], [3, 11])}
    wanted = numbers(torch.float32, 2)
    (tmp_path / "file").write_bytes(safetensors(header, bytes(3) + wanted.numpy().tobytes()))
    assert same(Arena().load([tmp_path / "file"])["b"], wanted)


@pytest.mark.parametrize("last", [False, True], ids=["none", "the last"])
def test_memory_that_cannot_be_locked_leaves_no_error_behind(monkeypatch: pytest.MonkeyPatch, last: bool) -> None:
    """Else the next kernel would raise it, whoever starts that."""
    refusal, registered, raised = 2, [], []

    class Cudart:
        error = 0

        def cudaHostRegister(self, place: int, *_: int) -> int:  # noqa: N802 # CUDA's name
            if last and not registered:
                registered.append(place)
                return 0
            self.error = refusal
            return refusal

        def cudaHostUnregister(self, place: int) -> int:  # noqa: N802 # CUDA's name
            registered.remove(place)
            return 0

    cudart = Cudart()

    def kernel(*_: object, **__: object) -> None:
        error, cudart.error = cudart.error, 0
        if error:
            raised.append(error)
            message = "CUDA error: out of memory"
            raise RuntimeError(message)

    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    monkeypatch.setattr(torch, "ones", kernel)
    arena = Arena()
    arena._used = [(0, PAGE), (0, PAGE)]
    assert not arena.pin()
    assert (cudart.error, registered, raised) == (0, [], [refusal])


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        ({"model.safetensors": "", "model-1.safetensors": ""}, ["model.safetensors"]),
        ({"model.safetensors.index.json": '{"weight_map": {"a": "y", "b": "x", "c": "y"}}'}, ["x", "y"]),
        ({"model.safetensors.index.json": '{"weight_map": {"a": "../x"}}'}, []),
        ({"model.safetensors.index.json": '{"weight_map": 7}'}, []),
        ({"consolidated.safetensors": ""}, []),
    ],
)
def test_which_files_are_loaded(tmp_path: Path, files: dict[str, str], chosen: list[str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert [file.relative_to(tmp_path).name for file in weight_files(tmp_path)] == chosen
