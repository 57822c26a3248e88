"""Answers about the machine: its devices, and how models run on them."""

from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from api.compatibility import BITS
from api.views import View
from shared import fit
from shared.db import devices, upkeep
from shared.db.reports import Device
from shared.db.session import Database

GPU_PRECISION, GPU_OLD_PRECISION = "bfloat16", "float16"
BFLOAT16_SINCE = 8.0
"""Compute capability from which a GPU calculates in bfloat16."""


class ResidentView(View):
    model_id: str
    state: str
    memory_bytes: int | None


class DeviceView(View):
    """A device as its worker last saw it. Bytes, degrees Celsius, watts; null where it does not tell."""

    id: str
    kind: str
    name: str
    node: str
    memory_total: int
    memory_free: int | None = None
    memory_limit: int | None = Field(None, description="What models may take of it together.")
    host_free: int | None = Field(None, description="Of a GPU: what is free of the machine's memory.")
    spare_bytes: int | None = Field(None, description="Of the machine's, in a runner without a model; free for one.")
    utilisation: float | None = Field(None, description="0 to 1.")
    temperature: float | None = None
    power: float | None = None
    driver: str | None = None
    compute_capability: str | None = None
    healthy: bool = True
    reason: str | None = None
    alive: bool = Field(description="Its worker has given a sign of life within a minute.")
    seen_at: datetime
    residents: list[ResidentView]


class DiskView(View):
    store: str
    total: int
    free: int


class HardwareProfile(View):
    """Every device that a worker has reported, and the disks of the stores."""

    devices: list[DeviceView]
    no_gpu: str | None = Field(None, description="Why there is no GPU, for a person.")
    runtimes: dict[str, dict[str, str]] = Field(description="By name: its version, or what is missing and the hint.")
    disks: list[DiskView]


class OptimizationView(View):
    """How models run on a device, and what would suit it."""

    device: str
    in_force: dict[str, Any]
    recommended: dict[str, Any]
    largest_model: dict[str, int] = Field(
        description="By bits a weight: the most parameters that fit beside a short context."
    )


class OptimizationStatus(View):
    devices: list[OptimizationView]


def profile(database: Database) -> HardwareProfile:
    """Raises: Unavailable, where no device has been reported."""
    with database.reading() as session:
        rows, clock, reports = devices.reported(session), devices.clock(session), upkeep.reports(session)
        held: dict[str, list[ResidentView]] = {}
        for row in devices.residents(session):
            view = ResidentView(model_id=row.model_id, state=row.state, memory_bytes=row.memory_bytes)
            held.setdefault(row.device, []).append(view)
    return HardwareProfile(
        devices=[_view(row, clock, held.get(row.id, [])) for row in rows],
        runtimes={name: told for row in rows for name, told in row.details.get("runtimes", {}).items()},
        no_gpu=next((row.details["noGpu"] for row in rows if "noGpu" in row.details), None),
        disks=[
            DiskView(store=row.store, total=row.report.get("diskTotal", 0), free=row.report.get("diskFree", 0))
            for row in reports
        ],
    )


def optimization(database: Database, context_length: int) -> OptimizationStatus:
    """Raises: Unavailable, where no device has been reported."""
    with database.reading() as session:
        rows = devices.reported(session)
    return OptimizationStatus(devices=[_optimization(row, context_length) for row in rows])


def _view(row: Device, clock: float, residents: list[ResidentView]) -> DeviceView:
    told = {name: value for name, value in row.details.items() if name not in ("noGpu", "runtimes")}
    return DeviceView(
        id=row.id, kind=row.kind, name=row.name, node=row.node, memory_total=row.memory_total,
        alive=clock - row.seen_at < devices.AWAY_SECONDS, seen_at=datetime.fromtimestamp(row.seen_at, UTC),
        residents=residents, **told,
    )  # fmt: skip


def _optimization(device: Device, context_length: int) -> OptimizationView:
    gpu = device.kind == "gpu"
    capability = float(device.details.get("computeCapability") or 0)
    precision = GPU_PRECISION if capability >= BFLOAT16_SINCE else GPU_OLD_PRECISION
    room = device.memory_total - fit.RUNTIME_BYTES["llamacpp", device.kind]
    return OptimizationView(
        device=device.id,
        in_force={
            "precision": "as in the model's files", "quantization": "as in the model's files",
            "attention": "what the runtime chooses", "offload": "none" if gpu else "all of it on the CPU",
            "contextLength": context_length,
        },
        recommended={
            "precision": precision if gpu else "float32 or a GGUF", "quantization": "Q8_0" if gpu else "Q4_K_M",
            "attention": "what the runtime chooses", "offload": "none: what does not fit is refused with its numbers",
        },
        largest_model={name: max(0, round(room * 8 / bits)) for name, bits in BITS.items()},
    )  # fmt: skip
