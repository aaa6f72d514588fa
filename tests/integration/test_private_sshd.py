"""The SSH servers of the tests are what they say, as OpenSSH's own client sees them."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import psutil

from support.private_sshd import HOSTS, PASSPHRASE, PrivateHosts


def ssh(hosts: PrivateHosts, *argv: str, agent: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh", "-F", str(hosts.config_file), "-o", "ConnectTimeout=1", "-o", "BatchMode=yes", *argv],
        capture_output=True,
        text=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "SSH_AUTH_SOCK": agent},
    )


def test_each_host_is_one_of_its_own(ssh_hosts: PrivateHosts, tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    for name in (*HOSTS, "jump", "inner"):
        done = ssh(ssh_hosts, name, f"hostname; id -un; pwd; echo x > ~/file; echo x > /tmp/file; ls {tmp_path}/here")
        assert done.stdout.split() == [name, ssh_hosts.user, str(ssh_hosts.home)], done.stderr
        assert "No such file" in done.stderr
        assert len(ssh_hosts.processes(name)) <= 6
    assert not list(ssh_hosts.home.iterdir())
    assert not Path("/tmp/file").exists()
    assert ssh(ssh_hosts, "host1", "rm ~/file /tmp/file; ls -A ~; ls -A /tmp").stdout == ""
    noisy = ssh(ssh_hosts, "-l", "noisy", "host2", "true")
    assert (noisy.stdout, noisy.stderr) == ("Welcome to host2!\n", "Mind the quota.\n")


def test_hosts_reach_one_another_and_the_process_that_runs_the_tests(ssh_hosts: PrivateHosts) -> None:
    with socket.create_server((ssh_hosts.head, 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket; socket.create_connection(('head', {port}), 5).sendall(b'hello')"
        done = ssh(ssh_hosts, "host1", f'{ssh_hosts.python} -c "import hpccluster; {connect}"')
        assert done.returncode == 0, done.stderr
        connection, (address, _) = server.accept()
        with connection:
            assert (connection.recv(5), address) == (b"hello", ssh_hosts.address("host1"))
    other = "import socket; print(socket.create_connection(('host2', 2222), 5).recv(4))"
    assert ssh(ssh_hosts, "host1", f'{ssh_hosts.python} -c "{other}"').stdout == "b'SSH-'\n"


def test_host_that_crashes_and_one_that_is_cut_off(ssh_hosts: PrivateHosts) -> None:
    ssh(ssh_hosts, "host1", "echo x > ~/file")
    ssh_hosts.crash("host1")
    assert "Connection refused" in ssh(ssh_hosts, "host1", "true").stderr
    ssh_hosts.up("host1")
    assert ssh(ssh_hosts, "host1", "ls ~").stdout == "", "files do not outlive the host"

    ssh(ssh_hosts, "host2", "sleep 60 >/dev/null 2>&1 &")
    ssh_hosts.cut("host2")
    assert "timed out" in ssh(ssh_hosts, "host2", "true").stderr
    assert ssh(ssh_hosts, "host3", "hostname").stdout == "host3\n", "the others do not notice"
    assert ssh_hosts.run("host2", ["hostname"]).stdout == "host2\n"
    ssh_hosts.mend("host2")
    assert "sleep 60" in ssh(ssh_hosts, "host2", "ps -eo args; pkill -x sleep").stdout


def test_keys(ssh_hosts: PrivateHosts) -> None:
    plain = ("-F", "none", "-o", f"UserKnownHostsFile={ssh_hosts.known_hosts}", "-l", ssh_hosts.user)
    host = ssh_hosts.address("host1")
    assert "Permission denied" in ssh(ssh_hosts, *plain, "-i", str(ssh_hosts.key("stranger")), host, "true").stderr
    with ssh_hosts.agent("agent") as agent:
        assert ssh(ssh_hosts, *plain, host, "hostname", agent=agent).stdout == "host1\n"
    opened = subprocess.run(
        ["ssh-keygen", "-y", "-P", PASSPHRASE, "-f", str(ssh_hosts.key("locked"))], capture_output=True, text=True
    )
    assert opened.stdout.split()[:2] == ssh_hosts.public_key("id").split()


def test_nothing_is_left(ssh_hosts: PrivateHosts) -> None:
    other = PrivateHosts.launch()
    try:
        assert other.head != ssh_hosts.head
        inits = [host.init for host in other.hosts.values()]
    finally:
        other.stop()
    other.stop()
    assert not any(psutil.pid_exists(init) for init in inits)
    assert not other.directory.exists()
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    assert other.tag not in links + spaces
    assert ssh_hosts.tag in spaces
