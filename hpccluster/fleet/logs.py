"""Reading what jobs have written, of many at once and of the dead with patience."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from hpccluster.backend.base import Backend
from hpccluster.errors import HpcClusterError
from hpccluster.fleet import answers
from hpccluster.fleet.asking import ask
from hpccluster.ids import JobId

_AT_ONCE = 4
"""Logs that are read at the same time."""
_FIRST_WAIT = 0.25


class LogReader:
    """Reads logs through the backend. Never raises: where there is nothing to read it says why."""

    def __init__(self, backend: Backend, *, timeout: float, patience: float) -> None:
        self._backend = backend
        self._timeout = timeout
        self._patience = patience
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def read(self, job: JobId, path: str, lines: int | None) -> tuple[str, str]:
        """The text, and why there is none."""
        async with self._slots:
            try:
                text = await ask(
                    lambda: self._backend.logs(job, path, lines),
                    doing=f"log of job {job}",
                    timeout=self._timeout,
                    check=answers.text,
                )
            except HpcClusterError as error:
                return "", str(error)
        return text, ""

    async def read_dead(self, job: JobId, path: str, lines: int | None) -> tuple[str, str]:
        """The same for a job that has just ended: its last words may take a moment to be seen on another host."""
        wait, waited = _FIRST_WAIT, 0.0
        while True:
            text, error = await self.read(job, path, lines)
            if text or waited >= self._patience:
                return text, error
            await asyncio.sleep(wait)  # a shared file system tells nobody when a file appears
            waited += wait
            wait *= 2

    async def read_all(self, jobs: Iterable[tuple[str, JobId, str]], lines: int | None) -> dict[str, str]:
        """By name, for ``(name, id, path)``; what cannot be read is a note in brackets."""
        wanted = list(jobs)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.read(job, path, lines)) for _, job, path in wanted]
        texts = [task.result() for task in tasks]
        return {
            name: text or (f"[{error}]" if error else "")
            for (name, _, _), (text, error) in zip(wanted, texts, strict=True)
        }
