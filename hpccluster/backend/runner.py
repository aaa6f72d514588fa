"""Runs command lines: here, or (in a plugin) on another host.

A runner must not know what the commands mean. Arguments are a list of words and never pass through a shell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from hpccluster.backend.dialect import CommandResult
from hpccluster.errors import BackendUnavailable, CommandFailed, LogsUnavailable

TAIL_LIMIT = 4 * 1024 * 1024
"""At most this many bytes of a file are read when its last lines are asked for."""

REAP_TIME = 2.0
"""Seconds to wait for a command that was killed."""

OUTPUT_TIME = 2.0
"""Seconds that output may still come after a command has ended: a child that it left behind may hold its output open."""

LEFT_OPEN_TIME = 0.3
"""The same for a command whose output is its answer: what it wrote itself is there when it ends. (A command that starts a
daemon, the first `tsp` for one: uvloop lets it inherit a second, hidden copy of each pipe, which no daemon closes.)"""

_LOCALE = {"LC_ALL": "C", "LANGUAGE": "C"}


class RunningCommand(ABC):
    """A command that goes on; made by `Runner.start`. It lives for as long as it likes: nobody ends it but itself."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Put bytes into its standard input; waits while it does not read them. Nothing happens once it has ended."""

    @abstractmethod
    async def wait(self) -> int:
        """Its exit code once it has ended and its output has been told; negative: the number of the signal that ended it.

        *`CommandFailed`* with the code ``HPC-CONNECTION-LOST``: the way to it is lost; it may still run.
        *After cancellation*: nothing has changed. May be called by several, any time.
        """

    @abstractmethod
    def close(self) -> None:
        """End its standard input and let go of it: `wait` still tells its end, if anybody asks. Idempotent."""


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
    async def start(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str | None] | None = None,
        output: Callable[[bytes], None],
    ) -> RunningCommand:
        """Start a command that goes on, with a pipe as its standard input. ``environment`` as in `run`.

        What it writes to its standard output and error is given to ``output`` as it comes, in this loop.
        *Success*: it has been started. *`BackendUnavailable`*: nothing was started. *`CommandFailed`*: the way to it was lost or
        too slow; *after that and after cancellation*: it may have been started, and reads the end of its standard input.
        """

    @abstractmethod
    async def read_tail(self, path: str, lines: int | None = None) -> str:
        """The text of a file, or its last ``lines`` lines; nothing is removed.

        Raises `FileNotFoundError` where there is none, `LogsUnavailable` where it cannot be read.
        """

    async def forward(self, host: str, port: int) -> int:
        """The port of loopback, where the commands run, that leads to this port as seen from here; for commands to come.

        It lasts as long as the connection. Raises `BackendUnavailable` where there is no such thing.
        """
        raise BackendUnavailable("this runner cannot forward ports", code="HPC-SSH-TUNNEL")

    async def reach(self, host: str, port: int) -> int:
        """The port of loopback, here, that leads to this port as seen from where the commands run.

        As of `forward`.
        """
        raise BackendUnavailable("this runner cannot forward ports", code="HPC-SSH-TUNNEL")

    def first_host(self) -> str:
        """Name or address of the host that it connects to first, its gateway where there is one; empty for this host.

        Connects to nothing; may read files. Raises `BackendUnavailable` where they make no sense.
        """
        return ""

    async def close(self) -> None:
        """Release connections and the like. Started commands that still run read the end of their standard input."""


