"""Runs an executor in a loop of its own, and collects what it reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hpccluster.protocol.messages import Dependency, FunctionBody, RunTask, TaskFailed, TasksDone
from hpccluster.protocol.payload import dump_arguments, dump_function, load_error, loads
from hpccluster.runtime.data import DataStore
from hpccluster.runtime.executor import Executor, Kept
from hpccluster.runtime.slots import WorkerSlots, private_slots


class ExecutorEnv:
    """One executor. Use it inside a running loop."""

    def __init__(self, threads: int = 1) -> None:
        self.store = DataStore()
        self.slots: WorkerSlots = private_slots(threads)
        self.events: list[TasksDone | TaskFailed] = []
        self.kept: Kept = {}
        self.executor = Executor(self.slots, self.store, self._deliver)
        self._changed = asyncio.Event()
        self._numbers = 0

    def _deliver(self, events: list[TasksDone | TaskFailed], kept: Kept) -> None:
        self.events += events
        self.kept |= kept
        self._changed.set()

    def task(
        self,
        function: Callable[..., Any],
        *args: Any,
        body: bytes | None = None,
        arguments: bytes | None = None,
        dependencies: tuple[Dependency, ...] = (),
        priority: int = 0,
        attempt: int = 1,
    ) -> RunTask:
        """A new task of ``function``, which the executor knows then."""
        self._numbers += 1
        pickled = dump_function(function)[1] if body is None else body
        name = getattr(function, "__name__", "f")
        self.executor.add_functions([FunctionBody(self._numbers, name, pickled, [])])
        packed = dump_arguments(args, {})[0] if arguments is None else arguments
        return RunTask(self._numbers, attempt, self._numbers, packed, list(dependencies), priority)

    async def until(self, count: int) -> None:
        """Until so many outcomes have been reported."""
        while self.count < count:
            self._changed.clear()
            await self._changed.wait()

    @property
    def count(self) -> int:
        return sum(len(event.tasks) if isinstance(event, TasksDone) else 1 for event in self.events)

    def results(self) -> dict[int, Any]:
        """The values of finished tasks."""
        found: dict[int, Any] = {}
        for event in self.events:
            if isinstance(event, TasksDone):
                for number, attempt, body in zip(event.tasks, event.attempts, event.payloads, strict=True):
                    found[number] = self.kept[number, attempt][0] if body is None else loads(body)
        return found

    def order(self) -> list[int]:
        """The numbers of finished tasks in the order in which they were reported."""
        return [number for event in self.events if isinstance(event, TasksDone) for number in event.tasks]

    async def call(self, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Run one task: its result, or its error raised."""
        run = self.task(function, *args, **more)
        count = self.count
        self.executor.execute([run])
        await self.until(count + 1)
        for event in self.events:
            if isinstance(event, TaskFailed) and event.task == run.task:
                raise load_error(event.error)
        return self.results()[run.task]

    async def failure(self, function: Callable[..., Any], *args: Any, **more: Any) -> TaskFailed:
        """Run one task that fails."""
        run = self.task(function, *args, **more)
        count = self.count
        self.executor.execute([run])
        await self.until(count + 1)
        return next(event for event in self.events if isinstance(event, TaskFailed) and event.task == run.task)


def in_loop(check: Callable[[ExecutorEnv], Any], threads: int = 1) -> None:
    """Run the coroutine function ``check`` with a fresh executor; every thread ends with it."""

    async def main() -> None:
        env = ExecutorEnv(threads)
        try:
            await check(env)
        finally:
            env.executor.stop()

    asyncio.run(main())
