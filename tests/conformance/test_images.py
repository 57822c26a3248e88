"""Images of texts: a real pipeline of diffusers, tiny and with random weights, in a real runner and beside it."""

import base64
import json
import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from shared import fit
from shared.errors import Unsafe
from shared.settings import RunnerSettings
from tests.factories.pipelines import SIDE, stable_diffusion
from tests.factories.runners import client_of, ready
from workers.runtimes.base import Request
from workers.runtimes.runner import Runner
from workers.runtimes.torch_runner import TorchImageGenerator, TorchRunner
from workers.runtimes.torch_runner.image import ImageGenerator, _png
from workers.runtimes.torch_runner.request import Drawing, Generation, Options, Refused
from workers.store.essentials import check_essentials, files_of
from workers.store.facts import read_facts

KEY = "0123456789abcdef-the-runner-key"
SETTINGS = RunnerSettings(readiness_interval=0.05)
RUNTIME = TorchImageGenerator(SETTINGS)
ASKED: dict[str, Any] = {"prompt": "a lighthouse", "steps": 2, "seed": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # so small a model is not made faster by more, which wait for each other
    return stable_diffusion(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> ImageGenerator:
    return loaded(folder)


def loaded(folder: Path, **allowed: bool) -> ImageGenerator:
    engine = ImageGenerator(folder, "cpu", 128, **allowed)
    engine._load()
    return engine


def drawn(engine: ImageGenerator, **asked: Any) -> list[bytes]:
    drawing = Drawing(**{**ASKED, **asked})
    return engine._answer(Generation(drawing, Options(), lambda _: None)).images


def size(png: bytes) -> tuple[int, int]:
    """Width and height, as a PNG's header has them."""
    found: tuple[int, int] = struct.unpack(">II", png[16:24])
    return found


@pytest.fixture(scope="module")
def runner(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    assert RUNTIME.accepts(folder)
    assert not TorchRunner(SETTINGS).accepts(folder)
    asked = Request(folder, "tiny", "127.0.0.1", 0, KEY, "cpu")
    logs = tmp_path_factory.mktemp("logs")
    with ThreadPoolExecutor(1) as spawn, ready(RUNTIME.start(asked, spawn, logs)) as runner:
        runner.probe()
        yield runner


@pytest.fixture(scope="module")
def client(runner: Runner) -> Iterator[httpx.Client]:
    with client_of(runner, KEY) as client:
        yield client


def test_it_takes_what_the_formula_says(runner: Runner, folder: Path) -> None:
    files = files_of(folder)
    facts, setting = read_facts(files).to_dict(), fit.Setting(RUNTIME.name, "cpu", 128)
    predicted, spread = fit.at_rest(facts, 0, setting), fit.need(facts, 0, setting).spread
    print("predicted", predicted // fit.MIB, "measured", runner.memory().host // fit.MIB, "MiB")
    assert abs(runner.memory().host - predicted) <= spread


def test_with_the_same_seed_it_is_the_same_image(client: httpx.Client) -> None:
    first, again, other, two = (
        images(client, more) for more in ({}, {}, {"seed": 2}, {"n": 2, "size": f"{SIDE}x{SIDE}"})
    )
    assert first == again
    assert other != first
    assert two == [*first, *other], "the second image has the next seed, and its own size is what it makes"
    assert size(first[0]) == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"size": f"{2 * SIDE}x{2 * SIDE + 8}"}, "image_too_large"),
        ({"size": f"{SIDE}x{SIDE + 1}"}, "invalid_request_error"),
        ({"size": "large"}, "invalid_request_error"),
        ({"steps": 0}, "invalid_request_error"),
        ({"steps": 101}, "invalid_request_error"),
        ({"n": 5}, "invalid_request_error"),
        ({"seed": -1}, "invalid_request_error"),
        ({"prompt": ""}, "invalid_request_error"),
    ],
)
def test_what_cannot_be_made_is_refused_and_it_goes_on(client: httpx.Client, more: dict[str, Any], code: str) -> None:
    answer = client.post("/v1/images/generations", json={**ASKED, **more})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert images(client, {"steps": 1})


def images(client: httpx.Client, more: dict[str, Any]) -> list[bytes]:
    answer = client.post("/v1/images/generations", json={**ASKED, **more})
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(one["b64_json"]) for one in answer.json()["data"]]


