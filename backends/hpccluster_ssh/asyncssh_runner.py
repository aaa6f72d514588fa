"""The runner that speaks SSH by asyncssh: no threads, and all of OpenSSH's configuration file that asyncssh understands."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import asyncssh

from hpccluster.backend.remote import KEEPALIVE_LIMIT, RemoteTarget
from hpccluster.errors import BackendUnavailable
from hpccluster_ssh import refusals
from hpccluster_ssh.hop import (
    IDENTITY_FILES,
    MAX_JUMPS,
    Attempts,
    Hop,
    agent_path,
    agent_state,
    agent_time,
    known_hosts_files,
    parse_jumps,
)
from hpccluster_ssh.known_hosts import KnownHost, KnownKey
from hpccluster_ssh.session import CLOSE_TIME, Link, LinkFull, LinkLost, Pipe, Session
from hpccluster_ssh.ssh_runner import SshRunner

HOST_KEYS = "ssh-ed25519,ecdsa-sha2-nistp???,rsa-sha2-256,rsa-sha2-512"
"""Any: a host that has no key of a type that is known is to show what it has."""

# by itself it tells, for each command, the whole of it
logging.getLogger("asyncssh").setLevel(logging.WARNING)


class AsyncsshRunner(SshRunner):
    """Runs commands on one host by asyncssh."""

    async def connect(self, lost: Callable[[Link], None]) -> Link:
        connections: list[asyncssh.SSHClientConnection] = []
        try:
            link = AsyncsshLink(lost, connections)
            await _connect(self.target, link, connections)
        except BaseException:
            for connection in reversed(connections):
                connection.abort()
            raise
        return link

    def resolve(self, target: RemoteTarget) -> Hop:
        return _resolve(target)[0]


class AsyncsshLink(Link):
    """A connection, and those to the hosts on the way to it."""

    def __init__(self, lost: Callable[[Link], None], connections: list[asyncssh.SSHClientConnection]) -> None:
        super().__init__(lost)
        self._connections = connections

    async def open(self, command: str, session: Session) -> Pipe:
        told = _Session(session)
        try:
            await self._connections[-1].create_session(
                lambda: told, command, encoding=None, request_pty=False, x11_forwarding=False, env={}, send_env=()
            )
        except (asyncssh.Error, OSError) as error:
            if not told.is_open:
                raise (LinkLost if self.is_lost else LinkFull)(str(error)) from None
            if isinstance(error, asyncssh.ChannelOpenError) and not self.is_lost:
                raise refusals.no_shell(session.host, error.reason, None) from None
            raise refusals.lost(session.host, session.what, str(error)) from None
        return told

    async def tunnel(self, name: str, host: str, port: int, *, to_us: bool) -> int:
        connection = self._connections[-1]
        try:
            make = connection.forward_remote_port if to_us else connection.forward_local_port
            listener = await make("127.0.0.1", 0, host, port)
        except (asyncssh.Error, asyncssh.ChannelListenError, OSError) as error:
            raise refusals.no_tunnel(name, str(error)) from None
        return listener.get_port()

    async def close(self) -> None:
        for connection in reversed(self._connections):
            connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIME):
                for connection in reversed(self._connections):
                    await connection.wait_closed()
        for connection in self._connections:
            connection.abort()


class _Session(asyncssh.SSHClientSession[bytes], Pipe):
    """What asyncssh tells, handed on."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._writable = asyncio.Event()
        self._writable.set()
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None

    @property
    def is_open(self) -> bool:
        """The server has opened it: what it was asked then may have happened."""
        return self._channel is not None

    async def write(self, data: bytes) -> None:
        assert self._channel is not None
        with contextlib.suppress(OSError):  # nobody reads it any more
            self._channel.write(data)
        await self._writable.wait()

    def write_eof(self) -> None:
        assert self._channel is not None
        with contextlib.suppress(OSError):
            self._channel.write_eof()

    def abort(self) -> None:
        assert self._channel is not None
        self._channel.abort()

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype == asyncssh.EXTENDED_DATA_STDERR:
            self._session.received_error(data)
        else:
            self._session.received(data)

    def eof_received(self) -> bool:
        return True  # it may close its output and go on reading

    def exit_status_received(self, status: int) -> None:
        self._session.exited(status)

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._session.exited_by_signal(signal)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        self._session.closed("" if exc is None else str(exc))


