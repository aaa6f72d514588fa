"""Runs commands on another host: all that does not depend on which library speaks SSH.

A runner keeps one connection, a `Link`, which all commands share. A server allows so many commands at once on one connection
(sshd_config(5), MaxSessions, 10 as a rule); for more, further connections are made, one at a time. A connection is dropped
when it is lost, and the next command makes a new one.

A library's half, a `Link`, opens sessions and tells a `Session` what comes of them; it decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import shlex
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from hpccluster.backend.dialect import CommandResult
from hpccluster.backend.remote import RemoteTarget
from hpccluster.backend.runner import OUTPUT_TIME, TAIL_LIMIT, Runner, RunningCommand, last_lines
from hpccluster.errors import BackendUnavailable, CommandFailed, LogsUnavailable
from hpccluster_ssh import refusals
from hpccluster_ssh.command_line import GO, MISSING, end_command, remote_command
from hpccluster_ssh.hop import MAX_JUMPS, Hop

SESSIONS = 10
"""Commands at once on one connection, as servers have it unless they are told otherwise."""
START_TIME = 60.0
"""Seconds for a log-in shell to get as far as our command: start files on a slow file system take long."""
END_TIME = 5.0
"""Seconds to spend on ending a command that nobody waits for any more."""
MAX_LOSSES = 3
"""Connections in a row that may break before they were of any use."""
GREETING_LIMIT = 64 * 1024
"""Bytes that a log-in shell may print before our command begins."""

LOCALE: Mapping[str, str | None] = {"LC_ALL": "C", "LANGUAGE": "C"}
UNKNOWN_SIGNAL = 99
"""For signals that have no name in SSH (RFC 4254, 6.10)."""


class LinkFull(Exception):
    """The server opens no more sessions on this connection; the message is its own."""


class LinkLost(Exception):
    """The connection was lost before anything was asked of the server."""


class Pipe(ABC):
    """The way to a command's standard input."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Returns when more may be written, or when nobody reads any more."""

    @abstractmethod
    def write_eof(self) -> None:
        """Never blocks; after what was written. May come more than once."""

    @abstractmethod
    def abort(self) -> None:
        """Give the session up; `Session.closed` follows. Never blocks; may come more than once."""


class Link(ABC):
    """One connection to the host."""

    def __init__(self, lost: Callable[[Link], None]) -> None:
        self.room = SESSIONS
        """Sessions that the server may still open."""
        self.sessions = 0
        self.is_lost = False
        self.is_proven = False
        """A session was opened on it: it is not the server's rule to open none."""
        self.tunnels: dict[tuple[bool, str, int], asyncio.Task[int]] = {}
        """Ports of loopback, by the host and port at the other end to which they lead; true: to our end."""
        self._tell_lost = lost

    @abstractmethod
    async def open(self, command: str, session: Session) -> Pipe:
        """Start a command. Raises `LinkFull` or `LinkLost`: nothing was started; `CommandFailed` where that is not known."""

    async def tunnel(self, name: str, host: str, port: int, *, to_us: bool) -> int:
        """A port of loopback that leads to this host and port at the other end: from there to us, or from here.

        ``name``: the host, for errors. Raises `BackendUnavailable`.
        """
        raise refusals.no_tunnel(name, "this runner forwards no ports: use runner='asyncssh'")

    @abstractmethod
    async def close(self) -> None:
        """End the connection and what hangs on it; bounded, idempotent."""

    def set_lost(self) -> None:
        """Called by the library's half, in the loop."""
        if not self.is_lost:
            self.is_lost = True
            self._tell_lost(self)


