"""What requests look like: both spellings, and nothing that is not known."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from api.views import PriorityName
from shared.asks import AskPath
from shared.contract import BundleName, ModelId, ScanPath, Sha256
from shared.db.tables import Model
from shared.errors import ModelyardError
from shared.fallback import MOST_STEPS, Step
from shared.lock import Lock
from shared.refs import Ref, SourceKind, checked
from shared.storable import printable, printable_lines, storable


class Body(BaseModel):
    """A request: both spellings, no unknown field, no silent conversion, nothing that cannot be kept."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True)

    _storable = model_validator(mode="before")(storable)


class JobChange(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"priority": "CRITICAL"}]})

    priority: PriorityName


def _checksum(value: str) -> str:
    algorithm, _, digest = value.partition(":")
    lengths = {"sha256": 64, "md5": 32}
    if lengths.get(algorithm) != len(digest) or not set(digest.lower()) <= set("0123456789abcdef"):
        raise ValueError("a checksum is sha256:<64 hex digits> or md5:<32 hex digits>")
    return value.lower()


Text = Annotated[str, Field(max_length=2000), AfterValidator(printable)]


class AddModel(Body):
    """A model of your own."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "model_id": "qwen3-0.6b", "model_type": "llm", "name": "Qwen3 0.6B",
        "source": "huggingface", "source_url": "Qwen/Qwen3-0.6B",
    }]})  # fmt: skip

    model_id: ModelId
    model_type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    name: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(printable)]
    description: Annotated[str, Field(max_length=2000), AfterValidator(printable_lines)] = ""
    source: Annotated[SourceKind, Field(strict=False)]
    source_url: Text
    revision: Text | None = None
    file_size: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    checksum: Annotated[str, AfterValidator(_checksum)] | None = None
    requirements: dict[str, Any] = {}
    tags: Annotated[list[Annotated[str, Field(max_length=100), AfterValidator(printable)]], Field(max_length=50)] = []
    config: dict[str, Any] = {}

    @field_validator("source_url")
    @classmethod
    def _well_formed(cls, value: str, info: Any) -> str:
        if "source" in info.data:
            try:
                checked(Ref(info.data["source"], value))
            except ModelyardError as error:
                raise ValueError(f"{error.message} {error.hint}") from error
        return value

    def row(self) -> Model:
        return Model(
            id=self.model_id, type=self.model_type, created_at=0.0, updated_at=0.0,  # the database's clock sets both
            **self.model_dump(exclude={"model_id", "model_type"}),
        )  # fmt: skip


class ScanBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"paths": ["/models"]}]})

    paths: Annotated[
        list[ScanPath], Field(max_length=100, description="Each a folder of MODEL_SCAN_PATH, or below.")
    ] = []


class ChangeModel(Body):
    """What a model's source is to be asked for from now on; what is left out stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"revision": "main"}]})

    revision: Text | None = None
    checksum: Annotated[str, AfterValidator(_checksum)] | None = None


class DownloadBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model_id": "sdxl-base-1.0", "priority": "HIGH"}]})

    model_id: ModelId
    force_redownload: bool = False
    priority: PriorityName | None = None


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

    _storable = model_validator(mode="before")(storable)


class BundleBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "night-shift.tar", "models": ["qwen3-0.6b"]}]})

    name: Annotated[BundleName, Field(description="Of the file: letters, digits, dots and dashes, ending in .tar.")]
    models: Annotated[list[ModelId], Field(min_length=1, max_length=100)]


class ImportBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"sha256": "0" * 64}]})

    sha256: Annotated[Sha256, Field(description="Of the whole file, as its maker told.")] | None = None


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

    model_id: ModelId
