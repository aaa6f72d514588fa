"""A cluster's credentials and a listener that notes what it hears, for tests with real sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from hpccluster.comm.authority import Authority, IssuedCredential
from hpccluster.comm.channel import Channel
from hpccluster.comm.data import DataConnection
from hpccluster.comm.listen import Listener, listen
from hpccluster.comm.tls import Security
from hpccluster.errors import CommError, HpcClusterError
from hpccluster.protocol import handshake
from hpccluster.protocol.handshake import Identity, parse_identity
from hpccluster.protocol.messages import PROTOCOL_VERSION, Hello, Role, Welcome

CLUSTER = "0123456789abcdef0123456789abcdef"
OTHER_CLUSTER = "f" * 32


def security(authority: Authority, role: Role, credential: IssuedCredential | None = None) -> Security:
    """What a process of ``role`` has."""
    credential = credential or authority.issue(role, "test")
    return Security.from_pem(
        ca=authority.ca_pem,
        certificate=credential.certificate_pem,
        key=credential.key_pem,
        role=role,
        cluster=authority.cluster_id,
        origin=f"/state/calm-otter/{role}.json",
    )


def hello(role: Role = Role.CLIENT, **more: Any) -> Hello:
    return Hello(protocol=PROTOCOL_VERSION, role=role, **more)


class Station:
    """A listener, what it has heard, and what became of its channels."""

    def __init__(self) -> None:
        self.listener: Listener
        self.channels: asyncio.Queue[Channel] = asyncio.Queue()
        self.data: asyncio.Queue[DataConnection] = asyncio.Queue()
        self.batches: asyncio.Queue[list[Any]] = asyncio.Queue()
        self.lost: asyncio.Queue[CommError | None] = asyncio.Queue()
        self.connections: list[Channel | DataConnection] = []
        self.hellos: list[Hello] = []
        self.answer: Callable[[Hello], Welcome | HpcClusterError] = lambda _hello: Welcome(
            cluster=CLUSTER, name="peer-1"
        )
        self.starts = True

    @property
    def address(self) -> str:
        return self.listener.addresses[0]

    @property
    def port(self) -> int:
        return self.listener.port

    def admit(self, hello: Hello, _: Identity | None) -> Welcome | HpcClusterError:
        self.hellos.append(hello)
        return self.answer(hello)

    def on_data(self, connection: DataConnection) -> None:
        self.connections.append(connection)
        self.data.put_nowait(connection)

    def on_control(self, channel: Channel) -> None:
        self.connections.append(channel)
        self.channels.put_nowait(channel)
        if self.starts:
            self.start(channel)

    def start(self, channel: Channel, silence_limit: float | None = 30.0) -> None:
        decoder = handshake.incoming(channel.hello.role)
        channel.start(decoder, self.batches.put_nowait, self.lost.put_nowait, silence_limit)


@asynccontextmanager
async def station(security: Security | None, **more: Any) -> AsyncIterator[Station]:
    """A listener on loopback; everything that it still holds is dropped at the end."""
    place = Station()
    place.listener = await listen(
        "127.0.0.1",
        0,
        security,
        admit=place.admit,
        on_control=place.on_control,
        on_data=place.on_data,
        **more,
    )
    try:
        yield place
    finally:
        await place.listener.close()
        for connection in place.connections:
            connection.abort()
            await connection.close()


class Ears:
    """The connecting side's callbacks."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[list[Any]] = asyncio.Queue()
        self.lost: asyncio.Queue[CommError | None] = asyncio.Queue()

    def start(self, channel: Channel, silence_limit: float | None = 30.0) -> None:
        decoder = handshake.outgoing(channel.hello.role)
        channel.start(decoder, self.batches.put_nowait, self.lost.put_nowait, silence_limit)


def inspect_certificate(certificate_pem: str, ca_pem: str) -> tuple[Identity, datetime]:
    """Whose certificate it is and when it expires. Raises `InvalidSignature` where another authority has issued it."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem.encode()))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (identity,) = map(parse_identity, names.get_values_for_type(x509.UniformResourceIdentifier))
    assert identity is not None
    return identity, certificate.not_valid_after_utc


def stranger_context(certificate_and_key: Path | None = None) -> ssl.SSLContext:
    """A client that is not ours and trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificate_and_key is not None:
        context.load_cert_chain(certificate_and_key)
    return context
