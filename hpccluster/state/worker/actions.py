"""What the worker's machine asks of its shell. Pure values, performed in the order in which they stand.

A result that stays here waits in the shell under its (task, attempt) until the machine says `KeepResults` or
`DiscardResults`: two attempts of one task may run side by side, and only the machine knows which of them counts.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct, field

from hpccluster.protocol.messages import AddFunctions, DropFunctions, RunTask, WorkerToScheduler


class Action(Struct, array_like=True, gc=False):
    """Base of all actions."""


class Execute(Action):
    """Run these, smallest priority first; all inputs that are not inline are in the store."""

    tasks: list[RunTask]


class Withdraw(Action):
    """Take these out of the executor's queue; answered by `events.Withdrawn` with those that had not started."""

    tasks: list[int]
    attempts: list[int]


class Fetch(Action):
    """Get this data from ``address``; answered by `events.DataArrived` and `events.FetchFailed`."""

    address: str
    tasks: list[int]


class KeepResults(Action):
    """Put these results into the store."""

    tasks: list[int]
    attempts: list[int]


class DiscardResults(Action):
    """Throw these results away."""

    tasks: list[int]
    attempts: list[int]


class DropData(Action):
    """Remove this data from the store."""

    tasks: list[int]


class End(Action):
    """The worker ends now, as it should."""

    reason: str


WorkerAction: TypeAlias = (
    AddFunctions | DropFunctions | Execute | Withdraw | Fetch | KeepResults | DiscardResults | DropData | End
)


class Outbox(Struct, gc=False):
    """What one `WorkerState.handle` asks for: first the actions, then the messages."""

    messages: list[WorkerToScheduler] = field(default_factory=list)
    actions: list[WorkerAction] = field(default_factory=list)
