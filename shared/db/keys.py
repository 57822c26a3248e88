"""Keys of the API as rows: who may come in, and as what. A key itself is nowhere; a row has its sha256."""

from enum import StrEnum

from sqlalchemy import Column, Connection, Float, update
from sqlmodel import Field, Session, SQLModel, col, delete, select

from shared.db.session import now, serialise
from shared.errors import Conflict, Exhausted, NotFound

MOST = 200
"""Keys; every request's is compared with all of them."""


class Role(StrEnum):
    """What a key may do; each may also what those before it may."""

    VIEWER = "viewer"
    """Looks."""
    OPERATOR = "operator"
    """Has work done, and asks models."""
    ADMIN = "admin"
    """Changes how things are set, and who may come in."""

    def may(self, needed: "Role") -> bool:
        order = list(Role)
        return order.index(self) >= order.index(needed)


class ApiKey(SQLModel, table=True):
    """A key, by its name."""

    __tablename__ = "api_keys"

    name: str = Field(primary_key=True, max_length=64)
    role: str = Field(max_length=16)
    digest: str = Field(max_length=64, unique=True)
    """sha256 of the key, in hex."""
    start: str = Field(max_length=16)
    """The key's first characters, by which people tell it from another."""
    created_at: float = Field(sa_column=Column(Float(53), nullable=False))
    expires_at: float | None = Field(default=None, sa_column=Column(Float(53)))
    used_at: float | None = Field(default=None, sa_column=Column(Float(53)))
    """To the hour."""


def every(session: Session) -> list[ApiKey]:
    """By name."""
    return list(session.exec(select(ApiKey).order_by(col(ApiKey.name))).all())


def add(session: Session, key: ApiKey, *, days: float | None, standing: bool) -> ApiKey:
    """Let in whoever has this key from now on.

    Args:
        days: until it expires; None: never.
        standing: there is an admin key that is no row.

    Raises:
        Conflict: `key_exists`; `admin_key_needed`, where nobody could make or revoke keys after it.
        Exhausted: `too_many_keys`.
    """
    serialise(session, "keys")
    there = every(session)
    if any(each.name == key.name for each in there):
        hint = f"Another name, or a new secret for it: modelyard key rotate {key.name}."
        raise Conflict("key_exists", f"There is a key of the name {key.name!r}.", hint)
    if len(there) >= MOST:
        raise Exhausted("too_many_keys", f"There are {MOST} keys.", "Revoke what nobody uses: modelyard key ls.")
    key.created_at = session.exec(select(now())).one()
    key.expires_at = None if days is None else key.created_at + days * 86_400
    _refuse_to_lock_out([*there, key], key.created_at, standing=standing)
    session.add(key)
    return key


def rotate(session: Session, name: str, digest: str, start: str) -> ApiKey:
    """The same name and role with another secret, for as long as the one before was made for; that one ends now.

    Raises:
        NotFound: `key_not_found`.
    """
    key = _find(session, name)
    moment = session.exec(select(now())).one()
    if key.expires_at is not None:
        key.expires_at += moment - key.created_at
    key.digest, key.start, key.created_at, key.used_at = digest, start, moment, None
    session.add(key)
    return key


def revoke(session: Session, name: str, *, standing: bool) -> None:
    """Raises: NotFound: `key_not_found`; Conflict: `admin_key_needed`."""
    serialise(session, "keys")
    key = _find(session, name)
    rest = [each for each in every(session) if each.name != name]
    _refuse_to_lock_out(rest, session.exec(select(now())).one(), standing=standing)
    session.exec(delete(ApiKey).where(col(ApiKey.name) == key.name))


def note_uses(connection: Connection, digests: set[str]) -> None:
    """These were used a moment ago."""
    connection.execute(update(ApiKey).where(col(ApiKey.digest).in_(digests)).values(used_at=now()))


def _find(session: Session, name: str) -> ApiKey:
    key = session.get(ApiKey, name)
    if key is None:
        raise NotFound("key_not_found", "There is no key of this name.", "`modelyard key ls` lists them.")
    return key


def _refuse_to_lock_out(keys: list[ApiKey], moment: float, *, standing: bool) -> None:
    """Where there is a key, everybody needs one: somebody must be able to make and revoke them.

    Raises:
        Conflict: `admin_key_needed`.
    """
    rules = any(key.role == Role.ADMIN and (key.expires_at is None or key.expires_at > moment) for key in keys)
    if keys and not standing and not rules:
        raise Conflict(
            "admin_key_needed", "Without an admin key nobody could make or revoke keys any more.",
            "Make one first: modelyard key add NAME --role admin; or start the service with MODELYARD_API_KEY.",
        )  # fmt: skip
