"""The registry as a whole: as a client without pages reads it, and as a file that other systems know."""

from contextlib import suppress
from typing import Any

from pydantic import BaseModel, Field

from api.cursor import encode_cursor
from api.entries import RegistryBody
from api.types import FieldSpec, Types
from api.views import View
from shared.db import catalog, names, registry
from shared.db.session import Database
from shared.db.tables import Installation, Model
from shared.refs import SourceKind
from shared.states import Holder, InstallationState, Tier

INSTALLED, NOT_INSTALLED, ACTIVE, ERROR = "installed", "not_installed", "active", "error"
"""What older systems say of a model."""


class RegistryModel(View):
    """An entry."""

    model_id: str
    model_type: str
    name: str
    description: str
    source: SourceKind
    source_url: str
    revision: str | None
    file_size: int | None
    checksum: str | None
    requirements: dict[str, Any]
    tags: list[str]
    config: dict[str, Any]
    enabled: bool
    tier: Tier | None
    thinking: bool | None
    aliases: list[str]
    modes: list[str]
    base_model: str | None
    status: str = Field(description="installed, active, not_installed or error; GET /models/status tells more.")
    local_path: str | None


class RegistryView(View):
    total_models: int = Field(description="On all pages.")
    models: list[RegistryModel]
    next_cursor: str | None = None


class RegistryEntryFile(BaseModel):
    """An entry, in the words of the file. What was not told and is what it would be anyway is left out."""

    model_id: str
    model_type: str
    name: str
    description: str
    source: SourceKind
    source_url: str
    revision: str | None = None
    file_size: int | None
    checksum: str | None
    requirements: dict[str, Any]
    tags: list[str] = []
    config: dict[str, Any] = {}
    enabled: bool = True
    aliases: list[str] | None = None
    modes: list[str] | None = None
    base_model: str | None = None
    tier: Tier | None = None
    thinking: bool | None = None
    status: str
    local_path: str | None


class RegistryFile(BaseModel):
    models: list[RegistryEntryFile]


class Imported(View):
    """What an import did, or would do; ids."""

    added: list[str]
    changed: list[str]
    kept: list[str] = Field(description="They are here already, and stay as they are.")
    dry_run: bool


class TypeView(View):
    model_type: str
    description: str = ""
    modes: list[str] = Field([], description="Of generation, that its models may have.")
    models: int = Field(description="How many there are.")
    config: dict[str, FieldSpec] | None = Field(description="Its fields, in snake_case; null: whatever you like.")


class TypesView(View):
    types: list[TypeView]


class ModeView(View):
    mode: str
    model_ids: list[str]
    stands_for: str | None = Field(description="Null: no model that does it is enabled.")


class ModesView(View):
    modes: list[ModeView]


def page(database: Database, after: str | None, limit: int) -> RegistryView:
    """Entries by id; `after` is the last id seen."""
    with database.reading() as session:
        total, found = (
            sum(catalog.type_counts(session).values()),
            _entries(session, whole=True, after=after, limit=limit),
        )
    more = encode_cursor(found[-1]["model_id"]) if len(found) == limit else None
    models = [RegistryModel.model_validate(each) for each in found]
    return RegistryView(total_models=total, models=models, next_cursor=more)


def exported(database: Database) -> RegistryFile:
    """The file: what people said, and how it is here; what was detected only is left out."""
    with database.reading() as session:
        found = _entries(session, whole=False)
    return RegistryFile(models=[RegistryEntryFile.model_validate(each) for each in found])


def _entries(session: Any, *, whole: bool, **page: Any) -> list[dict[str, Any]]:
    found, active = registry.everything(session, **page), catalog.serving(session)
    return [
        {
            **model.model_dump(
                include={
                    "name", "description", "source", "source_url", "revision", "file_size", "checksum", "requirements",
                    "tags", "config", "enabled", "base_model",
                }
            ),
            "model_id": model.id, "model_type": model.type,
            "tier": model.tier if whole or model.tier_set else None,
            "thinking": model.thinking if whole or model.thinking_set else None,
            **found.names.get(model.id, names.NO_NAMES)._asdict(),
            "status": _status(model, found.installations.get(model.id), active),
            "local_path": _path(found.installations.get(model.id)),
        }
        for model in found.models
    ]  # fmt: skip


def _status(model: Model, row: Installation | None, active: frozenset[str]) -> str:
    if row is None or row.state == InstallationState.GONE:
        return NOT_INSTALLED
    if row.state != InstallationState.PUBLISHED:
        return ERROR
    return ACTIVE if model.id in active else INSTALLED


def _path(row: Installation | None) -> str | None:
    return row.path if row is not None and row.holder != Holder.OLLAMA else None


def take_in(database: Database, body: RegistryBody, types: Types, *, replace: bool, dry_run: bool) -> Imported:
    """Enter what a file has, in one transaction.

    Raises:
        Invalid: code `invalid_config`.
        Conflict: `model_exists`, `name_taken`.
    """
    entries = [each.entry(types) for each in body.models]
    with suppress(_OnlyTold), database.session() as session:
        taken = registry.take_in(session, entries, replace=replace)
        if dry_run:
            raise _OnlyTold
    return Imported(**taken._asdict(), dry_run=dry_run)


class _OnlyTold(Exception):
    """Takes everything back, without a row in the audit log."""


def types_now(database: Database, types: Types) -> TypesView:
    """By name."""
    with database.reading() as session:
        counted = catalog.type_counts(session)
    return TypesView(types=[
        TypeView(
            model_type=name, models=counted.get(name, 0), config=types.fields(name),
            **({"description": spec.description, "modes": spec.modes} if (spec := types.by_name.get(name)) else {}),
        )
        for name in sorted({*counted, *types.by_name})
    ])  # fmt: skip


def modes_now(database: Database) -> ModesView:
    """By name."""
    with database.reading() as session:
        found = names.modes(session)
        return ModesView(modes=[
            ModeView(mode=mode, model_ids=models, stands_for=names.meant(session, mode))
            for mode, models in found.items()
        ])  # fmt: skip
