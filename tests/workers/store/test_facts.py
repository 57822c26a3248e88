"""What a model's files say about themselves."""

from pathlib import Path
from typing import Any

import pytest

from tests.factories.folders import transformers, write
from tests.factories.malformed import Gguf, key, safetensors, tensor, text
from workers.store.facts import Facts, read_facts

QWEN = (
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
)
LLAMA = "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] }}{% endfor %}"
LONG = "{# " + "x" * 20_000 + " #}"
"""Longer than other texts of a GGUF that are kept."""


def facts(folder: Path) -> Facts:
    return read_facts({str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()})


@pytest.mark.parametrize(
    ("files", "thinks"),
    [
        ({}, None),
        ({"tokenizer_config.json": {"chat_template": QWEN}}, True),
        ({"tokenizer_config.json": {"chat_template": LLAMA}}, False),
        ({"tokenizer_config.json": {"chat_template": 7}}, None),
        (
            {"tokenizer_config.json": {"chat_template": [{"name": "default", "template": LLAMA}, {"template": QWEN}]}},
            True,
        ),
        ({"chat_template.jinja": f"{LONG}{{{{ message.reasoning_content }}}}".encode()}, True),
        ({"chat_template.jinja": b"\xff", "tokenizer_config.json": {"chat_template": QWEN}}, False),
    ],
)
def test_a_chat_template_tells_whether_a_model_thinks(
    tmp_path: Path, files: dict[str, Any], thinks: bool | None
) -> None:
    transformers(tmp_path)
    for name, content in files.items():
        write(tmp_path / name, content)
    assert facts(tmp_path).thinking is thinks


@pytest.mark.parametrize(("template", "thinks"), [(None, None), (LLAMA, False), (LONG + QWEN, True)])
def test_so_does_that_of_a_gguf(tmp_path: Path, template: str | None, thinks: bool | None) -> None:
    keys = [key("general.architecture", 8, text("llama"))]
    if template is not None:
        keys.append(key("tokenizer.chat_template", 8, text(template)))
    write(tmp_path / "m.gguf", Gguf(keys=keys).to_bytes())
    assert facts(tmp_path).thinking is thinks


@pytest.mark.parametrize(
    ("name", "metadata", "told"),
    [
        ("unet.down_blocks.0.attn1.to_q.lora_A.weight", {}, ("adapter", None)),
        ("lora_unet_0.lora_down.weight", {"ss_base_model_version": "sdxl_base_v1-0"}, ("adapter", "sdxl_base_v1-0")),
        ("a.lora_up.weight", {"modelspec.architecture": "flux-1-dev/lora"}, ("adapter", "flux-1-dev/lora")),
        ("model.layers.0.weight", {"ss_base_model_version": "sdxl_base_v1-0"}, ("safetensors", None)),
    ],
)  # fmt: skip
def test_a_lora_is_told_by_its_tensors(tmp_path: Path, name: str, metadata: dict[str, str], told: Any) -> None:
    write(tmp_path / "x.safetensors", safetensors({name: tensor(), "__metadata__": metadata}, bytes(16)))
    found = facts(tmp_path)
    assert (found.format, found.base_model) == told
