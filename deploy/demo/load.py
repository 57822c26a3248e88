"""Requests against the gateway from several threads, every answer checked, until they are told to stop."""

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx

CLIENTS = 6
MAX_TOKENS = 8
PAUSE_SECONDS = 0.05
"""Without any, the clients would take the machine from the model that is to be loaded."""


@dataclass
class Tally:
    """What became of the requests."""

    served: Counter[str] = field(default_factory=Counter)
    """Whole answers by model."""
    failures: list[str] = field(default_factory=list)
    began: list[float] = field(default_factory=list)
    """By the monotonic clock, of each whole answer."""
    seconds: list[float] = field(default_factory=list)

    @property
    def whole(self) -> int:
        return sum(self.served.values())


class Load:
    """Clients that ask on and on, by the type or a model.

    Args:
        streaming: share of them that streams; the others wait for the whole answer.
        pause: seconds of a client between two requests.
    """

    def __init__(
        self, url: str, model_type: str, *, clients: int = CLIENTS, streaming: float = 0.5,
        pause: float = PAUSE_SECONDS,
    ) -> None:  # fmt: skip
        self.tally = Tally()
        self._url = url
        self._type = model_type
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pause = pause
        self._threads = [threading.Thread(target=self._ask_on, args=(n < streaming * clients,)) for n in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def reach(self, count: int) -> None:
        """Wait until so many requests have been answered, or one has failed."""
        while self.tally.whole < count and not self.tally.failures:
            time.sleep(0.05)

    def _ask_on(self, streaming: bool) -> None:
        with httpx.Client(timeout=300, trust_env=False) as client:
            while not self._stop.wait(self._pause):
                began = time.monotonic()
                try:
                    model = self._stream(client) if streaming else self._whole(client)
                except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
                    with self._lock:
                        self.tally.failures.append(f"{type(error).__name__}: {error}"[:300])
                else:
                    with self._lock:
                        self.tally.served[model] += 1
                        self.tally.began.append(began)
                        self.tally.seconds.append(time.monotonic() - began)

    def _body(self, stream: bool) -> dict[str, object]:
        messages = [{"role": "user", "content": "Hello"}]
        return {"model": self._type, "messages": messages, "max_tokens": MAX_TOKENS, "stream": stream}

    def _whole(self, client: httpx.Client) -> str:
        answer = client.post(f"{self._url}/v1/chat/completions", json=self._body(stream=False))
        answer.raise_for_status()
        if not isinstance(answer.json()["choices"][0]["message"]["content"], str):
            raise ValueError("no text in the answer")
        return answer.headers["x-modelyard-model"]

    def _stream(self, client: httpx.Client) -> str:
        """A stream is whole when its last event says so."""
        last = ""
        with client.stream("POST", f"{self._url}/v1/chat/completions", json=self._body(stream=True)) as answer:
            if answer.is_error:
                answer.read()
            answer.raise_for_status()
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    last = line.removeprefix("data:").strip()
                    if last != "[DONE]":
                        json.loads(last)
        if last != "[DONE]":
            raise ValueError("the stream was cut")
        return answer.headers["x-modelyard-model"]
