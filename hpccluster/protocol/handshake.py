"""The first words between two peers: are we of one cluster, one version, and are you who you say? Pure.

The side that connects sends one frame with a `Hello`; the other answers with `Welcome` or `Refused`. Nothing else is
parsed before that. These three messages only ever grow at their ends, so that peers of any two versions can tell each
other why they do not fit.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import hpccluster
from hpccluster.errors import HandshakeFailed, HpcClusterError, RemoteProtocolError, VersionMismatch, from_name
from hpccluster.protocol import codec
from hpccluster.protocol.framing import Kind, frame
from hpccluster.protocol.messages import PROTOCOL_VERSION, Handshake, Hello, Refused, Role, Welcome

CERTIFICATE_ALLOWS: Mapping[Role, frozenset[Role]] = {
    Role.SCHEDULER: frozenset({Role.SCHEDULER}),
    Role.WORKER: frozenset({Role.WORKER, Role.NANNY}),
    Role.NANNY: frozenset({Role.NANNY}),
    Role.CLIENT: frozenset({Role.CLIENT}),
}
"""Which roles the holder of a certificate may claim. A nanny and its workers share the credential of their job."""

_REASON_LIMIT = 4000


@dataclass(frozen=True, slots=True)
class Identity:
    """What a certificate proves."""

    cluster: str
    role: Role
    token: str
    """Whose certificate it is: a job's or a person's."""

    @property
    def uri(self) -> str:
        """How it stands in the certificate."""
        return f"hpccluster:{self.cluster}:{self.role}:{self.token}"


def parse_identity(uri: str) -> Identity | None:
    """The identity that a certificate's URI names; None if it is not one of ours."""
    scheme, _, rest = uri.partition(":")
    cluster, _, rest = rest.partition(":")
    role, _, token = rest.partition(":")
    if scheme != "hpccluster" or not cluster or role not in set(Role):
        return None
    return Identity(cluster, Role(role), token)


def own_versions() -> dict[str, str]:
    """What this process is made of, as far as a peer must know."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"protocol": str(PROTOCOL_VERSION), "python": python, "hpccluster": hpccluster.__version__}


def check_hello(
    hello: Hello, *, cluster: str, identity: Identity | None, versions: Mapping[str, str]
) -> HandshakeFailed | None:
    """Why a peer that says this is to be turned away; None if it may be admitted.

    ``cluster`` is ours (empty where it is not known), ``identity`` what the peer's certificate proves (None on plain
    tcp), ``versions`` our own.
    """
    if hello.protocol != PROTOCOL_VERSION or _minor(hello.versions) != _minor(versions):
        theirs = dict(hello.versions)
        theirs["protocol"] = str(hello.protocol)
        return VersionMismatch(version_table(theirs, versions), code="HPC-AUTH-VERSION")
    if identity is not None:
        if cluster and identity.cluster != cluster:
            return foreign_cluster(identity.cluster, cluster)
        if hello.role not in CERTIFICATE_ALLOWS[identity.role]:
            return HandshakeFailed(
                f"a {identity.role} certificate does not allow to be a {hello.role}", code="HPC-AUTH-ROLE"
            )
    if cluster and hello.cluster and hello.cluster != cluster:
        return foreign_cluster(hello.cluster, cluster)
    return None


def check_listener(identity: Identity, *, cluster: str, roles: frozenset[Role]) -> HandshakeFailed | None:
    """The connecting side's check of the certificate it was shown."""
    if identity.cluster != cluster:
        return foreign_cluster(identity.cluster, cluster)
    if identity.role not in roles:
        wanted = " or ".join(sorted(roles))
        return HandshakeFailed(
            f"it showed the certificate of a {identity.role}, not of a {wanted}", code="HPC-AUTH-ROLE"
        )
    return None


def foreign_cluster(theirs: str, ours: str) -> HandshakeFailed:
    """The error for a peer of another cluster."""
    return HandshakeFailed(f"it belongs to cluster {theirs}, not to {ours}", code="HPC-AUTH-CLUSTER")


def version_table(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Two columns, with the rows that differ marked."""
    names = [*ours, *(name for name in theirs if name not in ours)]
    rows = [("", "connecting", "listening")]
    rows += [(name, theirs.get(name, "?"), ours.get(name, "?")) for name in names]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["versions differ too much to work together (Python's minor and the protocol must be the same)"]
    for row in rows:
        mark = "  <--" if row[0] in ("python", "protocol") and _differs(row) else ""
        lines.append(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + mark
        )
    return "\n".join(lines)


def _differs(row: tuple[str, str, str]) -> bool:
    name, theirs, ours = row
    return _minor({"python": theirs}) != _minor({"python": ours}) if name == "python" else theirs != ours


def _minor(versions: Mapping[str, str]) -> str:
    return ".".join(versions.get("python", "?").split(".")[:2])


def encode(message: Hello | Welcome | Refused) -> bytes:
    """The whole frame of a handshake message."""
    return frame(Kind.HANDSHAKE, codec.encode_batches([message])[0])


def decode(body: bytes) -> Handshake:
    """The one message of a handshake frame; raises `RemoteProtocolError`."""
    messages = codec.handshake.decode(body)
    if len(messages) != 1:
        raise RemoteProtocolError(f"a handshake frame of {len(messages)} messages")
    return messages[0]


def refusal(error: HpcClusterError) -> Refused:
    """The words for the peer that is turned away."""
    return Refused(type(error).__name__, error.message[:_REASON_LIMIT])


def refused(message: Refused, peer: str) -> HpcClusterError:
    """The error that a `Refused` stands for. Its text may come from anybody: it is shortened, and no terminal codes pass."""
    # what a stranger says may reach a terminal
    reason = "".join(c if c.isprintable() or c == "\n" else "?" for c in message.reason[:_REASON_LIMIT])
    error = from_name(message.error, f"{peer} turned us away: {reason}")
    error.details["refused"] = True
    return error


def incoming(role: Role) -> codec.BatchDecoder[Any]:
    """Who may say what, to a scheduler: the decoder for what a peer of ``role`` sends."""
    decoders: dict[Role, codec.BatchDecoder[Any]] = {
        Role.CLIENT: codec.from_client,
        Role.WORKER: codec.from_worker,
        Role.NANNY: codec.from_nanny,
    }
    if role not in decoders:
        raise HandshakeFailed(f"a {role} opens no control connection", code="HPC-AUTH-ROLE")
    return decoders[role]


def outgoing(role: Role) -> codec.BatchDecoder[Any]:
    """The decoder for what a scheduler sends to a peer of ``role``."""
    decoders: dict[Role, codec.BatchDecoder[Any]] = {
        Role.CLIENT: codec.to_client,
        Role.WORKER: codec.to_worker,
        Role.NANNY: codec.to_nanny,
    }
    if role not in decoders:
        raise HandshakeFailed(f"a scheduler does not speak to a {role}", code="HPC-AUTH-ROLE")
    return decoders[role]


__all__ = [
    "CERTIFICATE_ALLOWS",
    "Identity",
    "check_hello",
    "check_listener",
    "decode",
    "encode",
    "foreign_cluster",
    "incoming",
    "outgoing",
    "own_versions",
    "parse_identity",
    "refusal",
    "refused",
    "version_table",
]