class Session(RunningCommand):
    """A command on the host, from the log-in shell's first word to its end. A `Link` tells it what happens, in the loop."""

    def __init__(
        self, host: str, argv: Sequence[str], output: Callable[[bytes], None], errors: Callable[[bytes], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.host = host
        self.what = shlex.join(argv[:2]) + (" ..." if len(argv) > 2 else "")
        self.command = argv[0]
        self.token = secrets.token_hex(12)
        self.pid: int | None = None
        self.begun: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        """The server holds nothing of it any more."""
        self.pipe: Pipe | None = None
        self._output, self._errors = output, errors
        self._greeting, self._complaint = bytearray(), bytearray()
        self._complaining = True
        self._code: int | None = None
        self._heard = loop.time()
        for future in (self.begun, self.ended):
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody need ask

    # --------------------------------------------------------------------------------------------------- for who runs it

    async def write(self, data: bytes) -> None:
        assert self.pipe is not None
        if not self.ended.done():
            await self.pipe.write(data)

    async def wait(self) -> int:
        return await asyncio.shield(self.ended)

    def close(self) -> None:
        assert self.pipe is not None
        self.pipe.write_eof()

    # ------------------------------------------------------------------------------------------------ told by the library

    def received(self, data: bytes) -> None:
        """From its standard output."""
        self._heard = asyncio.get_running_loop().time()
        if self.begun.done():
            if not self.ended.done():
                self._output(data)
            return
        self._greeting += data
        before, found, after = bytes(self._greeting).partition(f"{self.token} ".encode())
        if found and b"\n" in after:
            word, _, rest = after.partition(b"\n")
            self._greeting = bytearray(before)
            self._begin(word.decode(errors="replace"))
            if rest:
                self.received(rest)
        elif len(self._greeting) > GREETING_LIMIT:
            self._refuse(refusals.no_shell(self.host, f"{GREETING_LIMIT} bytes of greetings", None))

    def received_error(self, data: bytes) -> None:
        """From its standard error."""
        if self._complaining:
            self._complaint += data
            before, found, data = bytes(self._complaint).partition(f"{self.token}\n".encode())
            self._complaint = bytearray(before[-GREETING_LIMIT:])
            self._complaining = not found
        if data:
            self._errors(data)

    def exited(self, code: int) -> None:
        """It has ended, with that code (negative: a signal). Output may still come."""
        self._code = code
        self._heard = asyncio.get_running_loop().time()
        self._drain()

    def exited_by_signal(self, name: str) -> None:
        """It was ended by a signal of that name (``KILL``)."""
        number = getattr(signal, f"SIG{name}", None)
        self.exited(-int(number) if isinstance(number, signal.Signals) else -UNKNOWN_SIGNAL)

    def closed(self, said: str = "") -> None:
        """The session is over; ``said``: what went wrong with the connection."""
        if not self.over.done():
            self.over.set_result(None)
        if not self.begun.done():
            if self._code is None:
                self._refuse(refusals.lost(self.host, self.what, said))
            else:
                heard = (self._greeting + self._complaint).decode(errors="replace")
                self._refuse(refusals.no_shell(self.host, heard, self._code))
        if self._code is None and not self.ended.done():
            self.ended.set_exception(refusals.lost(self.host, self.what, said or "it was closed"))
        self._end()

    def _begin(self, word: str) -> None:
        kind, _, path = word.partition(" ")
        if kind == MISSING:
            self._refuse(refusals.missing_command(self.host, self.command, path))
        elif kind.isascii() and kind.isdigit() and int(kind) > 1:
            self.pid = int(kind)
            self.begun.set_result(None)
        else:
            self._refuse(refusals.no_shell(self.host, word, None))

    def _refuse(self, error: BackendUnavailable | CommandFailed) -> None:
        self.begun.set_exception(error)

    def _drain(self) -> None:
        """End when no more output comes: a slow network may still carry much of it."""
        loop = asyncio.get_running_loop()
        if not self.ended.done():
            if loop.time() - self._heard < OUTPUT_TIME:
                loop.call_at(self._heard + OUTPUT_TIME + 0.01, self._drain)
            else:
                self._end()

    def _end(self) -> None:
        if not self.ended.done() and self._code is not None:
            self.ended.set_result(self._code)
        if self.pipe is not None:
            self.pipe.abort()


class SshRunner(Runner):
    """What both runners are. A subclass makes the connection."""

    def __init__(self, target: RemoteTarget) -> None:
        self.target = target
        self._links: list[Link] = []
        self._connecting: asyncio.Task[Link] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @abstractmethod
    async def connect(self, lost: Callable[[Link], None]) -> Link:
        """Make a connection. Raises `BackendUnavailable`; bounded by the target's times."""

    @abstractmethod
    def resolve(self, target: RemoteTarget) -> Hop:
        """The target with what the configuration file says of it; reads files. Raises `BackendUnavailable`."""

    def first_host(self) -> str:
        hop = self.resolve(self.target)
        for _ in range(MAX_JUMPS):
            if not hop.jumps:
                break
            hop = self.resolve(hop.jumps[0])
        return hop.host

    # -------------------------------------------------------------------------------------------------------- what it runs

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        environment: Mapping[str, str | None] | None = None,
        timeout: float = 60.0,
    ) -> CommandResult:
        out, err = bytearray(), bytearray()
        code = await self._run(argv, stdin, {**LOCALE, **(environment or {})}, timeout, out, err)
        return CommandResult(tuple(argv), code, out.decode(errors="replace"), err.decode(errors="replace"))

    async def _run(
        self,
        argv: Sequence[str],
        stdin: str | None,
        changes: Mapping[str, str | None],
        timeout: float,
        out: bytearray,
        err: bytearray,
    ) -> int:
        session = Session(self.target.name, argv, out.extend, err.extend)
        command = remote_command(argv, changes, token=session.token, merge=False)
        await self._ready()
        try:
            async with asyncio.timeout(timeout):
                await self._open(command, session)
                await asyncio.shield(session.begun)
                await session.write(GO + (stdin or "").encode())
                session.close()
                return await session.wait()
        except TimeoutError:
            await self._kill(session)
            raise CommandFailed(
                f"{self.target.name}: {argv[0]} did not end within {timeout:g} s and was killed; "
                "it may have done its work all the same",
                code="HPC-COMMAND-TIMEOUT",
                details={"command": argv[0], "host": self.target.name},
            ) from None
        except asyncio.CancelledError:
            await self._kill(session)
            raise
        finally:
            if session.pipe is not None:
                session.pipe.abort()

    async def start(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str | None] | None = None,
        output: Callable[[bytes], None],
    ) -> RunningCommand:
        session = Session(self.target.name, argv, output, lambda _: None)
        command = remote_command(argv, environment or {}, token=session.token, merge=True)
        await self._ready()
        try:
            async with asyncio.timeout(START_TIME):
                await self._open(command, session)
                await asyncio.shield(session.begun)
                await session.write(GO)
                return session
        except BaseException as error:
            if session.pipe is not None:
                session.pipe.abort()
            if not isinstance(error, TimeoutError):
                raise
            raise CommandFailed(
                f"{self.target.name}: {argv[0]} was not started within {START_TIME:g} s",
                code="HPC-COMMAND-TIMEOUT",
                details={"command": argv[0], "host": self.target.name},
            ) from None

    async def forward(self, host: str, port: int) -> int:
        return await self._tunnel((host, port), to_us=True)

    async def reach(self, host: str, port: int) -> int:
        return await self._tunnel((host, port), to_us=False)

    async def _tunnel(self, place: tuple[str, int], *, to_us: bool) -> int:
        link = self._links[0] if self._links else await self._ready()
        tunnel = link.tunnels.get((to_us, *place))
        if tunnel is None:
            tunnel = link.tunnels[to_us, *place] = self._spawn(link.tunnel(self.target.name, *place, to_us=to_us))
        try:
            return await asyncio.shield(tunnel)
        except BackendUnavailable:
            link.tunnels.pop((to_us, *place), None)
            raise

    async def read_tail(self, path: str, lines: int | None = None) -> str:
        name = f"./{path}" if path.startswith("-") else path
        reader = ["cat", "--", name] if lines is None else ["tail", "-c", str(TAIL_LIMIT), "--", name]
        result = await self.run(reader)
        if result.returncode == 0:
            return last_lines(result.stdout, lines)
        problem = result.stderr.strip().rpartition(": ")[2] or f"{reader[0]} ended with {result.returncode}"
        if problem == "No such file or directory":
            raise FileNotFoundError(2, problem, f"{self.target.name}:{path}")
        raise LogsUnavailable(
            f"{self.target.name}:{path}: {problem}", code="HPC-LOGS-UNREADABLE", details={"path": path}
        )

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        links, self._links = self._links, []
        await asyncio.gather(*(link.close() for link in links))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_TIME)

    # ------------------------------------------------------------------------------------------------------- connections

    async def _open(self, command: str, session: Session) -> None:
        """Open a session on a connection that has room for it, a new one if need be."""
        losses = 0
        while True:
            link = await self._ready()
            link.sessions += 1
            opening = self._spawn(link.open(command, session))
            opening.add_done_callback(functools.partial(self._opened, link, session))
            try:
                session.pipe = await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.add_done_callback(_abort)
                raise
            except LinkFull as error:
                link.room = link.sessions
                if link.room == 0:
                    self._drop(link)
                    self._spawn(link.close())
                    if not link.is_proven:
                        raise refusals.no_sessions(self.target.name, str(error)) from None
            except LinkLost:
                link.set_lost()
                losses += 1
                if losses >= MAX_LOSSES:
                    raise refusals.lost(self.target.name, session.what, "again and again") from None
            else:
                return

    def _opened(self, link: Link, session: Session, opening: asyncio.Task[Pipe]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            self._release(link)
        else:
            link.is_proven = True
            session.over.add_done_callback(lambda _: self._release(link))

    async def _ready(self) -> Link:
        """A connection with room for one more session."""
        while True:
            for link in self._links:
                if link.sessions < link.room:
                    return link
            if self._connecting is None:
                self._connecting = self._spawn(self._connect())
            connecting = self._connecting
            await asyncio.wait([connecting])  # who is cancelled leaves it to the others
            if connecting.cancelled():
                raise BackendUnavailable(f"{self.target.name}: the runner was closed", code="HPC-SSH-UNREACHABLE")
            connecting.result()

    async def _connect(self) -> Link:
        try:
            link = await self.connect(self._drop)
        finally:
            self._connecting = None
        if not link.is_lost:
            self._links.append(link)
        return link

    def _drop(self, link: Link) -> None:
        if link in self._links:
            self._links.remove(link)

    def _release(self, link: Link) -> None:
        link.sessions -= 1
        if not link.sessions and link in self._links[1:]:  # it was for the rush only
            self._links.remove(link)
            self._spawn(link.close())

    async def _kill(self, session: Session) -> None:
        """End a command by force, if that can be done soon, also while we are being cancelled."""
        if session.pid is None or session.ended.done():
            return

        async def end(pid: int) -> None:
            with contextlib.suppress(BackendUnavailable, CommandFailed, TimeoutError):
                async with asyncio.timeout(END_TIME):
                    await self.run(end_command(pid), timeout=END_TIME)

        ending = self._spawn(end(session.pid))
        while not ending.done():
            try:
                await asyncio.wait([ending])
            except asyncio.CancelledError:
                continue  # a second cancellation; END_TIME bounds this

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task


def _abort(opening: asyncio.Task[Pipe]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()
