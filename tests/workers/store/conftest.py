"""A store in a temporary folder, and models in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.factories.malformed import good_safetensors
from tests.factories.stored import stage
from workers.store.layout import Layout
from workers.store.manifest import Manifest
from workers.store.publish import publish

Installed = Callable[[dict[str, bytes]], Manifest]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "store")
    made.ensure()
    return made


@pytest.fixture
def installed(layout: Layout) -> Installed:
    """Publishes files as revision `r1` of `llm/tiny`; a safetensors file is added where there are no weights."""

    def install(files: dict[str, bytes]) -> Manifest:
        manifest, partials = stage(layout, {"model.safetensors": good_safetensors(), **files})
        publish(layout, manifest, partials)
        return manifest

    return install
