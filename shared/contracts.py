"""Every kind of job on one page: its stable name, its arguments, where it runs, and what makes two asks the same.

A message of another service carries exactly these arguments as flat keyword arguments, in snake_case or camelCase:
`send_task("model.download", kwargs={"model_id": "llama-3-8b"}, queue="modelyard.p2.io")`.
"""

import hashlib
import json
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from shared.asks import ASKS, AskPath
from shared.contract import BundleName, Contract, ModelId, OfModel, OnNode, ScanPath, Sha256
from shared.errors import Invalid
from shared.order import Policy
from shared.queues import DEVICE
from shared.refs import Ref, SourceKind
from shared.states import HealthLevel, Priority, VerifyTier


class Download(OfModel, OnNode):
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
    audited = False
    makes_way = True

    tier: Annotated[VerifyTier, Field(strict=False)] = VerifyTier.BLAKE3
    """`stat` looks, `blake3` hashes every chunk, `source` also asks the source for its digests."""

    def unique_key(self) -> str:
        return super().unique_key() if self.tier == VerifyTier.BLAKE3 else f"{super().unique_key()}:{self.tier}"


class Scrub(OfModel):
    """Verify a model when nobody else wants the disk, slowly; what is found damaged is quarantined and repaired."""

    kind = "model.scrub"
    audited = False
    priority = Priority.LOW
    makes_way = True


class HealthCheck(OfModel):
    """Look how a model is; what is found damaged is quarantined and repaired, and nothing is ever deleted."""

    kind = "model.health_check"
    audited = False
    priority = Priority.LOW
    makes_way = True

    level: Annotated[HealthLevel, Field(strict=False)] = HealthLevel.CHEAP
    """`cheap` looks at its files and its runner, `deep` reads every byte, `live` asks it something tiny."""
    load: bool = False
    """For `live`: have it loaded where it is not in memory; it stays there."""

    def unique_key(self) -> str:
        key = super().unique_key() if self.level == HealthLevel.CHEAP else f"{super().unique_key()}:{self.level}"
        return f"{key}:load" if self.load else key


class UpdateCheck(OfModel):
    """Ask a model's source whether it has a newer revision, and what an update would fetch."""

    kind = "model.update_check"
    audited = False
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
    example: ClassVar[dict[str, Any]] = {
        "model_id": "qwen3-0.6b",
        "entry": "1767225600-qwen3-0.6b-c1899de2-0a1b2c3d",
    }

    entry: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    """Its name in the trash, as `GET /api/v1/models/trash` tells."""


class SourceCheck(Contract):
    """Ask a source whether it has a model, whether everybody may have it, and how large it is; nothing is fetched."""

    kind = "model.source_check"
    of_store = False
    priority = Priority.HIGH
    audited = False

    model_id: ModelId | None = None
    """A model of the registry; without one `source` and `source_url` say where to look."""
    source: Annotated[SourceKind, Field(strict=False)] | None = None
    source_url: Annotated[str, StringConstraints(min_length=1, max_length=2000)] | None = None
    revision: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.model_id is None) is (self.source is None or self.source_url is None):
            raise ValueError("name either a model_id, or a source with its source_url")
        return self

    @property
    def subject(self) -> str | None:
        return self.model_id

    def ref(self) -> Ref:
        """Where to look, where no model says so."""
        return Ref(SourceKind(self.source or SourceKind.URL), self.source_url or "", self.revision)

    def unique_key(self) -> str:
        if self.model_id is not None:
            return super().unique_key()
        asked = "\0".join([str(self.source), str(self.source_url), self.revision or ""])
        return f"{self.kind}:{hashlib.sha256(asked.encode()).hexdigest()}"


class Ensure(Contract):
    """Have what is damaged repaired and what is missing fetched: damaged first, then by priority and use."""

    kind = "model.ensure"
    of_store = False
    example: ClassVar[dict[str, Any]] = {"policy": "wanted"}

    policy: Annotated[Policy, Field(strict=False)] = Policy.WANTED
    """`repair`: only what is damaged; `wanted`: also what somebody entered or fetched; `all`: the catalogue too."""

    def unique_key(self) -> str:
        return f"{self.kind}:{self.policy}"


class Repair(OfModel):
    """Verify, and fetch again what is missing or bad."""

    kind = "model.repair"
    priority = Priority.HIGH
    makes_way = True
    fetches = True


class Remove(OfModel):
    """Move a model's files to the trash and take it off the registry."""

    kind = "model.remove"

    force: bool | None = None
    """Also where it is pinned, or another model needs it."""

    def unique_key(self) -> str:
        return f"{super().unique_key()}:force" if self.force else super().unique_key()


class Cleanup(OnNode):
    """Put what the retention policy lets go, or of that only `models`, into the trash; or only say what that is."""

    kind = "model.cleanup"
    example: ClassVar[dict[str, Any]] = {"dry_run": True}

    dry_run: bool = False
    models: Annotated[list[ModelId], Field(max_length=1000)] | None = None

    def unique_key(self) -> str:
        asked = json.dumps([self.dry_run, None if self.models is None else sorted(set(self.models)), *self._on()])
        return f"{self.kind}:{hashlib.sha256(asked.encode()).hexdigest()}"


