"""Models that Ollama brings and keeps: pulled, looked after and deleted through its API, and never by its files."""

from typing import Any

from shared.db import catalog, elsewhere
from shared.db.tables import Installation, Model
from shared.errors import Conflict, Failed, Unavailable
from shared.refs import Ref, SourceKind, checked
from shared.states import Holder, InstallationState
from workers.elsewhere.tally import Tally
from workers.job import Services, Work
from workers.ollama.client import MISSING, Here, Ollama
from workers.ollama.errors import model_gone
from workers.ollama.pulling import Layer
from workers.store.essentials import Problem
from workers.store.verify import Report

SHOWN_LAYERS = 20
NOTE = "Ollama proves the bytes of its models itself; name, digest and size were compared with what it lists."


def pull(work: Work, model: Model, before: Installation | None) -> dict[str, Any]:
    """Have Ollama fetch the newest of the model's name, and record it where Ollama has it.

    Raises:
        NotFound, Forbidden, Exhausted, Corrupt, Failed: final.
        Unavailable: Ollama is away; it goes on from where it was.
    """
    name = name_of(model)
    ollama = _ollama(work)
    work.report("asking Ollama")
    ollama.check()
    there = ollama.find(name)

    def on_layers(status: str, layers: dict[str, Layer]) -> None:
        done, total = (sum(layer[place] for layer in layers.values()) for place in (0, 1))
        work.report(_phase(status), done=done, total=total or None, parts=_parts(layers))

    layers = ollama.pull(name, on_layers)
    work.report("asking Ollama", fraction=1.0)
    now = ollama.find(name)
    if now is None:
        raise Failed("ollama_lost", f"Ollama pulled {name} and does not list it.", "Retry; see Ollama's log.")
    facts = ollama.facts(name)
    work.confirm()
    ours = before is not None and before.holder == Holder.OLLAMA and before.owned
    row = _row(model, now, files=len(layers), owned=ours or there is None, facts=facts)
    with work.services.database.session() as session:
        elsewhere.update_found(session, row, work.services.store)
    _tell(work.services, model.id, "available")
    same = before is not None and before.revision == now.digest and before.state == InstallationState.PUBLISHED
    return {"revision": now.digest, "size": now.size, "inOllama": True, "owned": row.owned, "alreadyPresent": same}


def offered(work: Work, name: str) -> dict[str, Any]:
    """Whether Ollama has a model. What its library has it tells only by pulling it.

    Raises:
        Unavailable, Failed: Ollama is away, or too old.
    """
    ollama = _ollama(work)
    ollama.check()
    here = ollama.find(name)
    if here is not None:
        return {"exists": True, "gated": False, "accessible": True, "size": here.size, "revision": here.digest}
    told = f"Ollama does not have {name} yet, and tells what its library has only by pulling it."
    problem = {"code": "source_silent", "message": told, "hint": f"https://ollama.com/library/{name.partition(':')[0]}"}
    return {"exists": None, "gated": False, "accessible": True, "problem": problem}


def verify(work: Work, model: Model, row: Installation) -> tuple[Report, str]:
    """Does Ollama still have the model, as it was? What it cannot tell is said in the note.

    Raises:
        Unavailable: Ollama is away; nothing is said about the model.
    """
    work.report("asking Ollama")
    ollama = _ollama(work)
    ollama.check()
    now = ollama.find(name_of(model))
    problems: list[Problem] = []
    if now is not None and (now.digest, now.size) != (row.revision, row.size):
        problems.append(Problem("content_mismatch", "", "Ollama has another version of this model than was pulled."))
    missing = () if now is not None else (name_of(model),)
    return Report(missing, (), (), tuple(problems), 0.0 if now is None else 1.0, 0), NOTE


