"""The launcher: a process that has loaded what nannies need, from which those of jobs on this very host are forked.

It spares each local job the start of an interpreter. It is a fork server whose "workers" are nannies: it ends with the
process that started it, however that ends, and takes the nannies along, and they their workers. Must not know what a job
is to whoever asks for it.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import msgspec
from msgspec import Struct

from hpccluster.runtime.forkserver import REQUEST_LIMIT, Become, Exited, Forked, ForkServer

_LOADED = ("arguments", "start", "process")
_ROOM = 1024
"""Bytes of a request beside its order."""


class Order(Struct):
    """What a nanny is to be."""

    arguments: list[str]
    """After ``python -m hpccluster.runtime``."""
    environment: dict[str, str]
    """What differs from the launcher's own."""
    directory: str


class Launched:
    """One nanny. ``on_end`` is called once, on the loop, when it and all of its process group are gone."""

    def __init__(self, index: int, on_end: Callable[[], None]) -> None:
        self.index = index
        self.pid = 0
        """0 until the launcher has told it."""
        self.exit_code: int | None = None
        self.signal: int | None = None
        """What ended it, once it has ended."""
        self._on_end = on_end
        self._signals: list[int] = []

    def _ended(self, code: int | None, number: int | None) -> None:
        self.exit_code, self.signal = code, number
        self._on_end()


class Launcher:
    """The side of whoever launches: on its event loop from the first `launch` on."""

    def __init__(self, forks: ForkServer) -> None:
        self._forks = forks
        self._living: dict[int, Launched] = {}
        self._count = 0
        self._is_heard = False
        self._is_gone = False
        self._is_closed = False

    @classmethod
    def start(cls, *, close: Sequence[int] = ()) -> Launcher:
        """Fork it. Must be called while this process has one thread and no loop.

        ``close``: descriptors that it must not keep open.
        """

        def prepare() -> Become:
            devnull = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(devnull, number)
            for descriptor in (*close, devnull):
                os.close(descriptor)
            # By name: what unpickles is loaded here, and never by the process that this one is forked from (a head).
            command, start, _ = (importlib.import_module(f"hpccluster.runtime.{name}") for name in _LOADED)

            def become(_: int, order: str, lifeline: int) -> NoReturn:
                os.close(lifeline)  # the kernel kills a nanny whose launcher has ended
                arguments = _take_on(msgspec.json.decode(order, type=Order))
                code = start.run_workers(command.parse_arguments(arguments))
                logging.shutdown()
                os._exit(code)

            return become

        return cls(ForkServer.start(prepare))

    def launch(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: str,
        log: int,
        on_end: Callable[[], None],
    ) -> Launched:
        """Have a nanny forked that runs ``python -m hpccluster.runtime`` with these arguments.

        Its output goes to the descriptor ``log``. Raises `OSError` where it cannot be asked for; one that cannot be
        started has ended.
        """
        order = msgspec.json.encode(Order(list(arguments), dict(environment), directory)).decode()
        if self._is_gone:
            raise OSError(errno.EPIPE, "the launcher has ended")
        if len(order.encode()) > REQUEST_LIMIT - _ROOM:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        if not self._is_heard:
            asyncio.get_running_loop().add_reader(self._forks.fileno(), self._hear)
            self._is_heard = True
        self._count += 1
        launched = self._living[self._count] = Launched(self._count, on_end)
        self._forks.fork_onto(launched.index, order, log)
        return launched

    def signal(self, launched: Launched, number: int) -> None:
        """Signal the nanny, if it lives. What belongs to it ends with it."""
        if launched.index in self._living:
            if launched.pid:
                self._forks.signal(launched.index, number)
            else:
                launched._signals.append(number)

    def close(self) -> None:
        """End it at once, and the nannies that still live. Idempotent; not on the loop, which is over by then."""
        if not self._is_closed:
            self._is_closed = True
            os.kill(self._forks.pid, signal.SIGKILL)  # our child, not waited for before the next line
            self._forks.close()

    def _hear(self) -> None:
        reports = self._forks.reports()
        for report in reports or ():
            if isinstance(report, Exited):
                if launched := self._living.pop(report.index, None):
                    launched._ended(report.exit_code, report.signal)
            elif isinstance(report, Forked) and report.pid:
                self._forked(report)
            elif launched := self._living.pop(report.index, None):
                launched._ended(None, None)
        if reports is None:
            asyncio.get_running_loop().remove_reader(self._forks.fileno())
            self._gone()

    def _forked(self, report: Forked) -> None:
        if launched := self._living.get(report.index):
            launched.pid = report.pid
            for number in launched._signals:
                self._forks.signal(launched.index, number)

    def _gone(self) -> None:
        """The nannies have been killed with it."""
        self._is_gone = True
        living, self._living = self._living, {}
        for launched in living.values():
            launched._ended(None, signal.SIGKILL)


def _take_on(order: Order) -> list[str]:
    """Be in the place that the order names; its arguments."""
    os.environ.update(order.environment)
    os.dup2(2, 1)
    if order.directory:
        os.chdir(order.directory)
    return order.arguments
