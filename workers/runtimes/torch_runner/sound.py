"""Sound of texts: the same engine with a model of transformers that speaks them, or plays what they ask for."""

import io
import math
import secrets
import time
import wave
from pathlib import Path
from typing import Any, cast

from shared.fit import SPEECH_PIECE
from workers.runtimes.torch_runner.generate import Engine
from workers.runtimes.torch_runner.request import Generation, Outcome, Refused, Sounding

SECONDS, MOST_SECONDS = 10.0, 30.0
"""Of music: what is made where nothing is asked for, and what models were made for at most."""
LOUDEST = 32767
PAUSES = (".!?", ";:,", " ")
"""Where a text that is spoken may be cut, the best places first."""


class SoundMaker(Engine):
    """One loaded model that makes waves: in one go where it speaks, piece by piece where it plays.

    A generation's prompt is a `Sounding` here.
    """

    def __init__(self, folder: Path, device: str, context_length: int, **allowed: Any) -> None:
        # Some of their weights are products of others in the files, so these are no views of an arena.
        super().__init__(folder, device, context_length, **{**allowed, "piece_by_piece": True})

    def _auto_class(self) -> Any:
        from transformers import AutoModelForTextToWaveform

        return AutoModelForTextToWaveform

    def _answer(self, generation: Generation) -> Outcome:
        import torch

        started = time.monotonic()
        asked = cast("Sounding", generation.prompt)
        taken = self._encoded(asked.text)
        size = int(taken["input_ids"].shape[1])
        if size < 1:
            raise Refused(400, "empty_prompt", "The text holds no token that this model knows.")
        if size > self._context_length:
            message = f"The text has {size} tokens; {self._context_length} are the most."
            raise Refused(400, "context_length_exceeded", message)
        torch.manual_seed(secrets.randbits(32) if asked.seed is None else asked.seed)
        with torch.inference_mode():
            made = self._played(generation, asked, taken) if self.plays else self._spoken(generation, asked)
            samples = made.reshape(-1).float().cpu().numpy()
        return Outcome("stop", size, 0, time.monotonic() - started, sound=_wav(samples, self._rate))

    @property
    def plays(self) -> bool:
        """Music, and does not speak; of one that is loaded."""
        return hasattr(self._model.config, "audio_encoder")

    @property
    def _rate(self) -> int:
        config = self._model.config
        return int(config.audio_encoder.sampling_rate if self.plays else config.sampling_rate)

    def _encoded(self, text: str) -> dict[str, Any]:
        encoded = self._tokenizer(text, return_tensors="pt").to(self._device)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _spoken(self, generation: Generation, asked: Sounding) -> Any:
        """One piece after the other: all of a long text at once would take gigabytes."""
        import torch

        if asked.seconds is not None:
            raise Refused(400, "not_taken", "This model speaks a text, which takes as long as it does.")
        speakers = getattr(self._model.config, "num_speakers", 1)
        speaker = {"speaker_id": _speaker(asked.voice, speakers)} if speakers > 1 else {}
        self._model.speaking_rate = asked.speed
        waves = []
        for piece in pieces(asked.text):
            self._check_wanted(generation)
            taken = self._encoded(piece)
            if taken["input_ids"].shape[1]:
                waves.append(self._model(**taken, **speaker).waveform.reshape(-1))
        return torch.cat(waves)

    def _check_wanted(self, generation: Generation) -> None:
        """Raises: Refused."""
        if self._closing.is_set():
            raise Refused(503, "stopping", "This runner is stopping.")
        if generation.cancelled.is_set():
            raise Refused(499, "client_closed_request", "The client hung up.")

    def _played(self, generation: Generation, asked: Sounding, taken: dict[str, Any]) -> Any:
        from transformers import StoppingCriteriaList

        if asked.speed != 1.0:
            raise Refused(400, "not_taken", "This model takes no speed; the text may ask for one.")

        def ends(ids: Any, *_: Any, **__: Any) -> Any:
            self._check_wanted(generation)
            return ids.new_zeros(ids.shape[0], dtype=bool)

        steps = math.ceil((asked.seconds or SECONDS) * self._model.config.audio_encoder.frame_rate)
        criteria: Any = StoppingCriteriaList([ends])
        return self._model.generate(**taken, max_new_tokens=steps, stopping_criteria=criteria)[0]


def pieces(text: str) -> list[str]:
    """Of no more characters than SPEECH_PIECE, cut where a sentence ends, else where one rests, else between words."""
    found, rest = [], text.strip()
    while len(rest) > SPEECH_PIECE:
        cut = next(
            (last for marks in PAUSES if (last := max(map(rest[:SPEECH_PIECE].rfind, marks))) > 0), SPEECH_PIECE - 1
        )
        found.append(rest[: cut + 1])
        rest = rest[cut + 1 :].lstrip()
    return [*found, rest]


def _speaker(voice: str | None, speakers: int) -> int:
    """Raises: Refused."""
    number = int(voice) if voice is not None and voice.isdecimal() else 0 if voice is None else -1
    if not 0 <= number < speakers:
        raise Refused(400, "unknown_voice", f"The voices of this model are numbers from 0 to {speakers - 1}.")
    return number


def _wav(samples: Any, rate: int) -> bytes:
    """Of an array of numbers from -1 to 1, at so many a second: one channel of 16 bits.

    Raises:
        Refused: 500; they are none, or are all the same.
    """
    import numpy as np

    if not np.isfinite(samples).all():
        raise Refused(500, "numbers_not_finite", "The model's numbers are not finite.")
    if samples.size == 0 or samples.min() == samples.max():
        raise Refused(500, "silence", "The model made no sound of this text.")
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.clip(-1, 1) * LOUDEST).round().astype("<i2").tobytes())
    return written.getvalue()
