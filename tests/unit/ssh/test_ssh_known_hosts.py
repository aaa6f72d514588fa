"""Lines of known_hosts files, and what they say of a key."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from hpccluster_ssh.known_hosts import Verdict, fingerprint, look_up, matches, read

# made by: ssh-keygen -t ed25519; ssh-keygen -H -F n1 -f known_hosts; ssh-keygen -lf key.pub
KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIJq6bZ3GH0y8w7bZ6e1nq2j5gGQ3q0m1jQ8v0r0n3x7V"
OTHER = "AAAAC3NzaC1lZDI1NTE5AAAAIFZ0f9w0u1D2v7l0c1o3y5t7r9e1wqazxswedcvfrtgb"


def data(text: str) -> bytes:
    return base64.b64decode(text)


@pytest.mark.parametrize(
    ("hosts", "name", "meant"),
    [
        ("n1", "n1", True),
        ("N1", "n1", True),
        ("n1", "n11", False),
        ("n1,n2", "n2", True),
        ("n*", "n17", True),
        ("n?", "n1", True),
        ("n?", "n17", False),
        ("*,!n2", "n1", True),
        ("*,!n2", "n2", False),
        ("!n2,*", "n2", False),
        ("[n1]:2222", "[n1]:2222", True),
        ("[n1]:2222", "n1", False),
        ("[n*]:2222", "[n7]:2222", True),
        ("[abc]", "a", False),
        ("192.0.2.*", "192.0.2.7", True),
        ("|1|nonsense", "n1", False),
        ("|2|aaaa|bbbb", "n1", False),
        ("|1|!!!|!!!", "n1", False),
        ("|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg=", "192.168.1.61", True),
        ("|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg=", "192.168.1.62", False),
    ],
)
def test_hosts_of_a_line(hosts: str, name: str, meant: bool) -> None:
    assert matches(hosts, name) is meant


def test_verdicts(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(
        "# comment\n\nnonsense\nn9 ssh-ed25519 not!base64\n@unknown-marker n1 ssh-ed25519 AAAA\n"
        f"n1 ssh-ed25519 {KEY} a comment\n"
        f"[n2]:2222 ssh-ed25519 {KEY}\n"
        f"n3 ssh-ed25519 {KEY}\n@revoked * ssh-ed25519 {OTHER}\n"
        f"@cert-authority n4 ssh-ed25519 {KEY}\n"
    )
    known = read([tmp_path / "missing", tmp_path, file])
    verdict, lines = look_up(known, "N1", 22).judge(data(KEY))
    assert (verdict, [line.where for line in lines]) == (Verdict.KNOWN, [f"{file} line 6"])
    assert look_up(known, "n2", 22).judge(data(KEY))[0] is Verdict.UNKNOWN
    assert look_up(known, "n2", 2222).judge(data(KEY))[0] is Verdict.KNOWN
    assert look_up(known, "n2", 2222).judge(data("AAAA"))[0] is Verdict.CHANGED
    assert look_up(known, "n3", 2222).judge(data(KEY))[0] is Verdict.KNOWN, "the usual port's key will do"
    assert look_up(known, "n3", 2222).judge(data("AAAA"))[0] is Verdict.UNKNOWN, "but another one has not changed"
    assert look_up(known, "n3", 22).judge(data(OTHER))[0] is Verdict.REVOKED
    assert look_up(known, "n8", 2222).judge(data(OTHER))[0] is Verdict.REVOKED
    assert look_up(known, "n4", 22).judge(data(KEY))[0] is Verdict.UNKNOWN, "an authority's key is no host's"
    assert [key.line for key in look_up(known, "n4", 22).authorities] == [10]
    assert look_up(known, "n1", 22).kinds == ["ssh-ed25519"]


def test_fingerprint() -> None:
    # of GitHub, as its documentation lists it
    key = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    assert fingerprint(data(key)) == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"
