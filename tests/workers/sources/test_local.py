"""What lies in folders of the user's: found by names, reached without a link, and never left."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from shared.errors import Cancelled
from tests.factories.folders import SNAPSHOT, diffusers, gguf, hub_cache, safetensors, transformers, write
from workers.sources import beneath as module
from workers.sources import local
from workers.sources.beneath import Beneath


def look(
    root: Path, below: str = ".", checkpoint: Callable[[], None] = lambda: None
) -> tuple[list[str], dict[str, str]]:
    """Paths of models and of what was skipped (with the reason), relative to the root."""
    with Beneath(str(root), checkpoint) as beneath:
        found = [os.path.relpath(each.path, root) for each in local.models(beneath, below)]
        return found, {os.path.relpath(path, root): reason for path, reason in beneath.skipped}


def test_every_form_of_model_is_found(tmp_path: Path) -> None:
    write(tmp_path / "one.gguf", gguf())
    for number in (1, 2):
        write(tmp_path / "deep" / "er" / f"big-{number:05}-of-00002.gguf", gguf(split=(number - 1, 2)))
    transformers(tmp_path / "llama")
    diffusers(tmp_path / "sdxl")
    write(tmp_path / "loras" / "style.safetensors", safetensors((2, 2)))
    write(tmp_path / "adapter" / "adapter_config.json", {"base_model_name_or_path": "acme/base"})
    write(tmp_path / "adapter" / "adapter_model.safetensors", safetensors((2, 2)))
    write(tmp_path / "llama" / "pytorch_model.bin", b"\x80\x04.")
    write(tmp_path / "notes.txt", b"none")
    write(tmp_path / ".trash" / "hidden.gguf", gguf())
    found, skipped = look(tmp_path)
    assert found == [
        "one.gguf",
        "adapter",
        "deep/er/big-00001-of-00002.gguf",
        "llama",
        "loras/style.safetensors",
        "sdxl",
    ]
    assert skipped == {}
    with Beneath(str(tmp_path), lambda: None) as beneath:
        files = {each.name: [file.name for file in each.files] for each in local.models(beneath)}
    assert files["llama"] == ["config.json", "model.safetensors", "tokenizer.json"], "the pickle is left alone"
    assert files["sdxl"] == ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"]
    assert files["big"] == ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"]


def test_one_file_or_one_folder_can_be_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", gguf())
    write(tmp_path / "b" / "c.gguf", gguf())
    assert look(tmp_path, "a.gguf")[0] == ["a.gguf"]
    assert look(tmp_path, "b")[0] == ["b/c.gguf"]
    with pytest.raises(FileNotFoundError):
        look(tmp_path, "d")


def test_a_projector_and_a_store_of_ours_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "mmproj-tiny.gguf", gguf())
    write(tmp_path / "store" / ".modelyard-store", b"{}")
    write(tmp_path / "store" / "models" / "llm" / "x" / "r" / "x.gguf", gguf())
    found, skipped = look(tmp_path)
    assert found == []
    assert set(skipped) == {"mmproj-tiny.gguf", "store"}


@pytest.mark.fault("A-43")
def test_the_hubs_own_cache_is_understood(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    (snapshot / "onnx").mkdir()
    (snapshot / "onnx" / "config.json").symlink_to(f"../{(snapshot / 'config.json').readlink()}")
    with Beneath(str(tmp_path), lambda: None) as beneath:
        (found,) = local.models(beneath)
        read = {file.name: Path(f"/proc/self/fd/{(handle := file.open())}").read_bytes() for file in found.files}
        os.close(handle)
        assert beneath.skipped == []
    assert found.name == "Acorn-1B"
    assert found.path == str(tmp_path / "models--acme--Acorn-1B" / "snapshots" / SNAPSHOT)
    assert read["config.json"] == (snapshot / "config.json").read_bytes()
    assert read["onnx/config.json"] == read["config.json"]


@pytest.mark.fault("A-24")
def test_nothing_but_plain_files_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, outside = tmp_path / "root", write(tmp_path / "outside" / "secret.gguf", gguf())
    write(root / "real.gguf", gguf())
    links = {
        "shadow.gguf": "/etc/shadow", "zero.gguf": "/dev/zero", "loop.gguf": "loop.gguf", "up": "..", "self": ".",
        "away": str(outside.parent), "inside.gguf": "real.gguf", "dangling.gguf": "nothing",
    }  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.gguf")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(root / "socket.gguf"))
    opened: list[str] = []
    real = os.open

    def watched(path: str, *args: int, **more: int) -> int:
        opened.append(str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(module.os, "open", watched)
    found, skipped = look(root)
    server.close()
    assert found == ["real.gguf"]
    assert skipped == dict.fromkeys(links, "it is a link") | dict.fromkeys(
        ("pipe.gguf", "socket.gguf"), "it is a pipe, a socket or a device"
    )
    assert opened == [str(root)]


@pytest.mark.fault("A-24")
@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd", "../../../outside", "../../blobs/../../../x", "../../blobs/passwd", "../blobs/" + "a" * 40,
        "../../../blobs/" + "a" * 40, "../../blobs/" + "a" * 40 + "/x", "../../blobs/" + "A" * 40,
    ],
)  # fmt: skip
def test_a_link_that_only_looks_like_the_hubs_is_not_followed(tmp_path: Path, target: str) -> None:
    snapshot = hub_cache(tmp_path)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(target)
    found, skipped = look(tmp_path)
    assert found == []
    assert list(skipped.values()) == ["it is a link"]


@pytest.mark.fault("A-24")
def test_a_blob_that_is_a_link_itself_is_not_followed(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    blob = (snapshot / "model.safetensors").resolve()
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    assert look(tmp_path) == (
        [],
        {os.path.relpath(snapshot / "model.safetensors", tmp_path): "its blob is no plain file"},
    )


@pytest.mark.fault("A-24")
def test_what_lies_ten_thousand_deep_is_not_walked(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_DIRECTORY)
    for _ in range(10_000):
        os.mkdir("d", dir_fd=here)
        here, old = os.open("d", os.O_DIRECTORY, dir_fd=here), here
        os.close(old)
    os.close(here)
    began = time.monotonic()
    found, skipped = look(tmp_path)
    assert found == []
    assert list(skipped.values()) == [f"what is in it lies more than {local.MAX_DEPTH} folders deep"]
    assert time.monotonic() - began < 5
    _unmake(tmp_path)


def _unmake(root: Path) -> None:
    """What is that deep cannot be removed by its path, pytest's own way: the chain is shortened from above."""
    handle = os.open(root, os.O_DIRECTORY)
    with suppress(FileNotFoundError):
        while True:
            os.rename("d/d", "e", src_dir_fd=handle, dst_dir_fd=handle)
            os.rmdir("d", dir_fd=handle)
            os.rename("e", "d", src_dir_fd=handle, dst_dir_fd=handle)
    os.rmdir("d", dir_fd=handle)
    os.close(handle)