def test_what_is_asked_reaches_the_pipeline(engine: ImageGenerator) -> None:
    plain = drawn(engine)
    for more in ({"negative_prompt": "fog"}, {"guidance_scale": 1.0}, {"steps": 3}, {"prompt": "a ship"}):
        assert drawn(engine, **more) != plain, more
    assert size(drawn(engine, size=(SIDE, 2 * SIDE))[0]) == (SIDE, 2 * SIDE)
    assert len(set(drawn(engine, seed=None, n=2))) == 2


def test_whoever_leaves_ends_it_at_the_next_step(engine: ImageGenerator) -> None:
    class LeavesAfterTwoSteps:
        looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks > 2

    client: Any = LeavesAfterTwoSteps()
    with pytest.raises(Refused) as refused:
        engine._answer(Generation(Drawing("a lighthouse", steps=50), Options(), lambda _: None, client))
    assert (refused.value.status, client.looks) == (499, 3)
    assert drawn(engine) == drawn(engine), "the next one has its whole image"


def test_what_is_no_image_is_not_passed_on(folder: Path) -> None:
    engine = loaded(folder)
    with torch.no_grad():
        engine._model.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(Refused, match="not finite"):
        drawn(engine)
    with pytest.raises(Refused, match="a single colour"):
        _png(np.zeros((8, 8, 3)))


@pytest.mark.parametrize("name", ["StableDiffusionImg2ImgPipeline", "DiffusionPipeline", "AnimateDiffPipeline", "Own"])
def test_other_pipelines_are_told_apart(tmp_path: Path, name: str) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(ValueError, match=f"{name} is no pipeline of diffusers"):
        ImageGenerator(tmp_path, "cpu", 128)._load()


@pytest.mark.fault("A-80")
def test_code_that_comes_along_is_not_run(folder: Path, tmp_path: Path) -> None:
    """Neither a file of the model's nor a module that its index names; the gate refuses the first before."""
    for file in files_of(folder):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    index = json.loads((tmp_path / "model_index.json").read_text())
    canary = tmp_path / "canary"
    (tmp_path / "unet" / "own.py").write_text(f"from pathlib import Path\nPath({str(canary)!r}).touch()\n")
    for library in ("own", "antigravity"):
        changed = {**index, "unet": [library, "UNet2DConditionModel"]}
        (tmp_path / "model_index.json").write_text(json.dumps(changed))
        with pytest.raises((ValueError, ImportError, AttributeError)):
            loaded(tmp_path, remote_code=True)
    assert not canary.exists()
    assert "antigravity" not in sys.modules
    assert "remote_code_required" in {problem.code for problem in check_essentials(tmp_path, files_of(tmp_path))}
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": ["own", "Own"]}))
    assert not RUNTIME.accepts(tmp_path)


@pytest.mark.fault("A-77")
def test_pickles_are_read_where_they_are_allowed(engine: ImageGenerator, tmp_path: Path) -> None:
    stable_diffusion(tmp_path, safe_serialization=False)
    asked = Request(tmp_path, "tiny", "127.0.0.1", 1, KEY, "cpu")
    with pytest.raises(Unsafe) as refused:
        RUNTIME.launch(asked)
    assert refused.value.code == "unsafe_format"
    with pytest.raises(OSError, match="safetensors"):
        loaded(tmp_path)
    assert drawn(loaded(tmp_path, pickle=True)) == drawn(engine)


def test_an_edition_in_16_bits_is_run_as_it_is_where_that_is_no_slower(tmp_path: Path) -> None:
    stable_diffusion(tmp_path, dtype=torch.bfloat16, variant="fp16")
    facts = read_facts(files_of(tmp_path)).to_dict()
    assert (facts["format"], facts["quantization"], facts["imageSize"]) == ("diffusers", "BF16", SIDE)
    assert facts["weightBytes"] == 2 * facts["parameterCount"] > 1_000_000
    assert ImageGenerator(tmp_path, "gpu-0", 128)._dtype() is torch.bfloat16
    engine = loaded(tmp_path)
    assert {part.dtype for part in (engine._model.unet, engine._model.vae, engine._model.text_encoder)} == {
        torch.float32
    }
    assert len(drawn(engine)) == 1
