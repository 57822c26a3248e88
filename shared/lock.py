"""The lock: which models, from where, at which revision, every file with its digest, and the settings that they have.

`models.lock` is this as JSON. Models, files and settings stand in one fixed order and nothing in it depends on when or
where it was written, so equal states make equal bytes, and a diff shows what has changed.
"""

import hashlib
import json
import unicodedata
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from shared.contract import ModelId, Sha256
from shared.errors import ModelyardError
from shared.refs import Ref, SourceKind, checked
from shared.storable import printable, printable_lines

VERSION = 1
MAX_MODELS = 1000
MAX_FILES = 5000
LOCKABLE = (SourceKind.HUGGINGFACE, SourceKind.URL)
"""Sources that can be asked for exactly these bytes again, by whoever has the lock."""
SETTINGS = ("name", "description", "asked_revision", "checksum", "enabled", "tags", "requirements", "config")
"""Fields that are people's choice and are brought in line; the others say which bytes these are."""


def in_order(value: Any) -> Any:
    """The same JSON with the keys of every object sorted."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    return [in_order(each) for each in value] if isinstance(value, list) else value


Free = Annotated[dict[str, Any], AfterValidator(in_order)]
Line = Annotated[str, StringConstraints(max_length=2000), AfterValidator(printable)]
Revision = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9](?:\.?[A-Za-z0-9_-])*$", max_length=200)]


def _relative(name: str) -> str:
    """A file's name, if it could stay inside a folder; whether it may be written is for the store to say."""
    hidden = any(unicodedata.category(character).startswith("C") for character in name)
    if hidden or "\\" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError("it is no plain name of a file below a folder")
    return name


class _Part(BaseModel):
    """Both spellings are read, and no unknown field. Whether all of it can be kept is for its reader to ask."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, in camelCase, without what is not known."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class LockedFile(_Part):
    """`size` in bytes; `sha256` lower-case hex."""

    name: Annotated[str, StringConstraints(max_length=1024), AfterValidator(_relative)]
    size: Annotated[int, Field(ge=0, lt=2**63)]
    sha256: Sha256


class LockedModel(_Part):
    """One model. `revision` is what is installed, `asked_revision` the branch or tag that it came from."""

    model_id: ModelId
    model_type: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    name: Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(printable)]
    description: Annotated[str, StringConstraints(max_length=2000), AfterValidator(printable_lines)] = ""
    source: Annotated[SourceKind, Field(strict=False)]
    source_url: Line
    asked_revision: Line | None = None
    checksum: Annotated[str, StringConstraints(pattern=r"^(?:sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")] | None = None
    revision: Revision
    enabled: bool = True
    tags: Annotated[list[Annotated[Line, StringConstraints(max_length=100)]], Field(max_length=50)] = []
    requirements: Free = {}
    config: Free = {}
    facts: Free = {}
    """What its files say about themselves, where known; for people, compared with nothing."""
    files: Annotated[list[LockedFile], Field(min_length=1, max_length=MAX_FILES)]

    @field_validator("files")
    @classmethod
    def _each_once(cls, files: list[LockedFile]) -> list[LockedFile]:
        if len({file.name for file in files}) != len(files):
            raise ValueError("a file is named twice")
        return sorted(files, key=lambda file: file.name)

    @model_validator(mode="after")
    def _well_formed(self) -> Self:
        if self.source not in LOCKABLE:
            raise ValueError(f"a model of {self.source} cannot be locked")
        try:
            checked(Ref(self.source, self.source_url, self.asked_revision))
        except ModelyardError as error:
            raise ValueError(f"{error.message} {error.hint}") from error
        return self

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def digests(self) -> frozenset[tuple[str, int, str]]:
        """Name, size and sha256 of every file."""
        return frozenset((file.name, file.size, file.sha256) for file in self.files)

    @property
    def stands_for(self) -> tuple[str, str, str]:
        """Type and source: what an id means, and keeps meaning."""
        return self.model_type, self.source, self.source_url

    @property
    def settings(self) -> dict[str, Any]:
        """What people chose for it."""
        return {name: getattr(self, name) for name in SETTINGS}

    def digest(self) -> str:
        """SHA-256 over all of it, lower-case hex: equal for equal entries."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


class Lock(_Part):
    """A whole `models.lock`."""

    lock_version: int
    models: Annotated[list[LockedModel], Field(max_length=MAX_MODELS)]

    @model_validator(mode="before")
    @classmethod
    def _of_a_known_version(cls, value: Any) -> Any:
        version = value.get("lockVersion", value.get("lock_version")) if isinstance(value, dict) else None
        if version != VERSION:
            told = f"it is of version {version!r}" if version is not None else "it has no lockVersion"
            raise ValueError(f"this is no lock that can be read here: {told}, and this is for version {VERSION}")
        return value

    @field_validator("models")
    @classmethod
    def _each_once(cls, models: list[LockedModel]) -> list[LockedModel]:
        if len({model.model_id.lower() for model in models}) != len(models):
            raise ValueError("a model is named twice")
        return sorted(models, key=lambda model: model.model_id)

    @classmethod
    def of(cls, models: list[LockedModel]) -> Self:
        """A lock of these models."""
        return cls(lock_version=VERSION, models=models)

    def text(self) -> str:
        """The file: equal for equal locks, with a line for each fact."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
