"""What a model may fall back to where its load fails or it does not fit: steps that a person wrote down, in order.

A model without steps is strict: it runs as it is asked for, or not at all.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from shared import fit
from shared.contract import ModelId

MOST_STEPS = 8
SHORTEST_CONTEXT = 128


class Step(BaseModel):
    """Another model of the same type; or the same one with less: fewer tokens of context, fewer of its layers on the
    GPU or none of it there, numbers of fewer bits."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True,
        json_schema_extra={"examples": [{"contextLength": 2048}, {"gpuLayers": 20}, {"model": "qwen3-0.6b"}]},
    )  # fmt: skip

    context_length: Annotated[int, Field(ge=128, le=2**24)] | None = None
    gpu_layers: Annotated[int, Field(ge=1, le=1000)] | None = None
    device: Literal["cpu"] | None = None
    precision: Literal["bfloat16", "float16"] | None = None
    model: ModelId | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        less = self.model_dump(exclude={"model"}, exclude_none=True)
        if bool(less) is (self.model is not None) or {"gpu_layers", "device"} <= less.keys():
            raise ValueError("a step is {model}, or any of {contextLength, precision} and one of {gpuLayers, device}")
        return self

    def stored(self) -> dict[str, Any]:
        """As it is kept, and shown."""
        return self.model_dump(by_alias=True, exclude_none=True)

    @property
    def lowered(self) -> fit.Lowered:
        return fit.Lowered(self.gpu_layers, self.device is not None, self.precision)


class Rung(NamedTuple):
    """One way to serve a model."""

    model_id: str
    context_length: int
    lowered: fit.Lowered = fit.WHOLE

    def told(self) -> dict[str, Any]:
        """For people."""
        return {"modelId": self.model_id, "contextLength": self.context_length, **self.lowered.told()}


def ladder(model_id: str, steps: Iterable[Mapping[str, Any]], context_length: int) -> list[Rung]:
    """The ways to serve a model, the best first: as it is, then by its steps.

    Args:
        steps: as `Step.stored` has them.
        context_length: tokens, where no step says otherwise.
    """
    own = Rung(model_id, context_length)
    found = [Step.model_validate(step) for step in steps]
    return [
        own, *(Rung(step.model or model_id, step.context_length or context_length, step.lowered) for step in found)
    ]  # fmt: skip


def nothing_lower(facts: Mapping[str, Any], setting: fit.Setting) -> str | None:
    """Why a model would need no less of its device with less; None where it does."""
    layers, on_cpu, precision = setting.lowered
    of_layers, bits = facts.get("layers"), facts.get("quantization")
    on_the_cpu = setting.device_kind == "cpu" or on_cpu
    reasons = (
        (
            setting.lowered != fit.WHOLE and setting.runtime == fit.OLLAMA,
            "How it runs is Ollama's to choose.",
        ),
        (
            (layers is not None or on_cpu) and setting.device_kind == "cpu",
            "It runs on a CPU here in any case: there is nothing to take off a GPU.",
        ),
        (
            layers is not None and setting.runtime != "llamacpp",
            "Layers on the CPU beside others on the GPU are for GGUF files; device=cpu has all of it there.",
        ),
        (
            layers is not None and of_layers is not None and layers >= of_layers,
            f"It has {of_layers} layers, so all of them would be on the GPU.",
        ),
        (
            precision is not None and setting.runtime == "llamacpp",
            "A GGUF file is as precise as it was made: a variant of fewer bits is another model, model=ID.",
        ),
        (
            precision is not None and setting.runtime == fit.DIFFUSERS and on_the_cpu,
            "On a CPU images are computed in 32 bits in any case.",
        ),
        (
            precision is not None and bits is not None and bits not in fit.WIDE,
            f"Its weights are {bits}: they take no more than 16 bits as they are.",
        ),
    )
    return next((why for applies, why in reasons if applies), None)


def context_of(config: Mapping[str, Any], context_length: int) -> int:
    """Tokens that a model is started with: those of its own configuration, or else as many as all others."""
    own = config.get("context_length")
    return own if isinstance(own, int) and not isinstance(own, bool) and own >= SHORTEST_CONTEXT else context_length
