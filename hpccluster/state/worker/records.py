"""The worker machine's notes on tasks that wait, data that is here, and data that is on its way."""

from __future__ import annotations

from dataclasses import dataclass, field

from hpccluster.protocol.messages import RunTask


@dataclass(slots=True)
class WaitingRecord:
    """A task that cannot start before its inputs are here."""

    run: RunTask
    missing: set[int] = field(default_factory=set)
    """Inputs that are being fetched."""


@dataclass(slots=True)
class DataRecord:
    """Data in the store."""

    size: int
    users: int = 0
    """How many of this worker's tasks (waiting, queued or running) have it as an input."""
    unwanted: bool = False
    """The scheduler has freed it; it goes with its last user."""


@dataclass(slots=True)
class FetchRecord:
    """Data on its way here: one fetch, however many tasks wait for it."""

    address: str
    """The holder that is being asked."""
    others: list[str]
    """Holders to ask next."""
    failed: list[str] = field(default_factory=list)
    """Holders that could not give it."""
    waiters: set[int] = field(default_factory=set)
    """Tasks that wait for it."""
    keep: bool = False
    """The scheduler has asked for a replica."""
