"""The keys of this service: made, listed, given a new secret, revoked."""

from datetime import datetime
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field

from api import keyring
from api.bodies import Body
from api.deps import FrontDep
from api.keyring import Caller
from api.views import View, moment
from shared.db import keys
from shared.db.keys import ApiKey

router = APIRouter(tags=["keys"])

LONGEST_DAYS = 3650
RoleName = Literal["viewer", "operator", "admin"]


class KeyBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "prometheus", "role": "viewer"}]})

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="Who or what it is for.")]
    role: Annotated[
        RoleName, Field(description="viewer looks; operator has work done and asks models; admin changes settings.")
    ]
    days: Annotated[float | None, Field(gt=0, le=LONGEST_DAYS, description="Until it expires; never where unset.")] = (
        None
    )


class KeyView(View):
    name: str
    role: RoleName
    start: str = Field(description="Its first characters.")
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None = Field(description="To the hour; null: not yet.")
    key: str | None = Field(None, description="The key itself: in this answer, and never again.")

    @classmethod
    def of(cls, row: ApiKey, key: str | None = None) -> Self:
        times = {name: moment(getattr(row, name)) for name in ("created_at", "expires_at", "used_at")}
        return cls.model_validate({"name": row.name, "role": row.role, "start": row.start, "key": key, **times})


class KeysView(View):
    keys: list[KeyView]
    standing: bool = Field(description="MODELYARD_API_KEY is set: an admin key that is not listed.")


class OwnKey(View):
    """What the one who asks may do."""

    name: str | None = Field(description="Null: nobody has a key here, and whoever reaches the service is let in.")
    role: RoleName
    expires_at: datetime | None


class Revoked(View):
    name: str


@router.get("/key", summary="What your key lets you do")
async def own(request: Request) -> OwnKey:
    """The key that this request was sent with."""
    caller: Caller = request.state.caller
    return OwnKey(name=caller.name, role=caller.role.value, expires_at=moment(caller.expires_at))


@router.get("/keys", summary="List keys")
def list_keys(front: FrontDep) -> KeysView:
    """By name, without their secrets, which are nowhere."""
    with front.database.reading() as session:
        found = keys.every(session)
    return KeysView(keys=[KeyView.of(row) for row in found], standing=front.keyring.standing)


@router.post("/keys", status_code=201, summary="Make a key")
def add_key(front: FrontDep, body: KeyBody, response: Response) -> KeyView:
    """The answer has the key: it is shown now, and never again. From the first one on nobody is let in without."""
    key = keyring.make()
    row = ApiKey(name=body.name, role=body.role, digest=keyring.digest(key), start=key[: keyring.SHOWN], created_at=0.0)
    with front.database.session() as session:
        keys.add(session, row, days=body.days, standing=front.keyring.standing)
    front.keyring.look()
    response.headers["Location"] = "/api/v1/keys"
    return KeyView.of(row, key)


@router.post("/keys/{name}/rotate", summary="Give a key a new secret")
def rotate_key(front: FrontDep, name: str) -> KeyView:
    """The old one ends now; the new one lasts as long as the old one was made for."""
    key = keyring.make()
    with front.database.session() as session:
        row = keys.rotate(session, name, keyring.digest(key), key[: keyring.SHOWN])
    front.keyring.look()
    return KeyView.of(row, key)


@router.delete("/keys/{name}", summary="Revoke a key")
def revoke_key(front: FrontDep, name: str) -> Revoked:
    """Whoever has it is let in no more: at once here, within two seconds by other processes of the API."""
    with front.database.session() as session:
        keys.revoke(session, name, standing=front.keyring.standing)
    front.keyring.look()
    return Revoked(name=name)
