"""The steps that a person writes down for a model: what they may be, in which order they come, and which are idle."""

from typing import Any

import pytest
from pydantic import ValidationError

from shared.fallback import Rung, Step, ladder, nothing_lower
from shared.fit import Lowered, Setting

GGUF: dict[str, Any] = {"layers": 32, "quantization": "Q4_K_M"}


@pytest.mark.parametrize(
    "step",
    [
        {"model": "other"}, {"contextLength": 2048}, {"gpuLayers": 20}, {"device": "cpu"}, {"precision": "bfloat16"},
        {"gpuLayers": 20, "contextLength": 2048}, {"device": "cpu", "precision": "float16", "contextLength": 128},
    ],
)  # fmt: skip
def test_a_step_is_kept_as_it_was_written(step: dict[str, Any]) -> None:
    assert Step.model_validate(step).stored() == step


@pytest.mark.parametrize(
    "step",
    [
        {}, {"model": "other", "contextLength": 2048}, {"gpuLayers": 20, "device": "cpu"}, {"gpuLayers": 0},
        {"device": "gpu"}, {"precision": "int4"}, {"contextLength": 2}, {"layers": 3},
    ],
)  # fmt: skip
def test_what_no_step_is(step: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Step.model_validate(step)


def test_each_step_stands_for_itself() -> None:
    """What one lowers is whole again in the next, unless that one says so too."""
    steps = [{"gpuLayers": 20, "contextLength": 512}, {"precision": "float16"}, {"model": "b"}]
    assert ladder("a", steps, 4096) == [
        Rung("a", 4096), Rung("a", 512, Lowered(gpu_layers=20)), Rung("a", 4096, Lowered(precision="float16")),
        Rung("b", 4096),
    ]  # fmt: skip
    assert Rung("a", 512, Lowered(gpu_layers=20)).told() == {"modelId": "a", "contextLength": 512, "gpuLayers": 20}


@pytest.mark.parametrize(
    ("runtime", "kind", "lowered", "facts", "why"),
    [
        ("llamacpp", "gpu", Lowered(gpu_layers=31), GGUF, None),
        ("llamacpp", "gpu", Lowered(on_cpu=True), GGUF, None),
        ("llamacpp", "gpu", Lowered(gpu_layers=32), GGUF, "32 layers"),
        ("llamacpp", "cpu", Lowered(gpu_layers=8), GGUF, "on a CPU here"),
        ("llamacpp", "gpu", Lowered(precision="float16"), GGUF, "model=ID"),
        ("torch", "cpu", Lowered(on_cpu=True), {}, "on a CPU here"),
        ("torch", "gpu", Lowered(gpu_layers=8), {}, "GGUF"),
        ("torch", "cpu", Lowered(precision="bfloat16"), {"quantization": "F32"}, None),
        ("torch", "gpu", Lowered(on_cpu=True, precision="bfloat16"), {"quantization": "F32"}, None),
        ("torch", "gpu", Lowered(precision="float16"), {"quantization": "BF16"}, "BF16"),
        ("diffusers", "gpu", Lowered(precision="float16"), {"quantization": "F32"}, None),
        ("diffusers", "cpu", Lowered(precision="float16"), {"quantization": "F32"}, "32 bits"),
        ("diffusers", "gpu", Lowered(on_cpu=True, precision="float16"), {"quantization": "F32"}, "32 bits"),
        ("ollama", "gpu", Lowered(on_cpu=True), {}, "Ollama"),
        ("torch", "cpu", Lowered(), {}, None),
    ],
)
def test_what_would_change_nothing_here_is_told(
    runtime: str, kind: str, lowered: Lowered, facts: dict[str, Any], why: str | None
) -> None:
    found = nothing_lower(facts, Setting(runtime, kind, 4096, lowered))
    assert found is None if why is None else why in str(found)
