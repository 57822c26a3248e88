"""What every contract has, and the words that their arguments are made of."""

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints
from pydantic.alias_generators import to_camel

from shared.errors import ModelyardError
from shared.queues import IO
from shared.refs import check_model_id
from shared.states import Priority


def _model_id(value: str) -> str:
    try:
        return check_model_id(value)
    except ModelyardError as error:
        raise ValueError(f"{error.message} {error.hint}") from error


def _bundle_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.tar", value):
        raise ValueError("the name of a bundle is letters, digits, dots, dashes and underscores, and ends in .tar")
    return value


ModelId = Annotated[str, AfterValidator(_model_id)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
BundleName = Annotated[str, AfterValidator(_bundle_name)]
NodeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,58}$")]
ScanPath = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^/[^\x00]*$")]


class Contract(BaseModel):
    """What a kind of job takes. Subclasses are listed in `contracts.KINDS`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True)

    kind: ClassVar[str]
    lane: ClassVar[str] = IO
    priority: ClassVar[Priority] = Priority.MEDIUM
    makes_way: ClassVar[bool] = False
    """Its body keeps what it did so far, so a more urgent job may have its slot in the middle of it."""
    displaces: ClassVar[bool] = True
    """Where it is CRITICAL or HIGH and finds no free slot, it has that of a less urgent job."""
    fetches: ClassVar[bool] = False
    """It brings a model from its source, and counts for limits on downloads."""
    audited: ClassVar[bool] = True
    """Who asked for it stays written in the audit log; not for work that changes nothing people could miss."""
    of_store: ClassVar[bool] = True
    """It works on files of a store: with several of them, only workers of the right one may do it."""
    example: ClassVar[dict[str, Any]] = {"model_id": "qwen3-0.6b"}
    """Arguments, for docs/contracts.md."""

    @property
    def subject(self) -> str | None:
        """Id of the model that the job is about, None for work on no model in particular."""
        return None

    @property
    def wanted_node(self) -> str | None:
        """The machine whose store is meant, where somebody named one."""
        return None

    def unique_key(self) -> str:
        """Two live jobs never share it: the second ask joins the first."""
        return f"{self.kind}:{self.subject}" if self.subject else self.kind


class OfModel(Contract):
    """Work on one model."""

    model_id: ModelId

    @property
    def subject(self) -> str | None:
        return self.model_id


class OnNode(Contract):
    """Work that somebody may want on a certain machine."""

    node: NodeName | None = None
    """The machine whose store is meant, where each has its own; when left out, the one with the best device."""

    @property
    def wanted_node(self) -> str | None:
        return self.node

    def _on(self) -> list[str]:
        """For the unique key: what is asked of two machines is not the same."""
        return [] if self.node is None else [self.node]
