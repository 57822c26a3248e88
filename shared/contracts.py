"""Every kind of job on one page: its stable name, its arguments, where it runs, and what makes two asks the same.

A message of another service carries exactly these arguments as flat keyword arguments, in snake_case or camelCase:
`send_task("model.download", kwargs={"model_id": "llama-3-8b"}, queue="modelyard.p2.io")`.
"""

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from shared.errors import Invalid, ModelyardError
from shared.queues import DEVICE, IO
from shared.refs import check_model_id
from shared.states import Priority


def _model_id(value: str) -> str:
    try:
        return check_model_id(value)
    except ModelyardError as error:
        raise ValueError(f"{error.message} {error.hint}") from error


ModelId = Annotated[str, AfterValidator(_model_id)]


class Contract(BaseModel):
    """What a kind of job takes. Subclasses are listed in `KINDS`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True)

    kind: ClassVar[str]
    lane: ClassVar[str] = IO
    priority: ClassVar[Priority] = Priority.MEDIUM
    makes_way: ClassVar[bool] = False
    """Its body keeps what it did so far, so a more urgent job may have its slot in the middle of it."""

    model_id: ModelId

    def unique_key(self) -> str:
        """Two live jobs never share it: the second ask joins the first."""
        return f"{self.kind}:{self.model_id}"


class Download(Contract):
    """Fetch a model's files, prove every digest, publish them by one rename."""

    kind = "model.download"
    makes_way = True

    force_redownload: bool = False
    """Fetch again even where the published revision is the newest."""


class Verify(Contract):
    """Hash every published byte and compare it with the manifest; a corrupt model is quarantined."""

    kind = "model.verify"
    makes_way = True


class Repair(Contract):
    """Verify, and fetch again what is missing or bad."""

    kind = "model.repair"
    priority = Priority.HIGH
    makes_way = True


class Remove(Contract):
    """Move a model's files to the trash and take it off the registry."""

    kind = "model.remove"


class Switch(Contract):
    """Make the model the one that serves its type, loading it first and draining the one before it."""

    kind = "model.switch"
    lane = DEVICE
    priority = Priority.HIGH


class Unload(Contract):
    """Take the model out of memory once its requests have ended."""

    kind = "model.unload"
    lane = DEVICE
    priority = Priority.HIGH


KINDS: dict[str, type[Contract]] = {
    contract.kind: contract for contract in (Download, Verify, Repair, Remove, Switch, Unload)
}

RESCUE = "ledger.rescue"
"""The one chore that is no job: it must run when the ledger's own jobs do not."""


def parse(kind: str, args: dict[str, Any]) -> Contract:
    """The contract of a message.

    Raises:
        Invalid: unknown kind, or arguments that do not fit; the message names each.
    """
    contract = KINDS.get(kind)
    if contract is None:
        raise Invalid("unknown_kind", f"There is no kind of job {kind!r}.", f"Known kinds: {', '.join(sorted(KINDS))}.")
    try:
        return contract.model_validate(args)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise Invalid(
            "invalid_arguments", f"The arguments of {kind} do not fit: {faults}.", f"See docs/contracts.md, {kind}."
        ) from error
