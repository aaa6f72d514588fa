"""Runs commands on another host: all that does not depend on which library speaks SSH.

A runner keeps one connection, a `Link`, which all commands share. A server allows so many commands at once on one connection
(sshd_config(5), MaxSessions, 10 as a rule); for more, further connections are made, one at a time. A connection is dropped
when it is lost, and the next command makes a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from hpccluster.backend.dialect import CommandResult
from hpccluster.backend.remote import RemoteTarget
from hpccluster.backend.runner import TAIL_LIMIT, Runner, RunningCommand, last_lines
from hpccluster.errors import BackendUnavailable, CommandFailed, LogsUnavailable
from hpccluster_ssh import refusals
from hpccluster_ssh.command_line import GO, end_command, remote_command
from hpccluster_ssh.hop import MAX_JUMPS, Hop
from hpccluster_ssh.session import Link, LinkFull, LinkLost, Pipe, Session

START_TIME = 60.0
"""Seconds for a log-in shell to get as far as our command: start files on a slow file system take long."""
END_TIME = 5.0
"""Seconds to spend on ending a command that nobody waits for any more."""
MAX_LOSSES = 3
"""Connections in a row that may break before they were of any use."""

LOCALE: Mapping[str, str | None] = {"LC_ALL": "C", "LANGUAGE": "C"}


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
        session = Session(self.target.name, argv, out.extend, err.extend)
        command = remote_command(argv, {**LOCALE, **(environment or {})}, token=session.token, merge=False)
        await self._ready()
        try:
            async with asyncio.timeout(timeout):
                await self._open(command, session)
                await asyncio.shield(session.begun)
                await session.write(GO + (stdin or "").encode())
                session.close()
                code = await session.wait()
        except TimeoutError:
            await self._kill(session)
            if session.heard is not None:
                raise refusals.no_answer_of_shell(self.target.name, session.command, session.heard, timeout) from None
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
        return CommandResult(tuple(argv), code, out.decode(errors="replace"), err.decode(errors="replace"))

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
            heard = session.heard or ""
            raise refusals.no_answer_of_shell(self.target.name, session.command, heard, START_TIME) from None

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
        losses = 0
        while losses < MAX_LOSSES:
            for link in self._links:
                if link.sessions < link.room:
                    return link
            if self._connecting is None:
                self._connecting = self._spawn(self._connect())
            connecting = self._connecting
            await asyncio.wait([connecting])  # who is cancelled leaves it to the others
            if connecting.cancelled():
                raise BackendUnavailable(f"{self.target.name}: the runner was closed", code="HPC-SSH-UNREACHABLE")
            losses += connecting.result().is_lost
        raise refusals.lost_at_once(self.target.name)

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
