"""Hosts of a private network, as root on Linux: each has its own network, processes, host name, /tmp and home.

They hang on a switch that lies in a network namespace of its own, so that no packet filter of this machine sees what they say
to one another. The process that runs the tests has an address on that network, too. Names and addresses differ from run to run.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import json
import random
import secrets
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from support.deadline import wait_until
from support.ordinary_user import as_user, system_path

PREFIX = "hpt"
RANGE = ipaddress.IPv4Network("198.18.0.0/15")  # RFC 2544: for tests, routed nowhere
BEHIND = ipaddress.IPv4Network("192.0.2.0/30")
"""Between a gateway and the one host behind it; unknown to the process that runs the tests."""


class NetworkMissing(Exception):
    """This machine cannot make namespaces; the message says why."""


@dataclass
class NetworkHost:
    """One host. ``program`` is its first process: when that ends, all others of it do."""

    name: str
    address: str
    namespace: str
    program: Sequence[str]
    port: str
    """Its link, as the switch (or its gateway) names it."""
    gateway: str = ""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def init(self) -> int:
        """The number of its first process, as seen from here."""
        assert self.process is not None, f"{self.name} is down"
        (child,) = psutil.Process(self.process.pid).children()
        return child.pid


def command(*argv: str, check: bool = True, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
    """Run one command as root, here."""
    environment = {"PATH": system_path(), "LC_ALL": "C"}
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=timeout, env=environment, stdin=subprocess.DEVNULL
    )
    if check and done.returncode != 0:
        raise NetworkMissing(f"{shlex.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done


def _unused_network() -> ipaddress.IPv4Network:
    addresses = json.loads(command("ip", "-j", "address").stdout)
    used = {ipaddress.ip_address(item["local"]) for link in addresses for item in link.get("addr_info", [])}
    free = [net for net in RANGE.subnets(new_prefix=24) if not any(address in net for address in used)]
    return random.choice(free)


class PrivateNetwork:
    """The switch and its hosts. ``directory`` holds what the hosts need; it is seen by them, their own files are not."""

    def __init__(self, directory: Path, user: str) -> None:
        self.directory = directory
        self.user = user
        self.home = directory / "home"
        """Home of the user on every host: another directory on each, and an empty one here."""
        self.hosts: dict[str, NetworkHost] = {}
        self.tag = secrets.token_hex(3)
        self.switch = f"{PREFIX}-{self.tag}-switch"

    def start(self) -> None:
        """Raises `NetworkMissing` where this machine does not allow it."""
        self._network = _unused_network()
        *_, own = self._network.hosts()
        self.head = str(own)
        """The address of the process that runs the tests."""
        uplink = f"{PREFIX}{self.tag}up"
        command("ip", "netns", "add", self.switch)
        ip = functools.partial(command, "ip", "-n", self.switch)
        ip("link", "add", "switch", "type", "bridge")
        ip("link", "set", "switch", "up")
        command("ip", "link", "add", uplink, "type", "veth", "peer", "name", "head", "netns", self.switch)
        ip("link", "set", "head", "master", "switch", "up")
        command("ip", "address", "add", f"{self.head}/{self._network.prefixlen}", "dev", uplink)
        command("ip", "link", "set", uplink, "up")
        self.home.mkdir(exist_ok=True)

    def add(self, name: str, program: Sequence[str]) -> NetworkHost:
        """A host on the switch, not started yet."""
        number = len(self.hosts) + 1
        address = str(self._network[number])
        host = NetworkHost(name, address, f"{PREFIX}-{self.tag}-{name}", program, port=f"port{number}")
        self._wire(host, self.switch, f"{address}/{self._network.prefixlen}")
        command("ip", "-n", self.switch, "link", "set", host.port, "master", "switch", "up")
        command("ip", "-n", host.namespace, "route", "add", "default", "via", self.head)
        return host

    def add_behind(self, gateway: NetworkHost, name: str, program: Sequence[str]) -> NetworkHost:
        """A host that only ``gateway`` can reach; no packet goes through the gateway."""
        near, far = BEHIND.hosts()
        host = NetworkHost(name, str(far), f"{PREFIX}-{self.tag}-{name}", program, port="inside", gateway=gateway.name)
        self._wire(host, gateway.namespace, f"{far}/{BEHIND.prefixlen}")
        command("ip", "-n", gateway.namespace, "address", "add", f"{near}/{BEHIND.prefixlen}", "dev", host.port)
        command("ip", "-n", gateway.namespace, "link", "set", host.port, "up")
        return host

    def _wire(self, host: NetworkHost, other_end: str, address: str) -> None:
        self.hosts[host.name] = host
        command("ip", "netns", "add", host.namespace)
        ip = functools.partial(command, "ip", "-n", host.namespace)
        ip("link", "add", "eth0", "type", "veth", "peer", "name", host.port, "netns", other_end)
        ip("address", "add", address, "dev", "eth0")
        ip("link", "set", "lo", "up")
        ip("link", "set", "eth0", "up")

    def boot(self, name: str) -> None:
        """Start a host that is down."""
        host = self.hosts[name]
        assert host.process is None, f"{name} is up"
        hosts_file = self.directory / f"hosts-{name}"
        lines = ["127.0.0.1 localhost", f"{self.head} head"]
        lines += [f"{item.address} {item.name}" for item in self.hosts.values()]
        hosts_file.write_text("\n".join(lines) + "\n")
        files = self.directory / "files"
        script = f"""
            set -e
            hostname {shlex.quote(name)}
            mount --bind {hosts_file} /etc/hosts
            for file in {files}/*; do mount --bind "$file" "/etc/${{file##*/}}"; done
            mount -t tmpfs -o mode=1777 tmp /tmp
            mount -t tmpfs -o mode=1777 shm /dev/shm
            mount -t tmpfs -o mode=0755 home {self.home}
            cp -a {self.directory}/skeleton/. {self.home}/
            chown -R {self.user} {self.home}
            exec "$@"
        """
        with (self.directory / "log" / f"{name}.log").open("ab") as output:
            host.process = subprocess.Popen(
                # however this process ends, the host ends with it
                ["setpriv", "--pdeathsig=KILL", "--", "nsenter", f"--net=/run/netns/{host.namespace}",
                 "unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child=KILL", "--mount-proc",
                 "/bin/sh", "-c", script, "init", *host.program],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd="/",
                env={"PATH": system_path(), "LC_ALL": "C"},
            )  # fmt: skip

    def crash(self, name: str) -> None:
        """All processes of a host die at once. Its system still closes their connections; `cut` it first to keep it from that."""
        host = self.hosts[name]
        if host.process is None:
            return
        # the system ends the others with the first one, which its parent, `unshare`, then reaps
        parent = psutil.Process(host.process.pid)
        for process in parent.children() or [parent]:
            process.kill()
        host.process.wait()
        host.process = None
        wait_until(lambda: not self.processes(name), f"all processes of {name} have ended")

    def cut(self, name: str) -> None:
        """No packet reaches the host or leaves it, and nobody is told."""
        self._link(name, "down")

    def mend(self, name: str) -> None:
        self._link(name, "up")

    def _link(self, name: str, state: str) -> None:
        host = self.hosts[name]
        where = self.hosts[host.gateway].namespace if host.gateway else self.switch
        command("ip", "-n", where, "link", "set", host.port, state)

    def processes(self, name: str) -> list[int]:
        """All processes of a host, as numbers of this machine."""
        return [
            int(pid) for pid in command("ip", "netns", "pids", self.hosts[name].namespace, check=False).stdout.split()
        ]

    def enter(self, name: str, argv: Sequence[str], *, user: str | None = None) -> list[str]:
        """The command line that runs ``argv`` on a host, as root or that user, without the network."""
        return [
            "nsenter",
            f"--target={self.hosts[name].init}",
            "--net",
            "--uts",
            "--pid",
            "--mount",
            "--",
            *as_user(user, argv),
        ]

    def run(
        self, name: str, argv: Sequence[str], *, user: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host and wait for it."""
        environment = {"PATH": system_path(), "HOME": str(self.home), "LC_ALL": "C", **(env or {})}
        return subprocess.run(
            self.enter(name, argv, user=user), capture_output=True, text=True, timeout=20, env=environment,
            stdin=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip

    def stop(self) -> None:
        """End all hosts and remove the network. Idempotent."""
        for host in self.hosts.values():
            with contextlib.suppress(AssertionError):
                self.crash(host.name)
        for host in self.hosts.values():
            command("ip", "netns", "delete", host.namespace, check=False)
        self.hosts.clear()
        command("ip", "netns", "delete", self.switch, check=False)
        command("ip", "link", "delete", f"{PREFIX}{self.tag}up", check=False)


def sweep(tag: str) -> None:
    """Remove the network of a run that was killed: its processes have ended with it."""
    for space in Path("/run/netns").glob(f"{PREFIX}-{tag}-*"):
        command("ip", "netns", "delete", space.name, check=False)
    command("ip", "link", "delete", f"{PREFIX}{tag}up", check=False)
