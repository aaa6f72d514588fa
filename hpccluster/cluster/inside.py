"""A cluster inside the calling process: head and workers on the loop thread, tasks in threads.

For tests, for debuggers, and for looking into ``cluster.scheduler``. Everything but the processes is real: connections,
certificates, scheduler, fleet. Must not touch the process's signals, descriptors or logging.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Collection
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from typing import Self

import msgspec

from hpccluster.backend.base import Backend, CredentialWay
from hpccluster.comm.connection_file import ConnectionFile
from hpccluster.comm.tls import Security
from hpccluster.errors import ConfigError, HpcClusterError, SubmitRefused
from hpccluster.fleet.values import CloseReport
from hpccluster.head.backing import make_backend
from hpccluster.head.engines import NATIVE
from hpccluster.head.server import Head
from hpccluster.head.spec import HeadReady, HeadSpec
from hpccluster.ids import JobId, JobName
from hpccluster.job import CancelReport, JobSpec, JobState, JobStatus
from hpccluster.runtime import sync
from hpccluster.runtime.scheduler import Scheduler
from hpccluster.runtime.settings import WorkerSettings
from hpccluster.runtime.worker import Worker


class InsideBackend(Backend):
    """A job is a few workers in this very process."""

    credential_way: CredentialWay = "stdin"
    runs_here = True
    ends_with_head = True
    poll_interval = 0.5

    def __init__(self) -> None:
        self._jobs: dict[JobId, tuple[JobName, dict[Worker, asyncio.Task[None]]]] = {}
        self._count = 0

    def render(self, spec: JobSpec) -> str:
        return f"# inside this process, in place of:\n{shlex.join(spec.command)}\n"

    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        assert credential is not None
        file = msgspec.json.decode(credential, type=ConnectionFile)
        security = Security.from_connection_file(file) if file.certificate else None
        settings = WorkerSettings(
            addresses=file.addresses,
            nthreads=spec.resources.threads,
            memory_limit=spec.resources.worker_memory or 0,
            job=spec.name,
            host="127.0.0.1",
            nanny=False,
        )
        self._count += 1
        job = JobId(f"inside-{self._count}")
        workers: dict[Worker, asyncio.Task[None]] = {}
        self._jobs[job] = (spec.name, workers)
        try:
            for index in range(spec.resources.processes):
                worker = Worker(settings, security, name=f"{spec.name}-{index}", addresses=file.addresses)
                await worker.start()
                workers[worker] = asyncio.create_task(_see_to_its_end(worker))
        except HpcClusterError as error:
            await self._end(job)
            raise SubmitRefused(f"a worker could not start: {error}") from error
        except BaseException:
            await self._end(job)
            raise
        return job

    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        return {job: self._status(job) for job in ids}

    async def find(self, names: Collection[JobName]) -> dict[JobName, JobId]:
        return {name: job for job, (name, _) in self._jobs.items() if name in names}

    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        for job in ids:
            await self._end(job)
        return CancelReport(gone=frozenset(ids))

    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        return ""

    def _status(self, job: JobId) -> JobStatus:
        name, workers = self._jobs.get(job, (JobName(""), {}))
        lives = any(not life.done() for life in workers.values())
        state = JobState.RUNNING if lives else JobState.COMPLETED if workers else JobState.CANCELLED
        return JobStatus(id=job, state=state, name=name)

    async def _end(self, job: JobId) -> None:
        _, workers = self._jobs.pop(job, (JobName(""), {}))
        for worker, life in workers.items():
            await worker.close()
            await life


async def _see_to_its_end(worker: Worker) -> None:
    """A worker that is told to leave, or has lost its scheduler, is closed: what the end of its process would do."""
    with suppress(HpcClusterError):
        await worker.ended()
    await worker.close()


class InsideHead:
    """A head on the loop thread of this process, in place of `hpccluster.cluster.launch.HeadProcess`."""

    def __init__(self, spec: HeadSpec) -> None:
        """Raises what `Head.start` raises; nothing is left then."""
        if spec.engine != NATIVE:
            raise ConfigError(f"processes=False is for the engine {NATIVE}; leave it out for engine={spec.engine!r}")
        self.ready: HeadReady
        self._head: Head
        sync.run(self._start(spec))
        self._serving: Future[CloseReport] = asyncio.run_coroutine_threadsafe(self._head.serve(), sync.loop())

    async def _start(self, spec: HeadSpec) -> None:
        options, _ = make_backend(spec)
        self._head = Head(spec, options, InsideBackend())
        self._head.claim()
        self.ready = await self._head.start()

    @property
    def scheduler(self) -> Scheduler:
        """It lives on the loop thread: look, and touch nothing."""
        return self._head.scheduler

    @property
    def pid(self) -> int:
        return os.getpid()

    @property
    def is_running(self) -> bool:
        return not self._serving.done()

    @property
    def ending(self) -> str:
        return ""

    def wait(self, timeout: float) -> bool:
        """Whether it has ended, waiting for at most so long."""
        try:
            self._serving.exception(timeout)
        except NotYet:
            return False
        return True

    def release(self) -> None:
        """Nobody owns it any longer: it goes down."""
        sync.loop().call_soon_threadsafe(self._head.request_end, "its owner has left it")

    def kill(self) -> None:
        """The last resort."""
        self._serving.cancel()


class StartingInside:
    """Stands in for `hpccluster.cluster.launch.StartingHead`: there is nothing to get ready."""

    def finish(self, spec: HeadSpec, *, timeout: float) -> InsideHead:
        """The head, once it is ready. Raises what `Head.start` raises."""
        return InsideHead(spec)

    def abandon(self) -> None:
        """Nothing to do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()
