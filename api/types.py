"""Types of models, as the catalogue's files describe them: what each is for, and what its configuration may say."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_snake

from shared.errors import Invalid

TypeName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
_KINDS: dict[str, tuple[type, ...]] = {"integer": (int,), "number": (int, float), "string": (str,), "boolean": (bool,)}
LONGEST_TEXT = 10_000


class FieldSpec(BaseModel):
    """One field of a configuration."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["integer", "number", "string", "boolean"]
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    multiple_of: int | None = None
    choices: list[str] | None = None

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value; None: nothing."""
        if not isinstance(value, _KINDS[self.type]) or (isinstance(value, bool) and self.type != "boolean"):
            return f"it has to be {'an' if self.type == 'integer' else 'a'} {self.type}"
        if self.choices is not None:
            return None if value in self.choices else f"it is one of {', '.join(self.choices)}"
        if isinstance(value, str):
            return None if len(value) <= LONGEST_TEXT else f"it has more than {LONGEST_TEXT} characters"
        return self._out_of_bounds(value) if isinstance(value, int | float) else None

    def _out_of_bounds(self, value: float) -> str | None:
        if self.minimum is not None and value < self.minimum:
            return f"it is at least {self.minimum:g}"
        if self.maximum is not None and value > self.maximum:
            return f"it is at most {self.maximum:g}"
        if self.multiple_of is not None and value % self.multiple_of:
            return f"it is a multiple of {self.multiple_of}"
        return None


class TypeSpec(BaseModel):
    """A type of models."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model_type: TypeName
    description: str = ""
    modes: list[str] = []
    """Of generation, that models of it may have."""
    config: dict[str, FieldSpec] | None = None
    """By name in snake_case; None: whatever people like."""

    @model_validator(mode="after")
    def _in_snake_case(self) -> "TypeSpec":
        if wrong := [name for name in self.config or {} if to_snake(name) != name]:
            raise ValueError(f"{wrong[0]!r} is not in snake_case")
        return self


class Types:
    """Those that the catalogue's files describe. Others may be used as well, with any configuration."""

    def __init__(self, specs: Iterable[TypeSpec], common: Mapping[str, FieldSpec]) -> None:
        """Args:
        common: fields of every type.
        """
        self.by_name = {spec.model_type: spec for spec in specs}
        self._common = dict(common)

    def fields(self, model_type: str) -> dict[str, FieldSpec] | None:
        """What a configuration may say; None: anything."""
        spec = self.by_name.get(model_type)
        return None if spec is None or spec.config is None else {**self._common, **spec.config}

    def checked(self, model_type: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration with its fields in snake_case, if a model of the type can have it.

        Raises:
            Invalid: code `invalid_config`; names every field that is wrong, and why.
        """
        fields = self.fields(model_type)
        if fields is None:
            return dict(config)
        snake = {to_snake(name): value for name, value in config.items()}
        faults = [
            {"field": name, "message": told} for name, value in snake.items() if (told := _fault(fields, name, value))
        ]
        if faults:
            said = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults[:5])
            hint = f"A configuration of type {model_type!r} takes: {', '.join(sorted(fields))}."
            raise Invalid("invalid_config", f"{said}.", hint, {"fields": faults})
        return snake


def _fault(fields: Mapping[str, FieldSpec], name: str, value: Any) -> str | None:
    if (spec := fields.get(name)) is not None:
        return spec.fault(value)
    near = difflib.get_close_matches(name, fields, 1)
    return "there is no such field" + (f"; did you mean {near[0]!r}?" if near else "")
