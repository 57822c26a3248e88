"""`make demo`: the main job on real input, told in a few minutes.

Models in real formats are made on the spot and served by a hub on loopback that speaks the Hub's protocol. Everything
after that is the service itself, driven over its public API as a user would.
"""

import os
import shutil
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from api.cli.client import Client, Refused
from api.cli.terminal import announce, checked, end, follow
from deploy.demo.hub import Hub
from deploy.demo.load import Load, Tally
from deploy.demo.models import make_gguf_llm, make_transformers_llm
from deploy.environment import variables
from deploy.local import READY_SECONDS, Instance
from shared.errors import ModelyardError
from shared.settings import Settings
from workers.runtimes.llamacpp import find_binary

MIB = 1024 * 1024
ACORN_BYTES, BIRCH_BYTES = 384 * MIB, 24 * MIB
RATE = 8 * MIB
"""Bytes per second and connection of the demo's hub, so that progress can be seen."""
REQUESTS = 240


def tell(console: Console, *, stay: bool) -> int:
    """Play the whole story. Answers the exit code: 0 if every step did what it promises."""
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="modelyard-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        models = _make_models(console, folder / "hub")
        hub = stack.enter_context(Hub(folder / "hub", rate=RATE))
        _forget_settings()
        os.environ |= {"HF_ENDPOINT": hub.url, "MODELYARD_DATA_DIR": str(folder / "data"), "MODELYARD_API__PORT": "0"}
        instance = stack.enter_context(Instance(Settings()))
        _step(console, "Start: Redis, API, workers, beat, Flower")
        instance.wait_ready(READY_SECONDS)
        announce(instance)
        client = Client(instance.url)
        _pull_and_prove(console, client, models)
        tally, swaps = _swap_under_load(console, client, models)
        healed = _break_and_heal(console, client)
        _summary(console, client, tally, swaps, healed, time.monotonic() - began, stay)
        if stay:
            console.print("It stays up. Stop it with Ctrl-C.")
            _until_interrupted(instance)
    return 0 if not tally.failures and healed else 1


def _forget_settings() -> None:
    """The demo breaks what it has made: it must never reach the store or the Redis of a real service."""
    for name in [variable.name for variable in variables()] + ["MODELYARD_URL"]:
        if name != "LLAMA_SERVER_PATH":
            os.environ.pop(name, None)


def _step(console: Console, title: str) -> None:
    console.print(f"\n▌ {title}", style="bold")


def _make_models(console: Console, root: Path) -> dict[str, str]:
    """Model id → reference. The GGUF is there where llama-server is."""
    _step(console, "Make models in real formats, random weights")
    make_transformers_llm(root / "demo" / "acorn", 1, ACORN_BYTES, "acorn")
    make_transformers_llm(root / "demo" / "birch", 2, BIRCH_BYTES, "birch")
    models = {"acorn": "hf:demo/acorn", "birch": "hf:demo/birch"}
    try:
        find_binary(Settings().runners)
    except ModelyardError as missing:
        console.print(f"  No GGUF model in this run: {missing.message} {missing.hint}")
    else:
        make_gguf_llm(root / "demo" / "cedar" / "cedar.gguf", 3, name="cedar")
        models["cedar"] = "hf:demo/cedar"
    for name in models:
        size = sum(file.stat().st_size for file in (root / "demo" / name).rglob("*") if file.is_file())
        console.print(f"  {name}: {size / 1e6:.1f} MB")
    return models


def _pull_and_prove(console: Console, client: Client, models: dict[str, str]) -> None:
    _step(console, "Download from a hub that speaks the Hub's protocol (8 MiB/s per connection)")
    for model_id, ref in models.items():
        location = ref.removeprefix("hf:")
        client.post(
            "/api/v1/models/add",
            {
                "model_id": model_id,
                "model_type": "llm",
                "name": model_id,
                "source": "huggingface",
                "source_url": location,
            },
        )
        end(client, client.post("/api/v1/models/download", {"model_id": model_id}), wait=True, as_json=False)
    _step(console, "Prove every byte against the digests taken at download")
    for model_id in models:
        end(client, client.post(f"/api/v1/models/{model_id}/verify"), wait=True, as_json=False)


