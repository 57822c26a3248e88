"""Sound of texts: real models of transformers that speak and play, tiny and with random weights, in real runners."""

import io
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from shared import fit
from shared.settings import RunnerSettings
from tests.factories.runners import client_of, ready
from tests.factories.speech import musicgen, vits
from workers.runtimes.base import Request
from workers.runtimes.torch_runner import TorchRunner, TorchSoundMaker
from workers.runtimes.torch_runner.request import Generation, Options, Refused, Sounding
from workers.runtimes.torch_runner.sound import SoundMaker, _wav, pieces
from workers.store.essentials import check_essentials, files_of
from workers.store.facts import read_facts

KEY = "0123456789abcdef-the-runner-key"
SETTINGS = RunnerSettings(readiness_interval=0.05)
RUNTIME = TorchSoundMaker(SETTINGS)
TEXT = "good morning to you"


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vits(tmp_path_factory.mktemp("vits"))


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return musicgen(tmp_path_factory.mktemp("musicgen"))


def engine_of(folder: Path, context_length: int = 128) -> SoundMaker:
    engine = SoundMaker(folder, "cpu", context_length)
    engine._load()
    engine.ready.set()
    return engine


def heard(engine: SoundMaker, text: str = TEXT, **asked: Any) -> bytes:
    return engine._answer(Generation(Sounding(text, **asked), Options(), lambda _: None)).sound


def seconds(sound: bytes) -> float:
    with wave.open(io.BytesIO(sound)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return file.getnframes() / file.getframerate()


@pytest.mark.parametrize(("name", "type_"), [("speaker", "tts"), ("player", "music")])
def test_its_files_tell_what_it_is(request: pytest.FixtureRequest, name: str, type_: str) -> None:
    folder = request.getfixturevalue(name)
    facts = read_facts(files_of(folder))
    assert (facts.type, facts.quantization) == (type_, "F32")
    assert check_essentials(folder, files_of(folder)) == []
    assert fit.runtime_of(facts.to_dict(), "store", type_) == RUNTIME.name
    assert RUNTIME.accepts(folder)
    assert not TorchRunner(SETTINGS).accepts(folder)


def test_speech_is_the_same_with_the_same_seed_and_shorter_where_it_is_faster(speaker: Path) -> None:
    engine = engine_of(speaker)
    first, again, other = heard(engine, seed=1), heard(engine, seed=1), heard(engine, seed=2)
    assert first == again != other
    assert seconds(heard(engine, seed=1, speed=2.0)) < seconds(first)
    assert not engine.plays


def test_music_is_as_long_as_it_is_asked_for(player: Path) -> None:
    engine = engine_of(player)
    assert engine.plays
    short, again = heard(engine, seconds=0.2, seed=1), heard(engine, seconds=0.2, seed=1)
    assert short == again
    assert seconds(heard(engine, seconds=0.6, seed=1)) > 2 * seconds(short) > 0.2


@pytest.mark.parametrize(
    ("name", "asked", "code"),
    [
        ("speaker", {"seconds": 2.0}, "not_taken"), ("player", {"speed": 2.0}, "not_taken"),
        ("speaker", {"text": "x" * 300}, "context_length_exceeded"),
    ],
)  # fmt: skip
def test_what_it_does_not_take_is_refused(
    request: pytest.FixtureRequest, name: str, asked: dict[str, Any], code: str
) -> None:
    with pytest.raises(Refused) as caught:
        heard(engine_of(request.getfixturevalue(name)), **asked)
    assert (caught.value.status, caught.value.code) == (400, code)


def test_a_voice_is_a_number_of_a_model_that_has_several(tmp_path: Path) -> None:
    engine = engine_of(vits(tmp_path, speakers=2))
    assert heard(engine, seed=1, voice="0") == heard(engine, seed=1) != heard(engine, seed=1, voice="1")
    for voice in ("2", "alloy", "-1"):
        with pytest.raises(Refused, match="from 0 to 1"):
            heard(engine, voice=voice)


def test_music_that_nobody_wants_any_more_ends(player: Path) -> None:
    engine, generation = engine_of(player), Generation(Sounding(TEXT, seconds=30.0), Options(), lambda _: None)
    generation.cancelled.set()
    with pytest.raises(Refused, match="hung up"):
        engine._answer(generation)
    engine.close()
    with pytest.raises(Refused, match="stopping"):
        heard(engine, seconds=30.0)


@pytest.mark.parametrize(
    ("samples", "code"), [([0.1, float("nan")], "numbers_not_finite"), ([0.0] * 9, "silence"), ([], "silence")]
)
def test_what_is_no_sound_is_told(samples: list[float], code: str) -> None:
    with pytest.raises(Refused) as caught:
        _wav(np.array(samples, np.float32), 8000)
    assert caught.value.code == code


@pytest.fixture(scope="module")
def client(speaker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    asked = Request(speaker, "tiny", "127.0.0.1", 0, KEY, "cpu")
    with (
        ThreadPoolExecutor(1) as spawn,
        ready(RUNTIME.start(asked, spawn, tmp_path_factory.mktemp("logs"))) as runner,
        client_of(runner, KEY) as client,
    ):
        runner.probe()
        yield client


def test_a_runner_answers_with_a_file(client: httpx.Client) -> None:
    answer = client.post("/v1/audio/speech", json={"input": TEXT, "seed": 1, "speed": 1.5})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
    assert seconds(answer.content) > 0
    refused = client.post("/v1/audio/speech", json={"input": TEXT, "seconds": 2})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "not_taken")
    assert client.post("/v1/audio/speech", json={"input": ""}).status_code == 400


def test_a_long_text_is_spoken_piece_by_piece() -> None:
    sentences = "The yard keeps every model. " * 20
    parts = pieces(sentences)
    assert " ".join(parts) == sentences.strip()
    assert max(map(len, parts)) <= fit.SPEECH_PIECE
    assert all(part.endswith(".") for part in parts)
    assert pieces("x" * 500) == ["x" * 200, "x" * 200, "x" * 100], "somewhere, where there is no better place"
    assert pieces("good morning") == ["good morning"]


def test_all_of_a_long_text_is_heard(speaker: Path) -> None:
    engine = engine_of(speaker, 4096)
    one, three = "good morning to you. " * 9, "good morning to you. " * 27
    assert seconds(heard(engine, three, seed=1)) > 2 * seconds(heard(engine, one, seed=1))
