"""Who may join a cluster: its certificate authority, which lives in the head's memory and nowhere else.

The only place that uses `cryptography`; imported by heads, never by a worker's start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hpccluster.errors import LocalProtocolError
from hpccluster.protocol.handshake import Identity
from hpccluster.protocol.messages import Role

SKEW = timedelta(hours=24)
"""Certificates are valid from this long ago: clocks of compute nodes are wrong at times."""
LIFETIME = timedelta(days=90)
"""A job may pend for weeks."""

_SAFE = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True)
class IssuedCredential:
    """A certificate and its private key."""

    certificate_pem: str
    key_pem: str = field(repr=False)
    expires: datetime


class Authority:
    """Issues the certificates of one cluster. Its key cannot be read out: who is to join must ask the head."""

    def __init__(self, cluster_id: str) -> None:
        if not _SAFE.fullmatch(cluster_id):
            raise LocalProtocolError(f"{cluster_id!r} cannot be a cluster's id")
        self.cluster_id = cluster_id
        self._key = Ed25519PrivateKey.generate()
        self._name = _name(f"hpccluster {cluster_id[:40]}")
        self._start = datetime.now(UTC) - SKEW
        public = self._key.public_key()
        certificate = (
            _builder(self._name, self._name, public, self._start, self._start + SKEW + LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, None)
        )
        self.ca_pem = _pem(certificate)

    def __repr__(self) -> str:
        return f"Authority({self.cluster_id!r})"

    def issue(
        self, role: Role, token: str, *, start: datetime | None = None, expires: datetime | None = None
    ) -> IssuedCredential:
        """A new certificate for ``role``. ``token`` says whose it is: a job's name, a person's.

        A client's certificate cannot be used to listen.
        """
        if not _SAFE.fullmatch(token):
            raise LocalProtocolError(f"{token!r} cannot be a certificate's token")
        key = Ed25519PrivateKey.generate()
        start, expires = start or self._start, expires or self._start + SKEW + LIFETIME
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if role is not Role.CLIENT:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        uri = Identity(self.cluster_id, role, token).uri
        certificate = (
            _builder(_name(f"{role} {token}"[:60]), self._name, key.public_key(), start, expires)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, None)
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return IssuedCredential(_pem(certificate), private.decode("ascii"), expires)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: Ed25519PublicKey, start: datetime, expires: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(expires)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
