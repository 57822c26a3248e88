import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.data_folder import DataFolder
from shared.db.schema import migrate
from shared.db.session import Database
from shared.errors import Conflict, Invalid
from shared.keys import installation_secret, kept_key
from shared.settings import Settings


@pytest.fixture(params=[0o000, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.fault("A-116")
@pytest.mark.usefixtures("umask")
def test_the_database_and_the_keys_are_their_owners_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", secret=None)
    migrate(settings)
    installation_secret(settings)
    kept_key(settings)
    database = Database(settings.database)
    with database.session() as session:
        session.connection().exec_driver_sql("DELETE FROM jobs")
        made = {path.name: mode(path) for path in settings.data_dir.rglob("*")}
    database.close()
    assert {"modelyard.db", "modelyard.db-wal", "secrets", "api-key", "runner"} <= made.keys()
    assert {name for name, rights in made.items() if rights & 0o077} == set()
    assert mode(settings.data_dir) == 0o700


@pytest.mark.fault("A-116")
@pytest.mark.usefixtures("umask")
def test_nobody_else_can_look_inside(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "deep" / "data")
    folder.create()
    secret = folder.secret("redis")

    assert {mode(each) for each in (folder.root, *folder.root.iterdir())} == {0o700}
    assert [path.name for path in folder.secrets.iterdir()] == ["redis"]
    assert mode(folder.secrets / "redis") == 0o600
    assert len(secret) >= 32


def test_a_secret_is_made_once_and_each_is_its_own(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.create()
    first = folder.secret("redis")
    assert DataFolder(tmp_path).secret("redis") == first
    assert folder.secret("flower") != first


def test_the_runners_secret_is_the_same_for_a_process_started_by_hand(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.create()
    given = folder.secret("runner")
    assert installation_secret(Settings(data_dir=tmp_path, secret=None)) == given.encode()


def test_a_secret_that_others_could_read_is_closed_again(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.create()
    folder.secret("redis")
    (folder.secrets / "redis").chmod(0o644)
    folder.secret("redis")
    assert mode(folder.secrets / "redis") == 0o600


def test_one_instance_per_folder(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.create()
    held = folder.lock()
    with pytest.raises(Conflict) as refused:
        folder.lock()
    assert refused.value.code == "already_running"
    assert str(tmp_path) in refused.value.hint

    os.close(held)
    os.close(folder.lock())


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Invalid) as refused:
        DataFolder(tmp_path / "file" / "data").create()
    assert refused.value.code == "data_dir_unusable"
    assert "--data-dir" in refused.value.hint
