"""A batch system and an engine in memory, honest as the real ones are: slow, unsure, frozen, but never inventing things.

Everything happens in the loop's time; see `support.virtual_time`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from hpccluster.backend.base import Backend
from hpccluster.engine.base import Engine, EngineEvents, Load, WorkerInfo
from hpccluster.errors import BackendError, CancelFailed, CommandFailed, HpcClusterError, LogsUnavailable, PollFailed
from hpccluster.fleet.shell import Fleet
from hpccluster.fleet.values import FleetSettings
from hpccluster.ids import JobId, JobName
from hpccluster.job import CancelReport, JobSpec, JobState, JobStatus
from hpccluster.resources import JobResources


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What becomes of one submission."""

    refused: HpcClusterError | None = None
    doubt: Literal["lost", "there"] | None = None
    """The submission fails unclearly, and the job is lost, or is there."""
    start_after: float | None = 1.0
    """Seconds in the queue; None waits for `MemoryBackend.start`."""
    reason: str = "Priority"
    workers: int | None = None
    """How many join; None is all."""
    join_after: float = 1.0
    ends_after: float | None = None
    """Seconds from the start; None runs until cancelled."""
    ends_as: JobState = JobState.COMPLETED
    exit_code: int | None = 0
    signal: int | None = None
    log: str = "hpccluster: stage started n017\nhpccluster: stage prologue-ok\n"
    cancel_takes: float = 0.0
    """Seconds from a cancel to the end."""


@dataclass
class MemoryJob:
    """A job of the batch system."""

    id: JobId
    spec: JobSpec
    fate: Fate
    state: JobState = JobState.PENDING
    is_ending: bool = False
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class MemoryBackend(Backend):
    """A batch system in memory."""

    poll_interval = 5.0

    def __init__(self, engine: MemoryEngine) -> None:
        self.jobs: dict[JobId, MemoryJob] = {}
        self.fate = Fate()
        self.fates: list[Fate] = []
        """For the next submissions; then `fate`."""
        self.submit_takes = 0.1
        self.calls: Counter[str] = Counter()
        self.specs: list[JobSpec] = []
        self.credentials: list[bytes | None] = []
        self.submitting = 0
        self.most_submitting = 0
        self.python = ""
        """What it tells of each job's interpreter."""
        self.is_down = False
        """It answers every question with an error, at once."""
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._parked: list[JobSpec] = []
        self._engine = engine
        self._next = 481516

    # ------------------------------------------------------------------------------------------------------ the knobs

    def freeze(self) -> None:
        """It takes in what is asked and does not answer; what was asked is done when it thaws."""
        self._thawed.clear()

    def thaw(self) -> None:
        for spec in self._parked:
            self._create(spec, self.fate)
        self._parked.clear()
        self._thawed.set()

    def living(self) -> list[MemoryJob]:
        return [job for job in self.jobs.values() if not job.state.is_over]

    def by_name(self, name: str) -> MemoryJob:
        return next(job for job in self.jobs.values() if job.spec.name == name)

    def start(self, job: MemoryJob) -> None:
        job.state = JobState.RUNNING
        workers = job.spec.resources.processes if job.fate.workers is None else job.fate.workers
        self._later(job, job.fate.join_after, lambda: self._engine.join(job.spec.name, workers))
        if job.fate.ends_after is not None:
            self._later(job, job.fate.ends_after, lambda: self.end(job, job.fate.ends_as))

    def end(self, job: MemoryJob, state: JobState) -> None:
        for timer in job.timers:
            timer.cancel()
        if not job.state.is_over:
            job.state = state
            self._engine.leave(job.spec.name)

    def _create(self, spec: JobSpec, fate: Fate) -> MemoryJob:
        self._next += 1
        job = MemoryJob(JobId(str(self._next)), spec, fate)
        self.jobs[job.id] = job
        if fate.start_after is not None:
            self._later(job, fate.start_after, lambda: self.start(job))
        return job

    def _later(self, job: MemoryJob, seconds: float, act: Any) -> None:
        job.timers.append(asyncio.get_running_loop().call_later(seconds, act))

    # --------------------------------------------------------------------------------------------------- the contract

    def render(self, spec: JobSpec) -> str:
        return f"#!/bin/sh\n# {spec.name}\n"

    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        self.calls["submit"] += 1
        self.specs.append(spec)
        self.credentials.append(credential)
        self.submitting += 1
        self.most_submitting = max(self.most_submitting, self.submitting)
        try:
            if not self._thawed.is_set():
                self._parked.append(spec)
                await self._thawed.wait()
                raise CommandFailed("sbatch: Socket timed out on send/recv operation")
            await asyncio.sleep(self.submit_takes)
            fate = self.fates.pop(0) if self.fates else self.fate
            if fate.refused is not None:
                raise fate.refused
            if fate.doubt != "lost":
                job = self._create(spec, fate)
            if fate.doubt is not None:
                raise CommandFailed("sbatch: Socket timed out on send/recv operation")
            return job.id
        finally:
            self.submitting -= 1

    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        self.calls["poll"] += 1
        await self._answer(PollFailed("squeue: Unable to contact slurm controller"))
        return {job: self._status(job) for job in ids}

    async def find(self, names: Collection[JobName]) -> dict[JobName, JobId]:
        self.calls["find"] += 1
        await self._answer(PollFailed("squeue: Unable to contact slurm controller"))
        return {job.spec.name: job.id for job in self.living() if job.spec.name in names}

    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        self.calls["cancel"] += 1
        await self._answer(CancelFailed("scancel: Unable to contact slurm controller"))
        for job in ids:
            if job in self.jobs and not self.jobs[job].state.is_over:
                self._cancel(self.jobs[job])
        gone = frozenset(job for job in ids if job not in self.jobs or self.jobs[job].state.is_over)
        return CancelReport(gone=gone, unconfirmed=frozenset(ids) - gone)

    def _cancel(self, job: MemoryJob) -> None:
        if not job.fate.cancel_takes:
            self.end(job, JobState.CANCELLED)
        elif not job.is_ending:
            job.is_ending = True
            self._later(job, job.fate.cancel_takes, lambda: self.end(job, JobState.CANCELLED))

    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        self.calls["logs"] += 1
        await self._answer(LogsUnavailable("cannot be reached"))
        known = self.jobs[job]
        if known.state is JobState.PENDING:
            return ""
        return "\n".join(known.fate.log.splitlines()[-(tail or 10_000) :])

    def explain(self, status: JobStatus) -> str:
        return "other jobs are before it" if status.reason == "Priority" else ""

    async def _answer(self, error: BackendError) -> None:
        await self._thawed.wait()
        await asyncio.sleep(0.05)
        if self.is_down:
            raise error

    def _status(self, job: JobId) -> JobStatus:
        known = self.jobs.get(job)
        if known is None:
            return JobStatus(id=job, state=JobState.ABSENT)
        is_over = known.state.is_over and known.state is not JobState.CANCELLED
        return JobStatus(
            python=self.python,
            id=job,
            state=known.state,
            name=known.spec.name,
            reason=known.fate.reason if known.state is JobState.PENDING else "",
            node="" if known.state is JobState.PENDING and not self.places_jobs else "n017",
            exit_code=known.fate.exit_code if is_over else None,
            signal=known.fate.signal if is_over else None,
            estimated_start=1_800_000_000.0 if known.state is JobState.PENDING else None,
        )


