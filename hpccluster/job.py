"""A job: what we ask of a batch system, and what it tells us. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from hpccluster.ids import JobId, JobName
from hpccluster.resources import JobResources


class JobState(StrEnum):
    """The state of a job, in one vocabulary for all batch systems."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    """It reached its walltime: expected, never anybody's fault."""
    PREEMPTED = "PREEMPTED"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    ABSENT = "ABSENT"
    """The batch system does not list it. Not the same as ended."""
    UNKNOWN = "UNKNOWN"
    """The batch system used a word that we do not know; it is kept in `JobStatus.raw_state`."""

    @property
    def is_over(self) -> bool:
        """Whether the batch system says that the job has ended, for any reason."""
        return self in _OVER

    @property
    def is_live(self) -> bool:
        """Whether the batch system says that the job waits or runs."""
        return self in (JobState.PENDING, JobState.RUNNING)


_OVER = frozenset(
    {
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.TIMEOUT,
        JobState.PREEMPTED,
        JobState.NODE_FAIL,
        JobState.OUT_OF_MEMORY,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job to submit: all that a template may need and that does not depend on the batch system."""

    name: JobName
    cluster: str
    """The name of the job's cluster."""
    command: tuple[str, ...]
    """The argv that the job runs; what must differ between jobs (its name) is in it already."""
    resources: JobResources
    walltime: float | None = None
    """Seconds, or None where the batch system's default is meant."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that the job exports before its command. Nothing secret."""
    log_path: str = ""
    """Where the job's output goes: an absolute path, unique to the job."""
    working_directory: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """What the batch system says of one job."""

    id: JobId
    state: JobState
    name: str = ""
    raw_state: str = ""
    """The batch system's own word."""
    reason: str = ""
    """Why it waits or how it ended, in the batch system's words."""
    code: str = ""
    """Of the error that ended it before its command ran, such as ``HPC-SSH-AUTH``, where the backend knows it."""
    problem: str = ""
    """That error in full: what was said, and what to do about it."""
    exit_code: int | None = None
    signal: int | None = None
    node: str = ""
    workers: int | None = None
    """How many workers it will have, where that depends on its host."""
    python: str = ""
    """Their interpreter, where that depends on its host."""
    estimated_start: float | None = None
    """Seconds since the epoch, where the batch system makes a guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelReport:
    """What became of a request to cancel jobs."""

    gone: frozenset[JobId] = field(default_factory=frozenset)
    """No longer listed, or listed as over: verified."""
    unconfirmed: frozenset[JobId] = field(default_factory=frozenset)
    """Asked for, but they may still be there."""
    message: str = ""