class _Client(asyncssh.SSHClient):
    """What one connection asks of us, and what becomes of it."""

    def __init__(self, link: AsyncsshLink, keys: Sequence[tuple[str, asyncssh.SSHKeyPair]], attempts: Attempts) -> None:
        self._link, self._keys, self._attempts = link, list(keys), attempts
        attempts.waiting = [name for name, _ in keys]
        self._is_used = self._is_over = False
        self.shown: asyncssh.SSHKey | None = None
        """The host key that was not known."""
        self.signer: asyncssh.SSHKey | None = None
        """Who has signed the host key, if that is nobody whom we trust."""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = key
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.signer = key
        return False

    def password_auth_requested(self) -> None:
        self._attempts.offered.append("password")

    def kbdint_auth_requested(self) -> None:
        self._attempts.offered.append("keyboard-interactive")

    def public_key_auth_requested(self) -> asyncssh.SSHKeyPair | None:
        if not self._keys:
            return None
        name, key = self._keys.pop(0)
        self._attempts.refuse(name)  # if it were not, nobody would look
        return key

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        if self._is_used:
            self._link.set_lost()

    def use(self) -> None:
        """The connection was made, and the link stands on it."""
        self._is_used = True
        if self._is_over:
            self._link.set_lost()


async def _connect(
    target: RemoteTarget, link: AsyncsshLink, connections: list[asyncssh.SSHClientConnection], depth: int = 0
) -> Hop:
    """Connect to the hosts on the way, then to the target; ``connections`` gets each that was made."""
    hop, config = await asyncio.to_thread(_resolve, target)
    via: Hop | None = None
    for jump in hop.jumps:
        if depth >= MAX_JUMPS:
            raise refusals.unusable(
                target.name, f"more than {MAX_JUMPS} hosts on the way (does ProxyJump go in a circle?)"
            )
        via = await _connect(jump, link, connections, depth + 1)
    attempts = Attempts()
    try:
        async with asyncio.timeout(target.connect_timeout), _keys(hop, attempts) as keys:
            connections.append(await _make(hop, config, link, keys, attempts, connections[-1] if connections else None))
    except TimeoutError:
        raise refusals.no_answer(hop, via) from None
    except asyncssh.PermissionDenied as error:
        raise refusals.not_logged_in(hop, error.reason, attempts) from None
    except asyncssh.ChannelOpenError as error:
        raise refusals.unreachable(hop, error.reason, via) from None
    except asyncssh.Error as error:
        if "authentication failures" in error.reason:  # more keys than the server cares to see (MaxAuthTries)
            raise refusals.not_logged_in(hop, error.reason, attempts) from None
        raise refusals.unreachable(hop, error.reason, via) from None
    except OSError as error:
        raise refusals.unreachable(hop, error, via) from None
    return hop


def _resolve(target: RemoteTarget) -> tuple[Hop, list[Path]]:
    """The target with what the configuration file says; reads files."""
    config = (
        []
        if target.config_file is None and not Path("~/.ssh/config").expanduser().exists()
        else [Path(target.config_file or "~/.ssh/config").expanduser()]
    )
    try:
        options = asyncssh.SSHClientConnectionOptions(
            host=target.host, port=target.port or (), username=target.user or (), config=config, client_keys=None
        )
        said: Callable[[str], Any] = options.config.get
        files = target.identity_files or said("IdentityFile") or IDENTITY_FILES
        jumps = target.proxy_jump if target.proxy_jump is not None else said("ProxyJump")
        return Hop(
            target=target,
            host=options.host,
            port=options.port,
            user=options.username,
            host_key_alias=options.host_key_alias,
            known_hosts=known_hosts_files(target, said("UserKnownHostsFile"), said("GlobalKnownHostsFile")),
            identity_files=tuple(Path(file).expanduser() for file in files),
            identities_named=bool(target.identity_files or said("IdentityFile")),
            identities_only=bool(said("IdentitiesOnly")),
            agent=agent_path(said("IdentityAgent")),
            jumps=parse_jumps(target, jumps),
            proxy_command=_proxy_command(said("ProxyCommand"), jumps),
        ), config
    except (asyncssh.ConfigParseError, ValueError, OSError) as error:
        raise refusals.unusable(target.name, str(error)) from None


def _proxy_command(configured: str | None, jumps: str | None) -> str | None:
    return None if configured is None or configured == "none" or jumps is not None else configured


async def _make(
    hop: Hop,
    config: Sequence[Path],
    link: AsyncsshLink,
    keys: Sequence[tuple[str, asyncssh.SSHKeyPair]],
    attempts: Attempts,
    tunnel: asyncssh.SSHClientConnection | None,
) -> asyncssh.SSHClientConnection:
    known = hop.known()
    try:
        return await _try(hop, known, config, link, keys, attempts, tunnel)
    except _UnknownSigner:
        # it has shown a certificate, as we said that we take them; let it show its own key, as OpenSSH does
        return await _try(hop, known, config, link, keys, attempts, tunnel, certificates=False)


