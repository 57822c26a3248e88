"""Images of texts: the same engine with a pipeline of diffusers, which makes one image after the other."""

import inspect
import io
import secrets
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

from shared.fit import IMAGE_SIZE
from workers.headers import read_safetensors
from workers.pipelines import image_size, parts, variant, weights
from workers.runtimes.torch_runner.config import INDEX, read
from workers.runtimes.torch_runner.generate import Engine, libraries_are_there
from workers.runtimes.torch_runner.request import Drawing, Generation, Outcome, Refused

LARGEST = 2
"""How many times its own size an image may have each way; beyond that, models repeat what they show."""
AFTER_STEP = ("callback_on_step_end", "callback")
"""Under these names pipelines take a function that they call after each step; older ones know the second."""
OPTIONS = {"num_inference_steps": "steps", "negative_prompt": "negative_prompt", "guidance_scale": "guidance_scale"}
"""What may be asked for, by its name in pipelines; not every one takes each."""


class ImageGenerator(Engine):
    """One loaded pipeline, of a class that diffusers has for this. Python files of the model are never run.

    A generation's prompt is a `Drawing` here.
    """

    def __init__(self, folder: Path, device: str, context_length: int, **allowed: Any) -> None:
        super().__init__(folder, device, context_length, **allowed)
        self._index = read(folder / INDEX) or {}
        wanted = parts(self._index)
        names = [file.relative_to(folder).as_posix() for file in folder.glob("*/*")]
        self._variant = variant(names, wanted)
        self._files = [folder / name for name in weights(names, wanted)]
        self._weight_bytes = sum(file.stat().st_size for file in self._files)
        self._side = image_size(lambda part: read(folder / part / "config.json")) or IMAGE_SIZE

    def _load(self) -> None:
        self._check_device()
        kind = self._kind()
        self._takes = inspect.signature(kind.__call__).parameters
        libraries_are_there()
        self._memory_before = self._memory()
        pipeline = kind.from_pretrained(
            self._folder,
            local_files_only=True,
            use_safetensors=None if self._pickle else True,  # None: wherever there are any
            variant=self._variant,
            dtype=self._dtype(),
        )
        if self._device != "cpu":
            pipeline.to(self._device)
        pipeline.set_progress_bar_config(disable=True)
        if hasattr(getattr(pipeline, "vae", None), "enable_tiling"):
            pipeline.vae.enable_tiling()  # an image larger than its own takes no more memory to decode
        self._model = pipeline

    def _kind(self) -> Any:
        """Raises: ValueError, where it is none that makes images of texts."""
        import diffusers
        from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

        name = self._index.get("_class_name")
        for kind in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values():
            if kind.__name__ == name:
                return kind
        message = f"{name} is no pipeline of diffusers {diffusers.__version__} that makes images of texts"
        raise ValueError(message)

    def _dtype(self) -> Any:
        """That of most of the weights, for all of them: a pipeline hands numbers from one part to the next.

        On a CPU it is 32 bits in any case: the convolutions of pipelines take it many times as long in 16.

        Raises:
            ValueError: they are quantized in a way that pipelines do not compute with.
        """
        import torch

        if self._device == "cpu":
            return torch.float32
        if self._precision is not None:
            return getattr(torch, self._precision)
        sizes: Counter[str] = Counter()
        for file in self._files:
            for tensor in read_safetensors(file).tensors.values():
                sizes[tensor.dtype] += tensor.nbytes
        found = sizes.most_common(1)[0][0] if sizes else "F32"
        known = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        if found not in known:
            message = f"its weights are {found}; diffusers computes with {', '.join(known)}"
            raise ValueError(message)
        return known[found]

    def _answer(self, generation: Generation) -> Outcome:
        started = time.monotonic()
        asked = cast("Drawing", generation.prompt)
        options = self._options(asked)
        seed = secrets.randbits(32) if asked.seed is None else asked.seed
        images = [self._draw(generation, asked.prompt, seed + number, options) for number in range(asked.n)]
        return Outcome("stop", 0, 0, time.monotonic() - started, images=images)

    def _options(self, asked: Drawing) -> dict[str, Any]:
        """As the pipeline takes them.

        Raises:
            Refused: 400; it does not take one of them, or not so large a size.
        """
        values = {name: value for name, ours in OPTIONS.items() if (value := getattr(asked, ours)) is not None}
        for name in values:
            if name not in self._takes:
                message = f"This model ({self._index['_class_name']}) takes no {OPTIONS[name]}."
                raise Refused(400, "not_taken", message)
        if asked.size is not None:
            width, height = asked.size
            most = self._side * LARGEST
            if width * height > most * most:
                message = f"An image may have as many pixels as {most}x{most}; {self._side}x{self._side} suits it best."
                raise Refused(400, "image_too_large", message)
            values |= {"width": width, "height": height}
        return values

    def _draw(self, generation: Generation, prompt: str, seed: int, options: dict[str, Any]) -> bytes:
        """One image as PNG.

        Raises:
            Refused: as `_made`; or what came of it is no image.
        """
        result = self._made(generation, prompt, seed, options)
        if any(getattr(result, "nsfw_content_detected", None) or []):
            raise Refused(400, "content_refused", "The model's own safety checker refuses what came of it.")
        return _png(result.images[0])

    def _made(self, generation: Generation, prompt: str, seed: int, options: dict[str, Any]) -> Any:
        """What the pipeline answers, in numbers from 0 to 1.

        Raises:
            Refused: nobody wants it any more, or the pipeline does not take it.
        """
        import torch

        def after_step(*_: Any, **__: Any) -> dict[str, Any]:
            if self._closing.is_set():
                raise Refused(503, "stopping", "This runner is stopping.")
            if generation.cancelled.is_set():
                raise Refused(499, "client_closed_request", "The client hung up.")
            return {}

        hook = next((name for name in AFTER_STEP if name in self._takes), None)
        try:
            return self._model(
                prompt=prompt,
                generator=torch.Generator("cpu").manual_seed(seed),  # equal on every device
                output_type="np",
                **options,
                **({hook: after_step} if hook else {}),
            )
        except ValueError as error:
            raise Refused(400, "invalid_request_error", f"The model's pipeline refuses: {error}") from error


def check_pixels(pixels: Any, what: str) -> None:
    """Look at an array of numbers.

    Raises:
        Refused: 500; they are none, or all the same, as black images are that overflows leave behind.
    """
    import numpy as np

    if not np.isfinite(pixels).all():
        raise Refused(500, "numbers_not_finite", "The model's numbers are not finite.")
    if pixels.min() == pixels.max():
        raise Refused(500, f"blank_{what}", f"All that the model made for the {what} is a single colour.")


def _png(pixels: Any) -> bytes:
    """Of an array of numbers from 0 to 1, of shape (height, width, 3).

    Raises:
        Refused: as `check_pixels`.
    """
    from PIL import Image

    check_pixels(pixels, "image")
    written = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype("uint8")).save(written, "PNG")
    return written.getvalue()
