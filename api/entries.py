"""Models as people write them down: in a request, in a catalogue, in the registry of another system."""

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from api.bodies import Aliases, Body, Modes, Text, a_checksum
from api.types import TypeName, Types
from shared.contract import ModelId
from shared.db.registry import Entry
from shared.db.tables import Model
from shared.errors import ModelyardError
from shared.refs import Ref, SourceKind, checked
from shared.states import Tier
from shared.storable import printable, printable_lines

MOST_ENTRIES = 10_000
_DIGESTS = {32: "md5", 64: "sha256"}
"""By the number of hex digits, where nothing else tells."""


class AddModel(Body):
    """A model of your own."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "model_id": "qwen3-0.6b", "model_type": "llm", "name": "Qwen3 0.6B",
        "source": "huggingface", "source_url": "Qwen/Qwen3-0.6B",
    }]})  # fmt: skip

    NO_COLUMNS: ClassVar[frozenset[str]] = frozenset({"model_id", "aliases", "modes"})

    model_id: ModelId
    model_type: TypeName
    name: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(printable)]
    description: Annotated[str, Field(max_length=2000), AfterValidator(printable_lines)] = ""
    source: Annotated[SourceKind, Field(strict=False)]
    source_url: Text
    revision: Text | None = None
    file_size: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    checksum: Annotated[str, AfterValidator(a_checksum)] | None = None
    requirements: dict[str, Any] = Field({})
    tags: list[Annotated[str, Field(max_length=100), AfterValidator(printable)]] = Field([], max_length=50)
    config: dict[str, Any] = Field({})
    enabled: bool = True
    aliases: Annotated[Aliases | None, Field(description="Other names of it, each its alone.")] = None
    modes: Annotated[Modes | None, Field(description="Of generation, such as t2v: a name for whoever does it.")] = None
    base_model: Annotated[ModelId | None, Field(description="Of an adapter, the model that it is for.")] = None
    tier: Annotated[Tier | None, Field(strict=False, description="Null: as its files tell.")] = None
    thinking: Annotated[bool | None, Field(description="Null: as its files tell.")] = None

    @field_validator("source_url")
    @classmethod
    def _well_formed(cls, value: str, info: Any) -> str:
        if "source" in info.data:
            try:
                checked(Ref(info.data["source"], value))
            except ModelyardError as error:
                raise ValueError(f"{error.message} {error.hint}") from error
        return value

    def entry(self, types: Types, **more: Any) -> Entry:
        """What the registry is told.

        Args:
            more: columns that are not for whoever writes to say.

        Raises:
            Invalid: code `invalid_config`.
        """
        values = self.model_dump(exclude=set(self.NO_COLUMNS))
        values["config"] = types.checked(self.model_type, self.config)
        values["type"] = values.pop("model_type")
        values |= {"tier_set": self.tier is not None, "thinking_set": self.thinking is not None}
        written = {"type" if name == "model_type" else name for name in self.model_fields_set}
        written |= {f"{name}_set" for name in ("tier", "thinking") if name in written}
        # the database's clock sets both times
        model = Model(id=self.model_id, created_at=0.0, updated_at=0.0, **values, **more)
        told = {name: value for name, value in values.items() if name in written}
        return Entry(model, told, self.aliases, self.modes)


class RegistryEntry(AddModel):
    """As the registry's export has it. `status` and `local_path` tell how it was there, and nothing of this place."""

    status: Annotated[str | None, Field(max_length=32)] = None
    local_path: Text | None = None

    NO_COLUMNS: ClassVar[frozenset[str]] = AddModel.NO_COLUMNS | {"status", "local_path"}

    @model_validator(mode="before")
    @classmethod
    def _bare_checksum(cls, value: Any) -> Any:
        """Registries of older systems have the digest alone."""
        told = value.get("checksum") if isinstance(value, dict) else None
        if isinstance(told, str) and re.fullmatch(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{64}", told):
            return {**value, "checksum": f"{_DIGESTS[len(told)]}:{told}"}
        return value


class RegistryBody(Body):
    """A registry as it is exported; see GET /models/registry/export."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"models": [{
        "model_id": "sdxl-base-1.0", "model_type": "image_gen", "name": "Stable Diffusion XL Base 1.0",
        "description": "Base SDXL model for image generation", "source": "huggingface",
        "source_url": "stabilityai/stable-diffusion-xl-base-1.0", "file_size": 6900000000, "checksum": None,
        "requirements": {"gpu_memory": "8GB", "torch": ">=2.0.0"}, "status": "installed",
        "local_path": "/models/image_gen/sdxl-base-1.0",
    }]}]})  # fmt: skip

    models: Annotated[list[RegistryEntry], Field(max_length=MOST_ENTRIES)]

    @field_validator("models")
    @classmethod
    def _each_once(cls, models: list[RegistryEntry]) -> list[RegistryEntry]:
        seen: set[str] = set()
        for model in models:
            if (name := model.model_id.lower()) in seen:
                raise ValueError(f"{model.model_id!r} is named twice")
            seen.add(name)
        return models


class CatalogueFile(BaseModel):
    """What a file of a catalogue may have."""

    model_config = ConfigDict(extra="forbid")

    models: list[Any] = []
    types: list[Any] = []
    common: dict[str, Any] = {}