class Bundle(Contract):
    """Write models and their lock into one file, for machines without internet; every byte is proven on the way."""

    kind = "model.bundle"
    example: ClassVar[dict[str, Any]] = {"name": "night-shift.tar", "models": ["qwen3-0.6b"]}

    name: BundleName
    """Of the file, in the folder of bundles."""
    models: Annotated[list[ModelId], Field(min_length=1, max_length=100)]

    def unique_key(self) -> str:
        named = "\0".join([self.name, *sorted(set(self.models))])
        return f"{self.kind}:{hashlib.sha256(named.encode()).hexdigest()}"


class Unbundle(OnNode):
    """Take models out of a bundle: all of it is proven before any of it is there to be used."""

    kind = "model.unbundle"
    makes_way = True
    example: ClassVar[dict[str, Any]] = {"name": "night-shift.tar"}

    name: BundleName
    sha256: Sha256 | None = None
    """What the whole file must have, as its maker told."""

    def unique_key(self) -> str:
        return ":".join([self.kind, self.name, self.sha256 or "", *self._on()])


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


class Scan(OnNode):
    """Look for models in folders of the user's and register them where they lie; nothing is copied or written there."""

    kind = "model.scan"
    example: ClassVar[dict[str, Any]] = {"paths": ["/models"]}

    paths: list[ScanPath] = Field([], max_length=100)
    """Absolute, each a scan root or below one; all scan roots where none is named."""

    def unique_key(self) -> str:
        named = "\0".join(sorted(set(self.paths)))
        asked = [hashlib.sha256(named.encode()).hexdigest()] if named else []
        return ":".join([self.kind, *asked, *self._on()])


class Run(OfModel):
    """Ask a model once, and keep its answer in the job's result: for work in batches, behind everybody's requests."""

    kind = "model.run"
    of_store = False
    audited = False
    priority = Priority.LOW
    example: ClassVar[dict[str, Any]] = {
        "model_id": "qwen3-0.6b", "path": "completions", "request": {"prompt": "Once"},
    }  # fmt: skip

    path: AskPath
    """The OpenAI endpoint that takes such a request."""
    request: dict[str, Any]
    """As that endpoint takes it, without `model` and `stream`."""

    @model_validator(mode="after")
    def _takes(self) -> Self:
        if taken := {"model", "stream"} & self.request.keys():
            raise ValueError(f"leave {' and '.join(sorted(taken))} out of the request")
        self.asked()
        return self

    def asked(self) -> BaseModel:
        """The request as its endpoint reads it.

        Raises:
            ValidationError
        """
        return ASKS[self.path].body.model_validate({**self.request, "model": self.model_id})

    def unique_key(self) -> str:
        asked = hashlib.sha256(json.dumps([self.path, self.request], sort_keys=True).encode()).hexdigest()
        return f"{super().unique_key()}:{asked}"


class Deliver(Contract):
    """Tell a receiver of webhooks what waits for it; asked for by the workers themselves."""

    kind = "webhook.deliver"
    of_store = False
    priority = Priority.HIGH
    makes_way = True
    displaces = False
    audited = False
    example: ClassVar[dict[str, Any]] = {"webhook_id": "wh_0123456789abcdef"}

    webhook_id: Annotated[str, Field(pattern=r"^wh_[0-9a-f]{16}$")]

    def unique_key(self) -> str:
        return f"{self.kind}:{self.webhook_id}"


class ApplyProfile(Contract):
    """Enable the models of a profile and no others, with its settings; fetch what is missing, load them all.

    The newest such job counts: one before it ends without having done the rest.
    """

    kind = "profile.apply"
    of_store = False
    priority = Priority.HIGH
    example: ClassVar[dict[str, Any]] = {"name": "development"}

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    digest: Sha256 | None = None
    """Of what it said when somebody asked; whatever it says now where that is left out."""

    def unique_key(self) -> str:
        return f"{self.kind}:{self.name}:{self.digest or ''}"


KINDS: dict[str, type[Contract]] = {
    contract.kind: contract
    for contract in (
        Download, Verify, Repair, Remove, Switch, Load, Unload, Scan, Scrub, HealthCheck, Update, UpdateCheck, Rollback,
        Restore, Cleanup, Bundle, Unbundle, Run, Deliver, SourceCheck, Ensure, ApplyProfile,
    )
}  # fmt: skip

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
        raise invalid_arguments(kind, error) from error


def invalid_arguments(kind: str, error: ValidationError) -> Invalid:
    """What to say of arguments that do not fit."""
    faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".strip(": ") for fault in error.errors())
    return Invalid(
        "invalid_arguments", f"The arguments of {kind} do not fit: {faults}.", f"See docs/contracts.md, {kind}."
    )
