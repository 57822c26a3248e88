"""Answers about what a model needs, and where it can run."""

from typing import Any

from pydantic import Field

from api.compatibility import Level, Place, Wanted, judge, level, of_base, size_of, variants
from api.views import View
from shared import fit
from shared.db import bases, catalog, devices, footprints, names, upkeep
from shared.db.placement import free_now
from shared.db.reports import Device
from shared.db.session import Database
from shared.db.tables import Installation, Model
from shared.errors import Conflict
from shared.states import Output, output_of

CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)


class NeedView(View):
    """Bytes of a device's memory. `total` may be off by `spread` either way."""

    weights: int
    cache: int = Field(description="Keys and values of a full context; for images, what their making takes.")
    runtime: int = Field(description="The runtime itself and its buffers.")
    total: int
    spread: int
    basis: fit.Basis = Field(description="estimated from the files, corrected by other models, or measured.")


class ContextView(View):
    context_length: int
    total: int


class VariantView(View):
    """The same model with fewer bits a weight."""

    quantization: str
    weights: int


class RequirementsView(View):
    """What a model needs on one device. Sizes are bytes."""

    model_id: str
    installed: bool = Field(description="False: nothing but the registry's size is known, and the estimate is rough.")
    device: str
    runtime: str | None = Field(description="Null where no runtime here runs its format.")
    context_length: int
    memory: NeedView
    by_context: list[ContextView] = Field(
        description="The same for other lengths of context; none for images and sound."
    )
    variants: list[VariantView] = Field(description="What quantized variants would take.")
    disk: int
    declared: dict[str, Any] = Field(description="What the registry says it needs.")
    load_seconds: float | None = Field(None, description="What its last load on this device took.")


class IssueView(View):
    code: str
    level: Level
    message: str
    recommendation: str


class DeviceCompatibility(View):
    device: str
    name: str
    level: Level
    issues: list[IssueView]


class CompatibilityView(View):
    """`level` is that of the best device."""

    model_id: str
    level: Level
    devices: list[DeviceCompatibility]


def requirements(database: Database, model_id: str, device_id: str | None, context_length: int) -> RequirementsView:
    """Raises: NotFound; Conflict, code `size_unknown`; Unavailable, where no device has been reported."""
    with database.reading() as session:
        model, installation = catalog.get_model(session, model_id), catalog.installation(session, model_id)
        device, row = devices.named(session, device_id), installation or _not_yet(model)
        setting = _setting(row, device, context_length)
        known = footprints.learned(session, row, device.id, setting.runtime)
    if not row.size:
        raise Conflict(
            "size_unknown", f"Nothing tells the size of {model_id!r} before it is here.",
            f"Download it: modelyard pull {model_id}; its files tell what it needs.",
        )  # fmt: skip
    longest = row.facts.get("contextLength") or context_length
    lengths = sorted({length for length in CONTEXTS if length < longest} | {longest})
    if output_of(model.type) in (Output.IMAGES, Output.SOUND, Output.VIDEO):
        lengths = []
    parameters = row.facts.get("parameterCount")
    return RequirementsView(
        model_id=model_id, installed=installation is not None, device=device.id, runtime=setting.runtime or None,
        context_length=context_length, memory=NeedView.model_validate(known.need(setting), from_attributes=True),
        by_context=[
            ContextView(context_length=length, total=known.need(setting._replace(context_length=length)).total)
            for length in lengths
        ],
        variants=[
            VariantView(quantization=name, weights=round(parameters * bits / 8))
            for name, bits in variants(setting.runtime).items()
            if parameters
        ],
        disk=row.size, declared=model.requirements,
        load_seconds=known.load_seconds(setting),
    )  # fmt: skip


def compatible(
    database: Database, model_id: str, context_length: int, mode: str | None, resolution: tuple[int, int] | None
) -> CompatibilityView:
    """Raises: NotFound; Conflict, code `size_unknown`; Unavailable, where no device has been reported."""
    with database.reading() as session:
        model, installation = catalog.get_model(session, model_id), catalog.installation(session, model_id)
        row, disk_free = installation or _not_yet(model), upkeep.disk_free(session)
        modes = names.of_models(session, [model_id]).get(model_id, names.NO_NAMES).modes
        adapter = bases.judged(session, [model], {model_id: row}).get(model_id)
        settings = [(device, _setting(row, device, context_length)) for device in devices.reported(session)]
        places = [_place(device, free_now(session, device)) for device, _ in settings]
        needs = [
            footprints.learned(session, row, device.id, setting.runtime).need(setting) for device, setting in settings
        ]
    told = []
    for (device, setting), place, need in zip(settings, places, needs, strict=True):
        wanted = Wanted(
            row.facts,
            row.size,
            setting,
            need,
            {**model.requirements, "modes": modes} if modes else model.requirements,
            0 if installation else row.size,
            mode,
            resolution,
            model.type,
        )
        issues = [*of_base(model_id, adapter), *judge(wanted, place, disk_free)]
        told.append(
            DeviceCompatibility(
                device=device.id, name=device.name, level=level(issues),
                issues=[IssueView.model_validate(issue, from_attributes=True) for issue in issues],
            )
        )  # fmt: skip
    best = min((each.level for each in told), key=list(Level).index)
    return CompatibilityView(model_id=model_id, level=best, devices=told)


def _setting(row: Installation, device: Device, context_length: int) -> fit.Setting:
    return fit.Setting(fit.runtime_of(row.facts, row.holder, row.model_type), device.kind, context_length)


def _not_yet(model: Model) -> Installation:
    """All that is known of a model that is not on disk: what the registry says of its size."""
    size = model.file_size or size_of(model.requirements.get("disk")) or 0
    return Installation(
        model_id=model.id, model_type=model.type, revision="", state="", size=size, files=0, integrity=0.0,
        path="", facts={}, published_at=0.0, verified_at=0.0,
    )  # fmt: skip


def _place(device: Device, free: int | None) -> Place:
    told = device.details
    fault = None if told.get("healthy", True) else told.get("reason", "The device is not healthy.")
    total, limit = device.memory_total, told.get("memoryLimit")
    limited = limit is not None and limit < total
    return Place(device.kind, min(total, limit or total), free, told.get("runtimes", {}), fault, limited)
