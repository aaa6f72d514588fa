"""The program of ``hpccluster submit``: a child of the head, in a process group of its own.

It finds its cluster by the environment, writes to one log, and never outlives its cluster. Must not know the scheduler.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpccluster.errors import ClusterError
from hpccluster.runtime.parent import die_with_parent
from hpccluster.runtime.target import CLUSTER_VARIABLE


class Program:
    """A program that was started. Its exit code is the one a shell would give: 128 + signal where a signal ended it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        directory: str,
        environment: Mapping[str, str] | None,
        more: Mapping[str, str] | None = None,
        connection_file: Path,
        log: Path,
    ) -> Program:
        """Run the command; its output goes to ``log``. ``more``: what the engine adds to the environment.

        Raises `ClusterError` where it cannot be run: nothing is left running then.
        """
        variables = dict(os.environ if environment is None else environment)
        variables |= {**(more or {}), CLUSTER_VARIABLE: str(connection_file)}
        # What a program prints should be in its log when it dies, not in a buffer of the dead.
        variables.setdefault("PYTHONUNBUFFERED", "1")
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=directory or None,
                env=variables,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                preexec_fn=functools.partial(die_with_parent, os.getpid()),
            )
        except OSError as error:
            raise ClusterError(
                f"the program cannot be run: {error.strerror}: {error.filename or command[0]}\n"
                f"command:   {' '.join(command)}\ndirectory: {directory or Path.cwd()}",
                code="HPC-PROGRAM-START",
            ) from error
        finally:
            os.close(descriptor)
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        code = self._process.returncode
        return 128 - code if code is not None and code < 0 else code

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        await self._process.wait()
        code = self.exit_code
        assert code is not None
        return code

    async def end(self, grace: float) -> int:
        """End it and everything in its process group: politely, and after ``grace`` seconds for certain. Idempotent."""
        if self._process.returncode is None:
            self._signal_group(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._process.wait()
            # What the program itself has left running goes, too.
            self._signal_group(signal.SIGKILL)
        return await self.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        # The group's number is our child's process id, just now or a moment ago: never one that `kill` reads as
        # "everything", and not yet another's.
        if self._process.pid > 1:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