class _UnknownSigner(Exception):
    """The host key is signed by nobody whom we trust."""


async def _try(
    hop: Hop,
    known: KnownHost,
    config: Sequence[Path],
    link: AsyncsshLink,
    keys: Sequence[tuple[str, asyncssh.SSHKeyPair]],
    attempts: Attempts,
    tunnel: asyncssh.SSHClientConnection | None,
    *,
    certificates: bool = True,
) -> asyncssh.SSHClientConnection:
    authorities = known.authorities if certificates else ()
    client = _Client(link, keys, attempts)
    options: dict[str, Any] = {
        "port": hop.target.port or (),
        "username": hop.target.user or (),
        "config": config,
        "tunnel": tunnel,
        "known_hosts": (_public(known.keys or known.elsewhere), _public(authorities), _public(known.revoked)),
        "client_keys": None,  # `_Client` gives them one by one
        "client_factory": lambda: client,
        "connect_timeout": None,
        "login_timeout": hop.target.connect_timeout,
        "keepalive_interval": hop.target.keepalive,
        "keepalive_count_max": KEEPALIVE_LIMIT,
        "agent_forwarding": False,
        "x11_forwarding": False,
    }
    if known.kinds or authorities:
        options["server_host_key_algs"] = f"+{HOST_KEYS}"  # those of the kinds that are known come first
    elif not certificates:
        options["server_host_key_algs"] = HOST_KEYS
    try:
        connection = await asyncssh.connect(hop.target.host, **options)
    except asyncssh.HostKeyNotVerifiable as error:
        if client.signer is not None and certificates:
            raise _UnknownSigner from None
        raise _not_verified(hop, known, client.shown, error.reason) from None
    client.use()
    return connection


def _not_verified(hop: Hop, known: KnownHost, shown: asyncssh.SSHKey | None, said: str) -> BackendUnavailable:
    if shown is not None:
        return refusals.host_key(hop, known, shown.get_algorithm(), shown.public_data)
    if "revoked" in said:
        return refusals.revoked(hop, known.revoked, ("it shows", said))
    return refusals.unreachable(hop, said)


def _public(keys: Sequence[KnownKey]) -> list[asyncssh.SSHKey]:
    found = []
    for key in keys:
        with contextlib.suppress(asyncssh.KeyImportError):  # of a type that asyncssh does not know
            found.append(asyncssh.import_public_key(f"{key.kind} {base64.b64encode(key.data).decode()}"))
    return found


@contextlib.asynccontextmanager
async def _keys(hop: Hop, attempts: Attempts) -> AsyncIterator[list[tuple[str, asyncssh.SSHKeyPair]]]:
    """The keys to try, in order: the files', then the agent's. ``attempts`` gets what cannot be tried."""
    found: dict[bytes, tuple[str, asyncssh.SSHKeyPair]] = {}
    for path in hop.identity_files:
        try:
            for key in await asyncio.to_thread(asyncssh.load_keypairs, [str(path)]):
                found.setdefault(key.public_data, (str(path), key))
        except FileNotFoundError:
            if hop.identities_named:
                attempts.keys.append(f"{path} (there is no such file)")
        except (OSError, ValueError) as error:  # asyncssh's own errors of keys are ValueErrors
            locked = "assphrase" in str(error)
            attempts.keys.append(f"{path} ({'needs a passphrase' if locked else error})")
    async with contextlib.AsyncExitStack() as stack:
        try:
            if not hop.agent:
                raise OSError
            async with asyncio.timeout(agent_time(hop.target)):
                agent = await stack.enter_async_context(asyncssh.connect_agent(hop.agent))
                keys = await agent.get_keys()
        except (OSError, ValueError, EOFError):
            attempts.agent = agent_state(hop.agent)
        else:
            wanted = {data for path in hop.identity_files if (data := _public_half(path))} | found.keys()
            for key in keys:
                if not hop.identities_only or key.public_data in wanted:
                    found.setdefault(key.public_data, (f"agent: {key.get_comment()}", key))
            attempts.agent = "" if keys else "the agent has no keys"
        yield list(found.values())


def _public_half(path: Path) -> bytes | None:
    try:
        return asyncssh.read_public_key(f"{path}.pub").public_data
    except (OSError, asyncssh.KeyImportError):
        return None
