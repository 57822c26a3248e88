"""What requests look like: both spellings, and nothing that is not known."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from api.views import PriorityName
from shared.asks import AskPath
from shared.contract import BundleName, ModelId, NodeName, ScanPath, Sha256
from shared.errors import ModelyardError
from shared.fallback import MOST_STEPS, Step
from shared.lock import Lock
from shared.order import Policy
from shared.refs import SourceKind, check_alias
from shared.states import Tier
from shared.storable import printable


class Body(BaseModel):
    """A request: both spellings, no unknown field, no silent conversion, nothing that cannot be kept."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True)


class JobChange(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"priority": "CRITICAL"}]})

    priority: PriorityName


def a_checksum(value: str) -> str:
    algorithm, _, digest = value.partition(":")
    lengths = {"sha256": 64, "md5": 32}
    if lengths.get(algorithm) != len(digest) or not set(digest.lower()) <= set("0123456789abcdef"):
        raise ValueError("a checksum is sha256:<64 hex digits> or md5:<32 hex digits>")
    return value.lower()


def _alias(value: str) -> str:
    try:
        return check_alias(value)
    except ModelyardError as error:
        raise ValueError(f"{error.message} {error.hint}") from error


Text = Annotated[str, Field(max_length=2000), AfterValidator(printable)]
ModelName = Annotated[str, AfterValidator(_alias)]
"""The id of a model, or an alias or a mode that stands for one."""
Aliases = Annotated[list[ModelName], Field(max_length=20)]
Modes = Annotated[list[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]], Field(max_length=20)]


Node = Annotated[
    NodeName, Field(description="The machine whose store is meant, of several; else the one with the best device.")
]


class ScanBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"paths": ["/models"]}]})

    node: Node | None = None

    paths: Annotated[
        list[ScanPath], Field(max_length=100, description="Each a folder of MODEL_SCAN_PATH, or below.")
    ] = []


class ChangeModel(Body):
    """What a model's source is to be asked for from now on; what is left out stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"revision": "main"}]})

    revision: Text | None = None
    checksum: Annotated[str, AfterValidator(a_checksum)] | None = None


class DownloadBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model_id": "sdxl-base-1.0", "priority": "HIGH"}]})

    model_id: ModelName
    force_redownload: bool = False
    priority: PriorityName | None = None
    node: Node | None = None


class TrustBody(Body):
    """What of this revision to allow; what is left out is not allowed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"revision": "b5a1e7c", "allow_pickle": True}]})

    revision: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    allow_pickle: bool = False
    allow_remote_code: bool = False
    allow_unverified: Annotated[
        bool, Field(description="Load it although its server told neither a length nor a digest.")
    ] = False


class LockBody(Lock):
    """The content of `models.lock`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "lockVersion": 1, "models": [{
            "modelId": "qwen3-0.6b", "modelType": "llm", "name": "Qwen3 0.6B", "source": "huggingface",
            "sourceUrl": "Qwen/Qwen3-0.6B", "revision": "c1899de289a04d12100db370d81485cdf75e47ca",
            "files": [{"name": "config.json", "size": 726, "sha256": "0" * 64}],
        }],
    }]})  # fmt: skip


class BundleBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "night-shift.tar", "models": ["qwen3-0.6b"]}]})

    name: Annotated[BundleName, Field(description="Of the file: letters, digits, dots and dashes, ending in .tar.")]
    models: Annotated[list[ModelId], Field(min_length=1, max_length=100)]


class ImportBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"sha256": "0" * 64}]})

    sha256: Annotated[Sha256, Field(description="Of the whole file, as its maker told.")] | None = None
    node: Node | None = None


class FallbackBody(Body):
    """Steps, the best first; none: strict."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"steps": [{"contextLength": 2048}, {"model": "qwen3-0.6b"}]},
    ]})  # fmt: skip

    steps: Annotated[list[Step], Field(max_length=MOST_STEPS)]


class RunBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [
        {"path": "chat/completions", "request": {"messages": [{"role": "user", "content": "Hello"}]}},
    ]})  # fmt: skip

    path: AskPath = "chat/completions"
    request: Annotated[dict[str, Any], Field(description="As that endpoint takes it, without `model` and `stream`.")]
    priority: PriorityName | None = None


class UseBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"seconds": 1.8}]})

    seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False, description="How long the answer took.")]
    failed: bool = False


class PriorityBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"priority": "HIGH"}, {"priority": None}]})

    priority: Annotated[PriorityName | None, Field(description="Null: from its uses again.")]


class ModelBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model_id": "qwen3-0.6b"}]})

    model_id: ModelName


class TierBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"tier": "powerful"}, {"tier": None}]})

    tier: Annotated[Tier | None, Field(strict=False, description="Null: as its files tell.")]


class ThinkingBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"thinking": True}, {"thinking": None}]})

    thinking: Annotated[bool | None, Field(description="Null: as its files tell.")]


class EnabledBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": False}]})

    enabled: bool


class ConfigBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"config": {"context_length": 8192}}]})

    config: Annotated[dict[str, Any], Field(description="In place of what it has; GET /models/types tells its fields.")]


class NamesBody(Body):
    """What is left out stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"aliases": ["small"]}, {"modes": ["t2v"]}]})

    aliases: Annotated[Aliases | None, Field(description="All of them: those that it has and are not here go.")] = None
    modes: Modes | None = None


class BaseBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"base_model": "sdxl-base-1.0"}]})

    base_model: Annotated[ModelId | None, Field(description="Of an adapter, the model that it is for; null: none.")]


class RequestBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"start": True}, {"start": False}]})

    start: Annotated[
        bool, Field(description="Set about what is missing: fetch, repair or load it. False: only tell.")
    ] = True
    priority: Annotated[PriorityName | None, Field(description="Of the job; the model's own where missing.")] = None


class EnsureBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"policy": "wanted"}]})

    policy: Annotated[
        Policy,
        Field(strict=False, description="repair: what is damaged; wanted: also what is missing; all."),
    ] = Policy.WANTED


class SourceBody(Body):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"source": "huggingface", "source_url": "Qwen/Qwen3-0.6B"}]}
    )

    source: Annotated[SourceKind, Field(strict=False)]
    source_url: Text
    revision: Text | None = None
