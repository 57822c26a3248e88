"""Who answers for a name: a model, by its id, an alias or a mode; or a type, and so its active model.

What is not in memory is asked for.
"""

import ssl
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from shared.contracts import Load
from shared.db import catalog, jobs, lanes, names, residency
from shared.db.tables import Job, Residency
from shared.errors import Conflict, NotFound, Unavailable
from shared.jobs import Ledger
from shared.keys import runner_key
from shared.settings import Settings
from shared.states import ANIMATION, EMBEDDING, IMAGE_GEN, SPEECH, Output, ResidencyState, output_of

ANSWER_SECONDS, CONNECT_SECONDS = 3600.0, 5.0
"""An answer may take minutes, and wait for others before it; a connection to a child on this machine may not. A runner
that hangs is ended by its worker long before."""
FAILED_SECONDS, LONGEST_FAILED_SECONDS = 15.0, 600.0
"""A model that could not be loaded is not tried again for so long, doubled each time, however many ask for it: each try
may put another one out of memory."""
ORIGIN = "request"
"""Of jobs that load a model because somebody asked it something."""
ASKED_OVER = {
    Output.TEXT: "/v1/chat/completions", Output.VECTORS: "/v1/embeddings", Output.IMAGES: "/v1/images/generations",
    Output.SOUND: "/v1/audio/speech", Output.VIDEO: "/api/v1/models/{id}/run, with the path videos/generations",
}  # fmt: skip
TYPES = {Output.VECTORS: EMBEDDING, Output.IMAGES: IMAGE_GEN, Output.SOUND: SPEECH, Output.VIDEO: ANIMATION}


class Route(NamedTuple):
    """Who answers."""

    residency_id: str
    model_id: str
    url: str
    context_length: int | None
    fallback_for: str | None
    """The model that was asked for, where this one answers as its fallback."""
    lowered: Mapping[str, Any]
    """What it has less of, beside its tokens; see `shared.fit.Lowered`."""
    known_as: str | None
    """What a server that is not ours calls the model; it gets no key."""

    @property
    def name(self) -> str:
        """What requests to the server have to call the model."""
        return self.known_as or self.model_id

    def headers(self, secret: bytes) -> dict[str, str]:
        """With the key that opens a runner of ours, and is for nobody else.

        Args:
            secret: that of the installation.
        """
        if self.known_as is not None:
            return {}
        return {"Authorization": f"Bearer {runner_key(secret, self.residency_id)}"}


def trusted(settings: Settings) -> ssl.SSLContext | Literal[True]:
    """Whose certificates servers of models may have: an Ollama behind TLS has one of the operator's."""
    bundle = settings.sources.ca_bundle
    return True if bundle is None else ssl.create_default_context(cafile=str(bundle))


class Router:
    """Looks into the database for every request: what it says is what a switch has done by now."""

    def __init__(self, ledger: Ledger, *, load_on_use: bool) -> None:
        self._ledger = ledger
        self._load_on_use = load_on_use

    def find(self, name: str, asked: Output = Output.TEXT) -> Route | None:
        """Who answers for a model or a type now; None: it is on its way, and a load is asked for where none was.

        Args:
            asked: what the answer is to be.

        Raises:
            NotFound: no such model or type.
            Conflict: nobody serves the type; or the model is not in memory and cannot, or must not, be loaded; or code
                `wrong_type`, it does not do what it is asked for.
            Unavailable: it could not be loaded just now.
        """
        with self._ledger.database.reading() as session:
            model = names.called(session, name)
            name, type_ = (model.id, model.type) if model else (name, name)
            makes = output_of(type_)
            if makes is not asked and (model is not None or name in catalog.types(session)):
                raise _wrong_type(name, makes, asked)
            active, ready = residency.answering(session, name, type_, is_model=model is not None)
            wanted = name if active is None else active.model_id
            if ready is not None:
                return _route(ready, wanted)
            if jobs.switching(session, name):
                return None
            if active is not None and active.state == ResidencyState.CRASH_LOOP:
                raise _crashes(active.model_id)
            if active is not None and active.state != ResidencyState.IDLE:
                catalog.installed(session, active.model_id)  # else it does not come back, and nobody need wait
                lanes.check_reach(session, active.model_id)
                return None
            if active is None and (model is None or not model.enabled or not self._load_on_use):
                loaded = catalog.in_state(session, ResidencyState.READY)
                candidates = [model.id] if model else [row.model_id for row in loaded if row.model_type == type_]
                known = model is not None or name in {*TYPES.values(), *catalog.types(session)}
                raise _nobody(name, candidates) if known else _unknown(name, names.near(session, name))
            if jobs.switching(session, wanted):
                return None
            catalog.installed(session, wanted)
            if (failed := jobs.load_failed(session, wanted, FAILED_SECONDS, LONGEST_FAILED_SECONDS)) is not None:
                raise _refused(*failed)
        self._ledger.submit(Load(model_id=wanted), origin=ORIGIN)
        return None


def _route(row: Residency, wanted: str) -> Route:
    fallback_for = wanted if wanted in row.fallback_for else None
    return Route(row.id, row.model_id, str(row.url), row.context_length, fallback_for, row.lowered, row.known_as)


def _unknown(name: str, near: str | None) -> NotFound:
    ways = "GET /v1/models lists them."
    hint = ways if near is None else f"Did you mean {near!r}? {ways}"
    return NotFound("model_not_found", f"There is no model or type {name!r}.", hint)


def _nobody(name: str, candidates: list[str]) -> Conflict:
    wanted = candidates[0] if candidates else "MODEL"
    why = f"{name!r} is not in memory." if candidates == [name] else f"No model of type {name!r} is active."
    return Conflict("model_not_active", why, f"Activate one: modelyard activate {wanted}.")


def _wrong_type(name: str, makes: Output, asked: Output) -> Conflict:
    hint = f"Ask it over POST {ASKED_OVER[makes]}."
    if (type_ := TYPES.get(asked)) is not None:
        hint += f" Models of the type `{type_}` make {asked}; enter one as that: modelyard pull … --type {type_}."
    return Conflict("wrong_type", f"{name!r} makes {makes}, and no {asked}.", hint)


def _crashes(model_id: str) -> Unavailable:
    return Unavailable(
        "crash_loop", f"The runner of {model_id!r} ended again and again.",
        "The log of the device worker has its last words. It is tried again every few minutes; "
        f"`modelyard activate {model_id}` does so now, or activate another model.", None, 60,
    )  # fmt: skip


def _refused(job: Job, left: float) -> Unavailable:
    error = job.error or {"code": "load_cancelled", "message": f"Loading {job.model_id!r} was cancelled."}
    seconds = max(1, round(left))
    hint = f"{error.get('hint', '')} It is tried again with the first request in {seconds} s.".strip()
    return Unavailable(error["code"], error["message"], hint, error.get("details"), seconds)
