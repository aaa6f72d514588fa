"""The first words: who is let in, and what is said to those who are not."""

from __future__ import annotations

import random

import pytest

from hpccluster.errors import (
    ClusterClosed,
    HandshakeFailed,
    HpcClusterError,
    PeerLost,
    RemoteProtocolError,
    VersionMismatch,
)
from hpccluster.protocol import codec, handshake
from hpccluster.protocol.framing import FrameBuffer, Kind
from hpccluster.protocol.handshake import CERTIFICATE_ALLOWS, Identity, check_hello, check_listener, parse_identity
from hpccluster.protocol.messages import PROTOCOL_VERSION, Hello, Purpose, Refused, Role, Welcome

OURS = {"protocol": str(PROTOCOL_VERSION), "python": "3.11.7", "hpccluster": "0.1.0"}
CLUSTER, OTHER = "a" * 32, "b" * 32


def hello(
    role: Role = Role.CLIENT, *, protocol: int = PROTOCOL_VERSION, cluster: str = "", python: str = "3.11.2"
) -> Hello:
    return Hello(protocol=protocol, role=role, cluster=cluster, versions={"python": python, "hpccluster": "0.1.0"})


def verdict(hello: Hello, identity: Identity | None = None, cluster: str = CLUSTER) -> HandshakeFailed | None:
    return check_hello(hello, cluster=cluster, identity=identity, versions=OURS)


def test_a_peer_that_fits_is_let_in() -> None:
    assert verdict(hello()) is None
    assert verdict(hello(cluster=CLUSTER)) is None
    assert verdict(hello(cluster=CLUSTER), cluster="") is None
    assert verdict(hello(Role.WORKER), Identity(CLUSTER, Role.WORKER, "job-1")) is None


@pytest.mark.parametrize("claimed", Role)
@pytest.mark.parametrize("certified", Role)
def test_a_role_must_be_the_certificates(claimed: Role, certified: Role) -> None:
    error = verdict(hello(claimed), Identity(CLUSTER, certified, "x"))
    allowed = claimed is certified or (certified, claimed) == (Role.WORKER, Role.NANNY)
    assert (claimed in CERTIFICATE_ALLOWS[certified]) == allowed
    if allowed:
        assert error is None
    else:
        assert error is not None
        assert error.code == "HPC-AUTH-ROLE"
        assert f"a {certified} certificate" in str(error)


def test_another_cluster_is_turned_away_whether_certified_or_said() -> None:
    for error in (verdict(hello(cluster=OTHER)), verdict(hello(), Identity(OTHER, Role.CLIENT, "x"))):
        assert error is not None
        assert error.code == "HPC-AUTH-CLUSTER"
        assert CLUSTER in str(error)
        assert OTHER in str(error)


def test_another_python_or_protocol_gets_a_table_of_two_columns() -> None:
    error = verdict(hello(python="3.12.1"))
    assert isinstance(error, VersionMismatch)
    lines = str(error).splitlines()
    assert lines[1].split() == ["connecting", "listening"]
    row = next(line.split() for line in lines if line.strip().startswith("python"))
    assert row == ["python", "3.12.1", "3.11.7", "<--"]
    row = next(line.split() for line in lines if line.strip().startswith("hpccluster"))
    assert row == ["hpccluster", "0.1.0", "0.1.0"]
    assert isinstance(verdict(hello(protocol=PROTOCOL_VERSION + 1)), VersionMismatch)
    assert isinstance(verdict(Hello(protocol=PROTOCOL_VERSION, role=Role.CLIENT)), VersionMismatch)


def test_the_connecting_side_checks_the_listeners_certificate() -> None:
    roles = frozenset({Role.SCHEDULER})
    assert check_listener(Identity(CLUSTER, Role.SCHEDULER, "head"), cluster=CLUSTER, roles=roles) is None
    for identity in (Identity(OTHER, Role.SCHEDULER, "head"), Identity(CLUSTER, Role.WORKER, "job-1")):
        assert check_listener(identity, cluster=CLUSTER, roles=roles) is not None


@pytest.mark.parametrize(
    "uri", ["", "hpccluster", "hpccluster:a", "hpccluster::client:x", "hpccluster:a:root:x", "x:a:client:x"]
)
def test_a_strange_uri_is_nobody(uri: str) -> None:
    assert parse_identity(uri) is None


def test_an_identity_survives_its_uri() -> None:
    identity = Identity(CLUSTER, Role.WORKER, "hpc-calm-otter-0001")
    assert parse_identity(identity.uri) == identity


@pytest.mark.parametrize(
    "message",
    [
        Hello(protocol=1, role=Role.WORKER, purpose=Purpose.DATA, paths=["/a"], resources={"gpu": 1.0}),
        Welcome(cluster=CLUSTER, name="w-1"),
        Refused("HandshakeFailed", "no"),
    ],
)
def test_each_message_survives_its_frame(message: Hello | Welcome | Refused) -> None:
    buffer = FrameBuffer()
    buffer.feed(handshake.encode(message))
    body = buffer.take(Kind.HANDSHAKE)
    assert body is not None
    assert handshake.decode(body) == message


def test_a_refusal_comes_out_as_the_same_error_with_its_reason() -> None:
    sent: list[HpcClusterError] = [VersionMismatch("table\n  of two"), ClusterClosed("bye"), HandshakeFailed("no")]
    for error in sent:
        received = handshake.refused(handshake.refusal(error), "tls://h:1")
        assert type(received) is type(error)
        assert error.message in str(received)
        assert "tls://h:1" in str(received)


def test_what_a_stranger_says_cannot_play_with_the_terminal() -> None:
    error = handshake.refused(Refused("NoSuchError", "\x1b[2Jboo\r" + "x" * 100_000), "h")
    assert type(error) is HpcClusterError
    assert "\x1b" not in str(error)
    assert "\r" not in str(error)
    assert len(str(error)) < 5000


def test_mutated_hellos_decode_or_give_one_typed_error() -> None:
    chance = random.Random(7)
    good = codec.encode_batches([hello(Role.WORKER)])[0]
    for _ in range(5_000):
        body = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        try:
            message = handshake.decode(bytes(body))
        except RemoteProtocolError:
            continue
        if isinstance(message, Hello):
            check_hello(message, cluster=CLUSTER, identity=None, versions=OURS)


@pytest.mark.parametrize("bomb", [b"\xdd\xff\xff\xff\xff", b"\x91" * 10_000, b"\x91\xdd\x7f\xff\xff\xff\x01", b""])
def test_bombs_are_refused(bomb: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        handshake.decode(bomb)


def test_who_may_say_what() -> None:
    assert handshake.incoming(Role.CLIENT) is codec.from_client
    assert handshake.incoming(Role.NANNY) is codec.from_nanny
    assert handshake.outgoing(Role.WORKER) is codec.to_worker
    for table in (handshake.incoming, handshake.outgoing):
        with pytest.raises(HandshakeFailed):
            table(Role.SCHEDULER)


def test_refused_by_a_lost_peer_is_still_a_refusal() -> None:
    assert handshake.refused(Refused("PeerLost", "going down"), "h").details["refused"] is True
    assert isinstance(handshake.refused(Refused("PeerLost", "going down"), "h"), PeerLost)
