"""Whom the SSH runners trust, and as whom they log in: both libraries against real SSH servers, with one answer to each case."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccluster.backend.registry import get_runner
from hpccluster.backend.remote import RemoteTarget
from hpccluster.errors import BackendUnavailable
from support.private_sshd import PASSPHRASE, PrivateHosts


class Client:
    """A user with one kind of runner, a configuration file and a known_hosts file of its own."""

    def __init__(self, kind: str, hosts: PrivateHosts, directory: Path) -> None:
        self.kind, self.hosts, self.directory = kind, hosts, directory
        self.known_hosts = directory / "known hosts"
        self.known_hosts.touch()
        self.config_file = directory / "config"
        self.config_file.touch()
        self.address = hosts.address("host1")

    def target(self, **changes: object) -> RemoteTarget:
        values = {
            "host": self.address,
            "user": self.hosts.user,
            "identity_files": (str(self.hosts.key("id")),),
            "known_hosts": str(self.known_hosts),
            "config_file": str(self.config_file),
            **changes,
        }
        return RemoteTarget(**values)  # type: ignore[arg-type]

    def log_in(self, **changes: object) -> str:
        """The name of the host, as it says itself."""

        async def scenario() -> str:
            runner = get_runner(self.kind)(self.target(**changes))
            try:
                return (await runner.run(("hostname",))).stdout.strip()
            finally:
                await runner.close()

        return asyncio.run(scenario())

    def refused(self, code: str, **changes: object) -> str:
        """The message of the error with that code."""
        with pytest.raises(BackendUnavailable) as caught:
            self.log_in(**changes)
        assert caught.value.code == code, caught.value
        assert code in str(caught.value)
        return str(caught.value)

    def know(self, *lines: str) -> None:
        self.known_hosts.write_text("".join(line + "\n" for line in lines))

    def know_all(self) -> None:
        self.known_hosts.write_text(self.hosts.known_hosts.read_text())

    def configure(self, *lines: str) -> None:
        self.config_file.write_text("".join(line + "\n" for line in lines))


@pytest.fixture(params=["asyncssh", "paramiko"])
def client(
    request: pytest.FixtureRequest, ssh_hosts: PrivateHosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Client:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return Client(request.param, ssh_hosts, tmp_path)


@pytest.fixture
def full_agent(ssh_hosts: PrivateHosts) -> Iterator[str]:
    """An agent with more keys than a server cares to see, and none that it knows."""
    names = [f"full-{number}" for number in range(7)]
    for name in names:
        if not ssh_hosts.key(name).exists():
            ssh_hosts.make_key(name)
    with ssh_hosts.agent(*names) as agent:
        yield agent


def type_fix(message: str) -> None:
    """Type the last line of a message into a shell, as a user would."""
    line = message.splitlines()[-1].strip()
    subprocess.run(["sh", "-c", line], check=True, capture_output=True, timeout=20)


# ---------------------------------------------------------------------------------------------------------------- host keys


@pytest.mark.parametrize("port", [22, 2222])
def test_unknown_host_key_shows_its_fingerprint_and_the_fix_works(client: Client, port: int) -> None:
    message = client.refused("HPC-SSH-HOSTKEY-UNKNOWN", port=port)
    listed = subprocess.run(
        ["ssh-keygen", "-lf", str(client.hosts.key("host-host1"))], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split()[1] in message
    assert str(client.known_hosts) in message
    type_fix(message)
    assert client.log_in(port=port) == "host1"


@pytest.mark.parametrize("port", [22, 2222])
def test_changed_host_key_names_the_line_and_how_to_remove_it(client: Client, port: int) -> None:
    name = client.address if port == 22 else f"[{client.address}]:{port}"
    client.know("# a comment", f"{name} {client.hosts.public_key('host-other')}")
    message = client.refused("HPC-SSH-HOSTKEY-CHANGED", port=port)
    assert f"{client.known_hosts} line 2" in message
    assert message.count("SHA256:") == 2
    type_fix(message)
    client.refused("HPC-SSH-HOSTKEY-UNKNOWN", port=port)


def test_host_key_of_another_type_is_a_changed_one(client: Client) -> None:
    if not client.hosts.key("ecdsa").exists():
        client.hosts.make_key("ecdsa", "ecdsa")
    client.know(f"{client.address} {client.hosts.public_key('ecdsa')}")
    message = client.refused("HPC-SSH-HOSTKEY-CHANGED")
    assert "ssh-ed25519 SHA256:" in message
    assert "ecdsa-sha2-nistp256 SHA256:" in message


def test_revoked_host_key(client: Client) -> None:
    key = client.hosts.public_key("host-host1")
    client.know(f"{client.address} {key}", f"@revoked * {key}")
    message = client.refused("HPC-SSH-HOSTKEY-REVOKED")
    assert f"{client.known_hosts} line 2" in message


def test_hosts_that_are_known_in_other_ways(client: Client) -> None:
    key = client.hosts.public_key("host-host1")
    client.know(f"{client.hosts.hashed(client.address)} {key}")
    assert client.log_in() == "host1"
    client.know(f"{client.hosts.hashed(f'[{client.address}]:2222')} {key}")
    assert client.log_in(port=2222) == "host1"
    client.refused("HPC-SSH-HOSTKEY-UNKNOWN", port=22)
    client.know(f"{client.address} {key}")
    assert client.log_in(port=2222) == "host1", "the key of the usual port is taken, as OpenSSH does"
    client.know(f"alias {key}")
    client.configure(f"Host {client.address}", "HostKeyAlias alias")
    assert client.log_in(port=2222) == "host1"


def test_host_key_that_an_authority_has_signed(client: Client) -> None:
    host3 = client.hosts.address("host3")
    client.know(f"@cert-authority {host3} {client.hosts.public_key('authority')}")
    if client.kind == "asyncssh":
        assert client.log_in(host=host3) == "host3"
        client.know(f"@cert-authority * {client.hosts.public_key('host-other')}")
        for host in (host3, client.address):  # one shows a certificate of somebody else, the other has none
            message = client.refused("HPC-SSH-HOSTKEY-UNKNOWN", host=host)
            assert "has not signed" in message
            type_fix(message)
            assert client.log_in(host=host), "its own key is known now"
        authority = client.hosts.public_key("authority")
        client.know(f"@cert-authority {host3} {authority}", f"@revoked * {authority}")
        client.refused("HPC-SSH-HOSTKEY-REVOKED", host=host3)
    else:
        message = client.refused("HPC-SSH-HOSTKEY-UNKNOWN", host=host3)
        assert "runner='asyncssh'" in message
        assert "has not signed" not in message
    client.know_all()
    assert client.log_in(host=host3) == "host3"


def test_no_configuration_weakens_the_check(client: Client) -> None:
    for file in ("/dev/null", "none", str(client.known_hosts)):
        client.configure("Host *", "StrictHostKeyChecking no", f'UserKnownHostsFile "{file}"', "CheckHostIP no")
        client.refused("HPC-SSH-HOSTKEY-UNKNOWN", known_hosts=None)
        client.refused("HPC-SSH-HOSTKEY-UNKNOWN")


def test_unknown_host_behind_a_known_one_is_named(client: Client) -> None:
    client.know(f"{client.hosts.address('jump')} {client.hosts.public_key('host-jump')}")
    inner, jump = client.hosts.address("inner"), client.hosts.address("jump")
    message = client.refused("HPC-SSH-HOSTKEY-UNKNOWN", host=inner, proxy_jump=jump)
    assert inner in message.splitlines()[0]
    client.know(f"{inner} {client.hosts.public_key('host-inner')}")
    message = client.refused("HPC-SSH-HOSTKEY-UNKNOWN", host=inner, proxy_jump=f"{client.hosts.user}@{jump}:2222")
    assert jump in message.splitlines()[0]
    client.know_all()
    assert client.log_in(host=inner, proxy_jump=f"{client.hosts.user}@{jump}:2222") == "inner"


# --------------------------------------------------------------------------------------------------------------------- keys


def test_key_that_the_host_does_not_know(client: Client) -> None:
    client.know_all()
    stranger = str(client.hosts.key("stranger"))
    message = client.refused("HPC-SSH-AUTH", identity_files=(stranger, "/no/key"), user="nobody")
    assert "user 'nobody'" in message
    assert f"{stranger} (refused)" in message
    assert "/no/key (there is no such file)" in message
    assert "no agent ($SSH_AUTH_SOCK is not set)" in message
    client.refused("HPC-SSH-AUTH", user="no-such-user")


def test_locked_key_needs_an_agent(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.know_all()
    locked = (str(client.hosts.key("locked")),)
    message = client.refused("HPC-SSH-AUTH", identity_files=locked)
    assert f"{locked[0]} (needs a passphrase)" in message
    assert "ssh-add" in message
    assert PASSPHRASE not in message
    with client.hosts.agent("id") as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", agent)
        assert client.log_in(identity_files=locked) == "host1"
    message = client.refused("HPC-SSH-AUTH", identity_files=locked)
    assert f"the agent {agent} does not answer" in message


def test_agent_and_which_of_its_keys_are_used(client: Client, full_agent: str) -> None:
    client.know_all()
    stranger, identity = client.hosts.key("stranger"), client.hosts.key("id")
    with client.hosts.agent("agent") as agent:
        client.configure("Host *", f"IdentityAgent {agent}")
        assert client.log_in(identity_files=(str(stranger),)) == "host1"
        client.configure("Host *", f"IdentityAgent {agent}", "IdentitiesOnly yes")
        client.refused("HPC-SSH-AUTH", identity_files=(str(stranger),))
    client.configure("Host *", f"IdentityAgent {full_agent}")
    message = client.refused("HPC-SSH-AUTH", identity_files=(str(stranger),))
    assert f"{stranger} (refused)" in message
    assert "agent: full-6 (not tried)" in message
    assert "MaxAuthTries" in message
    assert client.log_in(identity_files=(str(identity),)) == "host1", "what is named is tried first"


def test_agent_that_does_not_answer_costs_a_moment(client: Client) -> None:
    client.know_all()
    path = client.directory / "agent"
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(path))
        agent.listen()
        client.configure("Host *", f"IdentityAgent {path}")
        assert client.log_in(connect_timeout=4.0) == "host1"
        stranger = (str(client.hosts.key("stranger")),)
        message = client.refused("HPC-SSH-AUTH", connect_timeout=4.0, identity_files=stranger)
    assert f"the agent {path} does not answer" in message


def test_host_that_wants_a_password_says_so(client: Client) -> None:
    client.know_all()
    message = client.refused("HPC-SSH-AUTH", user="typist")
    assert f"{client.hosts.key('id')} (not tried)" in message
    assert "no keys, but: password" in message


def test_key_that_the_configuration_names_and_that_is_not_there(client: Client) -> None:
    client.know_all()
    client.configure("Host *", "IdentityFile /no/key")
    assert "/no/key (there is no such file)" in client.refused("HPC-SSH-AUTH", identity_files=())


# ------------------------------------------------------------------------------------------------------- configuration file


def test_configuration_file(client: Client) -> None:
    client.know_all()
    more = client.directory / "more"
    more.write_text(f"Host short\n  HostName {client.address}\n  Port 2222\nHost unused\n  User nobody\n")
    client.configure(
        f"Include {more}",
        f"IdentityFile {client.hosts.key('id')}",
        "Host far",
        f"  HostName {client.hosts.address('inner')}",
        f"  ProxyJump {client.hosts.address('jump')}",
        "Host *",
        f'  UserKnownHostsFile "{client.known_hosts}"',
        f"  User={client.hosts.user}",
    )
    nothing = {"user": None, "identity_files": (), "known_hosts": None}
    assert client.log_in(host="short", **nothing) == "host1"
    assert client.log_in(host="far", **nothing) == "inner"


def test_configuration_as_people_write_it(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.know_all()
    monkeypatch.setenv("KEYS", str(client.hosts.key("id").parent))
    more = client.directory / "more hosts"
    more.write_text(f"Host\tshort\r\n\tHostName = {client.address}\r\n")
    client.configure(
        f'Include\t"{more}"',
        "Host *",
        "  IdentityFile ${KEYS}/id",
        "  CanonicalizeHostname yes",
        "  CanonicalDomains example.org",
        "  StrictHostKeyChecking accept-new",
        "  ControlMaster auto",
        "  NoSuchOption yes",
    )
    assert client.log_in(host="short", identity_files=()) == "host1"


def test_proxy_command(client: Client) -> None:
    client.know_all()
    ssh = f"ssh -F {client.hosts.config_file} -W %h:%p jump"
    client.configure("Host *", f"  ProxyCommand {ssh}")
    assert client.log_in(host=client.hosts.address("inner")) == "inner"
    for command in ("/no/such/program %h", "sh -c 'echo no way >&2; exit 3'"):
        client.configure("Host *", f"  ProxyCommand {command}")
        message = client.refused("HPC-SSH-UNREACHABLE")
        assert f"ProxyCommand {command.replace('%h', client.address)}" in message
        assert "no answer within" not in message


def test_configuration_that_cannot_be_used(client: Client) -> None:
    client.configure("Host *", "Port many")
    assert "Port" in client.refused("HPC-SSH-CONFIG")
    client.refused("HPC-SSH-CONFIG", config_file="/no/such/config")
    client.configure(
        f"Host {client.address}", f"ProxyJump {client.hosts.address('host2')}", "Host *", f"ProxyJump {client.address}"
    )
    assert "circle" in client.refused("HPC-SSH-CONFIG")


# ----------------------------------------------------------------------------------------------------------------- no answer


def test_hosts_that_do_not_answer(client: Client) -> None:
    client.know_all()
    assert "refused" in client.refused("HPC-SSH-UNREACHABLE", port=1)
    assert "not known" in client.refused("HPC-SSH-UNREACHABLE", host="no-such-host.invalid")
    client.hosts.cut("host1")
    assert "no answer within 0.5 s" in client.refused("HPC-SSH-UNREACHABLE", connect_timeout=0.5)
    jump = client.hosts.address("jump")
    message = client.refused("HPC-SSH-UNREACHABLE", host=client.hosts.address("inner"), port=1, proxy_jump=jump)
    assert f"through {client.hosts.user}@{jump}" in message or f"through {jump}" in message


def test_log_in_shell_that_runs_nothing(client: Client) -> None:
    client.know_all()
    message = client.refused("HPC-SSH-SHELL", user="barred")
    assert "not available" in message
