"""Models that stay where the user has them: found, registered and proved there; never copied, written to or deleted."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import Any

from shared.db import elsewhere
from shared.db.tables import Installation, Model
from shared.errors import Forbidden, ModelyardError, NotFound, Unavailable
from shared.refs import SourceKind, scan_root, slug
from shared.states import Holder, InstallationState, VerifyTier
from workers.disk import storage
from workers.elsewhere.tally import Tally
from workers.job import Services, Work
from workers.sources import local
from workers.sources.beneath import Beneath, Skipped
from workers.sources.local import Found
from workers.store import reference
from workers.store.essentials import check_files
from workers.store.facts import Facts, read_facts
from workers.store.reference import Here
from workers.store.verify import Report

FIRST = "Nobody publishes digests of these files: those that were taken now are what later verifies compare with."


def survey(work: Work, root: str, below: str, tally: Tally) -> None:
    """Look through one scan root, or what lies below a path in it, and bring the registry up to date.

    Raises:
        Forbidden: code `path_not_allowed`; the path leads through a link.
        Stop: from the checkpoint.
    """
    place = str(PurePosixPath(root, below))
    with work.services.database.reading() as session:
        known = elsewhere.below(session, place, work.services.store)
    try:
        beneath = Beneath(root, work.checkpoint)
    except OSError:
        for row in known.values():
            _retire(work, row, InstallationState.AWAY, tally)
        tally.skipped.append(Skipped(root, "this scan root is not there, or cannot be read"))
        return
    with beneath:
        there: list[Found] = []
        with _no_links(place):
            there += list(local.models(beneath, below))
        for found in there:
            work.checkpoint()
            _take_in(work, found, root, known.pop(found.path, None), tally)
        for row in known.values():
            _look_for(work, beneath, row, tally)
        tally.skipped += beneath.skipped


def place_of(services: Services, path: str) -> tuple[str, str]:
    """The scan root of a path, and the rest of it.

    Raises:
        Forbidden: code `path_not_allowed`.
    """
    return scan_root(path, services.settings.sources.scan_roots)


def reference_one(work: Work, model: Model) -> dict[str, Any]:
    """Find the one model that an entry of the registry names by its path, and record it where it lies.

    Raises:
        Forbidden: `path_not_allowed`.
        NotFound: `source_not_found`, there is no model with that path.
        Corrupt, Unsafe: it is none that would be loaded.
        Unavailable: `model_away`.
    """
    root, below = place_of(work.services, model.source_url)
    with _opened(root, work) as beneath, _no_links(model.source_url):
        for found in local.models(beneath, below):
            if found.path == model.source_url:
                for problem in check_files(_openers(found)):
                    raise problem.error()
                with storage():
                    facts = read_facts(_openers(found))
                return _place_in(work, _row(model.id, model.type, found, root, facts))
    raise _nothing_at(model.source_url)


def offered(work: Work, path: str) -> int:
    """Bytes of the model at a path.

    Raises:
        NotFound, Forbidden, Unavailable: as `reference_one`.
    """
    root, below = place_of(work.services, path)
    with _opened(root, work) as beneath, _no_links(path):
        for found in local.models(beneath, below):
            if found.path == path:
                return sum(file.size for file in found.files)
    raise _nothing_at(path)


def _nothing_at(path: str) -> NotFound:
    hint = "Name a GGUF or safetensors file (of several parts the first), or a folder with a model in it."
    return NotFound("source_not_found", f"There is no model at {path}.", hint)


def _place_in(work: Work, row: Installation) -> dict[str, Any]:
    with work.services.database.session() as session:
        elsewhere.update_found(session, row, work.services.store)
    _tell(work.services, row.model_id, "available")
    return {"revision": row.revision, "size": row.size, "files": row.files, "inPlace": True}


def verify(work: Work, row: Installation, tier: VerifyTier) -> tuple[Report, str]:
    """Compare a model in place with what is known of it; and what is to be said about that.

    Raises:
        Forbidden, Unavailable: as `files_of`.
    """
    done, seen = 0, row.seen or {}
    expected = reference.expected_of(row.model_id, row.model_type, row.revision, row.path, seen)

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        work.report("verifying", done=done, total=row.size)

    work.report("verifying", done=0, total=row.size)
    with files_of(work, row) as files:
        if tier == VerifyTier.STAT:
            return reference.look(expected, seen, files), ""
        report, first = reference.verify_in_place(
            work.services.layout, expected, seen, files, work.checkpoint, on_bytes
        )
    return report, FIRST if first and report.ok else ""


@contextmanager
def files_of(work: Work, row: Installation) -> Iterator[dict[str, Here]]:
    """The files of a model in place as they are now, by name; they can be opened inside the block.

    Raises:
        Forbidden: `path_not_allowed`; its folder may no longer be scanned.
        Unavailable: `model_away`.
    """
    root, below = place_of(work.services, row.path)
    with _opened(root, work) as beneath:
        found: list[Found] = []
        with suppress(OSError):  # it is not there
            found = [each for each in local.models(beneath, below) if each.path == row.path]
        if not found and beneath.is_away(PurePosixPath(below).parts, _above(row)):
            raise _away(root)
        yield {file.name: Here(file.size, file.mtime_ns, file.open) for each in found for file in each.files}


def _take_in(work: Work, found: Found, root: str, known: Installation | None, tally: Tally) -> None:
    """One thing that looks like a model: registered, brought up to date, or skipped with the reason."""
    revision = reference.revision_of(_looks(found))
    if known is not None and known.revision == revision:
        back = known.state in (InstallationState.GONE, InstallationState.AWAY)
        if back and _mark(work, known, InstallationState.PUBLISHED):
            tally.returned.append(known.model_id)
            _tell(work.services, known.model_id, "available")
        tally.unchanged += not back
        return
    try:
        problem = next((problem.message for problem in check_files(_openers(found))), None)
        with storage():
            facts = None if problem else read_facts(_openers(found))
    except ModelyardError as error:  # it changes at this moment, or its disk has an unreadable sector
        problem, facts = error.message, None
    if facts is None:
        tally.skipped.append(Skipped(found.path, problem or ""))
        if known is not None:
            _retire(work, known, InstallationState.CORRUPT, tally)
        return
    _register(work, found, root, facts, known, tally)


def _register(work: Work, found: Found, root: str, facts: Facts, known: Installation | None, tally: Tally) -> None:
    services = work.services
    with services.database.session() as session:
        expected = None if known else elsewhere.expected_at(session, found.path)
        model_id = known.model_id if known else expected.id if expected else ""
        model_type = known.model_type if known else expected.type if expected else facts.type
        if model_id:
            row = _row(model_id, model_type, found, root, facts)
            there = elsewhere.update_found(session, row, services.store)
        else:
            row = _row("", model_type, found, root, facts)
            name = facts.name or found.name
            entry = _entry(slug(found.name), name, facts, row)
            model_id, there = elsewhere.enter(session, entry, row, services.store).id, True
    if not there:
        return
    if known is not None:
        reference.forget(services.layout, model_id, known.revision)
    (tally.changed if known else tally.added).append(model_id)
    if not known and not expected:
        services.events.publish("model.added", modelId=model_id)
    _tell(services, model_id, "available")


def _look_for(work: Work, beneath: Beneath, row: Installation, tally: Tally) -> None:
    """A model that is registered and was not found: is it gone, out of reach, or only not looked at?"""
    parts = PurePosixPath(row.path).relative_to(beneath.root).parts
    if beneath.is_away(parts, _above(row)):
        _retire(work, row, InstallationState.AWAY, tally)
        return
    try:
        beneath.look(parts)
        there = True
    except OSError as error:
        there = not isinstance(error, FileNotFoundError)
    if beneath.complete or not there:
        _retire(work, row, InstallationState.GONE, tally)


def _retire(work: Work, row: Installation, state: InstallationState, tally: Tally) -> None:
    """The entry stays, and says what became of its files."""
    if not _mark(work, row, state):
        return
    lists = {
        InstallationState.GONE: (tally.gone, "missing"), InstallationState.AWAY: (tally.unavailable, "unavailable"),
        InstallationState.CORRUPT: (tally.corrupted, "corrupted"),
    }  # fmt: skip
    told, status = lists[state]
    told.append(row.model_id)
    _tell(work.services, row.model_id, status)


def _mark(work: Work, row: Installation, state: InstallationState) -> bool:
    with work.services.database.session() as session:
        return elsewhere.mark(session, row.model_id, row.revision, state)


def _row(model_id: str, model_type: str, found: Found, root: str, facts: Facts) -> Installation:
    looks = _looks(found)
    return Installation(
        model_id=model_id, model_type=model_type, revision=reference.revision_of(looks),
        state=InstallationState.PUBLISHED, holder=Holder.FOLDER, owned=False, path=found.path,
        size=sum(size for size, _ in looks.values()), files=len(looks), integrity=1.0, facts=facts.to_dict(),
        seen={
            "root": root, "above": [list(each) for each in found.above],
            "files": {name: list(look) for name, look in looks.items()},
        },
        published_at=0.0, verified_at=0.0,
    )  # fmt: skip


def _entry(model_id: str, name: str, facts: Facts, row: Installation) -> Model:
    return Model(
        id=model_id, type=facts.type, name=name, source=SourceKind.FILE, source_url=row.path, file_size=row.size,
        created_at=0.0, updated_at=0.0,
    )  # fmt: skip


def _looks(found: Found) -> dict[str, tuple[int, int]]:
    return {file.name: (file.size, file.mtime_ns) for file in found.files}


def _openers(found: Found) -> dict[str, Any]:
    return {file.name: file.open for file in found.files}


def _above(row: Installation) -> tuple[tuple[int, int], ...]:
    return tuple((device, inode) for device, inode in (row.seen or {})["above"])


def _tell(services: Services, model_id: str, status: str) -> None:
    services.events.publish("model.state", modelId=model_id, status=status)


@contextmanager
def _opened(root: str, work: Work) -> Iterator[Beneath]:
    try:
        beneath = Beneath(root, work.checkpoint)
    except OSError:
        raise _away(root) from None
    with beneath:
        yield beneath


@contextmanager
def _no_links(path: str) -> Iterator[None]:
    """Raises: Forbidden, where a path that somebody asked for leads through a link."""
    try:
        yield
    except FileNotFoundError:
        return  # what was there is looked for one by one
    except OSError as error:
        raise Forbidden(
            "path_not_allowed",
            f"{path} cannot be scanned: a name on the way is a link, no folder, or not to be read.",
            "Name the place itself; links are not followed.",
        ) from error


def _away(root: str) -> Unavailable:
    message = f"The scan root {root} is not there; its disk may not be mounted."
    return Unavailable("model_away", message, "Mount it; nothing was changed, and nothing is lost.")
