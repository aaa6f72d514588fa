"""A login host for a private batch system: an SSH server on this machine's loopback, as whose user its commands can be used.

It sees the files and processes of this machine, as the batch system's nodes do; only the accounts are its own. Root only.
"""

from __future__ import annotations

import contextlib
import pwd
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.deadline import wait_until
from support.ordinary_user import system_path
from support.private_network import command
from support.private_sshd import write_accounts


@dataclass(frozen=True)
class LoginHost:
    """A running SSH server."""

    name: str
    """In `config_file`."""
    config_file: Path
    process: subprocess.Popen[bytes]

    def end(self) -> None:
        """The server and all its sessions end. Idempotent."""
        self.process.kill()
        self.process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def login_host(
    directory: Path, *, user: str, home: Path, readable: Path, environment: Mapping[str, str]
) -> Iterator[LoginHost]:
    """An SSH server for that user, whose sessions have this home and environment; ended afterwards, with all sessions.

    ``readable``: a directory that the user may look into.
    """
    account = pwd.getpwnam(user)
    port = _free_port()
    for name in ("host", "id"):
        command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(directory / name))
    write_accounts(directory, [f"{user}:x:{account.pw_uid}:{account.pw_gid}::{home}:/bin/sh"])
    server = directory / "sshd_config"
    authorized = readable / f"authorized-{port}"
    shutil.copy(directory / "id.pub", authorized)
    authorized.chmod(0o644)
    server.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nAuthorizedKeysFile {authorized}\n"
        "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"SetEnv {' '.join(f'{name}={value}' for name, value in environment.items())}\n"
    )
    known_hosts = directory / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {(directory / 'host.pub').read_text()}")
    client = directory / "ssh_config"
    client.write_text(
        f"Host login\nHostName 127.0.0.1\nPort {port}\nUser {user}\nIdentityFile {directory}/id\n"
        f"UserKnownHostsFile {known_hosts}\nGlobalKnownHostsFile none\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    binds = "; ".join(f"mount --bind {shlex.quote(str(directory / name))} /etc/{name}" for name in ("passwd", "shadow"))
    program = f"set -e; {binds}; exec {shutil.which('sshd', path=system_path())} -D -e -f {shlex.quote(str(server))}"
    with (directory / "sshd.log").open("ab") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL",
             "/bin/sh", "-c", program],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env={"PATH": system_path()},
        )  # fmt: skip
    host = LoginHost("login", client, process)
    try:
        wait_until(lambda: _answers(port, process, directory), "sshd answers")
        yield host
    finally:
        host.end()


def _answers(port: int, process: subprocess.Popen[bytes], directory: Path) -> bool:
    assert process.poll() is None, (directory / "sshd.log").read_text()
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
