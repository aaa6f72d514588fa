"""A small language to test the worker machine in: who says what, and what is expected of it.

Each message is encoded and decoded on its way in and out, the invariants are checked after each call, and whatever the
machine asks for must be expected: `expect` takes all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from hpccluster.protocol import codec
from hpccluster.protocol.messages import (
    Dependency,
    FetchData,
    RunTask,
    RunTasks,
    SchedulerToWorker,
    TaskErrorBody,
    TaskFailed,
    TasksDone,
    WorkerToScheduler,
)
from hpccluster.state.worker.actions import Outbox, WorkerAction
from hpccluster.state.worker.events import DataArrived, FetchFailed, Source, WorkerMessage
from hpccluster.state.worker.invariants import check
from hpccluster.state.worker.state import WorkerState

ME = "tcp://me:1"
A, B, C = "tcp://a:1", "tcp://b:1", "tcp://c:1"
"""Holders of data."""
ERROR = TaskErrorBody("", "ValueError", "odd", "Traceback ...", b"")

T = TypeVar("T")


def task(number: int, *dependencies: Dependency, attempt: int = 1, priority: int = 0) -> RunTask:
    """A task of function 1."""
    return RunTask(number, attempt, 1, b"arguments", list(dependencies), priority)


def held(number: int, *addresses: str, size: int = 100_000) -> Dependency:
    """An input that these addresses hold."""
    return Dependency(number, None, size, list(addresses))


def inline(number: int) -> Dependency:
    """An input that comes with the message."""
    return Dependency(number, b"value", 5, [])


def round_trip(value: T, kind: Any = None) -> T:
    """The value after a trip through msgpack."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind or type(value))


class WorkerEnv:
    """One worker machine and what it has asked for so far."""

    def __init__(self) -> None:
        self.state = WorkerState(ME)
        self.now = 1000.0
        self.messages: list[WorkerToScheduler] = []
        self.actions: list[WorkerAction] = []

    # ------------------------------------------------------------------------------------------------ what happens

    def say(self, source: Source, *events: WorkerMessage) -> Outbox:
        """Anything that any source may say."""
        out = self.state.handle(source, [round_trip(event) for event in events], self.now)
        check(self.state)
        sent = [codec.from_worker.decode(body) for body in codec.encode_batches(out.messages)]
        assert [message for batch in sent for message in batch] == out.messages
        assert [round_trip(action) for action in out.actions] == out.actions
        self.messages += out.messages
        self.actions += out.actions
        return out

    def scheduler(self, *messages: SchedulerToWorker) -> None:
        """The scheduler says this in one tick."""
        bodies = codec.encode_batches(messages)
        self.say(Source.SCHEDULER, *(message for body in bodies for message in codec.to_worker.decode(body)))

    def run(self, *tasks: RunTask) -> None:
        """The scheduler hands out tasks."""
        self.scheduler(RunTasks(list(tasks)))

    def replicate(self, *dependencies: Dependency) -> None:
        """The scheduler wants copies here."""
        self.scheduler(FetchData(list(dependencies)))

    def finish(self, *numbers: int, attempt: int = 1, size: int = 5, inline: bool = True) -> TasksDone:
        """The executor has run these; a result that is not inline stays here."""
        done = done_message(numbers, attempt=attempt, size=size, inline=inline)
        self.say(Source.EXECUTOR, done)
        return done

    def fail(self, number: int, attempt: int = 1) -> TaskFailed:
        """The user's function has raised."""
        failed = TaskFailed(number, attempt, ERROR, 0.25, retriable=True)
        self.say(Source.EXECUTOR, failed)
        return failed

    def arrive(self, *numbers: int, size: int = 100_000) -> None:
        """Fetched data has come."""
        self.say(Source.FETCHER, DataArrived(list(numbers), [size] * len(numbers)))

    def refuse(self, address: str, *numbers: int) -> None:
        """A holder could not give this data."""
        self.say(Source.FETCHER, FetchFailed(address, list(numbers)))

    # ------------------------------------------------------------------------------------------- what is asked for

    def expect(self, *expected: WorkerAction | WorkerToScheduler) -> None:
        """All that was asked for and said since the last `expect`: first the actions, then the messages, in order."""
        asked: Sequence[WorkerAction | WorkerToScheduler] = [*self.actions, *self.messages]
        assert list(asked) == list(expected)
        self.actions, self.messages = [], []

    def skip(self) -> None:
        """What was asked for so far is of no interest to this test."""
        self.actions, self.messages = [], []


def done_message(numbers: Sequence[int], *, attempt: int = 1, size: int = 5, inline: bool = True) -> TasksDone:
    """The columns of finished tasks."""
    count = len(numbers)
    payloads: list[bytes | None] = [b"value" if inline else None] * count
    return TasksDone(list(numbers), [attempt] * count, payloads, [size] * count, [0.25] * count)
