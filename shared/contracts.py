"""Every kind of job on one page: its stable name, its arguments, where it runs, and what makes two asks the same.

A message of another service carries exactly these arguments as flat keyword arguments, in snake_case or camelCase:
`send_task("model.download", kwargs={"model_id": "llama-3-8b"}, queue="modelyard.p2.io")`.
"""

import hashlib
import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from shared.errors import Invalid, ModelyardError
from shared.queues import DEVICE, IO
from shared.refs import check_model_id
from shared.states import Priority, VerifyTier


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
ScanPath = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^/[^\x00]*$")]


class Contract(BaseModel):
    """What a kind of job takes. Subclasses are listed in `KINDS`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True)

    kind: ClassVar[str]
    lane: ClassVar[str] = IO
    priority: ClassVar[Priority] = Priority.MEDIUM
    makes_way: ClassVar[bool] = False
    """Its body keeps what it did so far, so a more urgent job may have its slot in the middle of it."""
    fetches: ClassVar[bool] = False
    """It brings a model from its source, and counts for limits on downloads."""
    example: ClassVar[dict[str, Any]] = {"model_id": "qwen3-0.6b"}
    """Arguments, for docs/contracts.md."""

    @property
    def subject(self) -> str | None:
        """Id of the model that the job is about, None for work on no model in particular."""
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


class Download(OfModel):
    """Fetch a model's files, prove every digest, publish them by one rename."""

    kind = "model.download"
    makes_way = True
    fetches = True

    force_redownload: bool = False
    """Fetch again even where the published revision is the newest."""
    lock: Sha256 | None = None
    """Digest of an entry of the applied lock: exactly its revision and its files, whatever the source offers."""

    def unique_key(self) -> str:
        return super().unique_key() if self.lock is None else f"{super().unique_key()}:{self.lock}"


class Verify(OfModel):
    """Compare a model's files with its manifest, or with its source; a corrupt model is quarantined."""

    kind = "model.verify"
    makes_way = True

    tier: Annotated[VerifyTier, Field(strict=False)] = VerifyTier.BLAKE3
    """`stat` looks, `blake3` hashes every chunk, `source` also asks the source for its digests."""

    def unique_key(self) -> str:
        return super().unique_key() if self.tier == VerifyTier.BLAKE3 else f"{super().unique_key()}:{self.tier}"


class Scrub(OfModel):
    """Verify a model when nobody else wants the disk, slowly; what is found damaged is quarantined and repaired."""

    kind = "model.scrub"
    priority = Priority.LOW
    makes_way = True


class UpdateCheck(OfModel):
    """Ask a model's source whether it has a newer revision, and what an update would fetch."""

    kind = "model.update_check"
    priority = Priority.LOW


class Update(OfModel):
    """Fetch what is new in the newest revision; the installed one serves until the new one is proven and published."""

    kind = "model.update"
    makes_way = True
    fetches = True

    accept_new_history: bool | None = None
    """Also where the source does not know the installed revision any more: somebody else may have taken its name."""


class Rollback(OfModel):
    """Prove the revision that served before, and have it serve again; the present one is kept in its place."""

    kind = "model.rollback"
    priority = Priority.HIGH


class Restore(OfModel):
    """Bring a model, or a revision of one, back from the trash and prove it."""

    kind = "model.restore"
    example = {
        "model_id": "qwen3-0.6b",
        "entry": "1767225600-qwen3-0.6b-c1899de2-0a1b2c3d",
    }

    entry: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    """Its name in the trash, as `GET /api/v1/models/trash` tells."""


class Repair(OfModel):
    """Verify, and fetch again what is missing or bad."""

    kind = "model.repair"
    priority = Priority.HIGH
    makes_way = True
    fetches = True


class Remove(OfModel):
    """Move a model's files to the trash and take it off the registry."""

    kind = "model.remove"


class Bundle(Contract):
    """Write models and their lock into one file, for machines without internet; every byte is proven on the way."""

    kind = "model.bundle"
    example = {"name": "night-shift.tar", "models": ["qwen3-0.6b"]}

    name: BundleName
    """Of the file, in the folder of bundles."""
    models: Annotated[list[ModelId], Field(min_length=1, max_length=100)]

    def unique_key(self) -> str:
        named = "\0".join([self.name, *sorted(set(self.models))])
        return f"{self.kind}:{hashlib.sha256(named.encode()).hexdigest()}"


class Unbundle(Contract):
    """Take models out of a bundle: all of it is proven before any of it is there to be used."""

    kind = "model.unbundle"
    makes_way = True
    example = {"name": "night-shift.tar"}

    name: BundleName
    sha256: Sha256 | None = None
    """What the whole file must have, as its maker told."""

    def unique_key(self) -> str:
        return f"{self.kind}:{self.name}:{self.sha256 or ''}"


class Switch(OfModel):
    """Make the model the one that serves its type, loading it first and draining the one before it."""

    kind = "model.switch"
    lane = DEVICE
    priority = Priority.HIGH

    plan: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    """Id of the plan that people have seen: no other one is carried out."""

    def unique_key(self) -> str:
        """A job without that plan is not one that whoever names it could join."""
        key = super().unique_key()
        return key if self.plan is None else f"{key}:{self.plan}"


class Load(OfModel):
    """Bring the model into memory beside what is there, without routing its type to it."""

    kind = "model.load"
    lane = DEVICE
    priority = Priority.HIGH

    fresh: bool = False
    """Start it anew where it is in memory already; the new runner takes over before the old one stops."""

    def unique_key(self) -> str:
        return f"{super().unique_key()}:fresh" if self.fresh else super().unique_key()


class Unload(OfModel):
    """Take the model out of memory once its requests have ended."""

    kind = "model.unload"
    lane = DEVICE
    priority = Priority.HIGH

    if_unused: bool | None = None
    """Only where no request has held it for MODELYARD_RUNNERS__IDLE_SECONDS; it keeps its type, and the next request
    brings it back."""

    def unique_key(self) -> str:
        return f"{super().unique_key()}:unused" if self.if_unused else super().unique_key()


class Scan(Contract):
    """Look for models in folders of the user's and register them where they lie; nothing is copied or written there."""

    kind = "model.scan"
    example = {"paths": ["/models"]}

    paths: Annotated[list[ScanPath], Field(max_length=100)] = []
    """Absolute, each a scan root or below one; all scan roots where none is named."""

    def unique_key(self) -> str:
        named = "\0".join(sorted(set(self.paths)))
        return f"{self.kind}:{hashlib.sha256(named.encode()).hexdigest()}" if named else self.kind


KINDS: dict[str, type[Contract]] = {
    contract.kind: contract
    for contract in (
        Download,
        Verify,
        Repair,
        Remove,
        Switch,
        Load,
        Unload,
        Scan,
        Scrub,
        Update,
        UpdateCheck,
        Rollback,
        Restore,
        Bundle,
        Unbundle,
    )
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
