"""One connection to make: a target with all that the configuration file says of it filled in. Values only."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from hpccluster.backend.remote import RemoteTarget
from hpccluster_ssh.known_hosts import DEFAULT_PORT, KnownHost, look_up, read

IDENTITY_FILES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
"""The keys that are tried where neither the target nor the configuration names any."""
KNOWN_HOSTS_FILES = (
    "~/.ssh/known_hosts",
    "~/.ssh/known_hosts2",
    "/etc/ssh/ssh_known_hosts",
    "/etc/ssh/ssh_known_hosts2",
)
REFUSED = "(refused)"
MAX_JUMPS = 8
"""As many hosts on the way as OpenSSH allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """Where one connection goes, and as whom."""

    target: RemoteTarget
    host: str
    """Name or address to connect to."""
    port: int
    user: str
    host_key_alias: str | None = None
    known_hosts: tuple[Path, ...] = ()
    identity_files: tuple[Path, ...] = ()
    identities_named: bool = False
    """Somebody has named them: one that is not there is worth a word."""
    identities_only: bool = False
    agent: str = ""
    """Path of the agent's socket; empty: none."""
    jumps: tuple[RemoteTarget, ...] = ()
    """The hosts on the way, the first one first."""
    proxy_command: str | None = None
    """A local command that makes the connection."""
    takes_certificates: bool = True
    """The library looks at who has signed the host's key."""

    @property
    def name(self) -> str:
        """The host for people: as it was named, and where that leads."""
        named = self.target.name
        return named if self.host in named else f"{named} ({self.host})"

    def known(self) -> KnownHost:
        """What the known_hosts files say of it; reads them."""
        if self.host_key_alias:
            return look_up(read(self.known_hosts), self.host_key_alias, DEFAULT_PORT)
        return look_up(read(self.known_hosts), self.host, self.port)


@dataclass(slots=True)
class Attempts:
    """How the log-in went, for the message that it failed."""

    keys: list[str] = field(default_factory=list)
    """``/home/ana/.ssh/id_ed25519 (refused)``"""
    waiting: list[str] = field(default_factory=list)
    """Keys that it did not come to."""
    offered: list[str] = field(default_factory=list)
    """Other ways to log in that the host would take."""
    agent: str = ""
    """Why it gave no keys, if it gave none."""

    @property
    def refused(self) -> bool:
        """The host has seen a key of ours."""
        return any(key.endswith(REFUSED) for key in self.keys)

    def refuse(self, name: str) -> None:
        """The host was shown the next key, and did not take it."""
        self.waiting.remove(name)
        self.keys.append(f"{name} {REFUSED}")

    def lines(self) -> list[str]:
        """One a key."""
        waiting = [f"{name} (not tried)" for name in self.waiting]
        return [*self.keys, *waiting, *([self.agent] if self.agent else [])] or ["no keys"]


def agent_path(configured: str | None) -> str:
    """The agent's socket, from ``IdentityAgent`` (ssh_config(5)), else from the environment."""
    if configured is None or configured == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK", "")
    if configured == "none":
        return ""
    if configured.startswith("$"):
        return os.environ.get(configured[1:].strip("{}"), "")
    return str(Path(configured).expanduser())


def agent_time(target: RemoteTarget) -> float:
    """Seconds for an agent to tell its keys: there must be time left for the host."""
    return min(5.0, target.connect_timeout / 2)


def agent_state(path: str) -> str:
    """Why there are no keys of an agent, for people."""
    if not path:
        return "no agent ($SSH_AUTH_SOCK is not set)"
    return f"the agent {path} does not answer"


def known_hosts_files(target: RemoteTarget, user: list[str] | None, everybody: list[str] | None) -> tuple[Path, ...]:
    """The files to look into: the target's, else ``UserKnownHostsFile`` and ``GlobalKnownHostsFile``, else OpenSSH's own.

    There is no way to switch the check off: without a file, no host is known.
    """
    if target.known_hosts is not None:
        return (Path(target.known_hosts).expanduser(),)
    users = KNOWN_HOSTS_FILES[:2] if user is None else user
    everybodys = KNOWN_HOSTS_FILES[2:] if everybody is None else everybody
    home = str(Path.home())
    return tuple(
        Path(name.replace("%d", home)).expanduser()
        for name in (*users, *everybodys)
        if name not in ("none", "/dev/null")
    )


def parse_jumps(target: RemoteTarget, text: str | None) -> tuple[RemoteTarget, ...]:
    """The hosts of a ``ProxyJump``. They share the target's configuration file, known_hosts, keys and times.

    Raises `ValueError`.
    """
    if text is None or text.lower() == "none":
        return ()
    jumps: list[RemoteTarget] = []
    for item in text.split(","):
        jumps.append(
            RemoteTarget.parse(
                item.strip().removeprefix("ssh://"),
                identity_files=target.identity_files,
                known_hosts=target.known_hosts,
                config_file=target.config_file,
                # of several hosts each is reached from the one before it; the configuration may name a way to the first
                proxy_jump="none" if jumps else None,
                connect_timeout=target.connect_timeout,
                keepalive=target.keepalive,
            )
        )
    return tuple(jumps)
