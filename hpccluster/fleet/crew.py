"""The owner of the fleet's tasks: one `asyncio.TaskGroup` that lives from `Crew.start` to `Crew.stop`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Crew:
    """Runs coroutines side by side; the failure of one ends them all, and is told."""

    def __init__(self, on_end: Callable[[BaseException | None], None]) -> None:
        self._on_end = on_end
        self._runner: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    @property
    def has_started(self) -> bool:
        """Whether `start` was called."""
        return self._runner is not None

    @property
    def is_at_work(self) -> bool:
        """Whether coroutines can be run now."""
        return self._group is not None

    async def start(self) -> None:
        """Get ready for `run`."""
        ready = asyncio.Event()
        self._runner = asyncio.create_task(self._own(ready), name="fleet")
        self._runner.add_done_callback(self._ended)
        await ready.wait()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it until it ends or everything does."""
        assert self._group is not None
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Cancel what runs. *Afterwards* nothing does. Idempotent."""
        self._stopping.set()
        if self._runner is not None:
            await asyncio.wait([self._runner])

    async def _own(self, ready: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                ready.set()
                await self._stopping.wait()
                self._group = None
                for task in tuple(self._tasks):
                    task.cancel()
        finally:
            self._group = None

    def _ended(self, runner: asyncio.Task[None]) -> None:
        self._on_end(None if runner.cancelled() else runner.exception())
