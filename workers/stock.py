"""What the store holds: told to the registry, and kept to what is wanted."""

import structlog

from shared.db import catalog, locks, retention, upkeep
from shared.db.reports import CleanupStep
from shared.errors import Corrupt, Forbidden, ModelyardError, Snooze, Unavailable
from shared.points import reached
from shared.states import StepState
from workers.job import Services
from workers.store import trash
from workers.store.bundle_folder import BundleFolder
from workers.store.manifest import read
from workers.store.publish import remove
from workers.store.survey import Survey

log = structlog.get_logger()


def after_change(services: Services, *model_ids: str) -> None:
    """Tidy up and take stock at the end of a job that has changed files of models; what fails is done by a chore."""
    try:
        for model_id in model_ids:
            tidy(services, model_id)
        take_stock(services)
    except ModelyardError as error:
        log.warning("stock.not_taken", code=error.code, reason=error.message)


def take_stock(services: Services) -> None:
    """Look at the store and write down what is there. Where its disk is away, that is written down, and nothing else.

    Raises:
        Failed: the disk refuses.
    """
    with services.database.reading() as session:
        kept = upkeep.kept(session, services.store)
    rows = {
        model_id: frozenset((model_type, model_id, revision) for model_type, revision in found)
        for model_id, found in kept.items()
    }
    survey = Survey(services.layout, rows, services.settings.store.trash_days * 86_400)
    node = services.settings.node
    bundles = BundleFolder.of(services.settings)
    try:
        store, report = services.layout.check_marker(), {**survey.to_dict(), "bundles": bundles.to_dict()}
    except Unavailable:
        with services.database.session() as session:
            upkeep.report_away(session, node)
        return
    with services.database.session() as session:
        upkeep.put_report(session, store, node, report)
    _list_files(services)


def _list_files(services: Services) -> None:
    """Write down the files of what was published before anybody did; a job writes down its own."""
    with services.database.reading() as session:
        unlisted = locks.unlisted(session)
    for model_id, revision in unlisted:
        try:
            manifest = read(services.layout.manifest(model_id, revision))
        except Corrupt:  # a verify says so, and what to do
            continue
        with services.database.session() as session:
            locks.put_files(session, model_id, revision, manifest.digests())


def tidy(services: Services, model_id: str) -> int:
    """Put revisions in the trash that neither serve, nor are kept for a rollback, nor are in memory.

    Callers hold the model's lock. Answers the bytes that emptying the trash will free.
    """
    with services.database.reading() as session:
        installation = catalog.installation(session, model_id)
        loaded = {row.revision for row in catalog.residencies(session, [model_id])}
    if installation is None:
        return 0  # nothing is known about what lies there: it is reported as an orphan, and left
    wanted = {installation.revision, *loaded}
    if services.settings.store.keep_previous and installation.previous_revision is not None:
        wanted.add(installation.previous_revision)
    elif installation.previous_revision is not None:
        with services.database.session() as session:
            upkeep.keep_for_rollback(session, model_id, None)
    freed = 0
    for revision in services.layout.published_revisions(installation.model_type, model_id):
        if revision not in wanted:
            try:
                freed += remove(services.layout, installation.model_type, model_id, revision)
            except Forbidden:  # no manifest of ours: it is reported, and left
                continue
            reached("stock.tidied")
    return freed


def to_trash(services: Services, step: CleanupStep) -> None:
    """Files of a model that a cleanup has taken off the list go by one rename each; callers hold the model's lock.

    What has come back under this name meanwhile is another one, and is left.
    """
    with services.database.reading() as session:
        back = catalog.installation(session, step.model_id) is not None
    names = _settled(services, step)
    told = {"code": "model_back", "message": "It was fetched again while it left."} if back else {}
    try:
        for revision, name in zip(step.revisions, names, strict=True) if not back else ():
            place = services.layout.trash_root / name
            remove(services.layout, step.model_type, step.model_id, revision, step.memo, place)
    except Forbidden as refused:
        told = {"code": refused.code, "message": refused.message}
    reached("cleanup.trashed")
    entries = [name for name in names if (services.layout.trash_root / name).is_dir()]
    state = StepState.GONE if entries or not told else StepState.LEFT
    freed = trash.leaves_with(services.layout, entries)
    with services.database.session() as session:
        retention.move(session, step, StepState.LEAVING, state, freed=freed, entries=entries, told=told)
    step.state, step.freed = state, freed
    if state == StepState.GONE:
        services.events.publish("model.state", modelId=step.model_id, status="missing")
        log.info("cleanup.left", model_id=step.model_id, reason=step.reason, bytes=freed)


def _settled(services: Services, step: CleanupStep) -> list[str]:
    """What its revisions are called in the trash, written down; what is not there yet has a new name, of now.

    The name says since when it lies there, and another attempt may come days later.

    Raises:
        Unavailable: code `store_missing`; then nobody knows what is there.
    """
    layout = services.layout
    with services.database.reading() as session:
        known = retention.entries(session, step)
    old = dict(zip(step.revisions, known, strict=False))
    names = [
        old[revision] if revision in old and (layout.trash_root / old[revision]).is_dir()
        else layout.trash(step.model_id, revision).name
        for revision in step.revisions
    ]  # fmt: skip
    layout.check_marker()
    with services.database.session() as session:
        retention.move(session, step, StepState.LEAVING, StepState.LEAVING, entries=names)
    return names


def finish_abandoned(services: Services) -> int:
    """Bring into the trash what a cleanup that has ended left on its way there; how many models that were."""
    with services.database.reading() as session:
        steps = retention.abandoned(session, services.store)
    for step in steps:
        try:
            with services.layout.lock(step.model_id):
                to_trash(services, step)
        except Snooze:  # a job is at its files; the next look is soon
            continue
    return len(steps)
