"""Real nannies and workers, started as a job starts them, for a scripted scheduler that speaks TLS."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil

from hpccluster.protocol.messages import Role
from support.deadline import wait_until_async
from support.scripted_scheduler import TIME, Credentials, Peer, ScriptedScheduler


class Job:
    """One ``python -m hpccluster.runtime worker``."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    @property
    def log(self) -> str:
        """What it has written to its stdout and stderr so far."""
        return self._log.read_text()

    @property
    def stages(self) -> list[str]:
        """The stages that it has reached."""
        lines = self.log.splitlines()
        return [line.rpartition(" ")[2] for line in lines if line.startswith("hpccluster: stage ")]

    async def wait(self) -> int:
        """Its exit code."""
        async with asyncio.timeout(TIME):
            return await self._process.wait()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def family(self) -> list[psutil.Process]:
        """The nanny and all that has come of it."""
        nanny = psutil.Process(self.pid)
        return [nanny, *nanny.children(recursive=True)]

    def fork_server(self) -> psutil.Process:
        """The nanny's only child."""
        (child,) = psutil.Process(self.pid).children()
        return child

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class Site:
    """A scheduler with credentials, and the jobs of one test."""

    def __init__(self, scheduler: ScriptedScheduler, credentials: Credentials, directory: Path) -> None:
        self.scheduler = scheduler
        self.credentials = credentials
        self._directory = directory
        self.jobs: list[Job] = []

    async def start(self, *arguments: str, connection_file: Path | None = None) -> Job:
        """A job with these arguments."""
        path = connection_file or self.credentials.connection_file(self.scheduler.address)
        log = self._directory / f"job-{len(self.jobs)}.log"
        command = ("-m", "hpccluster.runtime", "worker", "--connection-file", str(path), "--nthreads", "1", *arguments)
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {"HPCCLUSTER_JOB": "hpc-otter-0001"},
            )
        self.jobs.append(Job(process, log))
        return self.jobs[-1]

    async def job(self, *arguments: str) -> tuple[Job, Peer, Peer]:
        """A job with one worker, its nanny and its worker."""
        job = await self.start("--death-timeout", "10", *arguments)
        return job, await self.scheduler.nanny(), await self.scheduler.worker()


@asynccontextmanager
async def site(directory: Path) -> AsyncIterator[Site]:
    """A test's surroundings; at its end no process is left."""
    credentials = Credentials(directory)
    scheduler = ScriptedScheduler(credentials.security(Role.SCHEDULER))
    await scheduler.start()
    given = Site(scheduler, credentials, directory)
    try:
        yield given
    finally:
        for job in given.jobs:
            await job.kill()
        async with asyncio.timeout(TIME):
            for peer in scheduler.peers:
                await peer.lost
        await scheduler.close()


async def until_gone(processes: list[psutil.Process]) -> None:
    """Until none of these lives, however they are related to us. One that nobody has waited for yet does not live."""

    async def all_gone() -> bool:
        return not any(_lives(process) for process in processes)

    await wait_until_async(all_gone, "the end of all processes")


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
