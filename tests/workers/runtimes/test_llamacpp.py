import re
from pathlib import Path

import pytest

from shared.errors import Corrupt, Failed
from shared.settings import RunnerSettings
from workers.runtimes.base import Request
from workers.runtimes.llamacpp import LlamaCpp, find_binary, model_file

KEY = "the-key-of-this-runner"


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    path = tmp_path / "bin" / "llama-server"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    return path


def gguf(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"GGUF" + bytes(20))


def launch_argv(binary: Path, folder: Path, device: str) -> tuple[str, ...]:
    request = Request(folder, "tiny", "127.0.0.1", 8123, KEY, device, 2048)
    return LlamaCpp(RunnerSettings(llama_server_path=binary)).launch(request).argv


def test_the_binary_set_comes_first_then_path(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_binary(RunnerSettings(llama_server_path=binary)) == binary
    monkeypatch.delenv("LLAMA_SERVER_PATH", raising=False)
    monkeypatch.setenv("PATH", str(binary.parent))
    assert find_binary(RunnerSettings()) == binary


def test_a_setting_that_names_nothing_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(Failed) as caught:
        find_binary(RunnerSettings(llama_server_path=tmp_path / "none"))
    assert caught.value.code == "llama_server_missing"
    for way_out in ("make llama", "PATH", "LLAMA_SERVER_PATH"):
        assert way_out in caught.value.hint


def test_one_file_is_run_without_its_neighbours(folder: Path) -> None:
    gguf(folder, "a.gguf", "b.gguf", "big-00001-of-00002.gguf", "big-00002-of-00002.gguf", "bigger-00001-of-00002.gguf")
    assert model_file(folder / "b.gguf") == folder / "b.gguf"
    assert model_file(folder / "big-00001-of-00002.gguf") == folder / "big-00001-of-00002.gguf"
    with pytest.raises(Corrupt) as caught:
        model_file(folder / "bigger-00001-of-00002.gguf")
    assert caught.value.details == {"missing": ["bigger-00002-of-00002.gguf"]}


def test_names_are_no_proof(folder: Path) -> None:
    runtime = LlamaCpp(RunnerSettings())
    (folder / "model.gguf").write_bytes(b"\x80\x04 a pickle")
    assert not runtime.accepts(folder)
    gguf(folder, "blob-without-suffix")
    assert runtime.accepts(folder)


def test_a_projector_is_no_model(folder: Path) -> None:
    gguf(folder, "mmproj-f16.gguf", "model.gguf")
    assert model_file(folder).name == "model.gguf"


def test_a_split_model_is_named_by_its_first_part(folder: Path) -> None:
    gguf(folder, *(f"big-{number:05}-of-00003.gguf" for number in (3, 1, 2)))
    assert model_file(folder).name == "big-00001-of-00003.gguf"


def test_missing_parts_are_listed(folder: Path) -> None:
    gguf(folder, "big-00002-of-00003.gguf")
    with pytest.raises(Corrupt) as caught:
        model_file(folder)
    assert caught.value.code == "missing_shards"
    assert caught.value.details["missing"] == ["big-00001-of-00003.gguf", "big-00003-of-00003.gguf"]


def test_an_empty_folder_is_corrupt(folder: Path) -> None:
    with pytest.raises(Corrupt, match="no GGUF"):
        model_file(folder)


def test_the_command_keeps_the_key_and_follows_the_device(binary: Path, folder: Path) -> None:
    gguf(folder, "model.gguf")
    on_cpu = " ".join(launch_argv(binary, folder, "cpu"))
    assert KEY not in on_cpu
    assert re.search(r"--host 127\.0\.0\.1 --port 8123 --ctx-size 2048", on_cpu)
    assert "--n-gpu-layers 0" in on_cpu
    assert "--n-gpu-layers 999" in " ".join(launch_argv(binary, folder, "gpu-1234"))
    fewer = Request(folder, "tiny", "127.0.0.1", 8123, KEY, "gpu-1234", 2048, gpu_layers=20)
    assert "--n-gpu-layers 20" in " ".join(LlamaCpp(RunnerSettings(llama_server_path=binary)).launch(fewer).argv)
