"""Why a TLS handshake failed, in words that name the cause, the credential and the fix.

OpenSSL says what it found (a verification error) to the side that looked, and sends the other side an alert. Both are
translated here; which side we are decides whose certificate is at fault.
"""

from __future__ import annotations

import ssl

from hpccluster.comm.tls import Security
from hpccluster.errors import CommError, CredentialError, HandshakeFailed

_CLOCK = "or one of the two clocks is wrong"
_EXPIRED, _NOT_YET_VALID, _PURPOSE = 10, 9, 26
_STRANGERS = frozenset({2, 7, 18, 19, 20, 21})
"""X509_V_ERR_* of a certificate that our CA has not issued (openssl-verification-options(1), x509_vfy.h)."""


def explain(error: ssl.SSLError, *, security: Security, listening: bool, peer: str) -> CommError:
    """The error to raise where we connect, and to log where we listen."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _their_certificate(error, security=security, peer=peer)
    reason = error.reason or ""
    _, _, alert = reason.partition("ALERT_")
    if alert:
        return _alert(alert, security=security, listening=listening, peer=peer)
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return HandshakeFailed(f"{peer} showed no certificate", code="HPC-AUTH-NONE")
    if reason in ("UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION", "VERSION_TOO_LOW"):
        return HandshakeFailed(f"{peer} does not speak TLS 1.3, which is required", code="HPC-AUTH-TLS")
    return HandshakeFailed(f"the TLS handshake with {peer} failed: {error.reason or error}", code="HPC-AUTH-TLS")


def _their_certificate(error: ssl.SSLCertVerificationError, *, security: Security, peer: str) -> CommError:
    if error.verify_code == _EXPIRED:
        return HandshakeFailed(f"the certificate of {peer} has expired, {_CLOCK}", code="HPC-AUTH-EXPIRED")
    if error.verify_code == _NOT_YET_VALID:
        return HandshakeFailed(f"the certificate of {peer} is not yet valid, {_CLOCK}", code="HPC-AUTH-EXPIRED")
    if error.verify_code == _PURPOSE:
        return HandshakeFailed(
            f"the certificate of {peer} is of the wrong role: it may not be used this way", code="HPC-AUTH-ROLE"
        )
    if error.verify_code in _STRANGERS:
        return HandshakeFailed(
            f"{peer} belongs to another cluster than {security.cluster}: our CA did not issue its certificate"
            f"{_ours(security)}\n  fix: use the connection file of the cluster that listens there",
            code="HPC-AUTH-CA",
        )
    return HandshakeFailed(f"the certificate of {peer} is not valid: {error.verify_message}", code="HPC-AUTH-TLS")


def _alert(alert: str, *, security: Security, listening: bool, peer: str) -> CommError:
    """The peer found something wrong with us, and says so in a word."""
    kind, code = {
        "UNKNOWN_CA": ("it was issued by another cluster's CA", "HPC-AUTH-CA"),
        "CERTIFICATE_EXPIRED": (f"it has expired, {_CLOCK}", "HPC-AUTH-EXPIRED"),
        "BAD_CERTIFICATE": (f"it is damaged or not yet valid, {_CLOCK}", "HPC-AUTH-EXPIRED"),
        "UNSUPPORTED_CERTIFICATE": ("it is of the wrong role", "HPC-AUTH-ROLE"),
        "CERTIFICATE_REQUIRED": ("there is none", "HPC-AUTH-NONE"),
        "DECRYPT_ERROR": ("it is not signed by the CA that the peer knows", "HPC-AUTH-CA"),
    }.get(alert, ("", ""))
    if not kind:
        words = alert.lower().replace("_", " ")
        if alert == "PROTOCOL_VERSION":
            words = "the peer does not speak TLS 1.3, which is required"
        return HandshakeFailed(f"the TLS handshake with {peer} failed: {words}", code="HPC-AUTH-TLS")
    message = f"{peer} does not accept our {security.role} certificate: {kind}"
    if listening:
        # It is the peer that should look for another credential; a listener's own comes fresh from its head.
        return HandshakeFailed(message, code=code)
    return CredentialError(
        f"{message}{_ours(security)}\n  fix: use a fresh connection file of the cluster that listens there", code=code
    )


def _ours(security: Security) -> str:
    return f"\n  file: {security.origin} (cluster {security.cluster})" if security.origin else ""
