"""The runner that speaks SSH by paramiko, in threads of its own: for sites whose asyncssh is missing or forbidden.

Per connection there are paramiko's thread and one that asks whether the host still answers; per command one that reads, one
more where its errors are kept apart, and one that writes. All are daemons: none keeps a process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import paramiko
from paramiko.common import MSG_CHANNEL_REQUEST

from hpccluster.backend.remote import KEEPALIVE_LIMIT, RemoteTarget
from hpccluster_ssh import refusals
from hpccluster_ssh.hop import MAX_JUMPS, Attempts, Hop
from hpccluster_ssh.known_hosts import Verdict
from hpccluster_ssh.paramiko_settings import find_keys, resolve
from hpccluster_ssh.session import CLOSE_TIME, Link, LinkFull, LinkLost, Pipe, Session
from hpccluster_ssh.ssh_runner import SshRunner

CHUNK = 256 * 1024
OPEN_TIME = 60.0
"""Seconds for a server to open a session; a lost connection is noticed sooner."""
SIGNATURES = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")}
"""The algorithms by which a host proves that it has a key of that type, where they are not named as the type is."""
LOG = "hpccluster.paramiko"
"""What paramiko has to say goes to this logger: everything that matters comes as an error, too."""
# by itself it tells of each host that cannot be reached with a traceback
logging.getLogger(LOG).setLevel(logging.CRITICAL)

Answer = TypeVar("Answer")


class ParamikoRunner(SshRunner):
    """Runs commands on one host by paramiko."""

    async def connect(self, lost: Callable[[Link], None]) -> Link:
        link = ParamikoLink(lost)
        try:
            await _connect(self.target, link)
        except BaseException:
            link.abort()
            raise
        link.watch(self.target.keepalive)
        return link

    def resolve(self, target: RemoteTarget) -> Hop:
        return resolve(target)


def _channel_request(channel: paramiko.Channel, message: paramiko.Message) -> None:
    transport = channel.get_transport()
    kind = message.get_text()
    message.get_boolean()
    told = transport.endings.get(channel.get_id()) if isinstance(transport, _Transport) else None
    if told is not None and kind in ("exit-status", "exit-signal"):
        told(message.get_int() if kind == "exit-status" else message.get_text())
    message.rewind()
    message.get_int()  # the channel
    channel._handle_request(message)  # type: ignore[attr-defined]


class _Transport(paramiko.Transport):
    """Tells when it is over, and how commands end as it hears it: paramiko itself does not tell signals (RFC 4254, 6.10)."""

    def __init__(self, sock: Any, over: Callable[[], None]) -> None:
        super().__init__(sock)
        self.set_log_channel(LOG)
        self.endings: dict[int, Callable[[int | str], None]] = {}
        self._over = over

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._over()

    _channel_handler_table: ClassVar = {
        **paramiko.Transport._channel_handler_table,  # type: ignore[attr-defined]
        MSG_CHANNEL_REQUEST: _channel_request,
    }


class _Thread:
    """A thread that does one thing after the other, made when there is one; it never keeps the process from ending."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._started = False

    def put(self, work: Callable[[], None]) -> None:
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, daemon=True).start()
        self._work.put(work)

    def finish(self) -> None:
        """Let it end after what it has been given."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


class ParamikoLink(Link):
    """A connection, and those to the hosts on the way to it."""

    def __init__(self, lost: Callable[[Link], None]) -> None:
        super().__init__(lost)
        self._loop = asyncio.get_running_loop()
        self.transports: list[_Transport] = []
        self.reason = ""
        """Why it was lost, where we know better than paramiko."""
        self.helper = _Thread()
        self._over = threading.Event()
        self._heard = 0.0

    def add(self, sock: Any) -> _Transport:
        """One more connection; not started. Raises `OSError` where nobody waits for it any more."""
        transport = _Transport(sock, self.over)
        self.transports.append(transport)
        if self._over.is_set():
            sock.close()
            raise OSError("given up")
        return transport

    def post(self, work: Callable[..., object], *args: object) -> None:
        """Have something done in the loop, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is interested any more
            self._loop.call_soon_threadsafe(work, *args)

    async def in_thread(self, work: Callable[[], Answer]) -> Answer:
        """Do something that blocks; after a cancellation it goes on, and nobody hears of it."""
        answer: asyncio.Future[Answer] = self._loop.create_future()

        def tell(error: BaseException | None, value: Answer | None) -> None:
            if not answer.done():
                if error is not None:
                    answer.set_exception(error)
                else:
                    answer.set_result(value)  # type: ignore[arg-type]

        def do() -> None:
            try:
                value = work()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where it was asked for
                self.post(tell, error, None)
            else:
                self.post(tell, None, value)

        threading.Thread(target=do, daemon=True).start()
        return await answer

    async def open(self, command: str, session: Session) -> Pipe:
        pipe = _Pipe(self, session)
        await self.in_thread(lambda: pipe.open(self.transports[-1], command))
        return pipe

    def watch(self, interval: float) -> None:
        """Ask every so often whether the host still answers, and give the connection up when it does not."""
        self._heard = time.monotonic()

        def ask() -> None:
            while not self._over.wait(interval):
                # any answer will do; this returns without one when the connection is over
                with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                    self.transports[-1].global_request("keepalive@openssh.com", wait=True)
                self._heard = time.monotonic()

        def check() -> None:
            if self.is_lost:
                return
            if time.monotonic() - self._heard > interval * KEEPALIVE_LIMIT:
                self.reason = f"the host has not answered for {interval * KEEPALIVE_LIMIT:g} s"
                self.abort()
            else:
                self._loop.call_later(interval / 2, check)

        threading.Thread(target=ask, daemon=True).start()
        check()

    def over(self) -> None:
        """Called in the thread of a transport that has ended."""
        self._over.set()
        self.helper.finish()
        self.post(self.set_lost)

    def abort(self) -> None:
        """Close everything; never blocks."""
        self._over.set()

        def close() -> None:
            for transport in reversed(self.transports):
                with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                    transport.close()

        threading.Thread(target=close, daemon=True).start()

    async def close(self) -> None:
        self.abort()

        def wait() -> None:
            end = time.monotonic() + CLOSE_TIME
            for transport in self.transports:
                transport.join(max(0.0, end - time.monotonic()))

        await self.in_thread(wait)


