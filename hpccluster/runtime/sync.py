"""One event loop in one thread for the whole process, and deadlines: what makes blocking calls out of the async core.

The thread starts when it is first needed and is a daemon: it never keeps the interpreter alive. After a fork the child
gets a loop of its own.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_running: tuple[int, asyncio.AbstractEventLoop, threading.Thread] | None = None


def new_loop() -> asyncio.AbstractEventLoop:
    """A fresh loop: uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def loop() -> asyncio.AbstractEventLoop:
    """The process's loop, running in its thread."""
    global _running
    running = _running
    if running is not None and running[0] == os.getpid():
        return running[1]
    with _lock:
        if _running is None or _running[0] != os.getpid():
            fresh = new_loop()
            thread = threading.Thread(target=_serve, args=(fresh,), name="hpccluster-loop", daemon=True)
            thread.start()
            _running = (os.getpid(), fresh, thread)
        return _running[1]


def deadline_of(timeout: float | None) -> float | None:
    """When ``timeout`` seconds from now are over."""
    return None if timeout is None else time.monotonic() + timeout


def time_left(deadline: float | None) -> float | None:
    """Seconds until then, at least 0."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _serve(fresh: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(fresh)
    fresh.run_forever()


def in_loop_thread() -> bool:
    """Whether the caller runs on the loop's thread, where blocking would never end."""
    return _running is not None and threading.current_thread() is _running[2]


def run(work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    """Run ``work`` on the process's loop and wait for its result.

    Raises `TimeoutError` after ``timeout`` seconds; the work is cancelled then, as it is on Ctrl-C.
    """
    if in_loop_thread():
        work.close()
        raise RuntimeError("a blocking call from hpccluster's own loop thread would wait for itself: await instead")
    waiting = asyncio.run_coroutine_threadsafe(work, loop())
    try:
        return waiting.result(timeout)
    except BaseException:
        waiting.cancel()
        raise
