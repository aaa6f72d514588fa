"""Why a job ended that nobody wanted to end, and what follows for the pool."""

from __future__ import annotations

from typing import NamedTuple

from hpccluster.ids import JobId, JobName
from hpccluster.job import JobState, JobStatus
from hpccluster.state.fleet.actions import FetchLog, JobFailed
from hpccluster.state.fleet.book import JobBook
from hpccluster.state.fleet.brake import PAUSE_AFTER, Brake, Trouble
from hpccluster.state.fleet.endings import Ending, judge
from hpccluster.state.fleet.events import LogFetched
from hpccluster.state.fleet.policy import FleetPolicy
from hpccluster.state.fleet.records import JobRecord


class _Death(NamedTuple):
    """A death whose log is being fetched."""

    id: JobId
    status: JobStatus
    seconds: float | None
    joined: bool
    alarm: bool


class Inquest:
    """Judges ends, counts what was of no use, and gathers what the diagnosis needs."""

    def __init__(self, policy: FleetPolicy, book: JobBook, brake: Brake) -> None:
        self._policy = policy
        self._book = book
        self._brake = brake
        self._deaths: dict[JobName, _Death] = {}

    def open(self, record: JobRecord, status: JobStatus | None) -> None:
        """Look into the end of this job. ``status`` is None where the cause is unknown."""
        state = JobState.ABSENT if status is None else status.state
        ending = judge(record, state, now=self._book.now, brief_life=self._policy.brief_life)
        if ending is Ending.BRIEF_LIFE and self.has_healthy_job():
            ending = Ending.EXPECTED
        if self._policy.blames_hosts and (ending is not Ending.EXPECTED or record.joined_at is None):
            self._examine(record, status, alarm=True)  # the backend lets that host rest
            return
        if ending is not Ending.EXPECTED:
            self._blame(record, status, Trouble(ending.value))
            return
        self._report_end(record, state)

    def _report_end(self, record: JobRecord, state: JobState) -> None:
        is_ordered = state in (JobState.TIMEOUT, JobState.COMPLETED)
        text = f"job {record.id} ended: {record.note}"
        self._book.report("info" if is_ordered else "warning", "HPC-JOB-ENDED", text)

    @property
    def is_open(self) -> bool:
        """Whether a log is being fetched."""
        return bool(self._deaths)

    def log_fetched(self, message: LogFetched) -> None:
        """The last thing that was missing for the diagnosis."""
        death = self._deaths.pop(message.name, None)
        if death is None:
            return
        failed = JobFailed(
            name=message.name,
            id=death.id,
            status=death.status,
            seconds=death.seconds,
            joined=death.joined,
            log=message.text,
            log_error=message.error,
            alarm=death.alarm,
        )
        self._book.do(failed)

    def has_healthy_job(self) -> bool:
        """Whether some job has had workers for a while: then one that ends soon is not the specification's fault."""
        before = self._book.now - self._policy.brief_life
        return any(
            record.workers and record.joined_at is not None and record.joined_at <= before
            for record in self._book.counted()
        )

    def _blame(self, record: JobRecord, status: JobStatus | None, trouble: Trouble) -> None:
        now, job, brake = self._book.now, record.id, self._brake
        assert job is not None  # only a job that was submitted can die
        state = JobState.ABSENT if status is None else status.state
        was_final, was_probe = brake.is_final, record.name == brake.probe
        brake.meet(trouble, f"job {job} ended: {record.note}", now, node=status.node if status is not None else "")
        if brake.count == PAUSE_AFTER or (brake.is_final and not was_final):
            again = "scale() or adapt() starts again" if brake.is_final else "one job is tried again later"
            where = f", all on node {brake.only_node}" if brake.only_node else ""
            text = (
                f"{brake.count} jobs in a row were of no use{where}; no more are submitted for now ({again}). "
                f"The last one: {brake.cause}"
            )
            self._book.report("error", "HPC-POOL-PAUSED", text)
        if state is JobState.COMPLETED and record.joined_at is not None and brake.count < PAUSE_AFTER:
            # Somebody may have told its workers to end (dask's `retire_workers`): that alone needs no diagnosis.
            self._report_end(record, state)
            return
        # The first deaths tell the cause; fifty more of the same batch would only repeat it.
        if brake.count <= PAUSE_AFTER or was_probe:
            self._examine(record, status, alarm=not brake.worked or brake.count >= PAUSE_AFTER)

    def _examine(self, record: JobRecord, status: JobStatus | None, *, alarm: bool) -> None:
        """Have its log read, for the diagnosis."""
        job, now = record.id, self._book.now
        assert job is not None
        self._deaths[record.name] = _Death(
            id=job,
            status=status or JobStatus(id=job, state=JobState.ABSENT),
            seconds=None if record.started_at is None else now - record.started_at,
            joined=record.joined_at is not None,
            alarm=alarm,
        )
        self._book.do(FetchLog(record.name, job))
