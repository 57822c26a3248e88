"""Files and hubs for the tests of the range engine."""

from pathlib import Path

import pytest

from tests.workers.sources.fetching import MIB, noise


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "file.partial"


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub's root with one file of 64 MiB and a bit."""
    root = tmp_path_factory.mktemp("hub")
    folder = root / "acme" / "big"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(noise(64 * MIB + 12_345))
    return root
