"""What could not be confirmed is cancelled until it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from hpccluster.backend.base import Backend
from hpccluster.errors import PollFailed
from hpccluster.head.reaper import reap
from hpccluster.ids import JobId, JobName
from hpccluster.job import CancelReport, JobSpec, JobStatus


class FrozenController(Backend):
    """Answers nothing for a while; then has the jobs, and takes the first cancel of each."""

    def __init__(self, frozen: int, jobs: dict[JobName, JobId]) -> None:
        self.frozen = frozen
        self.jobs = jobs
        self.looks = 0

    def render(self, spec: JobSpec) -> str:
        raise NotImplementedError

    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        raise NotImplementedError

    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        raise NotImplementedError

    async def find(self, names: Collection[JobName]) -> dict[JobName, JobId]:
        self.looks += 1
        if self.looks <= self.frozen:
            raise PollFailed("timed out")
        return {name: job for name, job in self.jobs.items() if name in names}

    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        self.jobs = {name: job for name, job in self.jobs.items() if job not in ids}
        return CancelReport(gone=frozenset(ids))

    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        raise NotImplementedError


A, B = JobName("hpc-a-0001"), JobName("hpc-a-0002")


def test_it_waits_for_a_controller_that_answers_again() -> None:
    backend = FrozenController(3, {A: JobId("7")})
    assert asyncio.run(reap(backend, {A, B}, duration=5.0, first_pause=0.0)) == frozenset()
    assert backend.jobs == {}
    assert backend.looks == 3 + 3, "found and cancelled, then not found twice"


def test_it_gives_up_in_the_end() -> None:
    backend = FrozenController(10**9, {A: JobId("7")})
    assert asyncio.run(reap(backend, {A}, duration=0.02, first_pause=0.001)) == {A}
