"""Videos of texts: a real pipeline of diffusers, tiny and with random weights, in a real runner and beside it."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
import torch

from shared import fit
from shared.settings import RunnerSettings
from tests.factories.pipelines import SIDE, animate_diff, stable_diffusion
from tests.factories.runners import client_of, ready
from workers.runtimes.base import Request
from workers.runtimes.torch_runner import TorchVideoMaker
from workers.runtimes.torch_runner.image import ImageGenerator
from workers.runtimes.torch_runner.request import Refused
from workers.runtimes.torch_runner.video import VideoMaker, _mp4
from workers.store.essentials import check_essentials, files_of
from workers.store.facts import read_facts

KEY = "0123456789abcdef-the-runner-key"
SETTINGS = RunnerSettings(readiness_interval=0.05)
RUNTIME = TorchVideoMaker(SETTINGS)
PATH = "/v1/videos/generations"
MOST_FRAMES = 6
ASKED: dict[str, Any] = {"prompt": "a lighthouse", "steps": 1, "seed": 1, "frames": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # so small a model is not made faster by more, which wait for each other
    return animate_diff(tmp_path_factory.mktemp("pipeline"), most_frames=MOST_FRAMES)


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    asked = Request(folder, "tiny", "127.0.0.1", 0, KEY, "cpu")
    with ThreadPoolExecutor(1) as spawn, ready(RUNTIME.start(asked, spawn)) as runner, client_of(runner, KEY) as client:
        runner.probe()
        yield client


def made(client: httpx.Client, **more: Any) -> bytes:
    answer = client.post(PATH, json={**ASKED, **more})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4"), answer.text
    return answer.content


def seen(video: bytes) -> np.ndarray[Any, Any]:
    """All frames of a file, as anybody's player decodes them."""
    with av.open(io.BytesIO(video)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def test_its_files_tell_what_it_is(folder: Path, tmp_path: Path) -> None:
    files = files_of(folder)
    assert check_essentials(folder, files) == []
    facts = read_facts(files)
    assert (facts.type, facts.image_size, facts.frames) == ("animation", SIDE, MOST_FRAMES)
    told = facts.to_dict()
    assert fit.runtime_of(told, "store", "animation") == RUNTIME.name
    assert fit.runtime_of(told | {"architecture": "OtherPipeline"}, "store", "animation") == ""
    assert fit.runtime_of(told, "store", "image_gen") == RUNTIME.name, "a type that somebody gave it is believed"
    assert "AnimateDiffPipeline" in fit.runnable(told, "animation")
    assert RUNTIME.accepts(folder)
    assert not RUNTIME.accepts(stable_diffusion(tmp_path / "still"))


def test_it_is_a_file_that_plays(client: httpx.Client) -> None:
    video = made(client, fps=4)
    with av.open(io.BytesIO(video)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.frames) == ("h264", 4, 3)
    frames = seen(video)
    assert frames.shape == (3, SIDE, SIDE, 3)
    assert (frames[0] != frames[1]).any(), "it moves"


def test_what_is_asked_reaches_the_pipeline(client: httpx.Client) -> None:
    plain = made(client)
    assert made(client) == plain, "with the same seed it is the same video"
    for more in ({"seed": 2}, {"prompt": "a ship"}, {"negative_prompt": "fog"}, {"guidance_scale": 1.0}, {"steps": 2}):
        assert made(client, **more) != plain, more
    assert seen(made(client, size=f"{SIDE}x{2 * SIDE}", frames=MOST_FRAMES)).shape == (MOST_FRAMES, 2 * SIDE, SIDE, 3)


def test_what_is_left_out_is_as_the_model_has_it(client: httpx.Client) -> None:
    assert len(seen(made(client, frames=None))) == MOST_FRAMES, "of so many it was made for, which are fewer than usual"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"frames": MOST_FRAMES + 1}, "too_many_frames"),
        ({"frames": 0}, "invalid_request_error"),
        ({"fps": 0}, "invalid_request_error"),
        ({"n": 2}, "invalid_request_error"),
        ({"size": f"{4 * SIDE}x{4 * SIDE}"}, "image_too_large"),
    ],
)
def test_what_cannot_be_made_is_refused_and_it_goes_on(client: httpx.Client, more: dict[str, Any], code: str) -> None:
    answer = client.post(PATH, json={**ASKED, **more})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert made(client, frames=1)


def test_what_no_frames_came_of_is_no_video() -> None:
    moving = np.random.default_rng(1).random((2, SIDE, SIDE, 3))
    assert seen(_mp4(moving, 8)).shape == moving.shape
    for wrong, code in ((np.full_like(moving, np.nan), "numbers_not_finite"), (np.zeros_like(moving), "blank_video")):
        with pytest.raises(Refused) as refused:
            _mp4(wrong, 8)
        assert refused.value.code == code


def test_what_makes_videos_is_not_started_for_images_and_the_other_way_round(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="AnimateDiffPipeline is no pipeline"):
        ImageGenerator(folder, "cpu", 128)._kind()
    with pytest.raises(ValueError, match="StableDiffusionPipeline is none of"):
        VideoMaker(stable_diffusion(tmp_path), "cpu", 128)._kind()