class MemoryEngine(Engine):
    """Knows who is there."""

    def __init__(self) -> None:
        self.current = Load()
        self.retirements: list[Sequence[str]] = []
        self.retire_takes = 1.0
        self.retire_error: HpcClusterError | None = None
        self._events: EngineEvents | None = None
        self._workers: dict[str, WorkerInfo] = {}

    def join(self, job: str, workers: int) -> None:
        for index in range(workers):
            self.add(f"{job}-{index}", job)

    def add(self, name: str, job: str = "", pid: int = 1) -> None:
        worker = WorkerInfo(
            name=name, job=job, address=f"tcp://{name}:{pid}", host="n017", pid=pid, threads=1, memory=0
        )
        self._workers[name] = worker
        assert self._events is not None
        self._events.worker_joined(worker)

    def leave(self, job: str) -> None:
        for worker in [worker for worker in self._workers.values() if worker.job == job]:
            del self._workers[worker.name]
            self.tell_left(worker)

    def tell_left(self, worker: WorkerInfo) -> None:
        assert self._events is not None
        self._events.worker_left(worker, "gone")

    async def start(self, events: EngineEvents) -> str:
        self._events = events
        return "tcp://head:1"

    def worker_command(self, *, job: str, processes: int, threads: int, memory: int | None) -> Sequence[str]:
        return ["-m", "hpccluster.runtime", "worker", "--job", job]

    def check_arguments(self, words: Sequence[str]) -> None:
        """Any will do: nothing is started."""

    async def retire(self, jobs: Sequence[str]) -> None:
        self.retirements.append(jobs)
        await asyncio.sleep(self.retire_takes)
        if self.retire_error is not None:
            raise self.retire_error
        for job in jobs:
            self.leave(job)

    def workers(self) -> list[WorkerInfo]:
        return list(self._workers.values())

    def load(self) -> Load:
        return self.current

    async def stop(self, reason: str) -> None:
        return None


class World:
    """A fleet, its batch system, its engine, and what people were told."""

    def __init__(
        self,
        *,
        resources: JobResources | None = None,
        settings: FleetSettings | None = None,
        places_jobs: bool = False,
        poll_slowest: float | None = None,
    ) -> None:
        self.resources = resources or JobResources(cores=8, memory=32 * 10**9, processes=4)
        self.engine = MemoryEngine()
        self.backend = MemoryBackend(self.engine)
        self.backend.places_jobs = places_jobs
        if poll_slowest is not None:
            self.backend.poll_slowest = poll_slowest
        self.notices: list[tuple[str, str]] = []
        self.fleet = Fleet(
            backend=self.backend,
            engine=self.engine,
            cluster_name="calm-otter",
            make_spec=self.make_spec,
            make_credential=lambda name: f"secret of {name}".encode(),
            resources=self.resources,
            settings=settings,
            on_notice=lambda level, text: self.notices.append((level, text)),
            clock=asyncio.get_running_loop().time,
            spread=lambda seconds: seconds,
            first_number=0x0A1F,
            validate=True,
        )

    def make_spec(self, name: JobName) -> JobSpec:
        return JobSpec(
            name=name,
            cluster="calm-otter",
            command=("/opt/conda/bin/python", "-m", "hpccluster.runtime", "worker"),
            resources=self.resources,
            log_path=f"/scratch/ana/{name}.log",
        )

    def said(self, words: str) -> list[str]:
        return [text for _, text in self.notices if words in text]

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def a_world(**knobs: Any) -> AsyncIterator[World]:
    """A world with a fleet that has started; closed at the end, with no job left behind."""
    world = World(**knobs)
    await world.engine.start(world.fleet.events)
    await world.fleet.start()
    yield world
    report = await world.fleet.close(60)
    assert not report.unconfirmed
    assert not world.backend.living()
