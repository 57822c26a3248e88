"""LoRA and other adapters, and the models that they are for."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlmodel import Session, col, func, select

from shared.db import names
from shared.db.tables import Installation, Model
from shared.errors import Conflict, Invalid

ADAPTER = "adapter"
"""The format of an adapter's files, as their facts have it; and a type of models."""


class Fit(NamedTuple):
    """Whether an adapter fits."""

    base: str | None
    """The model of the registry that it is for, named or found by what its files say."""
    matches: bool | None
    """None: its files do not say what it is for, or it has no base here."""
    why: str


def is_adapter(model: Model, installation: Installation | None) -> bool:
    """Its files say so, or somebody did."""
    told = installation is not None and installation.facts.get("format") == ADAPTER
    return told or model.type == ADAPTER or model.base_model is not None


def judge(wanted: str | None, named: str | None, base: Model | None) -> Fit:
    """Whether an adapter fits its base.

    Args:
        wanted: what its own files say that it is for, a repository or a family.
        named: what people say that it is for.
        base: that model, or where nobody named one the model that comes from what its files say.
    """
    if base is None:
        if named is not None:
            return Fit(named, None, f"Its base {named!r} is not in the registry.")
        told = f"It is for {wanted}, and no model here comes from there." if wanted else "Nothing says what it is for."
        return Fit(None, None, told)
    if wanted is None:
        return Fit(base.id, None, "Its files do not say what it is for; that it fits is what people say.")
    if _same(wanted, base):
        return Fit(base.id, True, f"Its files say that it is for {wanted}, and {base.id!r} is that.")
    return Fit(base.id, False, f"Its files say that it is for {wanted}, and {base.id!r} is {base.source_url}.")


def _same(wanted: str, base: Model) -> bool:
    """Repositories are compared whole, families by how the name begins, as trainers shorten them."""
    told, source = wanted.lower(), base.source_url.lower()
    if "/" in told:
        return told.split("/")[-1] in (source.split("/")[-1], base.id.lower()) if told != source else True
    plain = "".join(each for each in told if each.isalnum())
    mine = "".join(each for each in source.split("/")[-1] + base.id.lower() if each.isalnum())
    return plain in mine


def judged(session: Session, models: Sequence[Model], installations: Mapping[str, Installation]) -> dict[str, Fit]:
    """For each adapter of a page; one query where there is any."""
    adapters = [model for model in models if is_adapter(model, installations.get(model.id))]
    wanted = {model.id: _wanted(installations.get(model.id)) for model in adapters}
    if not adapters:
        return {}
    named = [model.base_model for model in adapters if model.base_model is not None]
    sources = [each.lower() for each in wanted.values() if each is not None]
    query = select(Model).where(col(Model.id).in_(named) | func.lower(Model.source_url).in_(sources))
    found = session.exec(query.order_by(col(Model.id))).all()
    by_id, by_source = {row.id: row for row in found}, {row.source_url.lower(): row for row in reversed(found)}
    return {
        model.id: judge(
            told := wanted[model.id], model.base_model,
            by_id.get(model.base_model) if model.base_model is not None else by_source.get((told or "").lower()),
        )
        for model in adapters
    }  # fmt: skip


def _wanted(installation: Installation | None) -> str | None:
    told = installation.facts.get("baseModel") if installation is not None else None
    return told if isinstance(told, str) else None


def check(session: Session, model_id: str, base_id: str) -> None:
    """Refuse what cannot be the base of that model.

    Raises:
        Invalid: `base_not_found`, `base_unfit`; it is no model, the model itself, or an adapter too.
        Conflict: `base_mismatch`; the adapter is here, and its files say that it is for something else.
    """
    base = session.get(Model, base_id)
    if base is None:
        near = names.near(session, base_id)
        hint = f"Did you mean {near!r}?" if near else "Enter the base first; `modelyard ls` lists what there is."
        raise Invalid("base_not_found", f"There is no model {base_id!r} that it could be for.", hint)
    if base_id == model_id or is_adapter(base, session.get(Installation, base_id)):
        raise Invalid("base_unfit", f"{base_id!r} is an adapter too, or the model itself.", "Name the model it is for.")
    fit = judge(_wanted(session.get(Installation, model_id)), base_id, base)
    if fit.matches is False:
        raise Conflict("base_mismatch", fit.why, "Name the model that it was made for.")
