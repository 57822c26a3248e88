"""What the API's image installs brings no torch along, by what the libraries themselves say that they need."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
HEAVY = {"torch", "transformers", "diffusers", "accelerate", "safetensors", "huggingface-hub", "triton"}


def needed(wanted: list[str]) -> set[str]:
    """Every package that these bring along, on this machine."""
    found: set[str] = set()
    open_: list[tuple[str, frozenset[str]]] = [(each, frozenset()) for each in wanted]
    while open_:
        line, extras = open_.pop()
        requirement = Requirement(line)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            continue
        if name in found and not requirement.extras:
            continue
        found.add(name)
        try:
            open_ += [(each, frozenset(requirement.extras)) for each in requires(name) or []]
        except PackageNotFoundError:
            continue  # not for this machine
    return found


def test_the_api_image_is_light() -> None:
    light = needed(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["api"])
    assert {"fastapi", "starlette", "kombu", "pydantic-core"} <= light, "those that others bring along are found"
    assert not light & HEAVY


def test_the_io_worker_has_no_torch_and_the_device_worker_does() -> None:
    io = needed(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["worker"])
    assert "huggingface-hub" in io
    assert not io & {"torch", "transformers", "diffusers", "fastapi"}
    assert "torch" in needed(PROJECT["optional-dependencies"]["torch"])
