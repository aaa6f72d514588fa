"""What the fleet machine is told. Each event is a fact or a wish; none is an order to do something at once.

Events about jobs carry the job's *name*, which we chose, or its *id*, which the batch system chose; one that names a
job we do not know is dropped.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

from hpccluster.ids import JobId, JobName
from hpccluster.job import JobStatus
from hpccluster.state.fleet.adaptive import AdaptLimits


class Source(StrEnum):
    """Who speaks to the machine."""

    USER = "user"
    BACKEND = "backend"
    ENGINE = "engine"
    CLOCK = "clock"


class Event(Struct, array_like=True):
    """Base of all events."""


# ------------------------------------------------------------------------------------------------------------- wishes


class ScaleTo(Event, tag=1):
    """Keep this many jobs. Ends adapting, and any pause of the pool: whoever asks has seen the cause."""

    jobs: int


class Adapt(Event, tag=2):
    """Follow the load between these limits; None keeps the jobs that there are. Ends any pause of the pool."""

    limits: AdaptLimits | None


class Close(Event, tag=3):
    """End everything, and say at the latest at this time what is left."""

    deadline: float


# ------------------------------------------------------------------------------------------------ of the batch system


class Submitted(Event, tag=10):
    """The batch system took the job."""

    name: JobName
    id: JobId


class SubmitRefused(Event, tag=11):
    """The batch system said no: there is no such job and never will be."""

    name: JobName
    error: str
    code: str = ""
    limit: bool = False
    """It said "not now, you have enough": the job is held back, not given up."""


class SubmitDoubtful(Event, tag=12):
    """The submission ended in a way that leaves open whether there is a job, now or later."""

    name: JobName
    error: str


class Found(Event, tag=13):
    """A successful look for jobs by name: those of ``asked`` that are not in ``jobs`` are not listed now."""

    asked: frozenset[JobName]
    jobs: dict[JobName, JobId]


class Polled(Event, tag=14):
    """A successful poll that began at this time: what has happened since is newer than what it says."""

    statuses: dict[JobId, JobStatus]
    begun: float


class PollFailed(Event, tag=15):
    """A poll or look that failed. It says nothing about any job."""

    error: str


class CancelReported(Event, tag=16):
    """A cancel came to an end: these are verified to be gone, those may still be there."""

    gone: frozenset[JobId]
    unconfirmed: frozenset[JobId]
    message: str = ""


class LogFetched(Event, tag=17):
    """The answer to `FetchLog`: the job's last lines, or why they cannot be had."""

    name: JobName
    text: str
    error: str = ""


# -------------------------------------------------------------------------------------------------------- of the engine


class WorkerJoined(Event, tag=20):
    """A worker that was born in this job is connected."""

    worker: str
    job: JobName


class WorkerLeft(Event, tag=21):
    """That worker is no longer connected. (For a restarted worker this comes before its new `WorkerJoined`.)"""

    worker: str
    job: JobName
    cause: str = ""


class Retired(Event, tag=22):
    """The workers of these jobs have handed over their results and are gone."""

    jobs: frozenset[JobName]


class RetireFailed(Event, tag=23):
    """Some workers of these jobs could not hand over their results."""

    jobs: frozenset[JobName]
    error: str


class Load(Event, tag=24):
    """How much work there is."""

    queued: int = 0
    """Tasks that could run now but have no worker."""
    unfinished: int = 0
    """All tasks that are not at an end."""
    expected_seconds: float = 0.0
    """Expected run time of queued and running tasks, where it is known."""
    idle_workers: frozenset[str] = frozenset()


# --------------------------------------------------------------------------------------------------------- of the clock


class Tick(Event, tag=30):
    """Time has passed."""


FleetEvent: TypeAlias = (
    ScaleTo
    | Adapt
    | Close
    | Submitted
    | SubmitRefused
    | SubmitDoubtful
    | Found
    | Polled
    | PollFailed
    | CancelReported
    | LogFetched
    | WorkerJoined
    | WorkerLeft
    | Retired
    | RetireFailed
    | Load
    | Tick
)
