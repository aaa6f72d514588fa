"""Certificates and the security that is made of them: what is half or wrong is one error, before anything starts."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.exceptions import InvalidSignature

from hpccluster.comm.authority import LIFETIME, SKEW, Authority
from hpccluster.comm.connection_file import ConnectionFile
from hpccluster.comm.tls import Security
from hpccluster.errors import CredentialError, LocalProtocolError
from hpccluster.protocol.handshake import Identity
from hpccluster.protocol.messages import Role
from support.comm_peers import CLUSTER, inspect_certificate, security

AUTHORITY = Authority(CLUSTER)


def lines(error: pytest.ExceptionInfo[CredentialError]) -> list[str]:
    return str(error.value).splitlines()


def test_a_certificate_says_whose_it_is_and_lasts_from_a_day_ago_for_ninety_days() -> None:
    authority = Authority(CLUSTER)  # a fresh one: nothing outlives its authority
    issued = authority.issue(Role.WORKER, "hpc-calm-otter-0001")
    identity, expires = inspect_certificate(issued.certificate_pem, authority.ca_pem)
    assert identity == Identity(CLUSTER, Role.WORKER, "hpc-calm-otter-0001")
    assert abs(expires - (datetime.now(UTC) + LIFETIME)) < timedelta(minutes=1)
    assert timedelta(hours=24) == SKEW
    assert expires == issued.expires.replace(microsecond=0)


def test_another_authoritys_certificate_is_seen_as_such() -> None:
    issued = Authority(CLUSTER).issue(Role.CLIENT, "me")
    with pytest.raises(InvalidSignature):
        inspect_certificate(issued.certificate_pem, AUTHORITY.ca_pem)


@pytest.mark.parametrize("token", ["", "a:b", "a b", "a\n", "x" * 200])
def test_tokens_cannot_break_out_of_their_place(token: str) -> None:
    with pytest.raises(LocalProtocolError):
        AUTHORITY.issue(Role.CLIENT, token)
    with pytest.raises(LocalProtocolError):
        Authority(token)


def test_keys_are_in_no_repr() -> None:
    issued = AUTHORITY.issue(Role.CLIENT, "me")
    holder = security(AUTHORITY, Role.CLIENT, issued)
    secret = issued.key_pem.splitlines()[1]
    assert secret not in repr(issued)
    assert secret not in repr(holder)
    assert secret not in repr(AUTHORITY)
    assert "PRIVATE" not in repr(holder)


@pytest.mark.parametrize("missing", ["ca", "certificate", "key"])
def test_a_missing_part_is_one_error(missing: str) -> None:
    issued = AUTHORITY.issue(Role.WORKER, "j")
    parts = {"ca": AUTHORITY.ca_pem, "certificate": issued.certificate_pem, "key": issued.key_pem, missing: ""}
    with pytest.raises(CredentialError, match="worker credential cannot be used: it has no") as error:
        Security.from_pem(**parts, role=Role.WORKER, cluster=CLUSTER, origin="/x/worker.json")
    assert "/x/worker.json" in str(error.value)
    assert len(lines(error)) <= 3


@pytest.mark.parametrize("damaged", ["ca", "certificate", "key"])
def test_a_damaged_part_is_one_error(damaged: str) -> None:
    issued = AUTHORITY.issue(Role.WORKER, "j")
    parts = {"ca": AUTHORITY.ca_pem, "certificate": issued.certificate_pem, "key": issued.key_pem}
    parts[damaged] = parts[damaged].replace("M", "N", 3)
    with pytest.raises(CredentialError, match="do not fit together, or one of them is damaged"):
        Security.from_pem(**parts, role=Role.WORKER, cluster=CLUSTER)


def test_anothers_key_is_one_error() -> None:
    one, two = AUTHORITY.issue(Role.CLIENT, "a"), AUTHORITY.issue(Role.CLIENT, "b")
    with pytest.raises(CredentialError, match="do not fit together"):
        Security.from_pem(
            ca=AUTHORITY.ca_pem, certificate=one.certificate_pem, key=two.key_pem, role=Role.CLIENT, cluster=CLUSTER
        )


def test_a_key_with_a_password_is_an_error_and_not_a_question_on_the_terminal() -> None:
    from cryptography.hazmat.primitives import serialization

    issued = AUTHORITY.issue(Role.CLIENT, "a")
    key = serialization.load_pem_private_key(issued.key_pem.encode(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    ).decode()
    with pytest.raises(CredentialError, match="the key is encrypted"):
        Security.from_pem(
            ca=AUTHORITY.ca_pem, certificate=issued.certificate_pem, key=locked, role=Role.CLIENT, cluster=CLUSTER
        )


def test_a_connection_file_without_certificates_means_plain_tcp() -> None:
    now = datetime.now(UTC)
    file = ConnectionFile(
        cluster=CLUSTER, name="calm-otter", role=Role.CLIENT, addresses=("tcp://h:1",), created=now, expires=now
    )
    assert Security.from_connection_file(file) is None


def test_a_worker_start_imports_no_cryptography() -> None:
    code = (
        "import sys, hpccluster.comm.connect, hpccluster.comm.listen, hpccluster.comm.connection_file;"
        "bad = {'cryptography', 'psutil', 'platformdirs', 'yaml'} & set(sys.modules); sys.exit(repr(bad) if bad else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
