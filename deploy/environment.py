"""Settings as environment variables: what children are given, and what `.env.example` says.

`python -m deploy.environment > .env.example` writes that file anew.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from shared.settings import Settings

HEADER = """\
# Every setting, with its default. `make up` and `python -m workers …` read them from the environment;
# `docker compose` reads this file when it is copied to `.env`.

# For docker compose alone. It also needs MODELYARD_API_KEY and MODELYARD_SECRET; make each of the six with
#   openssl rand -hex 32
# REDIS_PASSWORD=
# POSTGRES_PASSWORD=
# FLOWER_PASSWORD=
# GRAFANA_PASSWORD=
"""
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Variable:
    """One setting as an operator sees it."""

    name: str
    default: str
    """As it would be typed; empty when the setting is unset by default."""
    description: str


def variables(group: type[BaseSettings] = Settings) -> Iterator[Variable]:
    """Every setting of the class and its groups, in the order they are written."""
    for name, field in group.model_fields.items():
        if nested := _group(field):
            yield from variables(nested)
        else:
            default = _typed(field.get_default(call_default_factory=True, validated_data={}))
            yield Variable(
                _name(group, name, field), default.replace(str(Path.home()), "~"), (field.description or "").strip()
            )


def environment(settings: BaseSettings) -> dict[str, str]:
    """What a child needs to come to the same settings: every value that was given, paths made absolute.

    Holds secrets: hand it to a child as its environment, never log it.
    """
    given: dict[str, str] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseSettings):
            given |= environment(value)
        elif name in settings.model_fields_set and value is not None:
            given[_name(type(settings), name, field)] = _absolute(_typed(value))
    return given


def example() -> str:
    """The text of `.env.example`."""
    parts = [f"# {each.description}\n# {each.name}={each.default}\n" for each in variables()]
    return "\n".join([HEADER, *parts])


def _group(field: FieldInfo) -> type[BaseSettings] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseSettings) else None


def _name(group: type[BaseSettings], name: str, field: FieldInfo) -> str:
    if isinstance(field.validation_alias, AliasChoices):
        return str(field.validation_alias.choices[0])
    return f"{group.model_config['env_prefix']}{name.upper()}"


def _typed(value: Any) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            return value.get_secret_value()
        case Path():
            return str(value.expanduser().absolute())
        case list():
            return ",".join(str(item) for item in value)
        case _:
            return str(value)


def _absolute(value: str) -> str:
    """A relative SQLite file is meant from here, but children run in another folder."""
    file = value.removeprefix(SQLITE)
    if file == value or not file or file.startswith(("/", ":")):
        return value
    return f"{SQLITE}{Path(file).absolute()}"


if __name__ == "__main__":
    sys.stdout.write(example())
