"""The default models: `shared/catalogue.yaml`, extended or overridden by a file of the user's."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from api.bodies import AddModel
from shared.db import catalog
from shared.db.session import Database
from shared.errors import Invalid
from shared.settings import Settings

SHIPPED = Path(__file__).parent.parent / "shared" / "catalogue.yaml"


def enter_catalogue(database: Database, settings: Settings) -> None:
    """Enter the catalogue's models in the registry; nothing is downloaded.

    Raises:
        Invalid: a catalogue file cannot be read; names the file and the entry.
    """
    entries = _read(SHIPPED) | (_read(settings.catalogue) if settings.catalogue else {})
    with database.session() as session:
        catalog.seed(session, [entry.row() for entry in entries.values()])


def _read(path: Path) -> dict[str, AddModel]:
    hint = "See shared/catalogue.yaml for the form."
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries = [AddModel.model_validate(entry) for entry in content["models"]]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise Invalid("invalid_catalogue", f"The catalogue {path.name} cannot be read: {error}", hint) from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise Invalid("invalid_catalogue", f"In {path.name}: {place}: {fault['msg']}.", hint) from error
    return {entry.model_id: entry for entry in entries}
