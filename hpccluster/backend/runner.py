"""Runs command lines: here, or (in a plugin) on another host.

A runner must not know what the commands mean. Arguments are a list of words and never pass through a shell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpccluster.backend.dialect import CommandResult
from hpccluster.errors import BackendUnavailable, CommandFailed, LogsUnavailable

TAIL_LIMIT = 4 * 1024 * 1024
"""At most this many bytes of a file are read when its last lines are asked for."""

REAP_TIME = 2.0
"""Seconds to wait for a command that was killed."""

_LOCALE = {"LC_ALL": "C", "LANGUAGE": "C"}


class Runner(ABC):
    """Runs the commands of a batch system and reads the files of its jobs."""

    @abstractmethod
    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        environment: Mapping[str, str | None] | None = None,
        timeout: float = 60.0,
    ) -> CommandResult:
        """Run one command to its end, with messages in English. ``environment``: changes; None removes a variable.

        *Success*: the command has ended, with whatever exit code. *`BackendUnavailable`*: there is no such command, nothing
        was run. *`CommandFailed`*: it did not end in time and was killed; it may have done its work. *After cancellation*: as
        after `CommandFailed`.
        """

    @abstractmethod
    async def read_tail(self, path: str, lines: int | None = None) -> str:
        """The text of a file, or its last ``lines`` lines; nothing is removed.

        Raises `FileNotFoundError` where there is none, `LogsUnavailable` where it cannot be read.
        """

    async def close(self) -> None:
        """Release connections and the like."""


class LocalRunner(Runner):
    """Runs commands on this host. ``environment`` replaces this process's own, where given."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        environment: Mapping[str, str | None] | None = None,
        timeout: float = 60.0,
    ) -> CommandResult:
        variables = dict(os.environ if self._environment is None else self._environment) | _LOCALE
        for name, value in (environment or {}).items():
            if value is None:
                variables.pop(name, None)
            else:
                variables[name] = value
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=variables,
            )
        )
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await _end(await starting)  # it may run already, and nobody else knows it
            raise
        except (FileNotFoundError, PermissionError) as error:
            raise BackendUnavailable(
                f"{argv[0]}: {error.strerror or error} (is it on PATH, and are you on a host that can submit jobs?)",
                code="HPC-BACKEND-COMMAND",
                details={"command": argv[0]},
            ) from error
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate(None if stdin is None else stdin.encode())
        except TimeoutError:
            raise CommandFailed(
                f"{argv[0]} did not end within {timeout:g} s and was killed; it may have done its work all the same",
                code="HPC-COMMAND-TIMEOUT",
                details={"command": argv[0]},
            ) from None
        finally:
            await _end(process)
        assert process.returncode is not None
        return CommandResult(
            tuple(argv), process.returncode, out.decode(errors="replace"), err.decode(errors="replace")
        )

    async def read_tail(self, path: str, lines: int | None = None) -> str:
        return await asyncio.to_thread(read_tail, path, lines)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill and reap what is still running, also while we are being cancelled."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(asyncio.ensure_future(_reap(process)))


async def _reap(process: asyncio.subprocess.Process) -> None:
    # the command may be a wrapper whose child holds the pipes open: some versions of asyncio wait for those, too
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REAP_TIME):
            await process.wait()
    process._transport.close()  # type: ignore[attr-defined]


def read_tail(path: str, lines: int | None = None) -> str:
    """The text of a local file, or its last lines. Raises `FileNotFoundError`, or `LogsUnavailable`."""
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = 0 if lines is None else max(0, size - TAIL_LIMIT)
            file.seek(start)
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LogsUnavailable(
            f"{path}: {error.strerror or error}", code="HPC-LOGS-UNREADABLE", details={"path": path}
        ) from error
    if lines is None:
        return text
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""
