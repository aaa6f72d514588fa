"""What backends have in common whose jobs are known to themselves: no batch system has to be asked for any of them.

Ids are words of ours, the backend's name and a number: ``local-3``.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from hpccluster.backend.base import Backend
from hpccluster.backend.runner import read_tail
from hpccluster.ids import JobId, JobName
from hpccluster.job import CancelReport, JobState, JobStatus


@dataclass(slots=True, eq=False, kw_only=True)
class OwnJob:
    """A job as its backend knows it."""

    id: JobId
    name: JobName
    why: JobState | None = None
    """CANCELLED or TIMEOUT, when it was we who ended it."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    def over(self) -> None:
        """It has ended."""
        for timer in self.timers:
            timer.cancel()
        self.ended.set()

    def verdict(self, status: JobStatus, code: int | None) -> JobStatus:
        """The status after its end with that exit code (negative: a signal; None: not known)."""
        if code is None:
            return replace(status, state=self.why or JobState.FAILED, raw_state="ended by us")
        return replace(
            status,
            state=self.why or (JobState.COMPLETED if code == 0 else JobState.FAILED),
            raw_state=f"ended with {code}",
            reason=f"ended by signal {-code}" if code < 0 and self.why is None else "",
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
        )


Job = TypeVar("Job", bound=OwnJob)


class OwnJobsBackend(Backend, Generic[Job]):
    """Keeps its jobs in a table; their output lies on this host. A subclass submits them, ends them and tells their state."""

    # to ask costs nothing
    poll_interval = 0.5
    poll_slowest = 1.0

    def __init__(self, name: str, *, cancel_time: float) -> None:
        """``cancel_time``: seconds that `cancel` waits for the end of jobs."""
        self.cancel_time = cancel_time
        self._name = name
        self._jobs: dict[JobId, Job] = {}
        self._count = 0

    def _next_id(self) -> JobId:
        self._count += 1
        return JobId(f"{self._name}-{self._count}")

    def _keep(self, job: Job, walltime: float | None) -> None:
        """It is a job from now on, for ``walltime`` seconds at most."""
        self._jobs[job.id] = job
        if walltime is not None:
            loop = asyncio.get_running_loop()
            job.timers.append(loop.call_later(walltime, self._end, job, JobState.TIMEOUT))

    def _end(self, job: Job, why: JobState) -> None:
        """Ask the job to end. Does nothing for one that has ended or was asked before."""
        if not job.ended.is_set() and job.why is None:
            job.why = why
            self._stop(job)

    @abstractmethod
    def _stop(self, job: Job) -> None:
        """See to it that a job ends that still runs."""

    @abstractmethod
    def _status(self, job: Job) -> JobStatus:
        """What there is to say of a job."""

    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        found = {job_id: self._jobs.get(job_id) for job_id in ids}
        return {
            job_id: JobStatus(id=job_id, state=JobState.ABSENT) if job is None else self._status(job)
            for job_id, job in found.items()
        }

    async def find(self, names: Collection[JobName]) -> dict[JobName, JobId]:
        wanted = set(names)
        return {job.name: job.id for job in self._jobs.values() if job.name in wanted and not job.ended.is_set()}

    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        for job_id in ids:
            if re.fullmatch(rf"{self._name}-[1-9][0-9]*", job_id, re.ASCII) is None:
                raise ValueError(f"not the id of a job of this backend: {job_id!r}")
        jobs = [job for job_id in ids if (job := self._jobs.get(job_id)) is not None]
        for job in jobs:
            self._end(job, JobState.CANCELLED)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.cancel_time):
                for job in jobs:
                    await job.ended.wait()
        unconfirmed = frozenset(job.id for job in jobs if not job.ended.is_set())
        return CancelReport(gone=frozenset(ids) - unconfirmed, unconfirmed=unconfirmed)

    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        if not log_path:
            return ""
        try:
            return await asyncio.to_thread(read_tail, log_path, tail)
        except FileNotFoundError:
            return ""
