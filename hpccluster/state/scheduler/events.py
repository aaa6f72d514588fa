"""What the scheduler machine is told besides the messages of its peers."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from hpccluster.protocol.messages import ClientToScheduler, Hello, NannyToScheduler, WorkerToScheduler


class PeerJoined(Struct, frozen=True):
    """The source has been welcomed."""

    hello: Hello


class PeerLeft(Struct, frozen=True):
    """The connection of the source has ended."""

    reason: str


class RetireWorkers(Struct, frozen=True):
    """Let these workers finish, move their data to others, and send them home."""

    names: list[str]


class DataHeld(Struct, frozen=True):
    """The shell has got the data of this task (see `HoldData`), or has failed to."""

    task: int
    worker: str
    succeeded: bool


class Tick(Struct, frozen=True):
    """Time passes."""


CLOCK = "clock"
FLEET = "fleet"
SHELL = "shell"

SchedulerEvent: TypeAlias = (
    PeerJoined | PeerLeft | RetireWorkers | DataHeld | Tick | ClientToScheduler | WorkerToScheduler | NannyToScheduler
)
