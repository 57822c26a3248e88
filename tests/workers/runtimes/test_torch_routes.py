"""The torch runner's routes over a scripted engine: what is refused, what is streamed, who is told to stop."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import jinja2
import pytest

from workers.runtimes.torch_runner.chat import render
from workers.runtimes.torch_runner.generate import Engine
from workers.runtimes.torch_runner.request import Event, Generation, Outcome, Refused
from workers.runtimes.torch_runner.routes import create_app, create_image_app
from workers.runtimes.torch_runner.server import KeyGuard

DONE = Outcome("stop", 3, 2, 0.5)
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@dataclass
class ScriptedEngine:
    """Delivers the same events to every request. Without an Outcome or error at the end, it goes on for ever."""

    script: Sequence[Event] = ("one ", "two", DONE)
    loaded: bool = True
    taken: list[Generation] = field(default_factory=list)
    waiting: int = 0
    asleep: bool = False

    def __post_init__(self) -> None:
        self.ready = threading.Event()
        if self.loaded:
            self.ready.set()

    def progress(self) -> float:
        return 1.0 if self.loaded else 0.25

    def submit(self, generation: Generation) -> None:
        self.taken.append(generation)
        for event in self.script:
            generation.deliver(event)


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        lines = [line.removeprefix("data: ") for line in self.body.decode().splitlines() if line]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


def call(
    engine: ScriptedEngine,
    path: str,
    body: object = None,
    key: str = "Bearer k",
    hangs_up: Callable[[Answer], bool] = lambda _: False,
) -> Answer:
    """One request. `hangs_up` is asked whenever the app looks for the client."""
    create = create_image_app if path.startswith("/v1/images") else create_app
    app = KeyGuard(create(cast("Engine", engine), "tiny"), "k")
    answer = Answer()
    incoming = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if incoming:
            return incoming.pop()
        while not hangs_up(answer):
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        answer.status = message.get("status", answer.status)
        answer.headers |= {name.decode(): value.decode() for name, value in message.get("headers", [])}
        answer.body += message.get("body", b"")

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": "GET" if body is None else "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        "headers": [(b"authorization", key.encode()), (b"content-type", b"application/json")],
    }  # fmt: skip
    asyncio.run(cast("Awaitable[None]", app(scope, receive, send)))  # type: ignore[arg-type] # a coroutine it is
    return answer


def test_health_says_how_far_loading_is() -> None:
    answer = call(ScriptedEngine(loaded=False), "/health")
    assert (answer.status, answer.json()) == (503, {"status": "loading", "progress": 0.25, "waiting": 0})
    assert call(ScriptedEngine(), "/health").json()["status"] == "ok"


@pytest.mark.parametrize("path", ["/health", "/run", "/v1/models", "/nothing"])
def test_every_route_wants_the_key(path: str) -> None:
    for key in ("", "k", "Bearer ", "Bearer kk"):
        assert call(ScriptedEngine(), path, key=key).status == 401


def test_inference_waits_for_loading_outside() -> None:
    answer = call(ScriptedEngine(loaded=False), "/v1/chat/completions", CHAT)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "loading")
    assert answer.headers["retry-after"] == "1"


def test_run_is_greedy_and_checks_the_numbers() -> None:
    engine = ScriptedEngine()
    assert call(engine, "/run", {"prompt": "hi"}).json() == {"text": "one two", "tokens": 2, "seconds": 0.5}
    assert engine.taken[0].options.check_numbers
    assert engine.taken[0].options.temperature == 0


def test_names_of_the_limit_and_parts_of_a_message_are_understood() -> None:
    engine = ScriptedEngine()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = {"messages": [{"role": "user", "content": parts}], "max_completion_tokens": 5, "stop": "x", "user": "me"}
    assert call(engine, "/v1/chat/completions", body).status == 200
    assert engine.taken[0].prompt == [{"role": "user", "content": "ab"}]
    assert (engine.taken[0].options.max_tokens, engine.taken[0].options.stop) == (5, ("x",))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "file:///etc/passwd"}]}]},
        {**CHAT, "n": 2},
        {**CHAT, "max_tokens": 0},
        {**CHAT, "max_tokens": 10**9},
        {**CHAT, "temperature": -1},
        {**CHAT, "top_p": 0},
        {**CHAT, "stop": ["x"] * 17},
    ],
)
def test_what_cannot_be_done_is_refused(body: dict[str, Any]) -> None:
    engine = ScriptedEngine()
    answer = call(engine, "/v1/chat/completions", body)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_request_error")
    assert not engine.taken


def test_a_refusal_before_the_first_text_has_its_own_status() -> None:
    engine = ScriptedEngine([Refused(400, "context_length_exceeded", "too long")])
    for stream in (False, True):
        answer = call(engine, "/v1/chat/completions", {**CHAT, "stream": stream})
        assert (answer.status, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_fault_in_mid_stream_is_said_in_the_stream() -> None:
    engine = ScriptedEngine(["one ", Refused(500, "numbers_not_finite", "no")])
    *_, last = call(engine, "/v1/chat/completions", {**CHAT, "stream": True}).events()
    assert last["error"]["code"] == "numbers_not_finite"


def test_a_stream_of_completions() -> None:
    events = call(ScriptedEngine(), "/v1/completions", {"prompt": "hi", "stream": True}).events()
    assert events[-1] == "[DONE]"
    assert [event["choices"][0]["text"] for event in events[:-1]] == ["one ", "two", ""]
    assert events[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("path", ["/run", "/v1/completions", "/v1/images/generations"])
def test_hanging_up_ends_a_generation(path: str) -> None:
    engine = ScriptedEngine(["one "])
    call(engine, path, {"prompt": "hi"}, hangs_up=lambda _: bool(engine.taken))
    assert engine.taken[0].cancelled.is_set()


def test_hanging_up_ends_a_streamed_generation() -> None:
    engine = ScriptedEngine(["one "])
    call(engine, "/v1/chat/completions", {**CHAT, "stream": True}, hangs_up=lambda answer: b"one" in answer.body)
    assert engine.taken[0].cancelled.is_set()


def test_chats_without_a_template_become_lines() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    expected = "system: Be brief.\nuser: Hi\nassistant:"
    assert render(messages, SimpleNamespace(chat_template=None)) == (expected, True)
    assert render("as it is", SimpleNamespace(chat_template="x")) == ("as it is", True)


@pytest.mark.parametrize(("thinking", "told"), [(None, {}), (False, {"enable_thinking": False})])
def test_a_template_is_told_of_thinking_where_the_request_speaks_of_it(
    thinking: bool | None, told: dict[str, bool]
) -> None:
    def write(*_: Any, tokenize: bool, add_generation_prompt: bool, **more: bool) -> str:
        return str(more)

    tokenizer = SimpleNamespace(chat_template="x", apply_chat_template=write)
    assert render([], tokenizer, thinking) == (str(told), False)


def test_a_template_may_refuse() -> None:
    def refuse(*_: object, **__: object) -> str:
        raise jinja2.TemplateError("roles must alternate")

    with pytest.raises(Refused, match="roles must alternate"):
        render([], SimpleNamespace(chat_template="x", apply_chat_template=refuse))
