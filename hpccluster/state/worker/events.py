"""What the worker's shell tells its machine, beside the scheduler's own messages. Pure values.

The executor speaks in the very messages that go on to the scheduler (`TasksDone`, `TaskFailed`): where nothing is stale,
the machine passes them on as they are.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

from hpccluster.protocol.messages import SchedulerToWorker, TaskFailed, TasksDone


class Source(StrEnum):
    """Who speaks. Each source has its own set of messages; what it may not say is dropped."""

    SCHEDULER = "scheduler"
    EXECUTOR = "executor"
    FETCHER = "fetcher"
    CLIENT = "client"
    """A client's data connection."""
    SHELL = "shell"
    """Signals and the clock."""


class Event(Struct, array_like=True, gc=False):
    """Base of all events."""


class Withdrawn(Event):
    """The executor's answer to `actions.Withdraw`: these had not started, and never will."""

    tasks: list[int]
    attempts: list[int]


class DataArrived(Event):
    """Fetched data is in the store."""

    tasks: list[int]
    sizes: list[int]


class FetchFailed(Event):
    """``address`` could not give the data of these tasks."""

    address: str
    tasks: list[int]


class DataPushed(Event):
    """A client has put data into the store."""

    task: int
    size: int


class LeaveWish(Event):
    """A signal, or the end of the walltime: hand over and go, at the latest at ``deadline``."""

    reason: str
    deadline: float


class Tick(Event):
    """Time has passed. Needed at a deadline only."""


WorkerMessage: TypeAlias = (
    SchedulerToWorker | TasksDone | TaskFailed | Withdrawn | DataArrived | FetchFailed | DataPushed | LeaveWish | Tick
)