def test_a_crowded_folder_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 10)
    for number in range(30):
        write(tmp_path / f"{number}.gguf", gguf())
    with Beneath(str(tmp_path), lambda: None) as beneath:
        assert len(list(local.models(beneath))) == 10
        assert not beneath.complete
        assert "more than 10 entries" in beneath.skipped[0].reason


def test_a_walk_can_be_stopped(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", gguf())

    def stop() -> None:
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        look(tmp_path, checkpoint=stop)


@pytest.mark.fault("A-25")
def test_a_folder_swapped_for_a_link_never_leads_out(tmp_path: Path) -> None:
    """A race of seconds: another thread swaps a folder for a link to a twin outside, and back, all the time."""
    root = tmp_path / "root"
    marks = {"inside": gguf("inside"), "outside": gguf("outside")}
    write(root / "swapped" / "x.gguf", marks["inside"])
    write(tmp_path / "outside" / "x.gguf", marks["outside"])
    over = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not over.is_set():
            (root / "swapped").rename(root / ".kept")
            (root / "swapped").symlink_to(tmp_path / "outside")
            (root / "swapped").unlink()
            (root / ".kept").rename(root / "swapped")
            swaps += 1

    thread = threading.Thread(target=swap)
    thread.start()
    read, until = 0, time.monotonic() + 3
    try:
        while time.monotonic() < until:
            read += _read_all(root, marks["outside"])
    finally:
        over.set()
        thread.join()
    assert swaps > 100
    assert read > 0, "the race was run"


def _read_all(root: Path, forbidden: bytes) -> int:
    """Files that could be read; fails on one from outside."""
    count = 0
    with Beneath(str(root), lambda: None) as beneath:
        for found in local.models(beneath):
            for file in found.files:
                try:
                    handle = file.open()
                except OSError:
                    continue
                with os.fdopen(handle, "rb") as opened:
                    assert opened.read() != forbidden
                count += 1
    return count


@pytest.mark.fault("F-58")
def test_an_unmounted_disk_is_told_from_a_deleted_model(tmp_path: Path) -> None:
    disk = tmp_path / "usb"
    write(disk / "sub" / "x.gguf", gguf())
    with Beneath(str(tmp_path), lambda: None) as beneath:
        (found,) = local.models(beneath)
        parts = ("usb", "sub", "x.gguf")
        (disk / "sub" / "x.gguf").unlink()
        assert not beneath.is_away(parts, found.above), "an empty folder that is still the same one"
        (disk / "sub").rmdir()
        assert not beneath.is_away(parts, found.above)
        disk.rename(tmp_path / "unmounted")
        assert not beneath.is_away(parts, found.above), "the place itself is gone"
        disk.mkdir()
        assert beneath.is_away(parts, found.above), "what a disk is mounted on is another folder, and empty"
        write(disk / "other", b"")
        assert not beneath.is_away(parts, found.above)
