"""What stands between a runner and the library that speaks SSH.

A `Link` is one connection as a library has it: it opens sessions and tells a `Session` what comes of them; it decides nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from hpccluster.backend.runner import OUTPUT_TIME, RunningCommand
from hpccluster.errors import BackendUnavailable, CommandFailed
from hpccluster_ssh import refusals
from hpccluster_ssh.command_line import MISSING

SESSIONS = 10
"""Commands at once on one connection, as servers have it unless they are told otherwise."""
CLOSE_TIME = 5.0
"""Seconds that the end of a connection may take."""
GREETING_LIMIT = 64 * 1024
"""Bytes that a log-in shell may print before our command begins."""
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
        raise refusals.no_tunnel(name)

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

    @property
    def heard(self) -> str | None:
        """What the log-in shell has said, as long as it has not come to our command; None: it has."""
        return None if self.begun.done() else (self._greeting + self._complaint).decode(errors="replace")

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
                self._refuse(refusals.no_shell(self.host, self.heard or "", self._code))
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
