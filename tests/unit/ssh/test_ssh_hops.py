"""Jumps, agents and files of known hosts, as the target or the configuration name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpccluster.backend.remote import RemoteTarget
from hpccluster_ssh.hop import agent_path, known_hosts_files, parse_jumps

TARGET = RemoteTarget(
    host="n1", user="ana", identity_files=("/k",), known_hosts="/h", config_file="/c", connect_timeout=3.0
)


def test_jumps() -> None:
    jumps = parse_jumps(TARGET, "gate, bob@login.site:2222,ssh://[fe80::1]:22,fe80::2")
    assert [(jump.user, jump.host, jump.port) for jump in jumps] == [
        (None, "gate", None),
        ("bob", "login.site", 2222),
        (None, "fe80::1", 22),
        (None, "fe80::2", None),
    ]
    assert [jump.proxy_jump for jump in jumps] == [None, "none", "none", "none"], "each is reached from the one before"
    assert {(jump.identity_files, jump.known_hosts, jump.config_file, jump.connect_timeout) for jump in jumps} == {
        (("/k",), "/h", "/c", 3.0)
    }
    assert parse_jumps(TARGET, None) == parse_jumps(TARGET, "none") == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,,b",
        "@host",
        "host:port",
        "host:٣",
        "-oProxyCommand=x",
        "a b",
        "a;b",
        "$(id)",
        "[::1",
        "[::1]x",
        "-l@host",
    ],
)
def test_jumps_that_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no name of a|is not \[user@\]host"):
        parse_jumps(TARGET, text)


def test_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/a")
    monkeypatch.setenv("OTHER", "/b")
    assert [agent_path(said) for said in (None, "SSH_AUTH_SOCK", "none", "$OTHER", "${OTHER}", "$NONE", "/c")] == [
        "/a", "/a", "", "/b", "/b", "", "/c",
    ]  # fmt: skip


def test_files_of_known_hosts() -> None:
    home = Path.home()
    assert known_hosts_files(TARGET, ["/x"], ["/y"]) == (Path("/h"),)
    plain = RemoteTarget(host="n1")
    assert known_hosts_files(plain, ["~/x", "%d/y"], ["none"]) == (home / "x", home / "y")
    assert known_hosts_files(plain, [], []) == ()
    assert known_hosts_files(plain, None, None)[0] == home / ".ssh" / "known_hosts"
    assert known_hosts_files(plain, None, None)[-1] == Path("/etc/ssh/ssh_known_hosts2")
