"""The files of profiles: a YAML file each, read with the line of what is wrong."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, Field, ValidationError

from api.views import View
from shared.errors import Invalid
from shared.profiles import ModelSettings, Profile
from shared.settings import Settings
from shared.storable import DEEPEST, storable

SUFFIXES = (".yaml", ".yml")
MOST_BYTES = 1024**2
MOST_FILES = 1000
OPENING = (
    *(yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken),
    *(yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken),
)
CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
Place = tuple[int | str, ...]


class Fault(View):
    """Something that is wrong in a profile."""

    line: int | None = Field(None, description="Of its file, counted from 1.")
    field: str | None = None
    message: str


class Found(NamedTuple):
    """A profile of the folder or of the rows."""

    name: str
    profile: Profile | None
    path: Path | None = None
    faults: tuple[Fault, ...] = ()


def read_file(path: Path) -> Found:
    """A profile of the folder; what is wrong in it is told and not raised."""
    name = path.stem
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        content, lines = parse(text.decode())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        return Found(name, None, path, (Fault(line=line, message=f"it is no YAML: {error.problem or error.context}"),))
    except (OSError, ValueError, yaml.YAMLError) as error:
        return Found(name, None, path, (Fault(message=str(error)),))
    try:
        storable(content)
        profile = Profile.model_validate({"name": name, **content} if isinstance(content, dict) else content)
    except ValidationError as error:
        return Found(name, None, path, tuple(_faults(error, lines)))
    except ValueError as error:
        return Found(name, None, path, (Fault(message=str(error)),))
    if profile.name != name:
        message = f"it is in the file {path.name}, so its name is {name!r}"
        return Found(name, None, path, (Fault(line=lines.get(("name",)), field="name", message=message),))
    return Found(name, profile, path)


def parse(text: str) -> tuple[Any, dict[Place, int]]:
    """The content of a YAML file, and the line of each of its keys and items.

    Raises:
        yaml.YAMLError: it is none; a key stands twice, it has too many levels, or an alias is used, which could make
            a small file a large one.
    """
    levels = 0
    for token in yaml.scan(text):
        levels += isinstance(token, OPENING) - isinstance(token, CLOSING)
        if levels > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"it has more than {DEEPEST} levels", problem_mark=token.start_mark)
        if isinstance(token, yaml.AliasToken):
            raise yaml.MarkedYAMLError(problem="aliases are not taken", problem_mark=token.start_mark)
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines = {_plain(place): line for place, line in _lines(node, ())}
        return (None if node is None else loader.construct_document(node)), lines
    finally:
        loader.dispose()


def _lines(node: yaml.Node | None, place: Place) -> Iterator[tuple[Place, int]]:
    if node is None:
        return
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield (*place, number), item.start_mark.line + 1
            yield from _lines(item, (*place, number))
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
            yield (*place, str(key.value)), key.start_mark.line + 1
            yield from _lines(value, (*place, str(key.value)))


def _faults(error: ValidationError, lines: dict[Place, int]) -> Iterator[Fault]:
    for fault in error.errors():
        place = tuple(fault["loc"])
        message = str(fault["msg"]).removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(place[-1]), _names(place), 1)
            message = "there is no such field" + (f"; did you mean {near[0]!r}?" if near else "")
        line = next((found for end in range(len(place), 0, -1) if (found := lines.get(_plain(place[:end])))), 1)
        yield Fault(line=line, field=".".join(map(str, place)) or None, message=message)


def _plain(place: Place) -> Place:
    """In neither of the two spellings."""
    return tuple(part.replace("_", "").lower() if isinstance(part, str) else part for part in place)


def _names(place: Place) -> list[str]:
    """Of the fields that could stand there, in both spellings."""
    model: type[BaseModel] = ModelSettings if place[0] == "settings" else Profile
    return [name for key, field in model.model_fields.items() for name in (field.alias or key, key)]


def folder_of(settings: Settings) -> Path:
    """Where files of profiles are looked for."""
    return settings.profiles or settings.data_dir / "profiles"


def in_folder(folder: Path) -> dict[str, Found]:
    """Those of the folder, by name; none where there is no folder."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    except OSError:
        return {}
    return {path.stem: read_file(path) for path in paths[:MOST_FILES]}


def invalid(found: Found) -> Invalid:
    """What to say of a profile that is none, with its lines."""
    told = "; ".join(
        f"line {fault.line}: {fault.field + ': ' if fault.field else ''}{fault.message}" for fault in found.faults
    )
    return Invalid(
        "invalid_profile", f"{found.path}: {told}.", "docs/profiles.md has the form.",
        {"faults": [fault.model_dump(by_alias=True) for fault in found.faults]},
    )  # fmt: skip
