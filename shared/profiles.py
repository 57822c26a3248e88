"""Profiles: which models are enabled and how they run; and, pure, what is to be done to get there."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from shared.contract import ModelId
from shared.fallback import MOST_STEPS, Step

MOST_MODELS = 1000


class ModelSettings(BaseModel):
    """How a model of a profile runs; what is left out stays as it is."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True
    )  # fmt: skip

    load: Annotated[
        bool, Field(description="It has a server, which nothing puts out and which comes back; else on first use.")
    ] = True
    context_length: Annotated[int, Field(ge=128, le=2**24, description="Tokens that it is started with.")] | None = None
    fallback: Annotated[list[Step], Field(max_length=MOST_STEPS)] | None = None


class Profile(BaseModel):
    """Which models are enabled; the first of each type that is loaded serves its type. All others are disabled."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True,
        json_schema_extra={"examples": [{
            "name": "development", "description": "Small models, quick to load.", "enabledModels": ["qwen3-0.6b"],
            "settings": {"qwen3-0.6b": {"contextLength": 2048}},
        }]},
    )  # fmt: skip

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    description: Annotated[str, StringConstraints(max_length=2000)] = ""
    enabled_models: Annotated[list[ModelId], Field(max_length=MOST_MODELS)]
    settings: dict[ModelId, ModelSettings] = {}

    @model_validator(mode="after")
    def _of_its_models(self) -> "Profile":
        twice = {one for one in self.enabled_models if self.enabled_models.count(one) > 1}
        if twice:
            raise ValueError(f"{min(twice)!r} is named twice in enabledModels")
        if strange := [one for one in self.settings if one not in self.enabled_models]:
            raise ValueError(f"settings are for models of enabledModels, and {strange[0]!r} is none of them")
        return self

    def of(self, model_id: str) -> ModelSettings:
        return self.settings.get(model_id) or ModelSettings()

    def stored(self) -> dict[str, Any]:
        """As it is kept, and shown."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @property
    def digest(self) -> str:
        """The same for as long as it says the same."""
        return hashlib.sha256(json.dumps(self.stored(), sort_keys=True).encode()).hexdigest()


class Known(NamedTuple):
    """What is there of a model."""

    model_id: str
    type: str
    enabled: bool
    pinned: bool
    config: Mapping[str, Any]
    fallback: list[dict[str, Any]]
    installed: bool
    size: int | None
    """Bytes that a download fetches, as far as is known."""
    ready: bool
    held: bool
    """In memory, or meant to be, or near it."""
    active: bool
    memory: int = 0
    """Bytes of its device that it has now."""
    stands_in_for: frozenset[str] = frozenset()


class ToLoad(NamedTuple):
    model_id: str
    serves: bool
    """Its type, from then on."""


@dataclass(frozen=True)
class Difference:
    """What applying a profile does, in the order of its fields."""

    enable: list[str] = field(default_factory=list)
    disable: list[str] = field(default_factory=list)
    change: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By model: `pinned`, `config`, `fallback`, as they will be."""
    unload: list[str] = field(default_factory=list)
    download: list[str] = field(default_factory=list)
    load: list[ToLoad] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    """In memory, as they are to be."""
    unknown: list[str] = field(default_factory=list)
    """Not in the registry."""


def difference(profile: Profile, models: Mapping[str, Known]) -> Difference:
    """Between how it is to be and how it is."""
    found, members = Difference(), set(profile.enabled_models)
    for known in models.values():
        if known.model_id not in members:
            _leave(found, known, members)
    serving: set[str] = set()
    for model_id in profile.enabled_models:
        one = models.get(model_id)
        if one is None:
            found.unknown.append(model_id)
            continue
        settings = profile.of(model_id)
        if not one.enabled:
            found.enable.append(model_id)
        _change(found, one, settings)
        if not one.installed:
            found.download.append(model_id)
        if settings.load:
            serves = one.type not in serving
            serving.add(one.type)
            _load(found, one, serves=serves)
    return found


def _leave(found: Difference, one: Known, members: set[str]) -> None:
    if one.enabled:
        found.disable.append(one.model_id)
    if one.pinned:
        found.change[one.model_id] = {"pinned": False}
    if one.held and not one.stands_in_for & members:
        found.unload.append(one.model_id)


def _change(found: Difference, one: Known, settings: ModelSettings) -> None:
    wanted: dict[str, Any] = {"pinned": settings.load}
    if settings.context_length is not None:
        wanted["config"] = {**one.config, "context_length": settings.context_length}
    if settings.fallback is not None:
        wanted["fallback"] = [step.stored() for step in settings.fallback]
    changed = {name: value for name, value in wanted.items() if getattr(one, name) != value}
    if changed:
        found.change[one.model_id] = changed


def _load(found: Difference, one: Known, *, serves: bool) -> None:
    if one.ready and (one.active or not serves):
        found.unchanged.append(one.model_id)
    else:
        found.load.append(ToLoad(one.model_id, serves))