def _swap_under_load(console: Console, client: Client, models: dict[str, str]) -> tuple[Tally, list[float]]:
    _step(console, "Activate acorn: load it, and prove it with a real inference")
    end(client, client.post("/api/v1/models/activate", {"model_id": "acorn"}), wait=True, as_json=False)
    _step(console, f"Swap while {REQUESTS} requests and more flow, half of them streams")
    order = ["birch", *(["cedar"] if "cedar" in models else []), "acorn"]
    swaps = []
    with Load(client.url, "llm") as load:
        for number, model_id in enumerate(order, 1):
            load.reach(REQUESTS * number // (len(order) + 1))
            began = time.monotonic()
            end(client, client.post(f"/api/v1/models/{model_id}/switch"), wait=True, as_json=False)
            swaps.append(time.monotonic() - began)
        load.reach(REQUESTS)
    return load.tally, swaps


def _break_and_heal(console: Console, client: Client) -> bool:
    _step(console, "Flip one byte of birch on disk; find it, and heal it")
    model = client.get("/api/v1/models/birch")
    weights = max(Path(model["localPath"]).glob("*.safetensors"), key=lambda file: file.stat().st_size)
    _flip(weights, weights.stat().st_size // 2)
    found = _report(client)
    for file in found["corrupted"]:
        console.print(f"  found: {file['name']}, bytes {file['ranges']}")
    try:
        client.post("/api/v1/models/birch/switch")
        refused = False
    except Refused as refusal:
        refused = True
        console.print(f"  quarantined: {refusal.message} {refusal.hint}")
    end(client, client.post("/api/v1/models/birch/repair"), wait=True, as_json=False)
    whole = _report(client)
    return not found["ok"] and refused and bool(whole["ok"])


def _report(client: Client) -> dict[str, Any]:
    """What a verify of birch finds."""
    job = checked(follow(client, client.post("/api/v1/models/birch/verify"), quiet=True))
    report: dict[str, Any] = job["result"]
    return report


def _flip(file: Path, offset: int) -> None:
    file.chmod(0o640)
    with file.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 0xFF]))
    file.chmod(0o440)


def _summary(
    console: Console, client: Client, tally: Tally, swaps: list[float], healed: bool, seconds: float, stay: bool
) -> None:
    _step(console, "Summary")
    jobs: list[dict[str, Any]] = client.get("/api/v1/jobs", limit=100)["jobs"]
    ended = sum(job["status"] == "succeeded" for job in jobs)
    served = ", ".join(f"{model} {count}" for model, count in tally.served.most_common())
    console.print(f"  {ended} of {len(jobs)} jobs succeeded")
    console.print(f"  {tally.whole} requests answered ({served}), {len(tally.failures)} failed")
    for failure in tally.failures[:5]:
        console.print(f"    {failure}", style="red")
    if tally.seconds:
        centiles = statistics.quantiles(tally.seconds, n=100)
        console.print(f"  answer time p50 {centiles[49]:.2f} s, p99 {centiles[98]:.2f} s")
    console.print(f"  {len(swaps)} swaps: {', '.join(f'{swap:.1f} s' for swap in swaps)}")
    console.print(f"  flipped byte found and healed: {'yes' if healed else 'NO'}")
    console.print(f"  {seconds:.0f} s in all")
    where = f"{client.url}/" if stay else "gone with this run; `modelyard demo --stay` keeps it up"
    console.print(f"  the dashboard: {where}")


def _until_interrupted(instance: Instance) -> None:
    try:
        while instance.alive():
            time.sleep(1)
    except KeyboardInterrupt:
        pass
