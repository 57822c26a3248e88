"""Calls of code that is not ours and may never come back."""

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Given = TypeVar("Given")


def in_time(seconds: float, work: Callable[[], Given]) -> Given:
    """What `work` gives or raises, on a thread of its own; one that takes longer is ended from without.

    It ends between two steps of its Python. Within a step, such as a read of a socket or one call into C, it first
    has to come back.

    Raises:
        TimeoutError: also where `work` itself raises it.
    """
    found: Future[Given] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            found.set_exception(error)

    thread = threading.Thread(target=run, name="bounded", daemon=True)
    thread.start()
    try:
        return found.result(seconds)
    except TimeoutError:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        raise