def look(work: Work, row: Installation) -> None:
    """Refuse to load what Ollama does not have as it is recorded; one that is gone is marked so.

    Raises:
        Conflict: code `model_gone`, or `model_changed`.
        Unavailable: Ollama is away; it was there once, so that nothing answers is never final.
        Failed: code `ollama_too_old`, or `protocol_error`.
    """
    with work.services.database.reading() as session:
        model = catalog.get_model(session, row.model_id)
    ollama, name = _ollama(work), name_of(model)
    try:
        ollama.check()
    except Failed as error:
        if error.code == MISSING:
            raise Unavailable(error.code, error.message, error.hint) from None
        raise
    now = ollama.find(name)
    if now is None:
        with work.services.database.session() as session:
            elsewhere.mark(session, model.id, row.revision, InstallationState.GONE)
        _tell(work.services, model.id, "missing")
        raise model_gone(name, model.id)
    if now.digest != row.revision:
        raise Conflict(
            "model_changed", f"Ollama has another version of {name} than was pulled from here.",
            f"Take that one: modelyard pull {model.id}.",
        )  # fmt: skip


def delete(work: Work, model: Model, row: Installation) -> bool:
    """Have Ollama delete the model, if we had it pulled and no other entry of ours stands for it. Says whether it was.

    Raises:
        Unavailable: Ollama is away; the model stays in the registry until it is back.
    """
    with work.services.database.reading() as session:
        kept = not row.owned or elsewhere.is_shared(session, model)
    if not kept:
        _ollama(work).delete(name_of(model))
    return not kept


def reconcile(work: Work, tally: Tally) -> None:
    """Compare what we know of Ollama's models with what it has; one that is away makes its models unavailable."""
    with work.services.database.reading() as session:
        known = elsewhere.of_ollama(session, work.services.store)
    for model, row in known:
        work.checkpoint()
        state = _state_now(work, model, row)
        with work.services.database.session() as session:
            changed = elsewhere.mark(session, model.id, row.revision, state)
        if changed:
            told, status = _TOLD[state]
            getattr(tally, told).append(model.id)
            _tell(work.services, model.id, status)


_TOLD = {
    InstallationState.PUBLISHED: ("returned", "available"),
    InstallationState.GONE: ("gone", "missing"),
    InstallationState.AWAY: ("unavailable", "unavailable"),
}


def _state_now(work: Work, model: Model, row: Installation) -> InstallationState:
    try:
        now = _ollama(work).find(name_of(model))
    except (Unavailable, Failed):
        return InstallationState.AWAY
    if now is None:
        return InstallationState.GONE
    # another version under the same name is for a pull or a verify to judge
    return InstallationState.PUBLISHED if now.digest == row.revision else InstallationState(row.state)


def name_of(model: Model) -> str:
    """The model's name at Ollama, judged once more before it is sent.

    Raises:
        Invalid: code `invalid_ollama_name`.
    """
    return checked(Ref(SourceKind.OLLAMA, model.source_url)).location


def _ollama(work: Work) -> Ollama:
    return Ollama(work.services.settings.sources, work.checkpoint)


def _phase(status: str) -> str:
    """A few words of our own for what Ollama says it does; it names digests, and may say anything."""
    return next((phase for start, phase in _PHASES if status.startswith(start)), "downloading")


_PHASES = (
    ("pulling manifest", "resolving"),
    ("verifying", "verifying"),
    ("writing", "publishing"),
    ("removing", "publishing"),
)


def _parts(layers: dict[str, Layer]) -> tuple[dict[str, Any], ...]:
    shown = list(layers.items())[-SHOWN_LAYERS:]
    return tuple(
        {"name": digest.removeprefix("sha256:")[:12], "bytesDone": layer.done, "bytesTotal": layer.total}
        for digest, layer in shown
    )


def _row(model: Model, now: Here, *, files: int, owned: bool, facts: dict[str, Any]) -> Installation:
    return Installation(
        model_id=model.id, model_type=model.type, revision=now.digest, state=InstallationState.PUBLISHED,
        holder=Holder.OLLAMA, owned=owned, path=f"ollama:{name_of(model)}", size=now.size, files=files,
        integrity=1.0, facts=facts,
        published_at=0.0, verified_at=0.0,
    )  # fmt: skip


def _tell(services: Services, model_id: str, status: str) -> None:
    services.events.publish("model.state", modelId=model_id, status=status)
