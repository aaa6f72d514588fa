"""What the fleet machine asks its shell to do. The shell does it and tells the outcome as an event; it decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from msgspec import Struct

from hpccluster.ids import JobId, JobName
from hpccluster.job import JobStatus

Level: TypeAlias = Literal["info", "warning", "error"]


class Action(Struct, array_like=True):
    """Base of all actions."""


class Submit(Action, tag=1):
    """Submit a job of this name, which was never used before. Answered by Submitted, SubmitRefused or SubmitDoubtful."""

    name: JobName


class Cancel(Action, tag=2):
    """Cancel these jobs. Answered by `CancelReported`."""

    ids: tuple[JobId, ...]


class Retire(Action, tag=3):
    """Let the workers of these jobs finish, hand over and go. Answered by `Retired` or `RetireFailed`."""

    jobs: tuple[JobName, ...]


class PollSoon(Action, tag=4):
    """Something happened that the batch system knows more about: ask it soon about what `FleetState.watch` names."""


class FetchLog(Action, tag=5):
    """Read the last lines of a dead job. Answered by `LogFetched`."""

    name: JobName
    id: JobId


class Report(Action, tag=6):
    """Something that people should read."""

    level: Level
    code: str
    text: str


class JobFailed(Action, tag=7, kw_only=True):
    """A job ended before it was of any use: to be diagnosed and told."""

    name: JobName
    id: JobId
    status: JobStatus
    seconds: float | None
    """How long it ran, where that is known."""
    joined: bool
    """Whether a worker had joined (and left soon)."""
    log: str
    log_error: str
    alarm: bool
    """Whether it is raised to whoever waits for workers: no job of this pool has worked yet, or the pool is paused."""


class Finished(Action, tag=8):
    """The answer to `Close`, exactly once."""

    cancelled: tuple[JobName, ...]
    """Jobs that this close has ended, verified."""
    unconfirmed: tuple[JobName, ...]
    """Jobs that may still be there, or may yet come."""
    problem: str = ""
    """What the batch system said when it was last asked for the end of such a job."""


FleetAction: TypeAlias = Submit | Cancel | Retire | PollSoon | FetchLog | Report | JobFailed | Finished

Transition: TypeAlias = tuple[float, str, str, str, str, str]
"""Time, source, job name, phase before, phase after, cause."""


@dataclass(slots=True)
class Outbox:
    """All that one `handle` asks for, in order."""

    actions: list[FleetAction] = field(default_factory=list)
    trace: list[Transition] = field(default_factory=list)
    """Filled only where someone listens."""
