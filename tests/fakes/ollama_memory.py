"""What of Ollama's is about its memory and its answers: models are loaded, kept, evicted, and asked."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fakes.ollama import FakeOllama, Published

KEEP_SECONDS = 300
"""How long a model stays that nobody asked to keep."""
CONTEXT_LENGTH = 8192
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
DEFAULT_TOKENS = 8


class NotFound(Exception):
    """Answered with 404."""


class Refused(Exception):
    """Answered with 400, or with 500 where it could not be loaded."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.said = said


@dataclass
class InMemory:
    """A model in memory. `users` are the requests that it works on, `leaves` says that it goes with the last one."""

    digest: str
    size: int
    size_vram: int
    keep_alive: float
    users: int = 0
    leaves: bool = False


@dataclass
class Memory:
    """By name. Its behaviour may be changed while it runs.

    `on_gpu` is the part of each model that lies on a GPU. `load_error` is what a load fails with. A load waits for
    `may_load`. `keeps`: nothing leaves, as other clients use it. `garbage`: answers without a token. Each token of a
    stream comes `pause` after the one before.
    """

    on_gpu: float = 0.0
    load_error: str | None = None
    keeps: bool = False
    garbage: bool = False
    pause: float = 0.0
    may_load: threading.Event = field(default_factory=threading.Event)
    loading: threading.Event = field(default_factory=threading.Event)
    """Set once a load has begun."""
    models: dict[str, InMemory] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    """Names, each time one came into memory."""

    def __post_init__(self) -> None:
        self.may_load.set()
        self._lock = threading.Lock()

    def load(self, name: str, model: "Published", keep_alive: float | None) -> InMemory:
        """Raises: Refused."""
        with self._lock:
            there = self.models.get(name)
            if there is not None and there.digest == model.digest:
                there.keep_alive = there.keep_alive if keep_alive is None else keep_alive
                there.leaves = there.leaves and keep_alive is None
                return there
        self.loading.set()
        self.may_load.wait(30)
        if self.load_error is not None:
            raise Refused(500, self.load_error)
        size = model.size + 1_000_000  # with its cache
        found = InMemory(
            model.digest, size, int(size * self.on_gpu), KEEP_SECONDS if keep_alive is None else keep_alive
        )
        with self._lock:
            self.models[name] = found
            self.loads.append(name)
        return found

    def expire(self, name: str) -> None:
        """Let go of a model once its requests have ended."""
        with self._lock:
            found = self.models.get(name)
            if found is None or self.keeps:
                return
            found.leaves = True
            if not found.users:
                del self.models[name]

    def evict(self, name: str) -> None:
        """Ollama lets go of it by itself, however long it was to stay."""
        with self._lock:
            del self.models[name]

    @contextmanager
    def using(self, name: str, model: "Published") -> Iterator[None]:
        """A request to the model; one that is not in memory is loaded for it.

        Raises:
            Refused: see `load`.
        """
        found = self.load(name, model, None)
        with self._lock:
            found.users += 1
        try:
            yield
        finally:
            with self._lock:
                found.users -= 1
                if found.leaves and not found.users and self.models.get(name) is found:
                    del self.models[name]

    def listed(self) -> list[dict[str, Any]]:
        with self._lock:
            return [
                {
                    "name": name, "model": name, "size": one.size, "digest": one.digest, "size_vram": one.size_vram,
                    "expires_at": "2318-01-01T00:00:00Z", "context_length": CONTEXT_LENGTH,
                }
                for name, one in self.models.items()
            ]  # fmt: skip


def generate(ollama: "FakeOllama", name: str, body: dict[str, Any]) -> dict[str, Any]:
    """`/api/generate` without a prompt: loads, or lets go. Raises: NotFound, Refused."""
    model = known(ollama, name)
    done = {"model": name, "created_at": "2026-01-02T03:04:05Z", "response": "", "done": True}
    if body.get("keep_alive") == 0:
        ollama.memory.expire(name)
        return {**done, "done_reason": "unload"}
    if model.embeds:
        raise Refused(400, f'"{name}" does not support generate')
    ollama.memory.load(name, model, body.get("keep_alive"))
    return {**done, "done_reason": "load"}


def embed(ollama: "FakeOllama", name: str, body: dict[str, Any]) -> dict[str, Any]:
    """`/api/embed` without texts: loads. Raises: NotFound, Refused."""
    ollama.memory.load(name, known(ollama, name), body.get("keep_alive"))
    return {"model": name, "embeddings": []}


def embeddings(ollama: "FakeOllama", name: str, body: dict[str, Any]) -> dict[str, Any]:
    """`/v1/embeddings`. Raises: NotFound, Refused."""
    model = known(ollama, name)
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    with ollama.memory.using(name, model):
        if not model.embeds:
            raise Refused(400, "this model does not support embeddings")
        vectors = [[1.0, float(len(text))] for text in texts]
    data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": name, "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def answer(ollama: "FakeOllama", name: str, body: dict[str, Any], *, chat: bool) -> Iterator[dict[str, Any]]:
    """`/v1/chat/completions` and `/v1/completions`: the parts of a stream, or one whole answer.

    Raises:
        NotFound, Refused: before the first part.
    """
    model = known(ollama, name)
    if model.embeds:
        raise Refused(400, f'"{name}" does not support chat')
    count = 0 if ollama.memory.garbage else min(body.get("max_tokens") or DEFAULT_TOKENS, len(WORDS))
    usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
    whole = {"id": "cmpl-1", "created": 1, "model": name, "system_fingerprint": "fp_ollama"}
    with ollama.memory.using(name, model):
        if not body.get("stream"):
            text = " ".join(WORDS[:count])
            said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            yield {**whole, "choices": [{"index": 0, "finish_reason": "stop", **said}], "usage": usage}
            return
        for word in WORDS[:count]:
            said = {"delta": {"role": "assistant", "content": f"{word} "}} if chat else {"text": f"{word} "}
            yield {**whole, "choices": [{"index": 0, "finish_reason": None, **said}]}
            time.sleep(ollama.memory.pause)
        last = {"delta": {"content": ""}} if chat else {"text": ""}
        yield {**whole, "choices": [{"index": 0, "finish_reason": "stop", **last}]}


def events(parts: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """As they go over the wire."""
    for part in parts:
        yield f"data: {json.dumps(part)}\n\n".encode()
    yield b"data: [DONE]\n\n"


def known(ollama: "FakeOllama", name: str) -> "Published":
    """Raises: NotFound."""
    if name not in ollama.models:
        raise NotFound(f"model '{name}' not found")
    return ollama.models[name]
