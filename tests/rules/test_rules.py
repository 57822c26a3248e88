"""Rules that prose would forget: each says which command mends what it finds."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import text

from api.cli.main import app
from deploy import docs
from deploy.environment import example
from shared.contracts import KINDS
from shared.db.session import Database
from workers.sources import transfer
from workers.store import manifest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("api", "workers", "shared", "deploy")
LONGEST_FILE = 300
ALLOWED_LONG = {
    "shared/contracts.py": "every kind of job stands on one page, and there is no end of kinds",
    "shared/jobs.py": "every transition of a job stands in one file, where the state machine can be read as a whole",
    "shared/settings.py": "every setting stands on one page, as docs/configuration.md has them",
    "workers/job.py": "the one way that every kind takes, from message to outcome",
}

WATCHED = {
    "jobs": ("job_ended", "job_entered"),
    "installations": ("model_entered", "model_changed", "model_removed", "model_outdated"),
    "residencies": ("residency_started", "residency_moved", "residency_serves"),
    "model_health": ("health_told", "health_first"),
}
"""By table, the triggers that write down what webhooks tell."""


def sources(*rooms: str) -> Iterator[Path]:
    for room in rooms or ROOMS:
        yield from (path for path in (ROOT / room).rglob("*.py") if "migrations/versions" not in str(path))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_generated_pages_are_fresh() -> None:
    """Mend with `python -m deploy.docs` and `python -m deploy.environment > .env.example`."""
    assert (docs.DOCS / "contracts.md").read_text() == docs.contracts_page()
    assert (docs.DOCS / "configuration.md").read_text() == docs.configuration_page()
    assert (docs.DOCS / "metrics.md").read_text() == docs.metrics_page()
    assert (ROOT / ".env.example").read_text() == example()


def test_files_are_short() -> None:
    long = {name(path) for path in sources() if len(path.read_text().splitlines()) > LONGEST_FILE}
    assert long <= ALLOWED_LONG.keys()


def test_every_kind_has_a_file_of_its_own() -> None:
    bodies = {path.stem for path in (ROOT / "workers/jobs").glob("*.py")} - {"__init__"}
    assert bodies == {kind.split(".")[1] for kind in KINDS}


@pytest.mark.parametrize(
    ("pattern", "homes"),
    [
        (r'(?<!queue=)"modelyard[:.]', {"shared/queues.py"}),
        (r"\b(redis|client|_redis)\.(set|zadd|xadd|publish|xrange)\(\s*f?[\"']", {"shared/queues.py"}),
        (r"[\"'](staging|manifests|trash)[\"']", {"workers/store/layout.py", "shared/refs.py"}),
        (r"raise HTTPException", set()),
        (r"\b(queued|running|succeeded)\b[\"'] *(==|!=)|(==|!=) *[\"'](queued|running|succeeded)\b", set()),
    ],
)
def test_names_are_spelled_in_one_place(pattern: str, homes: set[str]) -> None:
    found = {name(path) for path in sources("api", "workers", "shared") if re.search(pattern, path.read_text())}
    assert found <= homes, f"{pattern} belongs in {homes or 'no file'}"


def test_shared_modules_have_users_on_both_sides() -> None:
    """What only one side uses lives on that side."""
    users: dict[str, set[str]] = {}
    for path in sources():
        room = path.relative_to(ROOT).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("shared"):
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                for module in modules:
                    users.setdefault(module, set()).add(room)
    modules = {name(path)[:-3].replace("/", ".") for path in (ROOT / "shared").glob("*.py") if path.stem != "__init__"}
    lonely = {module: users.get(module, set()) for module in modules if len(users.get(module, set()) - {"shared"}) < 2}
    assert not lonely


def test_both_rooms_cut_files_into_the_same_chunks() -> None:
    assert transfer.CHUNK_BYTES == manifest.CHUNK_BYTES


def test_suppressions_give_their_reason() -> None:
    bare = [
        f"{name(path)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"#\s*(noqa|type: ignore)", line)
        and not re.search(r"(noqa|type: ignore)[^#]*?( - |  ?# )\S", line)
    ]
    assert bare == []


def test_migrations_are_one_line() -> None:
    """Mend by giving the one that came later the next number, in its name and in it, with the one before as its
    `down_revision`."""
    found = []
    for path in sorted((ROOT / "shared/db/migrations/versions").glob("*.py")):
        told = dict(re.findall(r'^(revision|down_revision) = (?:"(\w+)"|None)$', path.read_text(), re.MULTILINE))
        assert path.name.startswith(f"{told['revision']}_"), path.name
        found.append((told["revision"], told["down_revision"]))
    wanted = [f"{number:04}" for number in range(1, len(found) + 1)]
    assert found == list(zip(wanted, ["", *wanted], strict=False))


def test_no_migration_loses_a_trigger(database: Database) -> None:
    """SQLite drops a table's triggers with the table, and so does `batch_alter_table`, which makes it anew; mend with
    a migration that creates them again."""
    on_sqlite = database.engine.dialect.name == "sqlite"
    query = (
        "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'" if on_sqlite
        else "SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal"
    )  # fmt: skip
    with database.reading() as session:
        found = {(name, table) for name, table in session.execute(text(query))}
    kept = {"audit_log_kept", "audit_log_stays"} if on_sqlite else {"audit_log_kept"}
    wanted = {(f"webhooks_{name}", table) for table, names in WATCHED.items() for name in names}
    assert found == wanted | {(name, "audit_log") for name in kept}


def test_the_command_line_starts_light() -> None:
    """Nobody waits for what only a service needs; mend with an import in the command that needs it."""
    code = "import sys, api.cli.main; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(told.stdout.split()) & {"pydantic", "celery", "sqlalchemy", "fastapi", "redis", "asyncio"} == set()


def test_no_command_hides_another_one() -> None:
    """Of two with one name, the command line would know the one that was added last, and not say so."""
    names = [command.name or command.callback.__name__ for command in _commands(app)]
    assert sorted(names) == sorted(set(names))


def _commands(of: typer.Typer) -> Iterator[Any]:
    yield from of.registered_commands
    for group in of.registered_groups:
        if not group.name:  # its commands stand beside the others
            yield from _commands(group.typer_instance)
