"""The torch runner's process: `python -m workers.runtimes.torch_runner.server --folder … --port …`.

`/health` answers while the model loads. Every route wants the key that came by the environment. The process ends
when loading fails; the last line on stderr is the reason.
"""

import argparse
import gc
import hmac
import json
import os
import sys
import threading
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.fit import PRECISIONS
from workers.runtimes.torch_runner import KEY_VARIABLE, SPARE
from workers.runtimes.torch_runner.embed import Embedder
from workers.runtimes.torch_runner.generate import Engine
from workers.runtimes.torch_runner.image import ImageGenerator
from workers.runtimes.torch_runner.routes import (
    create_app,
    create_embedding_app,
    create_image_app,
    create_sound_app,
    create_video_app,
    problem,
)
from workers.runtimes.torch_runner.sound import SoundMaker
from workers.runtimes.torch_runner.video import VideoMaker

SHUTDOWN_SECONDS = 2


class KeyGuard:
    """Refuses every request without the key, before anything looks at it."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] != "lifespan":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                app = problem(401, "invalid_api_key", "This runner wants its key.")
        await app(scope, receive, send)


class Server(uvicorn.Server):
    """Tells the engine first when it is to stop, so that open streams end at their next token."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._engine.close()
        super().handle_exit(sig, frame)


def main() -> None:
    """Bind, then load in the background, and serve until SIGTERM."""
    gc.disable()  # nothing of the libraries is garbage: looking for it takes a tenth of the start
    arguments = _arguments(_told() if sys.argv[1:] == [SPARE] else sys.argv[1:])
    key = os.environ.pop(KEY_VARIABLE, "")
    if not key:
        sys.exit(f"{KEY_VARIABLE} is not set: a runner without a key would serve anybody on this machine")
    engine, app = _made(arguments)
    config = uvicorn.Config(
        KeyGuard(app, key),
        host=arguments.host,
        port=arguments.port,
        access_log=False,
        log_level="warning",
        ws="none",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    socket = config.bind_socket()
    threading.Thread(target=engine.run, name="engine", daemon=True).start()
    Server(config, engine).run(sockets=[socket])
    os._exit(0)  # the engine's thread may be deep in torch, which does not survive an orderly teardown


def _made(arguments: argparse.Namespace) -> tuple[Engine, FastAPI]:
    """The engine, and its routes."""
    about = (arguments.folder, arguments.device, arguments.context_length)
    allowed = {
        "pickle": arguments.allow_pickle, "remote_code": arguments.allow_remote_code,
        "keep_weights": arguments.keep_weights, "piece_by_piece": arguments.piece_by_piece,
        "precision": arguments.precision,
    }  # fmt: skip
    if arguments.videos:
        videos = VideoMaker(*about, **allowed)
        return videos, create_video_app(videos, arguments.model_id)
    if arguments.images:
        images = ImageGenerator(*about, **allowed)
        return images, create_image_app(images, arguments.model_id)
    if arguments.sound:
        sound = SoundMaker(*about, **allowed)
        return sound, create_sound_app(sound, arguments.model_id)
    if arguments.embeddings is not None:
        embedder = Embedder(*about, pooling=arguments.embeddings, **allowed)
        return embedder, create_embedding_app(embedder, arguments.model_id)
    engine = Engine(*about, **allowed)
    return engine, create_app(engine, arguments.model_id)


def _told() -> list[str]:
    """Read what all models of transformers need, wait, and answer what to do. Ends with whoever would have said it."""
    import torch  # noqa: F401 - for later
    import transformers.models.llama.modeling_llama  # noqa: F401 - it brings all that models share

    from workers.runtimes.torch_runner import chat, loading, watch  # noqa: F401 - for later

    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    told: list[str] = json.loads(line)
    return told


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve one transformers model over HTTP.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model-id", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--context-length", type=int, required=True)
    parser.add_argument("--embeddings", choices=["mean", "cls", "last"], help="make vectors, pooled like this")
    parser.add_argument("--sound", action="store_true", help="speak, or play music")
    parser.add_argument("--images", action="store_true", help="make images, with a pipeline of diffusers")
    parser.add_argument("--videos", action="store_true", help="make videos, with a pipeline of diffusers")
    parser.add_argument("--allow-pickle", action="store_true")
    parser.add_argument("--allow-remote-code", action="store_true")
    parser.add_argument("--keep-weights", action="store_true", help="in host memory, so that it can sleep")
    parser.add_argument("--piece-by-piece", action="store_true", help="to the GPU, and not all at once to host memory")
    parser.add_argument("--precision", choices=PRECISIONS, help="of its numbers; as in its files where missing")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
