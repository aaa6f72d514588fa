"""The side that connects: from addresses to a channel whose peer has said `Welcome`, or to an error that says why not."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Generic, TypeVar

import msgspec

from hpccluster.comm import tcp
from hpccluster.comm.address import Address, parse_address
from hpccluster.comm.channel import Channel
from hpccluster.comm.data import DataConnection
from hpccluster.comm.tls import Security
from hpccluster.comm.transport import Link
from hpccluster.errors import (
    CommError,
    CredentialError,
    HandshakeFailed,
    HpcClusterError,
    PeerLost,
    RemoteProtocolError,
)
from hpccluster.protocol import handshake
from hpccluster.protocol.framing import MAGIC, FrameBuffer, Kind
from hpccluster.protocol.handshake import Identity
from hpccluster.protocol.messages import Hello, Purpose, Refused, Role, Welcome

C = TypeVar("C", Channel, DataConnection)
Make = Callable[[Link, FrameBuffer, Hello, Welcome], C]

SCHEDULER_ONLY = frozenset({Role.SCHEDULER})
HOLDERS = frozenset({Role.WORKER, Role.SCHEDULER})


NOBODY_LISTENS = "nobody_listens"
"""Detail of a `PeerLost`: each host was reached, and says that no process listens there."""

REFUSED = "(ECONNREFUSED)"


async def connect(
    addresses: str | Sequence[str], hello: Hello, security: Security | None, *, timeout: float = 10.0
) -> Channel:
    """A control channel to the scheduler at the first of ``addresses`` that answers.

    After success the peer has proven to be this cluster's scheduler, and has welcomed us. Raises `PeerLost` (nobody
    there: lists each address and why), `HandshakeFailed` or `VersionMismatch` (turned away, or a stranger),
    `CredentialError` (our credential does not do), or whatever error the scheduler refuses with. After an error or a
    cancellation nothing is left open.
    """
    hello = _complete(hello, Purpose.CONTROL, security)

    def make(link: Link, frames: FrameBuffer, hello: Hello, welcome: Welcome) -> Channel:
        return Channel(link, frames, hello=hello, welcome=welcome)

    return await _connect(addresses, hello, security, timeout, SCHEDULER_ONLY, make)


async def connect_data(
    addresses: str | Sequence[str],
    hello: Hello,
    security: Security | None,
    *,
    timeout: float = 10.0,
    listener_roles: frozenset[Role] = HOLDERS,
) -> DataConnection:
    """A data connection to whoever holds data; ``listener_roles`` are the certificates that may listen there.

    Errors are those of `connect`.
    """
    hello = _complete(hello, Purpose.DATA, security)

    def make(link: Link, frames: FrameBuffer, hello: Hello, welcome: Welcome) -> DataConnection:
        return DataConnection(link, frames, hello=hello, welcome=welcome)

    return await _connect(addresses, hello, security, timeout, listener_roles, make)


def _complete(hello: Hello, purpose: Purpose, security: Security | None) -> Hello:
    """What every process says in the same way need not be filled in by each caller."""
    return msgspec.structs.replace(
        hello,
        purpose=purpose,
        cluster=hello.cluster or (security.cluster if security else ""),
        host=hello.host or socket.gethostname(),
        pid=hello.pid or os.getpid(),
        versions=handshake.own_versions() | hello.versions,
    )


async def _connect(
    addresses: str | Sequence[str],
    hello: Hello,
    security: Security | None,
    timeout: float,
    roles: frozenset[Role],
    make: Make[C],
) -> C:
    texts = [addresses] if isinstance(addresses, str) else list(addresses)
    candidates = [_fitting(parse_address(text), security) for text in texts]
    if not candidates:
        raise PeerLost("there is no address to connect to", code="HPC-NET-UNREACHABLE")
    failures: list[str] = []
    refusals: list[HpcClusterError] = []
    share = timeout / len(candidates)
    try:
        async with asyncio.timeout(timeout), aclosing(tcp.dial(candidates, failures)) as sockets:
            async for address, sock in sockets:
                failures.append(f"{address}: connected, but no answer to our hello")  # unless more can be said
                try:
                    async with asyncio.timeout(share):
                        return await _greet(sock, address, hello, security, roles, make)
                except TimeoutError:
                    continue
                except HpcClusterError as error:
                    if error.details.get("refused"):
                        raise  # by one who has proven to be of our cluster, or speaks plain tcp as we do
                    if not isinstance(error, PeerLost):
                        refusals.append(error)
                    failures[-1] = f"{address}: {error.message}"
    except TimeoutError:
        failures.append(f"gave up after {timeout:g} s")
    if refusals:
        raise refusals[0]
    listed = "".join(f"\n  {failure}" for failure in failures)
    raise PeerLost(
        f"cannot connect to the {_who(roles)}:{listed}",
        code="HPC-NET-UNREACHABLE",
        details={NOBODY_LISTENS: all(failure.endswith(REFUSED) for failure in failures)},
    )


def _fitting(address: Address, security: Security | None) -> Address:
    if address.scheme == "tls" and security is None:
        raise CredentialError(
            f"{address} speaks tls, and there is no credential for it\n"
            "  fix: use the cluster's connection file (its path, or the cluster's name)",
            code="HPC-AUTH-NONE",
        )
    if address.scheme == "tcp" and security is not None:
        raise CredentialError(
            f"{address} is plain tcp, but the {security.role} credential is for tls: it would prove nothing there\n"
            "  fix: use the tls:// address, or no credential",
            code="HPC-AUTH-TLS",
        )
    return address


def _who(roles: frozenset[Role]) -> str:
    return " or ".join(sorted(roles))


async def _greet(
    sock: socket.socket,
    address: Address,
    hello: Hello,
    security: Security | None,
    roles: frozenset[Role],
    make: Make[C],
) -> C:
    caller = _Caller(address, hello, security, roles, make)
    loop = asyncio.get_running_loop()
    try:
        _, link = await loop.create_connection(lambda: Link(caller), sock=sock)
    except BaseException:
        sock.close()
        raise
    try:
        caller.begin(link)
        return await caller.answer
    except BaseException:
        caller.answer.cancel()
        link.abort()
        await asyncio.shield(link.wait_lost())
        raise


class _Caller(Generic[C]):
    """The consumer of a link until the peer has said `Welcome` or `Refused`."""

    def __init__(
        self, address: Address, hello: Hello, security: Security | None, roles: frozenset[Role], make: Make[C]
    ) -> None:
        self.answer: asyncio.Future[C] = asyncio.get_running_loop().create_future()
        self._address = address
        self._hello = hello
        self._security = security
        self._roles = roles
        self._make: Make[C] = make
        self._frames = FrameBuffer()
        self._link: Link
        self._wrong_speech = False

    def begin(self, link: Link) -> None:
        self._link = link
        link.peer = str(self._address)
        if self._security is not None:
            link.start_tls(self._security, listening=False)
        else:
            link.write(handshake.encode(self._hello))

    def secured(self, identity: Identity | None) -> None:
        assert self._security is not None
        if identity is None:
            error: HandshakeFailed | None = HandshakeFailed("its certificate names no cluster and role")
        else:
            error = handshake.check_listener(identity, cluster=self._security.cluster, roles=self._roles)
        if error is not None:
            error.message = f"{self._address} is not the {_who(self._roles)} that was looked for: {error.message}"
            raise error
        self._link.write(handshake.encode(self._hello))

    def not_tls(self, data: bytes) -> None:
        if not data.startswith(MAGIC[: len(data)]):
            raise _stranger(self._address, data)
        self._wrong_speech = True
        self.received(memoryview(data))

    def received(self, data: memoryview) -> None:
        if len(self._frames) == 0 and data[0] != MAGIC[0]:
            raise _stranger(self._address, bytes(data))
        self._frames.feed(data)
        body = self._frames.take(Kind.HANDSHAKE)
        if body is None:
            return
        match handshake.decode(body):
            case Refused() as message:
                error = handshake.refused(message, str(self._address))
                if self._wrong_speech:  # said by somebody who has proven nothing: another address may do
                    error = HandshakeFailed(f"no tls: {error.message}", code="HPC-AUTH-TLS")
                self._fail(error)
                self._link.abort()
            case Welcome() as welcome if not self._wrong_speech:
                self._welcome(welcome)
            case _:
                raise RemoteProtocolError(f"{self._address} answered our hello with neither welcome nor refused")

    def set_congested(self, congested: bool) -> None:
        """A hello congests nothing."""

    def lost(self, error: CommError | None) -> None:
        self._fail(error or PeerLost(f"{self._address} closed the connection before it had answered"))

    def _fail(self, error: HpcClusterError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def _welcome(self, welcome: Welcome) -> None:
        if self._hello.cluster and welcome.cluster != self._hello.cluster:
            raise handshake.foreign_cluster(welcome.cluster, self._hello.cluster)
        if self.answer.done():  # cancelled
            self._link.abort()
            return
        connection = self._make(self._link, self._frames, self._hello, welcome)
        self._link.consumer = connection
        self.answer.set_result(connection)


def _stranger(address: Address, data: bytes) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"{address} is not a listener of ours: it answered {data[:16]!r}\n  fix: check the port",
        code="HPC-NET-STRANGER",
    )
