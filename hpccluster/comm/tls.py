"""TLS as a layer without I/O, and what one process needs to speak it.

TLS 1.3 only, certificates on both sides. The cluster's CA has issued nothing but this cluster's certificates, so it takes
the place of host names: a peer is who its certificate's URI says, wherever it runs.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hpccluster.errors import CredentialError
from hpccluster.protocol.handshake import Identity, parse_identity
from hpccluster.protocol.messages import Role

if TYPE_CHECKING:
    from hpccluster.comm.connection_file import ConnectionFile

CHUNK = 256 * 1024
"""The most plain text that is encrypted at once: 200 MiB in one go stop the loop for a second."""


class Security:
    """The credential of one role in one cluster, ready for any number of connections.

    Where a function takes ``Security | None``, None stands for plain tcp.
    """

    def __init__(self, *, cluster: str, role: Role, ca: str, certificate: str, key: str, origin: str = "") -> None:
        self.cluster = cluster
        self.role = role
        self.origin = origin
        """Where the credential came from (a path), for error messages."""
        self._ca = ca
        self._certificate = certificate
        self._key = key

    def __repr__(self) -> str:
        return f"Security(cluster={self.cluster!r}, role={self.role.value!r}, origin={self.origin!r})"

    @classmethod
    def from_pem(cls, *, ca: str, certificate: str, key: str, role: Role, cluster: str, origin: str = "") -> Security:
        """From texts. Everything is checked here, before anything is started: raises one `CredentialError`."""
        missing = [name for name, text in (("CA", ca), ("certificate", certificate), ("key", key)) if not text.strip()]
        if missing:
            raise _unusable(role, origin, f"it has no {' and no '.join(missing)}")
        security = cls(cluster=cluster, role=role, ca=ca, certificate=certificate, key=key, origin=origin)
        _ = security._client_context
        return security

    @classmethod
    def from_connection_file(cls, file: ConnectionFile) -> Security | None:
        """From a connection file; None if it is one of a plain tcp cluster."""
        if not (file.ca or file.certificate or file.key):
            return None
        return cls.from_pem(
            ca=file.ca,
            certificate=file.certificate,
            key=file.key,
            role=file.role,
            cluster=file.cluster,
            origin=file.path,
        )

    def context(self, *, listening: bool) -> ssl.SSLContext:
        """The one context of that side; made when first asked for, shared by all connections."""
        return self._server_context if listening else self._client_context

    @cached_property
    def _client_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        return self._set_up(context)

    @cached_property
    def _server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0
        return self._set_up(context)

    def _set_up(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cadata=self._ca)
            with _as_file(self._certificate.rstrip() + "\n" + self._key) as path:
                context.load_cert_chain(path, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            reason = "its certificate, key and CA do not fit together, or one of them is damaged"
            raise _unusable(self.role, self.origin, f"{reason} ({error})") from error
        return context


class TlsLayer:
    """One connection's TLS: bytes of the wire in, plain bytes out, and back."""

    __slots__ = ("_incoming", "_object", "_outgoing", "done", "identity", "started")

    def __init__(self, security: Security, *, listening: bool) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        context = security.context(listening=listening)
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=listening)
        self.done = False
        """The handshake is over, as far as this side can tell: with TLS 1.3 a client learns later that it was refused."""
        self.started = False
        """The peer has sent something."""
        self.identity: Identity | None = None
        """What the peer's certificate proves."""

    def feed(self, data: memoryview) -> None:
        """Bytes from the wire."""
        self.started = True
        self._incoming.write(data)

    def handshake(self) -> bool:
        """Go on with the handshake. True once it is done; raises `ssl.SSLError`.

        Whatever happens, `outgoing` has what the peer must get.
        """
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.done = True
        certificate = self._object.getpeercert() or {}
        names = certificate.get("subjectAltName", ())
        for name in names:
            if name[0] == "URI" and (identity := parse_identity(str(name[1]))):
                self.identity = identity
        return True

    def read_into(self, buffer: memoryview) -> int:
        """Decrypt into ``buffer`` until it is full or nothing whole is left; raises `ssl.SSLError`."""
        size, room = 0, len(buffer)
        incoming, tls = self._incoming, self._object
        while size < room and (incoming.pending or tls.pending()):
            try:
                # with a buffer it gives the number of bytes; typeshed says bytes
                got: int = tls.read(room - size, buffer[size:])  # type: ignore[assignment]
            except ssl.SSLWantReadError:
                break
            if not got:
                break
            size += got
        return size

    def outgoing(self) -> bytes:
        """Bytes for the wire."""
        return self._outgoing.read()

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """The bytes for the wire that carry ``data``."""
        written = self._object.write(data)
        while written < len(data):  # pragma: no cover - a memory BIO takes all there is
            written += self._object.write(memoryview(data)[written:])
        return self._outgoing.read()


def _no_password() -> str:
    """Keys of a cluster have no password; without this OpenSSL would ask for one on the terminal."""
    raise ValueError("the key is encrypted")


def _unusable(role: Role, origin: str, reason: str) -> CredentialError:
    fix = f"get a new one from the head: hpccluster credentials export NAME --role {role}"
    where = f"\n  file: {origin}" if origin else ""
    return CredentialError(
        f"the {role} credential cannot be used: {reason}{where}\n  fix: {fix}", code="HPC-AUTH-CREDENTIAL"
    )


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """A path under which OpenSSL, which takes nothing else, finds this text; on Linux it is in memory only."""
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        descriptor = os.memfd_create("hpccluster", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            yield f"/proc/self/fd/{descriptor}"
    else:
        with tempfile.NamedTemporaryFile("w", prefix="hpccluster-") as file:  # made 0600, gone at once
            file.write(text)
            file.flush()
            yield file.name
