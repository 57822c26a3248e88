"""Will it fit: what models need, where they can run, and what this machine has."""

import re
from typing import Annotated

from fastapi import APIRouter, Query

from api import fit, hardware, profiles
from api.deps import FrontDep
from api.fit import CompatibilityView, RequirementsView
from api.hardware import HardwareProfile, OptimizationStatus
from api.nodes import NodesView, view_nodes
from api.plan import PlanBody, PlanView, planned
from api.profiles import ProfilePlanView, plan_profile
from shared.progress import Leases

models = APIRouter(prefix="/models", tags=["fit"])
machine = APIRouter(prefix="/system", tags=["fit"])
plans = APIRouter(prefix="/plan", tags=["fit"])
ROUTERS = (models, machine, plans)

RESOLUTION = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)
Context = Annotated[
    int | None, Query(ge=128, le=2**24, description="Tokens of context; what runners are started with where missing.")
]


@models.get("/{model_id}/requirements", summary="What a model needs")
def requirements(
    front: FrontDep,
    model_id: str,
    device: Annotated[str | None, Query(max_length=64, description="Its id; the best one where missing.")] = None,
    context_length: Context = None,
) -> RequirementsView:
    """Memory by its files' own headers, corrected by what was measured; disk, and what its publisher asks for."""
    length = context_length or front.settings.runners.context_length
    return fit.requirements(front.database, model_id, device, length)


@models.get("/{model_id}/compatibility", summary="Where a model can run")
def compatibility(
    front: FrontDep,
    model_id: str,
    context_length: Context = None,
    mode: Annotated[str | None, Query(max_length=32, description="A mode of generation, such as t2v.")] = None,
    resolution: Annotated[
        str | None, Query(pattern=RESOLUTION.pattern + "$", description="Of pictures, such as 1024x1024.")
    ] = None,
) -> CompatibilityView:
    """Fully, partially or not at all, for each device, with what to do about each issue."""
    size = RESOLUTION.fullmatch(resolution) if resolution else None
    length = context_length or front.settings.runners.context_length
    pixels = (int(size[1]), int(size[2])) if size else None
    return fit.compatible(front.database, model_id, length, mode, pixels)


@machine.get("/nodes", summary="The machines")
def list_nodes(front: FrontDep) -> NodesView:
    """Which machines there are, which are away, and which store each works on; see docs/hosts.md."""
    return view_nodes(front.database)


@machine.get("/hardware/profile", summary="What this machine has")
def hardware_profile(front: FrontDep) -> HardwareProfile:
    """Devices with their memory, load and health, the runtimes that are installed, and the disks of the stores."""
    return hardware.profile(front.database)


@machine.get("/optimization/status", summary="How models run here")
def optimization_status(front: FrontDep) -> OptimizationStatus:
    """What is in force on each device, what would suit it, and the largest model that fits by bits a weight."""
    return hardware.optimization(front.database, front.settings.runners.context_length)


@plans.post("", summary="What a change of memory would do")
def make_plan(front: FrontDep, body: PlanBody) -> PlanView | ProfilePlanView:
    """Who leaves, what is needed and free, and how long it takes; carried out by `POST /models/{id}/switch?plan=ID`.

    Of a profile, what is enabled, fetched, loaded and put out for it, and what does not fit; carried out by
    `POST /models/profiles/{name}/apply?plan=ID`.
    """
    if body.profile is not None:
        return plan_profile(front, profiles.to_apply(front, body.profile, keep=False))
    return planned(front.database, Leases(front.redis), body, front.settings.runners.context_length)
