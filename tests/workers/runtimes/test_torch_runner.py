import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.db.tables import Model
from shared.errors import Failed, Unsafe
from shared.settings import RunnerSettings
from tests.factories.folders import diffusers, safetensors, transformers, write
from workers.residency.planning import runtime_for
from workers.runtimes.base import Request
from workers.runtimes.torch_runner import TorchEmbedder, TorchImageGenerator, TorchRunner, TorchSoundMaker
from workers.store.essentials import files_of
from workers.store.facts import read_facts

RUNTIME = TorchRunner(RunnerSettings())


def model(folder: Path, **config: object) -> Path:
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **config}))
    (folder / "model.safetensors").write_bytes(bytes(16))
    return folder


def bare(folder: Path) -> Path:
    write(folder / "weights.safetensors", safetensors((4, 8)))
    return folder


def test_importing_it_does_not_import_torch() -> None:
    code = (
        "import sys, workers.runtimes.torch_runner; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(
    ("architectures", "accepted"),
    [
        (["LlamaForCausalLM"], True),
        (["GPT2LMHeadModel"], True),
        (["BertModel"], False),
        ([7], False),
        ("LlamaForCausalLM", False),
        (None, False),
    ],
)
def test_accepts_what_generates_text(tmp_path: Path, architectures: object, accepted: bool) -> None:
    assert RUNTIME.accepts(model(tmp_path, architectures=architectures)) == accepted


@pytest.mark.fault("A-77", "A-80")
class TestPickles:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (model(tmp_path) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
        assert RUNTIME.accepts(tmp_path)
        return tmp_path

    def test_they_are_refused_unless_allowed(self, folder: Path) -> None:
        with pytest.raises(Unsafe) as caught:
            RUNTIME.launch(Request(folder, "m", "127.0.0.1", 1, "key", "cpu"))
        assert caught.value.code == "unsafe_format"

    def test_allowed_they_are_named_to_the_runner(self, folder: Path) -> None:
        launch = RUNTIME.launch(Request(folder, "m", "127.0.0.1", 1, "key", "cpu", allow_pickle=True))
        assert "--allow-pickle" in launch.argv
        assert "--allow-remote-code" not in launch.argv

    @pytest.mark.parametrize("installed", ["2.9.1+cu128", "1.13.0", None])
    def test_a_torch_below_the_floor_reads_none(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str | None
    ) -> None:
        """Another torch is put before the real one on the path, as its metadata; or all of them are hidden."""
        if installed is None:
            monkeypatch.setattr(sys, "path", [])
        else:
            place = tmp_path / "site" / f"torch-{installed.partition('+')[0]}.dist-info"
            place.mkdir(parents=True)
            (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {installed}\n")
            monkeypatch.syspath_prepend(str(place.parent))
        with pytest.raises(Unsafe) as caught:
            RUNTIME.launch(Request(folder, "m", "127.0.0.1", 1, "key", "cpu", allow_pickle=True))
        assert caught.value.code == "torch_too_old"
        assert "torch 2.10" in caught.value.hint

    def test_safetensors_beside_them_are_what_is_loaded(self, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(bytes(16))
        launch = RUNTIME.launch(Request(folder, "m", "127.0.0.1", 1, "key", "cpu", allow_pickle=True))
        assert "--allow-pickle" not in launch.argv


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"architectures": ["XForCausalLM"'])
def test_a_config_that_cannot_be_read_is_not_accepted(tmp_path: Path, text: str) -> None:
    (model(tmp_path) / "config.json").write_text(text)
    assert not RUNTIME.accepts(tmp_path)


@pytest.mark.parametrize(
    ("make", "type_", "found"),
    [
        (transformers, "llm", "TorchRunner"), (transformers, "embedding", "TorchEmbedder"),
        (diffusers, "image_gen", "TorchImageGenerator"), (diffusers, "video_gen", "AnimateDiffPipeline"),
        (transformers, "image_gen", "a model_index.json"), (bare, "image_gen", "bare weights"),
        (bare, "llm", "bare weights"), (transformers, "tts", "VitsModel"), (diffusers, "music", "make images of texts"),
    ],
)  # fmt: skip
def test_the_type_decides_what_is_made_of_a_folder(
    tmp_path: Path, make: Callable[[Path], Path], type_: str, found: str
) -> None:
    runtimes = [kind(RunnerSettings()) for kind in (TorchRunner, TorchEmbedder, TorchImageGenerator, TorchSoundMaker)]
    folder, one = make(tmp_path), Model(id="one", type=type_)
    facts = read_facts(files_of(folder)).to_dict()
    try:
        told = type(runtime_for(runtimes, folder, one, facts)).__name__
    except Failed as error:
        told = f"{error.code}: {error.hint}"
    assert found in told


def test_without_diffusers_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only torch is left on the path, as its metadata."""
    place = tmp_path / "site" / "torch-2.13.0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n")
    monkeypatch.setattr(sys, "path", [str(place.parent)])
    asked = Request(diffusers(tmp_path / "model"), "m", "127.0.0.1", 1, "key", "cpu")
    with pytest.raises(Failed) as caught:
        TorchImageGenerator(RunnerSettings()).launch(asked)
    assert (caught.value.code, caught.value.hint) == ("diffusers_missing", "pip install 'modelyard[torch]'")


def test_the_key_is_in_the_environment_only(tmp_path: Path) -> None:
    launch = RUNTIME.launch(Request(model(tmp_path), "m", "127.0.0.1", 1, "the-key", "cpu"))
    assert "the-key" not in launch.argv
    assert "the-key" in launch.env.values()
