"""One worker as a whole process: its loop, its signals, its log and its exit code. `Worker` itself knows of none of them."""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import gc
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from hpccluster.comm.tls import Security
from hpccluster.errors import HpcClusterError
from hpccluster.runtime.exits import EXIT_BUG, EXIT_NO_HEAD, exit_code
from hpccluster.runtime.settings import WorkerSettings
from hpccluster.runtime.slots import WorkerSlots
from hpccluster.runtime.worker import Worker

CLOSE_TIME = 3.0
"""Seconds that the farewell may take."""
ATEXIT_TIME = 1.0
"""Seconds for what user code has registered with `atexit`: nobody waits for a hanging one."""
_GC_THRESHOLD = 10_000

log = logging.getLogger("hpccluster.worker")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is to be had."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run_worker(
    settings: WorkerSettings,
    security: Security | None,
    *,
    name: str,
    addresses: Sequence[str],
    host: str = "",
    slots: WorkerSlots | None = None,
    lifeline: int | None = None,
) -> int:
    """Run one worker to its end; returns the exit code, which `leave_process` should be given.

    ``host``: where it listens for other workers; empty for the address on the way to the head.

    ``lifeline`` is a pipe's end that reads as ended when the parent is gone: then this process ends at once.
    """
    if settings.local_directory is not None:
        settings.local_directory.mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = str(settings.local_directory)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what a task has printed is seen, however its worker ends
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    if lifeline is not None:
        loop.add_reader(lifeline, os._exit, EXIT_NO_HEAD)
    settings = dataclasses.replace(settings, host=host)
    worker = Worker(settings, security, name=name, addresses=addresses, slots=slots)
    return loop.run_until_complete(_live(worker, quiet=lifeline is not None))


async def _live(worker: Worker, *, quiet: bool) -> int:
    loop = asyncio.get_running_loop()
    starting = loop.create_task(worker.start())

    signals: list[str] = []

    def told_to_end(name: str) -> None:
        # A second Ctrl-C is impatience; whether a nanny's workers end at once is for the nanny to say.
        impatient = not quiet and name == "SIGINT" and bool(signals)
        signals.append(name)
        worker.leave(name, at_once=impatient) if starting.done() else starting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, told_to_end, number.name)
    code = 0
    try:
        await starting
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD, *gc.get_threshold()[1:])
        log.info("worker %s  ends: %s", worker.name, await worker.ended())
    except asyncio.CancelledError:
        pass  # told to end before it had begun
    except HpcClusterError as error:
        code = exit_code(error)
        if not quiet or starting.done():  # the nanny has the same trouble, and says so once for all its workers
            log.error("worker %s  %s", worker.name, error)
    except Exception:  # noqa: BLE001 - the top of this shell: the worker has logged it
        code = EXIT_BUG
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIME):
            await worker.close()
    return code


def leave_process(code: int) -> NoReturn:
    """End this process without waiting for tasks that still run. What was printed is not lost."""
    thread = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
    thread.start()
    thread.join(ATEXIT_TIME)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