class LocalRunner(Runner):
    """Runs commands on this host. ``environment`` replaces this process's own, where given."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment
        self._started: set[LocalCommand] = set()

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        environment: Mapping[str, str | None] | None = None,
        timeout: float = 60.0,
    ) -> CommandResult:
        said = {1: bytearray(), 2: bytearray()}
        command = await self._spawn(
            lambda: LocalCommand(lambda fd, data: said[fd].extend(data), output_time=LEFT_OPEN_TIME),
            argv,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            environment=self._variables(environment, _LOCALE),
            dies=True,
        )
        try:
            async with asyncio.timeout(timeout):
                if stdin is not None:
                    await command.write(stdin.encode())
                    command.close()
                code = await command.wait()
        except TimeoutError:
            raise CommandFailed(
                f"{argv[0]} did not end within {timeout:g} s and was killed; it may have done its work all the same",
                code="HPC-COMMAND-TIMEOUT",
                details={"command": argv[0]},
            ) from None
        finally:
            await command.end()
        out, err = (bytes(said[fd]).decode(errors="replace") for fd in (1, 2))
        return CommandResult(tuple(argv), code, out, err)

    async def start(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str | None] | None = None,
        output: Callable[[bytes], None],
    ) -> RunningCommand:
        command = await self._spawn(
            lambda: LocalCommand(lambda _, data: output(data), output_time=OUTPUT_TIME),
            argv,
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            environment=self._variables(environment, {}),
            dies=False,
        )
        self._started.add(command)
        command.ended.add_done_callback(lambda _: self._started.discard(command))
        return command

    async def _spawn(
        self,
        protocol: Callable[[], LocalCommand],
        argv: Sequence[str],
        *,
        stdin: int,
        stderr: int,
        environment: Mapping[str, str],
        dies: bool,
    ) -> LocalCommand:
        """*After cancellation* what may have been started reads the end of its input, and is ended if ``dies``."""
        starting = asyncio.ensure_future(
            asyncio.get_running_loop().subprocess_exec(
                protocol, *argv, stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=stderr, env=environment
            )
        )
        try:
            return (await asyncio.shield(starting))[1]
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                command = (await starting)[1]  # it may run already, and nobody else knows it
                command.close()
                if dies:
                    await command.end()
            raise
        except (FileNotFoundError, PermissionError) as error:
            raise _not_runnable(argv[0], error) from error

    async def read_tail(self, path: str, lines: int | None = None) -> str:
        return await asyncio.to_thread(read_tail, path, lines)

    async def close(self) -> None:
        for command in self._started:
            command.close()

    def _variables(self, changes: Mapping[str, str | None] | None, fixed: Mapping[str, str]) -> dict[str, str]:
        variables = {**(os.environ if self._environment is None else self._environment), **fixed, **(changes or {})}
        return {name: value for name, value in variables.items() if value is not None}


class LocalCommand(RunningCommand, asyncio.SubprocessProtocol):
    """A process of this host, as its loop tells of it."""

    def __init__(self, output: Callable[[int, bytes], None], *, output_time: float) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = loop.create_future()
        self._output = output
        self._output_time = output_time
        self._exited = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._process: asyncio.SubprocessTransport | None = None
        self._input: asyncio.WriteTransport | None = None

    async def write(self, data: bytes) -> None:
        if self._input is not None and not self._input.is_closing():
            self._input.write(data)
        await self._writable.wait()

    async def wait(self) -> int:
        return await asyncio.shield(self.ended)

    def close(self) -> None:
        if self._input is not None:
            self._input.close()

    async def end(self) -> None:
        """Kill and reap it if it still runs, also while we are being cancelled."""
        if not self.ended.done():
            await asyncio.shield(asyncio.ensure_future(self._kill()))

    async def _kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REAP_TIME):
                await self._exited.wait()
        self._process.close()  # its output may be held open by a child that it left behind

    # ------------------------------------------------------------------------------------------------ called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclasses
        self._process = cast(asyncio.SubprocessTransport, transport)
        self._input = cast(asyncio.WriteTransport, self._process.get_pipe_transport(0))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._output(fd, data)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 0:
            self._writable.set()  # nobody reads it any more

    def process_exited(self) -> None:
        self._writable.set()
        self._exited.set()
        asyncio.get_running_loop().call_later(self._output_time, self._end)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()  # it has ended, and its output too

    def _end(self) -> None:
        if self._process is None or self.ended.done():
            return
        code = self._process.get_returncode()
        assert code is not None
        self._process.close()
        self.ended.set_result(code)


def _not_runnable(command: str, error: OSError) -> BackendUnavailable:
    return BackendUnavailable(
        f"{command}: {error.strerror or error} (is it on PATH, and are you on a host that can submit jobs?)",
        code="HPC-BACKEND-COMMAND",
        details={"command": command},
    )


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
    return last_lines(text, lines)


def last_lines(text: str, lines: int | None) -> str:
    """The last ``lines`` lines of a text; None: all of it."""
    if lines is None:
        return text
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""
