"""Runs the commands of a batch system in a container of the dockerised Slurm."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Mapping, Sequence

from hpccluster.backend.dialect import CommandResult
from hpccluster.backend.runner import TAIL_LIMIT, Runner, RunningCommand
from hpccluster.errors import BackendUnavailable, CommandFailed, LogsUnavailable
from support.docker_slurm import DockerSlurm


class DockerRunner(Runner):
    """Commands of the login host, as the user; files of the volume that all hosts share."""

    def __init__(self, slurm: DockerSlurm, user: str | None = None) -> None:
        self._slurm = slurm
        self._user = user

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        environment: Mapping[str, str | None] | None = None,
        timeout: float = 60.0,
    ) -> CommandResult:
        variables = {"LC_ALL": "C", **(environment or {})}
        done = await asyncio.to_thread(
            self._slurm.run, "login", argv, user=self._user, stdin=stdin, environment=variables, timeout=timeout
        )
        if done.returncode in (124, 137):
            raise CommandFailed(f"{argv[0]} did not end within {timeout:g} s", code="HPC-COMMAND-TIMEOUT")
        if done.returncode in (126, 127) and done.stderr.startswith("env: "):
            raise BackendUnavailable(done.stderr.strip(), code="HPC-BACKEND-COMMAND")
        return done

    async def start(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str | None] | None = None,
        output: Callable[[bytes], None],
    ) -> RunningCommand:
        # Slurm's commands end by themselves
        raise BackendUnavailable(f"{argv[0]} cannot be started to go on in a container", code="HPC-BACKEND-COMMAND")

    async def read_tail(self, path: str, lines: int | None = None) -> str:
        last = "" if lines is None else f" | tail -c {TAIL_LIMIT} | tail -n {lines}"
        script = f"if [ -e {shlex.quote(path)} ]; then cat {shlex.quote(path)}{last}; else exit 44; fi"
        done = await self.run(["sh", "-c", script])
        if done.returncode == 44:
            raise FileNotFoundError(path)
        if done.returncode != 0:
            raise LogsUnavailable(f"{path}: {done.stderr.strip()}", code="HPC-LOGS-UNREADABLE")
        return done.stdout
