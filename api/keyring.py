"""The keys that are let in: MODELYARD_API_KEY, and those made with `modelyard key add`.

Requests are judged by what this process knows; it looks at the rows again every two seconds, and at once where it has
changed them itself, or does not know a key. While the database is away, what was known goes on to hold.
"""

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from shared.db import keys
from shared.db.keys import Role
from shared.db.session import Database
from shared.errors import ModelyardError, TooMany, Unauthenticated
from shared.settings import Settings

log = structlog.get_logger()

OF_THE_ENVIRONMENT = "MODELYARD_API_KEY"
"""Name of the key that is no row."""
LOOK_SECONDS = 2.0
MISS_SECONDS = 0.25
"""Who has a key that is not known makes us look again, so often at most."""
USE_SECONDS = 3600.0
"""Uses of a key are written down so often at most."""
MINUTE = 60.0
MOST_CALLERS = 10_000
START = "my_"
"""Of every key: those who look for secrets in code and logs can tell it."""
SHOWN = len(START) + 6
NETWORK_BITS = 64
"""Of an IPv6 address: who has one of a network has all of them."""
HINT = "Send `Authorization: Bearer KEY`; for the command line, `export MODELYARD_API_KEY=KEY`."


class Caller(NamedTuple):
    """Who asks, and as what."""

    role: Role
    name: str | None = None
    """Of the key; None where nobody has one here."""
    digest: str = ""
    expires_at: float | None = None

    @property
    def shown(self) -> str | None:
        """The name, and enough of the digest to tell a key from the next one of that name."""
        return None if self.name is None else f"{self.name}:{self.digest[:8]}"


ANYBODY = Caller(Role.ADMIN)
"""Whoever reaches a service that has no key."""


def make() -> str:
    """A new key: 256 random bits."""
    return START + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Tries:
    """How often something happened within a minute, for each of many callers; bounded, whoever comes."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._since: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def again(self, who: str) -> float:
        """One more. Where these were too many, the seconds until they are forgotten; else 0."""
        moment = self._clock()
        began, count = self._since.get(who, (moment, 0))
        if moment - began >= MINUTE:
            began, count = moment, 0
        self._since[who] = began, count + 1
        self._since.move_to_end(who)
        if len(self._since) > MOST_CALLERS:
            self._since.popitem(last=False)
        return began + MINUTE - moment if count >= self._most else 0.0


class Keyring:
    """Of one API process."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._wrong = Tries(settings.api.wrong_keys_per_minute)
        given = settings.api_key
        self._standing: list[Caller] = []
        if given is not None:
            self._standing.append(Caller(Role.ADMIN, OF_THE_ENVIRONMENT, digest(given.get_secret_value())))
        self._made: list[Caller] = []
        self._used: set[str] = set()
        self._looked_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self.look()

    @property
    def standing(self) -> bool:
        """There is an admin key that nobody can revoke."""
        return bool(self._standing)

    @property
    def open(self) -> bool:
        """Nobody has a key: whoever reaches this service is let in."""
        return not (self._standing or self._made)

    async def caller(self, connection: HTTPConnection) -> Caller:
        """Who sends this.

        Raises:
            Unauthenticated: `key_required`, `invalid_key`, `key_expired`.
            TooMany: `too_many_wrong_keys`. The right key is let in all the same: others may share the address.
        """
        if self.open:
            return ANYBODY
        given = _given(connection)
        if not given:
            raise Unauthenticated("key_required", "This service has a key, and none was sent.", HINT)
        found = self._find(given)
        if found is None and time.monotonic() - self._looked_at > MISS_SECONDS:
            with contextlib.suppress(ModelyardError):  # it may have been made a moment ago, by another process
                await run_in_threadpool(self.look)
            found = self._find(given)
        if found is None:
            raise self._refusal(connection)
        if _over(found):
            hint = f"Ask an admin for a new secret, which lasts as long: modelyard key rotate {found.name}."
            raise Unauthenticated("key_expired", f"The key {found.name!r} has expired.", hint)
        self._used.add(found.digest)
        return found

    def knows(self, connection: HTTPConnection) -> bool:
        """Whether the caller would be let in; nothing is said about why not."""
        found = ANYBODY if self.open else self._find(_given(connection))
        return found is not None and not _over(found)

    def look(self) -> None:
        """Read the rows, and write down which keys were used.

        Raises:
            Unavailable: the database does not answer.
        """
        self._looked_at = time.monotonic()
        with self._database.reading() as session:
            rows = keys.every(session)
        self._made = [Caller(Role(row.role), row.name, row.digest, row.expires_at) for row in rows]
        used, self._used = self._used, set()
        moment = time.time()
        due = {row.digest for row in rows if row.digest in used and moment - (row.used_at or 0.0) > USE_SECONDS}
        if due:
            with self._database.single() as connection:
                keys.note_uses(connection, due)

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_looking())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                with contextlib.suppress(ModelyardError):  # the database is away; readiness says so
                    await run_in_threadpool(self.look)
            except Exception:
                log.exception("keys.crashed")

    def _find(self, given: str) -> Caller | None:
        """Compares with every key, however early one fits: how long it takes says nothing."""
        wanted, found = digest(given), None
        for each in (*self._standing, *self._made):
            if hmac.compare_digest(wanted, each.digest):
                found = each
        return found

    def _refusal(self, connection: HTTPConnection) -> ModelyardError:
        place = _place(connection)
        seconds = self._wrong.again(place)
        if seconds:
            message = "Too many wrong keys came from this address."
            return TooMany("too_many_wrong_keys", message, "Wait, and send the right one.", None, seconds)
        log.warning("key.refused", address=place)
        return Unauthenticated("invalid_key", "This key is not known here; it may have been revoked.", HINT)


def _given(connection: HTTPConnection) -> str:
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _over(caller: Caller) -> bool:
    return caller.expires_at is not None and caller.expires_at <= time.time()


def _place(connection: HTTPConnection) -> str:
    host = connection.client.host if connection.client is not None else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, NETWORK_BITS), strict=False)) if address.version == 6 else host  # noqa: PLR2004 - IPv6
