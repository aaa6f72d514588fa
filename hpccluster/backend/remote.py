"""Where a remote runner connects to, and how. Values only: nothing here connects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpccluster.backend.runner import Runner

KEEPALIVE_LIMIT = 3
"""A connection is lost when this many keepalive messages in a row were not answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTarget:
    """A host as the user names it. What is not said here comes from the SSH configuration file, then from SSH's defaults."""

    host: str
    """A host name, an address, or an alias of the SSH configuration file."""
    user: str | None = None
    port: int | None = None
    identity_files: tuple[str, ...] = ()
    """Private keys to try before the agent's."""
    known_hosts: str | None = None
    """A known_hosts file to use in place of the user's and the system's."""
    config_file: str | None = None
    """An SSH configuration file; None: ``~/.ssh/config`` where there is one."""
    proxy_jump: str | None = None
    """As OpenSSH's ``ProxyJump``: ``[user@]host[:port][,...]``, or ``none``."""
    connect_timeout: float = 10.0
    """Seconds for one connection, from the name of the host to the login, at each hop."""
    keepalive: float = 5.0
    """Seconds between keepalive messages; a connection is lost after three that were not answered."""

    def __post_init__(self) -> None:
        # such a name never gets near a command line of ours, but it would get near the user's, copied from a message
        if not _is_plain(self.host):
            raise ValueError(f"{self.host!r} is no name of a host")
        if self.user is not None and not _is_plain(self.user):
            raise ValueError(f"{self.user!r} is no name of a user")

    @classmethod
    def parse(cls, text: str, **more: Any) -> RemoteTarget:
        """From ``[user@]host[:port]``; an IPv6 address with a port stands in brackets. ``more``: other fields.

        Raises `ValueError`.
        """
        user, at, place = text.rpartition("@")
        host, port = place, ""
        if place.startswith("["):
            host, end, rest = place[1:].partition("]")
            port = rest.removeprefix(":")
            if not end or rest == ":" or (rest and rest == port):
                raise ValueError(f"{text!r} is not [user@]host[:port]")
        elif place.count(":") == 1:
            host, _, port = place.partition(":")
        if (at and not user) or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
            raise ValueError(f"{text!r} is not [user@]host[:port]")
        return cls(host=host, user=user or None, port=int(port) if port else None, **more)

    @property
    def name(self) -> str:
        """The host as people write it: ``user@host:port``, with what was said."""
        host = f"[{self.host}]" if ":" in self.host and self.port else self.host
        return f"{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


_SHELL = frozenset("'`\"$\\;&<>|(){}")
"""What a shell would take for its own; OpenSSH refuses these in names, too."""


def _is_plain(name: str) -> bool:
    return (
        bool(name)
        and not name.startswith("-")
        and not any(sign in _SHELL or sign.isspace() or not sign.isprintable() for sign in name)
    )


RunnerFactory = Callable[[RemoteTarget], "Runner"]
"""Makes a runner without any I/O. It connects when it is used, keeps its connection, and connects again after a loss."""
