"""Who is not let in, and what both sides are told: the TLS matrix, roles, clusters and versions."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpccluster.comm.authority import Authority
from hpccluster.comm.connect import connect, connect_data
from hpccluster.comm.listen import listen
from hpccluster.comm.tls import Security
from hpccluster.errors import (
    CredentialError,
    HandshakeFailed,
    HpcClusterError,
    RemoteProtocolError,
    VersionMismatch,
)
from hpccluster.protocol import handshake
from hpccluster.protocol.framing import FrameBuffer, Kind
from hpccluster.protocol.messages import Hello, Purpose, Refused, Role, Welcome
from support.comm_peers import CLUSTER, OTHER_CLUSTER, hello, security, station, stranger_context

AUTHORITY = Authority(CLUSTER)
HEAD = security(AUTHORITY, Role.SCHEDULER)
CLIENT = security(AUTHORITY, Role.CLIENT)
WORKER = security(AUTHORITY, Role.WORKER)
OTHER = Authority(OTHER_CLUSTER)
NOW = datetime.now(UTC)
DAY = timedelta(days=1)

EXPIRED = AUTHORITY.issue(Role.CLIENT, "old", start=NOW - 3 * DAY, expires=NOW - DAY)
FUTURE = AUTHORITY.issue(Role.CLIENT, "early", start=NOW + DAY, expires=NOW + 2 * DAY)


def trusting(authority: Authority, issuer: Authority, role: Role) -> Security:
    """A credential of ``issuer`` with the CA of ``authority``: its holder trusts us, but is not ours."""
    issued = issuer.issue(role, "x")
    return Security.from_pem(
        ca=authority.ca_pem,
        certificate=issued.certificate_pem,
        key=issued.key_pem,
        role=role,
        cluster=authority.cluster_id,
    )


async def refused(listener: Security | None, caller: Security | None, **more: Any) -> HpcClusterError:
    """Connect in vain: the error, after the checks that hold for each."""
    async with station(listener) as place:
        started = time.monotonic()
        with pytest.raises(HpcClusterError) as error:
            await connect(place.address, hello(**more), caller)
        assert time.monotonic() - started < 1
        assert place.channels.empty()
        assert place.hellos == []
        assert len(str(error.value).splitlines()) <= 3
        return error.value


MATRIX = [
    pytest.param(security(OTHER, Role.CLIENT), HandshakeFailed, "belongs to another cluster", id="other-cluster"),
    pytest.param(security(Authority(CLUSTER), Role.CLIENT), HandshakeFailed, "our CA did not issue", id="earlier-head"),
    pytest.param(
        trusting(AUTHORITY, OTHER, Role.CLIENT), CredentialError, "issued by another cluster's CA", id="foreign-ca"
    ),
    pytest.param(security(AUTHORITY, Role.CLIENT, EXPIRED), CredentialError, "it has expired", id="expired"),
    pytest.param(security(AUTHORITY, Role.CLIENT, FUTURE), CredentialError, "not yet valid", id="future"),
]


@pytest.mark.parametrize(("caller", "kind", "words"), MATRIX)
def test_a_wrong_certificate_is_refused_with_the_cause_on_both_sides(
    caller: Security, kind: type[HpcClusterError], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = asyncio.run(refused(HEAD, caller))
    assert type(error) is kind
    assert words in str(error)
    assert "tls://127.0.0.1" in str(error)
    assert caller.origin in str(error)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "turned away a connection from 127.0.0.1" in record.message
    assert "certificate" in record.message


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        (
            security(
                AUTHORITY,
                Role.SCHEDULER,
                AUTHORITY.issue(Role.SCHEDULER, "old", start=NOW - 3 * DAY, expires=NOW - DAY),
            ),
            "has expired",
        ),
        (
            security(
                AUTHORITY, Role.SCHEDULER, AUTHORITY.issue(Role.SCHEDULER, "x", start=NOW + DAY, expires=NOW + 2 * DAY)
            ),
            "is not yet valid",
        ),
        (security(AUTHORITY, Role.CLIENT), "wrong role"),
        (WORKER, "certificate of a worker, not of a scheduler"),
    ],
    ids=["expired", "future", "client", "worker"],
)
def test_a_listeners_certificate_is_checked_too(listener: Security, words: str) -> None:
    error = asyncio.run(refused(listener, CLIENT))
    assert type(error) is HandshakeFailed
    assert words in str(error)


@pytest.mark.parametrize(
    ("caller", "role"), [(CLIENT, Role.WORKER), (CLIENT, Role.NANNY), (CLIENT, Role.SCHEDULER), (WORKER, Role.CLIENT)]
)
def test_a_role_that_the_certificate_does_not_prove_is_refused(caller: Security, role: Role) -> None:
    error = asyncio.run(refused(HEAD, caller, role=role))
    assert type(error) is HandshakeFailed
    assert f"a {caller.role} certificate does not allow to be a {role}" in str(error)


@pytest.mark.parametrize("pair", [(HEAD, CLIENT), (None, None)], ids=["tls", "tcp"])
def test_another_cluster_or_version_is_refused_after_hello(pair: tuple[Security | None, Security | None]) -> None:
    async def check() -> None:
        async with station(pair[0], cluster=CLUSTER) as place:
            with pytest.raises(HandshakeFailed, match=f"belongs to cluster {OTHER_CLUSTER}"):
                await connect(place.address, hello(cluster=OTHER_CLUSTER), pair[1])
            with pytest.raises(VersionMismatch, match="connecting  listening"):
                await connect(place.address, hello(versions={"python": "3.10.1"}), pair[1])
            with pytest.raises(VersionMismatch):
                await connect(place.address, msgspec.structs.replace(hello(), protocol=99), pair[1])
            assert place.hellos == []

    asyncio.run(check())


def test_plain_tcp_on_a_tls_port_is_told_to_use_tls() -> None:
    async def check() -> None:
        async with station(HEAD) as place:
            with pytest.raises(HandshakeFailed, match="this listener speaks tls"):
                await connect(place.address.replace("tls:", "tcp:"), hello(), None)

    asyncio.run(check())


def test_tls_on_a_plain_port_is_told_so() -> None:
    async def check() -> None:
        async with station(None) as place:
            with pytest.raises(HandshakeFailed, match="this listener speaks plain tcp, not tls"):
                await connect(place.address.replace("tcp:", "tls:"), hello(), CLIENT)

    asyncio.run(check())


def test_an_address_and_a_credential_that_do_not_fit_are_not_even_tried() -> None:
    async def check() -> None:
        with pytest.raises(CredentialError, match="there is no credential for it"):
            await connect("tls://127.0.0.1:9", hello(), None)
        with pytest.raises(CredentialError, match="is plain tcp, but the client credential is for tls"):
            await connect("tcp://127.0.0.1:9", hello(), CLIENT)

    asyncio.run(check())


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
@pytest.mark.parametrize("credential", [CLIENT, None], ids=["tls", "tcp"])
def test_another_service_at_the_address_is_named(answer: bytes, credential: Security | None) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        await reader.read()
        writer.close()

    async def check() -> None:
        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(RemoteProtocolError, match=r"is not a listener of ours: it answered b'(SSH|HTTP)"):
                await connect(f"{'tls' if credential else 'tcp'}://127.0.0.1:{port}", hello(), credential)

    asyncio.run(check())


def test_no_data_connections_where_none_are_taken() -> None:
    async def check() -> None:
        listener = await listen(
            "127.0.0.1", 0, HEAD, admit=lambda *_: Welcome(cluster=CLUSTER, name="x"), on_control=lambda _: None
        )
        with pytest.raises(HandshakeFailed, match="no data connections here"):
            await connect_data(listener.addresses, hello(), CLIENT)
        await listener.close()

    asyncio.run(check())


# ------------------------------------------------------------------------------------------- strangers with plain ssl


def call(port: int, context: ssl.SSLContext, message: Hello | None = None) -> bytes:
    """What a blocking TLS client that is not ours gets to read; `ssl.SSLError` if it is an alert."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, context.wrap_socket(plain) as tls:
        if message is not None:
            tls.sendall(handshake.encode(message))
        received = b""
        while piece := tls.recv(4096):
            received += piece
        return received


