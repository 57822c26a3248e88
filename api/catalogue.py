"""The default models and types: `shared/catalogue.yaml`, extended or overridden by a file of the user's."""

import json
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import structlog
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from api.entries import AddModel, CatalogueFile, RegistryBody
from api.types import FieldSpec, Types, TypeSpec
from shared.db import registry
from shared.db.session import Database
from shared.errors import Invalid, ModelyardError
from shared.settings import Settings

log = structlog.get_logger()

SHIPPED = Path(__file__).parent.parent / "shared" / "catalogue.yaml"
HINT = "See shared/catalogue.yaml for the form."
_Checked = TypeVar("_Checked", bound=BaseModel)


class Catalogue(NamedTuple):
    """What the files have together; of what both name, the user's counts."""

    models: dict[str, AddModel]
    types: Types


def read_catalogue(settings: Settings) -> Catalogue:
    """The shipped catalogue and the user's.

    Raises:
        Invalid: a file cannot be read; names the file and the entry.
    """
    models: dict[str, AddModel] = {}
    types: dict[str, TypeSpec] = {}
    common: dict[str, FieldSpec] = {}
    for path in filter(None, (SHIPPED, settings.catalogue)):
        file = _read(path)
        models |= {one.model_id: one for one in _all(AddModel, file.models, path, "models")}
        types |= {one.model_type: one for one in _all(TypeSpec, file.types, path, "types")}
        common |= zip(file.common, _all(FieldSpec, list(file.common.values()), path, "common"), strict=True)
    return Catalogue(models, Types(types.values(), common))


def enter_catalogue(database: Database, settings: Settings) -> Types:
    """Enter the catalogue's models in the registry, and those of REGISTRY_PATH; nothing is downloaded.

    Raises:
        Invalid: a file cannot be read; names the file and the entry.
    """
    found = read_catalogue(settings)
    entries = [_entry(one, found.types, from_catalogue=True) for one in found.models.values()]
    theirs = _registry(settings.registry, found.types) if settings.registry else []
    with database.session() as session:
        registry.follow(session, entries)
        new = registry.follow(session, theirs, registry.REGISTRY)
    if new:
        log.info("registry.taken_in", models=len(new))
    return found.types


def _entry(one: AddModel, types: Types, **more: Any) -> registry.Entry:
    try:
        return one.entry(types, **more)
    except ModelyardError as error:
        message = f"The catalogue's {one.model_id!r} cannot be entered: {error.message}"
        raise Invalid("invalid_catalogue", message, error.hint) from error


def _registry(path: Path, types: Types) -> list[registry.Entry]:
    """What a registry of another system has, if its file is there."""
    if not path.exists():
        return []
    hint = "It has the form of GET /api/v1/models/registry/export. Correct it, or unset REGISTRY_PATH."
    try:
        body = RegistryBody.model_validate(json.loads(path.read_text(encoding="utf-8")))
        return [one.entry(types) for one in body.models]
    except (OSError, ValueError) as error:
        told = _first(error) if isinstance(error, ValidationError) else str(error)
        raise Invalid("invalid_registry", f"The registry {path.name} cannot be read: {told}.", hint) from error


def _read(path: Path) -> CatalogueFile:
    try:
        return CatalogueFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise Invalid("invalid_catalogue", f"The catalogue {path.name} cannot be read: {error}", HINT) from error
    except ValidationError as error:
        raise Invalid("invalid_catalogue", f"In {path.name}: {_first(error)}.", HINT) from error


def _all(kind: type[_Checked], parts: list[Any], path: Path, section: str) -> list[_Checked]:
    try:
        return TypeAdapter(list[kind]).validate_python(parts)  # type: ignore[valid-type] # as the caller says
    except ValidationError as error:
        raise Invalid("invalid_catalogue", f"In {path.name}: {section}.{_first(error)}.", HINT) from error


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
