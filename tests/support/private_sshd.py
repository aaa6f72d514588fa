"""Real SSH servers for tests: several hosts, each with an sshd of its own (OpenSSH), that share no files. Root only.

    host1 host2 host3    on one network with the process that runs the tests
    jump                 on it, too, and the only one that reaches
    inner                a host behind it (``ProxyJump jump`` in `config_file`)

Users of each host: `user`, an ordinary one, and others with the same home: ``noisy``, whose shell prints a greeting whenever it
starts; ``stuck``, whose shell greets and goes no further; ``narrow``, who may run two commands at once on one connection;
``enclosed``, who may forward no ports; ``barred``, whose shell runs nothing; ``typist``, who must type a password. Each other
one has the keys ``id`` and ``agent`` authorized; ``stranger`` is a key that no host knows, ``locked`` is ``id`` under a passphrase. Host keys
are all in `known_hosts`; that of ``host3`` is also signed by the key ``authority``.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import hmac
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from support.deadline import wait_until
from support.ordinary_user import UserMissing, ordinary_user, python_for, system_path
from support.private_network import NetworkMissing, PrivateNetwork, command, sweep

PROGRAMS = ("sshd", "ssh", "ssh-keygen", "ssh-agent", "ssh-add", "ip", "nsenter", "unshare", "setpriv")
HOSTS = ("host1", "host2", "host3")
PASSPHRASE = "correct horse"
PORTS = (22, 2222)
"""Every sshd listens on both."""

BASE = Path("/var/tmp")  # not /tmp: the hosts have their own
NAME = "hpccluster-sshd-"
_CLEAN = '[ "$(stat -f -c %T /tmp)" = tmpfs ] && find /tmp "$HOME" -xdev -mindepth 1 -delete'
"""Only where /tmp is the host's own."""
OWNER = "owner"


class SshdMissing(Exception):
    """This machine cannot run SSH servers of its own; the message says what is missing."""


