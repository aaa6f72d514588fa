"""The engine `native`: this package's own scheduler and workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from hpccluster.engine.base import Engine, EngineEvents, Load, WorkerInfo
from hpccluster.runtime.arguments import check_extra_arguments, make_arguments
from hpccluster.runtime.scheduler import Scheduler
from hpccluster.state.scheduler.records import WorkerRecord


class NativeEngine(Engine):
    """Runs tasks with our own scheduler, which lives in this process and has been started: the head answers there, too.

    ``connection_file``: by the name of a job, the path of its workers' connection file, as the nodes see it; None where the
    job itself tells its workers.
    """

    def __init__(self, scheduler: Scheduler, *, connection_file: Callable[[str], str] | None) -> None:
        self.scheduler = scheduler
        self._connection_file = connection_file
        self._events: EngineEvents | None = None
        self._left = asyncio.Event()

    async def start(self, events: EngineEvents) -> str:
        self._events = events
        self.scheduler.on_worker = self._changed
        self.scheduler.admits_job = events.admits_job
        return self.scheduler.address

    def worker_command(self, *, job: str, processes: int, threads: int, memory: int | None) -> Sequence[str]:
        file = None if self._connection_file is None else self._connection_file(job)
        words = make_arguments(file, job=job, processes=processes, threads=threads, memory=memory)
        return ["-m", "hpccluster.runtime", "worker", *words]

    def check_arguments(self, words: Sequence[str]) -> None:
        check_extra_arguments(words)

    def _changed(self, worker: WorkerRecord, reason: str | None) -> None:
        assert self._events is not None
        if reason is None:
            self._events.worker_joined(worker_info(worker))
            return
        self._left.set()
        self._left = asyncio.Event()
        self._events.worker_left(worker_info(worker), reason)

    async def retire(self, jobs: Sequence[str]) -> None:
        chosen = set(jobs)
        while names := [w.name for w in self.scheduler.state.workers.values() if w.job in chosen]:
            left = self._left
            self.scheduler.retire(names)
            await left.wait()

    def dismiss(self, reason: str) -> None:
        self.scheduler.dismiss(reason)

    def workers(self) -> list[WorkerInfo]:
        return [worker_info(worker) for worker in self.scheduler.state.workers.values()]

    def load(self) -> Load:
        state = self.scheduler.state
        busy = sum(worker.occupancy for worker in state.workers.values())
        queued = sum(
            len(group.tasks) * _mean_duration(group.tasks[0].function) for group in state.groups.values() if group.tasks
        )
        return Load(
            queued=state.ready,
            unfinished=state.unfinished,
            expected_seconds=busy + queued,
            idle_workers=frozenset(name for name, worker in state.workers.items() if not worker.in_flight),
        )

    async def stop(self, reason: str) -> None:
        await self.scheduler.close(reason)


def _mean_duration(function: object) -> float:
    return getattr(function, "expected", 0.0)


def worker_info(worker: WorkerRecord) -> WorkerInfo:
    """The worker as the fleet and those who ask for it see it."""
    return WorkerInfo(
        name=worker.name,
        job=worker.job,
        address=worker.address,
        host=worker.host,
        pid=worker.pid,
        threads=worker.threads,
        memory=worker.memory,
        executing=len(worker.in_flight),
        stored=worker.stored,
        resident=worker.resident,
    )
