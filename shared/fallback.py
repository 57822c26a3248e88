"""What a model may fall back to where its load fails or it does not fit: steps that a person wrote down, in order.

A model without steps is strict: it runs as it is asked for, or not at all.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from shared.contract import ModelId

MOST_STEPS = 8


class Step(BaseModel):
    """One of the two: fewer tokens of context, or another model of the same type."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True,
        json_schema_extra={"examples": [{"contextLength": 2048}, {"model": "qwen3-0.6b"}]},
    )  # fmt: skip

    context_length: Annotated[int, Field(ge=128, le=2**24)] | None = None
    model: ModelId | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.context_length is None) is (self.model is None):
            raise ValueError("a step is either {contextLength} or {model}")
        return self

    def stored(self) -> dict[str, Any]:
        """As it is kept, and shown."""
        return self.model_dump(by_alias=True, exclude_none=True)


class Rung(NamedTuple):
    """One way to serve a model."""

    model_id: str
    context_length: int


def ladder(model_id: str, steps: Iterable[Mapping[str, Any]], context_length: int) -> list[Rung]:
    """The ways to serve a model, the best first: as it is, then by its steps.

    Args:
        steps: as `Step.stored` has them.
        context_length: tokens, where no step says otherwise.
    """
    own = Rung(model_id, context_length)
    found = [Step.model_validate(step) for step in steps]
    return [own, *(Rung(step.model or model_id, step.context_length or context_length) for step in found)]
