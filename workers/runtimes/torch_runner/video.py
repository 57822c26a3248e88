"""Videos of texts: the same engine as for images, with a pipeline of diffusers that makes all frames together."""

import io
import secrets
import time
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

from shared.fit import VIDEO_FRAMES, VIDEO_MAKERS
from workers.pipelines import frames
from workers.runtimes.torch_runner.config import read
from workers.runtimes.torch_runner.image import ImageGenerator, check_pixels
from workers.runtimes.torch_runner.request import Filming, Generation, Outcome, Refused

RATE_STEPS = 1000
"""A rate of frames is a fraction of so many parts."""


class VideoMaker(ImageGenerator):
    """One loaded pipeline that makes videos. A generation's prompt is a `Filming` here."""

    def __init__(self, folder: Path, device: str, context_length: int, **allowed: Any) -> None:
        super().__init__(folder, device, context_length, **allowed)
        self._longest = frames(lambda part: read(folder / part / "config.json")) or VIDEO_FRAMES

    def _kind(self) -> Any:
        """Raises: ValueError, where it is none that makes videos of texts."""
        import diffusers

        name = self._index.get("_class_name")
        if name not in VIDEO_MAKERS:
            message = f"{name} is none of the pipelines that make videos here: {', '.join(VIDEO_MAKERS)}"
            raise ValueError(message)
        return getattr(diffusers, name)

    def _answer(self, generation: Generation) -> Outcome:
        started = time.monotonic()
        asked = cast("Filming", generation.prompt)
        number = min(VIDEO_FRAMES, self._longest) if asked.frames is None else asked.frames
        if number > self._longest:
            message = f"A video may have as many frames as {self._longest}, which its motion was made for."
            raise Refused(400, "too_many_frames", message)
        # One frame after the other is decoded: all at once would take most of the memory.
        options = {**self._options(asked), "num_frames": number, "decode_chunk_size": 1}
        seed = secrets.randbits(32) if asked.seed is None else asked.seed
        made = self._made(generation, asked.prompt, seed, options)
        return Outcome("stop", 0, 0, time.monotonic() - started, video=_mp4(made.frames[0], asked.rate))


def _mp4(pixels: Any, rate: float) -> bytes:
    """Of an array of numbers from 0 to 1, of shape (frames, height, width, 3), at so many frames a second.

    Raises:
        Refused: as `check_pixels`.
    """
    import av

    check_pixels(pixels, "video")
    written = io.BytesIO()
    with av.open(written, "w", format="mp4") as file:
        stream = file.add_stream("h264", rate=Fraction(round(rate * RATE_STEPS), RATE_STEPS))
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for each in pixels:
            picture = av.VideoFrame.from_ndarray((each * 255).round().astype("uint8"), format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return written.getvalue()
