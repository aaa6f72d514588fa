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
from hpccluster.runtime.sync import new_loop
from hpccluster.runtime.worker import Worker

CLOSE_TIME = 3.0
"""Seconds that the farewell may take."""
ATEXIT_TIME = 1.0
"""Seconds for what user code has registered with `atexit`: nobody waits for a hanging one."""
TOLD_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_GC_THRESHOLD = 10_000

log = logging.getLogger("hpccluster.worker")


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

    It is negative where a signal was the cause, and a nanny is there to judge of it: only the nanny knows whether it has
    sent it, or whether a task, or somebody else, has.

    ``host``: where it listens for other workers; empty for the address on the way to the head.

    ``lifeline`` is a pipe's end that reads as ended when the parent is gone: then this process ends at once.
    """
    if (directory := settings.make_local_directory()) is not None:
        os.environ["TMPDIR"] = str(directory)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what a task has printed is seen, however its worker ends
    loop = new_loop()
    asyncio.set_event_loop(loop)
    if lifeline is not None:
        loop.add_reader(lifeline, os._exit, EXIT_NO_HEAD)
    settings = dataclasses.replace(settings, host=host)
    worker = Worker(settings, security, name=name, addresses=addresses, slots=slots)
    return loop.run_until_complete(_live(worker, quiet=lifeline is not None))


async def _live(worker: Worker, *, quiet: bool) -> int:
    loop = asyncio.get_running_loop()
    starting = loop.create_task(worker.start())

    signals: list[signal.Signals] = []

    def told_to_end(number: signal.Signals) -> None:
        # A second Ctrl-C is impatience; whether a nanny's workers end at once is for the nanny to say.
        impatient = not quiet and number == signal.SIGINT and bool(signals)
        signals.append(number)
        worker.leave(number.name, at_once=impatient) if starting.done() else starting.cancel()

    for number in TOLD_TO_END:
        loop.add_signal_handler(number, told_to_end, number)
    os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals, after_in_child=_forget_signals)
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
    return -signals[0] if quiet and signals else code


_masks = threading.local()


def _hold_signals() -> None:
    """A signal to a child that has just been forked comes when the child is ready for it."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, TOLD_TO_END)


def _let_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _forget_signals() -> None:
    """In a process that a task has forked: a signal to it is for it alone. The loop that it inherited would wake its parent's
    by their common pipe, and the worker would leave because a pool of `multiprocessing` had ended its own processes.
    """
    signal.set_wakeup_fd(-1)
    for number in TOLD_TO_END:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _let_signals()


def leave_process(code: int) -> NoReturn:
    """End this process without waiting for tasks that still run. What was printed is not lost.

    A negative code is the number of the signal of which it ends, as `subprocess` has it.
    """
    thread = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
    thread.start()
    thread.join(ATEXIT_TIME)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # a task may have closed it, or put anything there
            stream.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(abs(code))