class PrivateHosts(PrivateNetwork):
    """Running SSH servers. Made by `launch`."""

    @classmethod
    def launch(cls) -> PrivateHosts:
        """Raises `SshdMissing` where programs or permissions are missing."""
        if os.geteuid() != 0:
            raise SshdMissing("hosts of one's own need root (namespaces)")
        if missing := [name for name in PROGRAMS if shutil.which(name, path=system_path()) is None]:
            raise SshdMissing(f"not installed: {', '.join(missing)} (Debian: apt-get install openssh-server iproute2)")
        if Path(__file__).resolve().is_relative_to("/tmp"):
            raise SshdMissing("this checkout lies below /tmp, which the hosts have for themselves: clone it elsewhere")
        _sweep()
        directory = Path(tempfile.mkdtemp(prefix=NAME, dir=BASE))
        hosts: PrivateHosts | None = None
        try:
            hosts = cls(directory, ordinary_user())
            hosts._launch()
        except BaseException as error:
            if hosts is not None:
                hosts.stop()
            shutil.rmtree(directory, ignore_errors=True)
            if isinstance(error, (UserMissing, NetworkMissing)):
                raise SshdMissing(str(error)) from None
            raise
        return hosts

    def _launch(self) -> None:
        self.directory.chmod(0o755)
        (self.directory / OWNER).write_text(f"{os.getpid()} {self.tag}")
        for name in ("log", "files", "keys", "skeleton", "etc"):
            (self.directory / name).mkdir(mode=0o755)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where its unprivileged half is confined to
        self._write_accounts()
        self._write_keys()
        self.start()
        for name in (*HOSTS, "jump"):
            self.add(name, self._sshd(name))
        self.add_behind(self.hosts["jump"], "inner", self._sshd("inner"))
        self._write_client_files()
        command("ssh-keygen", "-q", "-s", str(self.key("authority")), "-h", "-I", "host3", "-n", self.address("host3"),
                str(self.key("host-host3").with_suffix(".pub")))  # fmt: skip
        for name in self.hosts:
            self.boot(name)

    def _write_accounts(self) -> None:
        """The accounts of this machine with another home; without a password, but not locked, which sshd would refuse."""
        account = pwd.getpwnam(self.user)
        ids = f"{account.pw_uid}:{account.pw_gid}"
        shells = {
            self.user: "/bin/sh",
            "noisy": f"{self.directory}/noisy-shell",
            "stuck": f"{self.directory}/stuck-shell",
            "narrow": "/bin/sh",
            "enclosed": "/bin/sh",
            "typist": "/bin/sh",
            "barred": "/usr/sbin/nologin",
        }
        entries = [f"{name}:x:{ids}::{self.home}:{shell}" for name, shell in shells.items()]
        shells_of_ours = {
            "noisy": 'echo "Welcome to $(hostname)!"\necho "Mind the quota." >&2\nexec /bin/sh "$@"\n',
            "stuck": 'echo "Please wait."\nexec cat >/dev/null\n',
        }
        for name, text in shells_of_ours.items():
            path = self.directory / f"{name}-shell"
            path.write_text(f"#!/bin/sh\n{text}")
            path.chmod(0o755)
        write_accounts(self.directory / "files", entries)

    def _write_keys(self) -> None:
        for name in (
            "id",
            "agent",
            "stranger",
            "authority",
            "host-other",
            *(f"host-{host}" for host in (*HOSTS, "jump", "inner")),
        ):
            self.make_key(name)
        shutil.copy(self.key("id"), self.key("locked"))
        command("ssh-keygen", "-q", "-p", "-P", "", "-N", PASSPHRASE, "-f", str(self.key("locked")))
        authorized = "".join(self.public_key(name) + "\n" for name in ("id", "agent"))
        (self.directory / "etc" / "authorized_keys").write_text(authorized)

    def _sshd(self, name: str) -> list[str]:
        config = self.directory / "etc" / f"sshd_config.{name}"
        settings = [
            *(f"Port {port}" for port in PORTS),
            f"HostKey {self.key(f'host-{name}')}",
            *([f"HostCertificate {self.key('host-host3-cert.pub')}"] if name == "host3" else []),
            f"AuthorizedKeysFile {self.directory}/etc/authorized_keys",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PidFile none",
            "UseDNS no",
            "PrintMotd no",
            "LogLevel VERBOSE",
        ]
        # OpenSSH 9.8 and newer would shut out who has failed to log in
        newer = command("sshd", "-t", "-o", "PerSourcePenalties=no", "-f", "/dev/null", check=False)
        if "PerSourcePenalties" not in newer.stderr:
            settings.append("PerSourcePenalties no")
        settings += ["Match User narrow", "MaxSessions 2"]
        settings += ["Match User enclosed", "AllowTcpForwarding no"]
        settings += ["Match User typist", "PubkeyAuthentication no", "PasswordAuthentication yes"]
        config.write_text("\n".join(settings) + "\n")
        program = shutil.which("sshd", path=system_path())
        assert program is not None
        return [program, "-D", "-e", "-f", str(config)]

    def _write_client_files(self) -> None:
        known = [f"{self.pattern(name)} {self.public_key(f'host-{name}')}" for name in self.hosts]
        self.known_hosts.write_text("\n".join(known) + "\n")
        lines: list[str] = []
        for host in self.hosts.values():
            lines += [f"Host {host.name}", f"  HostName {host.address}"]
            lines += [f"  ProxyJump {host.gateway}"] if host.gateway else []
        lines += [
            "Host *",
            f"  User {self.user}",
            f"  IdentityFile {self.key('id')}",
            f"  UserKnownHostsFile {self.known_hosts}",
            "  GlobalKnownHostsFile /dev/null",
            "  BatchMode yes",
        ]
        self.config_file.write_text("\n".join(lines) + "\n")

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def up(self, name: str) -> None:
        """Start a host if it is down, and wait until its sshd answers."""
        if self.hosts[name].process is None:
            self.boot(name)
        wait_until(lambda: self._answers(name), f"sshd of {name} answers (see {self.directory}/log)")

    def restore(self) -> None:
        """All hosts up and connected, without files of former tests."""
        for name in self.hosts:
            self.mend(name)
        for name in self.hosts:
            self.up(name)
            self.run(name, ["sh", "-c", _CLEAN], user=self.user)

    def _answers(self, name: str) -> bool:
        process = self.hosts[name].process
        assert process is not None
        assert process.poll() is None, (self.directory / "log" / f"{name}.log").read_text()
        with contextlib.suppress(ValueError, psutil.Error):  # not so far yet
            return "0.0.0.0:22 " in self.run(name, ["ss", "-Hltn"]).stdout
        return False

    # --------------------------------------------------------------------------------------------------- what clients need

    @property
    def config_file(self) -> Path:
        """An SSH configuration file with all hosts by name, for `user`."""
        return self.directory / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    def address(self, name: str) -> str:
        return self.hosts[name].address

    def pattern(self, name: str) -> str:
        """The host in a line of known_hosts, for all its ports."""
        return ",".join([self.address(name), *(f"[{self.address(name)}]:{port}" for port in PORTS if port != 22)])

    def key(self, name: str) -> Path:
        """The file of a private key."""
        return self.directory / "keys" / name

    def make_key(self, name: str, kind: str = "ed25519") -> Path:
        command("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", str(self.key(name)))
        return self.key(name)

    def public_key(self, name: str) -> str:
        """``ssh-ed25519 AAAA...``, without a comment."""
        return " ".join(self.key(name).with_name(f"{name}.pub").read_text().split()[:2])

    def hashed(self, pattern: str) -> str:
        """A host's name as ``ssh-keygen -H`` hides it."""
        salt = secrets.token_bytes(20)
        digest = hmac.new(salt, pattern.encode(), hashlib.sha1).digest()
        return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"

    @contextlib.contextmanager
    def agent(self, *keys: str) -> Iterator[str]:
        """An SSH agent that holds these keys; the path of its socket."""
        path = self.directory / f"agent-{secrets.token_hex(4)}"
        environment = {"PATH": system_path(), "SSH_AUTH_SOCK": str(path)}
        argv = ["setpriv", "--pdeathsig=KILL", "--", "ssh-agent", "-D", "-a", str(path)]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            try:
                listing = ["ssh-add", "-l"]
                wait_until(
                    lambda: subprocess.run(listing, env=environment, capture_output=True, timeout=20).returncode != 2,
                    "the agent answers",
                )
                for key in keys:
                    subprocess.run(["ssh-add", "-q", str(self.key(key))], env=environment, check=True, timeout=20)
                yield str(path)
            finally:
                process.kill()

    @functools.cached_property
    def python(self) -> str:
        """An interpreter that `user` can run on every host, with hpccluster and all that it needs."""
        try:
            return python_for(self.user, self.directory)
        except UserMissing as missing:
            raise SshdMissing(str(missing)) from None


def write_accounts(folder: Path, entries: Sequence[str]) -> None:
    """Files ``passwd`` and ``shadow`` like those of this machine, with these entries in place of the users' own."""
    names = [entry.split(":")[0] for entry in entries]
    for file, ours in (("passwd", entries), ("shadow", [f"{name}:*:19000:0:99999:7:::" for name in names])):
        others = [line for line in Path("/etc", file).read_text().splitlines() if line.split(":")[0] not in names]
        path = folder / file
        path.touch(mode=0o600)
        path.write_text("\n".join([*ours, *others]) + "\n")
        path.chmod(0o644 if file == "passwd" else 0o600)


def _sweep() -> None:
    """Remove what test runs that were killed have left."""
    for directory in BASE.glob(f"{NAME}*"):
        if directory.owner() != "root":
            continue
        with contextlib.suppress(OSError, ValueError):
            owner, tag = (directory / OWNER).read_text().split()
            if not psutil.pid_exists(int(owner)):
                sweep(tag)
                shutil.rmtree(directory, ignore_errors=True)
