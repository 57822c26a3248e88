import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import Unsafe
from shared.settings import RunnerSettings
from workers.runtimes.base import Request
from workers.runtimes.torch_runner import TorchRunner
from workers.runtimes.torch_runner.config import remote_code

RUNTIME = TorchRunner(RunnerSettings())


def model(folder: Path, **config: object) -> Path:
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **config}))
    (folder / "model.safetensors").write_bytes(bytes(16))
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


def test_pickles_are_no_weights(tmp_path: Path) -> None:
    (model(tmp_path) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert not RUNTIME.accepts(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"architectures": ["XForCausalLM"'])
def test_a_config_that_cannot_be_read_is_not_accepted(tmp_path: Path, text: str) -> None:
    (model(tmp_path) / "config.json").write_text(text)
    assert not RUNTIME.accepts(tmp_path)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "config.json: auto_map"),
        ({"vision_config": {"auto_map": {"AutoConfig": "evil/x--c.C"}}}, "config.json: vision_config.auto_map"),
        ({"parts": [{"trust_remote_code": True}]}, "config.json: parts.trust_remote_code"),
        ({"_attn_implementation_internal": "evil/kernel"}, "config.json: _attn_implementation_internal"),
        ({"custom_pipeline": "evil"}, "config.json: custom_pipeline"),
        ({"_class_name": ["evil", "X"]}, "config.json: _class_name"),
    ],
)
def test_code_of_the_models_own_is_refused_by_name(tmp_path: Path, config: dict[str, object], key: str) -> None:
    with pytest.raises(Unsafe) as caught:
        RUNTIME.launch(Request(model(tmp_path, **config), "m", "127.0.0.1", 1, "key", "cpu"))
    assert caught.value.code == "remote_code_required"
    assert caught.value.details == {"keys": [key]}


def test_a_tokenizers_code_counts_too(tmp_path: Path) -> None:
    (model(tmp_path, trust_remote_code=False) / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": "t.T"}}'
    )
    assert remote_code(tmp_path) == ["tokenizer_config.json: auto_map"]


def test_the_key_is_in_the_environment_only(tmp_path: Path) -> None:
    launch = RUNTIME.launch(Request(model(tmp_path), "m", "127.0.0.1", 1, "the-key", "cpu"))
    assert "the-key" not in launch.argv
    assert "the-key" in launch.env.values()
