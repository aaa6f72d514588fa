"""The fleet's note on one job. A record is made before its job is submitted and outlives it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from hpccluster.ids import JobId, JobName
from hpccluster.job import JobState, JobStatus


class Phase(StrEnum):
    """Where a job stands with *us*; what the batch system says is in `JobRecord.status`."""

    SUBMITTING = "submitting"
    """Handed to the shell; not answered yet."""
    DOUBTFUL = "doubtful"
    """The submission failed, but there may be a job all the same. It has no id yet."""
    PENDING = "pending"
    RUNNING = "running"
    """The batch system says so, or a worker has joined."""
    RETIRING = "retiring"
    """Its workers finish and hand over; it is cancelled then."""
    CANCELLING = "cancelling"
    """It is to be gone, and not verified to be so."""
    OVER = "over"


@dataclass(slots=True, eq=False)
class JobRecord:
    """One job."""

    name: JobName
    number: int
    """Its age among the jobs of the fleet: a lower number is older."""
    created_at: float
    phase: Phase = Phase.SUBMITTING
    id: JobId | None = None
    status: JobStatus | None = None
    """What the batch system last said, if it meant something."""
    note: str = ""
    """Why we are in doubt, or how the job ended."""

    unwanted: bool = False
    """It is to end: its workers are not admitted, and if it shows up it is cancelled."""
    was_doubtful: bool = False
    keeps_place: bool = False
    """A doubtful job counts as one of the fleet until it is known to be gone or not to be there."""

    workers: set[str] = field(default_factory=set)
    """Its workers that are connected now."""
    started_at: float | None = None
    """When it was first known to run (in this turn, if it was put back into the queue)."""
    joined_at: float | None = None
    """When its first worker joined, ever."""
    silent_since: float | None = None
    """When the last of its workers left, if none is here now."""
    idle_since: float | None = None
    ended_at: float | None = None
    ended_as: JobState = JobState.ABSENT
    """Its last state, once it is over."""

    verdict: JobStatus | None = None
    """The batch system says that it is over, but its workers are still here."""
    absences: int = 0
    """Successful polls in a row that did not list it."""
    misses: int = 0
    """Successful looks in a row that did not find its name."""

    cancels: int = 0
    cancel_again_at: float | None = None
    """When to ask once more; None while an answer is awaited or nothing was asked."""
    told_waiting: bool = False
    held_until: float = 0.0
    """It could not be retired; it is left alone for a while."""

    @property
    def is_counted(self) -> bool:
        """Whether it is one of the jobs that the fleet has or will have: what we decided counts at once."""
        if self.phase is Phase.OVER:
            return False
        return self.keeps_place or not self.unwanted

    @property
    def may_yet_come(self) -> bool:
        """Whether its submission failed unclearly and no job of its name has been seen yet."""
        return self.was_doubtful and self.id is None

    def expected_workers(self, usual: int) -> int:
        """How many workers it will have; ``usual`` where that does not depend on its host."""
        return usual if self.status is None or self.status.workers is None else self.status.workers

    @property
    def is_leaving(self) -> bool:
        """Whether it is on its way out: handing over, or not yet verified to be gone."""
        return self.phase in (Phase.RETIRING, Phase.CANCELLING)

    @property
    def is_seen_running(self) -> bool:
        """Whether the batch system has said itself that it runs (and with that, where)."""
        return self.status is not None and self.status.state is JobState.RUNNING

    def is_silent(self, now: float, patience: float) -> bool:
        """Whether it counts as running, but all its workers have been gone for too long."""
        return self.phase is Phase.RUNNING and self.silent_since is not None and self.silent_since + patience <= now

    @property
    def waits(self) -> bool:
        """Whether it is counted and no worker of it is here yet."""
        return self.is_counted and not self.workers

    @property
    def shown_state(self) -> JobState:
        """Its state in the vocabulary of all batch systems."""
        if self.phase is Phase.OVER:
            return self.ended_as
        if self.phase is Phase.DOUBTFUL:
            return JobState.UNKNOWN
        if self.workers:
            return JobState.RUNNING
        if self.status is not None and self.status.state is not JobState.ABSENT:
            return self.status.state
        return JobState.RUNNING if self.phase is Phase.RUNNING else JobState.PENDING


def leaving_order(records: Iterable[JobRecord]) -> list[JobRecord]:
    """Counted jobs in the order in which they leave when there are too many.

    Those that never started first, the newest before the older, as they have waited least; then running ones without
    workers; then idle ones, the longest idle first; then the youngest, which hold the fewest results.
    """

    def rank(record: JobRecord) -> tuple[int, float]:
        if record.phase in (Phase.SUBMITTING, Phase.DOUBTFUL, Phase.CANCELLING) and not record.workers:
            return (0, -record.number)
        if record.phase is Phase.PENDING:
            return (1, -record.number)
        if not record.workers:
            return (2, -record.number)
        if record.idle_since is not None:
            return (3, record.idle_since)
        return (4, -record.number)

    return sorted(records, key=rank)