def test_without_a_certificate_nobody_gets_as_far_as_hello(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        async with station(HEAD) as place:
            with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
                await asyncio.to_thread(call, place.port, stranger_context(), hello())
            assert place.hellos == []

    asyncio.run(check())
    assert "showed no certificate" in caplog.text


def test_a_self_signed_certificate_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pem = tmp_path / "self.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", pem, "-out", tmp_path / "c.pem", "-days", "2",
         "-subj", "/CN=me", "-addext", f"subjectAltName=URI:hpccluster:{CLUSTER}:client:me"],
        check=True, capture_output=True,
    )  # fmt: skip
    pem.write_text(pem.read_text() + (tmp_path / "c.pem").read_text())

    async def check() -> None:
        async with station(HEAD) as place:
            with pytest.raises(ssl.SSLError, match=r"UNKNOWN_CA|BAD_CERTIFICATE"):
                await asyncio.to_thread(call, place.port, stranger_context(pem), hello())
            assert place.hellos == []

    asyncio.run(check())
    assert "our CA did not issue its certificate" in caplog.text


def test_tls_1_2_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = stranger_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def check() -> None:
        async with station(HEAD) as place:
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                await asyncio.to_thread(call, place.port, context, hello())

    asyncio.run(check())
    assert "does not speak TLS 1.3" in caplog.text


def test_a_refusal_after_hello_is_readable_by_anybody_with_a_certificate(tmp_path: Path) -> None:
    issued = AUTHORITY.issue(Role.CLIENT, "me")
    pem = tmp_path / "me.pem"
    pem.write_text(issued.certificate_pem + issued.key_pem)

    async def check() -> None:
        async with station(HEAD) as place:
            worker = Hello(protocol=1, role=Role.WORKER, purpose=Purpose.CONTROL, versions=handshake.own_versions())
            received = await asyncio.to_thread(call, place.port, stranger_context(pem), worker)
            frames = FrameBuffer()
            frames.feed(received)
            body = frames.take(Kind.HANDSHAKE)
            assert body is not None
            message = handshake.decode(body)
            assert isinstance(message, Refused)
            assert message.error == "HandshakeFailed"

    asyncio.run(check())


def test_a_cause_is_logged_once_for_each_host(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        async with station(HEAD) as place:
            for _ in range(5):
                with pytest.raises(HandshakeFailed):
                    await connect(place.address, hello(Role.WORKER), CLIENT)

    asyncio.run(check())
    assert len(caplog.records) == 1
