"""Profiles: which models are enabled, and how they run."""

import structlog
from fastapi import APIRouter
from pydantic import ConfigDict

from api import profiles
from api.deps import AskingDep, FrontDep, run_sync
from api.plan import PlanId
from api.profiles import ProfilesView, ProfileView
from api.views import Accepted
from shared.contracts import ApplyProfile
from shared.db.placement import outdated
from shared.errors import Invalid
from shared.profiles import Profile

log = structlog.get_logger()
router = APIRouter(prefix="/models/profiles", tags=["profiles"])


class ProfileBody(Profile):
    """`settings` has models by id: `load`, `contextLength`, `fallback`."""

    model_config = ConfigDict(frozen=True)


@router.get("", summary="Profiles")
def list_profiles(front: FrontDep) -> ProfilesView:
    """Those of the folder and those that were made here; what is wrong in a file is told with its line."""
    return profiles.every(front)


@router.post("", status_code=201, summary="Make a profile")
def create_profile(front: FrontDep, body: ProfileBody) -> ProfileView:
    """It changes nothing until it is applied."""
    log.info("profile.made", profile=body.name)
    return profiles.create(front, body, replace=False)


@router.get("/{name}", summary="One profile")
def get_profile(front: FrontDep, name: str) -> ProfileView:
    """Its models and their settings, or what is wrong in its file."""
    return profiles.one(front, name)


@router.put("/{name}", summary="Replace a profile")
def replace_profile(front: FrontDep, name: str, body: ProfileBody) -> ProfileView:
    """Or make it. What is in force changes when it is applied."""
    if body.name != name:
        raise Invalid("other_name", f"The profile is named {body.name!r}.", f"Use the path of {body.name!r}.")
    log.info("profile.replaced", profile=name)
    return profiles.create(front, body, replace=True)


@router.delete("/{name}", summary="Delete a profile")
def delete_profile(front: FrontDep, name: str) -> ProfilesView:
    """What it has brought about stays as it is."""
    profiles.delete(front, name)
    log.info("profile.deleted", profile=name)
    return profiles.every(front)


@router.post("/{name}/apply", status_code=202, summary="Apply a profile")
async def apply_profile(
    front: FrontDep,
    asking: AskingDep,
    name: str,
    plan: PlanId = None,
) -> Accepted:
    """Enable its models and no others, with its settings; put out what is not of it, fetch what is missing, load them.

    See before what it would do: `POST /plan` with `{"action": "apply-profile", "profile": name}`.
    """
    profile = await run_sync(profiles.to_apply, front, name)
    if plan is not None and (await run_sync(profiles.plan_profile, front, profile)).id != plan:
        raise outdated()
    return await asking.accept(ApplyProfile, None, **await run_sync(profiles.asked, front, profile))
