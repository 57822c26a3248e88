"""From a request to the text that the model goes on with. The only place where a chat template is rendered."""

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jinja2

from workers.runtimes.torch_runner.generate import Prompt, Refused

RENDER_SECONDS = 5.0
"""A template of good will takes milliseconds."""


def render(prompt: Prompt, tokenizer: Any) -> tuple[str, bool]:
    """The text, and whether the tokenizer has yet to add its special tokens (a template writes them itself).

    Templates run in this child, in transformers' sandbox. Without a template, a chat becomes `role: content` lines.

    Raises:
        Refused: 400, the template does not take these messages, or does not end.
    """
    if isinstance(prompt, str):
        return prompt, True
    if not tokenizer.chat_template:
        return "".join(f"{one['role']}: {one['content']}\n" for one in prompt) + "assistant:", True
    try:
        return _in_time(
            lambda: str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
        ), False
    except jinja2.TemplateError as error:
        raise Refused(400, "chat_template", f"The model's chat template refuses: {error}") from error


def _in_time(work: Callable[[], str]) -> str:
    """Do it on a thread of its own, which is ended from without when it takes too long.

    Raises:
        Refused
    """
    found: Future[str] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            found.set_exception(error)

    thread = threading.Thread(target=run, name="template", daemon=True)
    thread.start()
    try:
        return found.result(RENDER_SECONDS)
    except TimeoutError:
        # Raised between two steps of its Python; one that hangs within a step hangs the runner, whose worker ends it.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        message = f"The model's chat template did not end within {RENDER_SECONDS:g} seconds."
        raise Refused(400, "chat_template", message) from None