class _Pipe(Pipe):
    """A channel of paramiko and its threads."""

    def __init__(self, link: ParamikoLink, session: Session) -> None:
        self._link = link
        self._session = session
        self._writer = _Thread()
        self._channel: paramiko.Channel | None = None
        self._told = False

    # ------------------------------------------------------------------------------------------------------ in the loop

    async def write(self, data: bytes) -> None:
        assert self._channel is not None
        channel = self._channel
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def write() -> None:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):  # nobody reads it any more
                channel.sendall(data)
            self._link.post(_resolve, written)

        self._writer.put(write)
        await written

    def write_eof(self) -> None:
        assert self._channel is not None
        channel = self._channel

        def end() -> None:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                channel.shutdown_write()

        self._writer.put(end)

    def abort(self) -> None:
        channel = self._channel
        if channel is not None and not channel.closed:
            # not by the writer, which may be waiting for the window to open
            self._link.helper.put(lambda: _close(channel))

    # ------------------------------------------------------------------------------------------------- in other threads

    def open(self, transport: _Transport, command: str) -> None:
        """Raises as `Link.open` does."""
        session = self._session
        try:
            self._channel = channel = transport.open_session(timeout=OPEN_TIME)
        except paramiko.ChannelException as error:
            raise LinkFull(error.text) from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            if transport.is_active():
                raise LinkFull(str(error)) from None
            raise LinkLost from None
        transport.endings[channel.get_id()] = self._ended
        try:
            channel.exec_command(command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            _close(channel)
            if transport.is_active():
                raise refusals.no_shell(session.host, str(error), None) from None
            raise refusals.lost(session.host, session.what, str(error)) from None
        errors = threading.Thread(target=self._read, args=(channel.recv_stderr, session.received_error), daemon=True)
        errors.start()
        threading.Thread(target=self._follow, args=(transport, channel, errors), daemon=True).start()

    def _ended(self, how: int | str) -> None:
        if not self._told:
            self._told = True
            self._link.post(
                *((self._session.exited, how) if isinstance(how, int) else (self._session.exited_by_signal, how))
            )

    def _read(self, receive: Callable[[int], bytes], tell: Callable[[bytes], None]) -> None:
        with contextlib.suppress(OSError, EOFError):
            while data := receive(CHUNK):
                self._link.post(tell, data)

    def _follow(self, transport: _Transport, channel: paramiko.Channel, errors: threading.Thread) -> None:
        """To the end of the channel."""
        self._read(channel.recv, self._session.received)
        errors.join()
        channel.status_event.wait()  # it has ended, or the channel is closed
        if channel.exit_status != -1:
            self._ended(channel.exit_status)
        transport.endings.pop(channel.get_id(), None)
        self._writer.finish()
        self._link.post(self._session.closed, "" if transport.is_active() else self._link.reason or "it was closed")


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _close(channel: paramiko.Channel) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.close()


# --------------------------------------------------------------------------------------------------------------- connecting


async def _connect(target: RemoteTarget, link: ParamikoLink, depth: int = 0) -> Hop:
    """Connect to the hosts on the way, then to the target."""
    hop = await link.in_thread(lambda: resolve(target))
    via: Hop | None = None
    for jump in hop.jumps:
        if depth >= MAX_JUMPS:
            raise refusals.unusable(
                target.name, f"more than {MAX_JUMPS} hosts on the way (does ProxyJump go in a circle?)"
            )
        via = await _connect(jump, link, depth + 1)
    try:
        async with asyncio.timeout(target.connect_timeout):
            await link.in_thread(lambda: _log_in(hop, link))
    except TimeoutError:
        raise refusals.no_answer(hop, via) from None
    except paramiko.ChannelException as error:
        raise refusals.unreachable(hop, error.text, via) from None
    except paramiko.ProxyCommandFailure as error:
        raise refusals.unreachable(hop, error.error, via) from None
    except (paramiko.SSHException, EOFError) as error:
        raise refusals.unreachable(hop, str(error) or "the server closed the connection", via) from None
    except OSError as error:
        raise refusals.unreachable(hop, error, via) from None
    return hop


def _log_in(hop: Hop, link: ParamikoLink) -> None:
    seconds = hop.target.connect_timeout
    known = hop.known()
    transport = link.add(_socket(hop, link))
    transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = seconds
    options = transport.get_security_options()
    first = [name for kind in known.kinds for name in SIGNATURES.get(kind, (kind,)) if name in options.key_types]
    options.key_types = (*first, *(name for name in options.key_types if name not in first))
    transport.start_client(timeout=seconds)
    key = transport.get_remote_server_key()
    if known.judge(key.asbytes())[0] is not Verdict.KNOWN:
        raise refusals.host_key(hop, known, key.get_name(), key.asbytes())
    attempts = Attempts()
    said = "Permission denied"
    with find_keys(hop, attempts) as keys:
        attempts.waiting = [name for name, _ in keys]
        for name, private in keys:
            try:
                more = transport.auth_publickey(hop.user, private)
            except paramiko.BadAuthenticationType as error:
                said, attempts.offered = "Permission denied", list(error.allowed_types)
                break
            except paramiko.AuthenticationException as error:
                said = str(error)
            else:
                if not more:
                    return
                said = f"also needs {' or '.join(more)}"
            attempts.refuse(name)
            if not transport.is_active():
                said = "it has closed the connection" if attempts.waiting else said
                break
    raise refusals.not_logged_in(hop, said, attempts)


class _ProxyCommand(paramiko.ProxyCommand):
    """A command as the way to a host. paramiko's own goes on reading, without a pause, when the command has ended."""

    def recv(self, size: int) -> bytes:
        assert self.process.stdout is not None
        output = self.process.stdout.fileno()
        if not select.select([output], [], [], self.timeout)[0]:
            raise TimeoutError
        if data := os.read(output, size):
            return data
        raise self._failed()

    def send(self, content: Any) -> int:
        try:
            return super().send(content)
        except paramiko.ProxyCommandFailure:
            raise self._failed() from None

    def close(self) -> None:
        self.process.terminate()

    def _failed(self) -> paramiko.ProxyCommandFailure:
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)  # what it has started may hold it open
        said = self.process.stderr.read() or b""
        return paramiko.ProxyCommandFailure(self.cmd[0], said.decode(errors="replace").strip() or "it has ended")


def _socket(hop: Hop, link: ParamikoLink) -> Any:
    """What the connection goes over: the last one that was made, a command, or the network."""
    seconds = hop.target.connect_timeout
    if link.transports:
        return link.transports[-1].open_channel("direct-tcpip", (hop.host, hop.port), ("127.0.0.1", 0), timeout=seconds)
    if hop.proxy_command:
        return _ProxyCommand(hop.proxy_command)
    return socket.create_connection((hop.host, hop.port), timeout=seconds)
