"""Where a peer listens: ``tls://host:port`` and ``tcp://host:port``, and which of this host's addresses to use."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Literal

from hpccluster.errors import ConfigError

Scheme = Literal["tls", "tcp"]

_FORM = re.compile(r"(?P<scheme>tls|tcp)://(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^\[\]:/@?#\s]+)):(?P<port>[0-9]{1,5})/?")
_DISCARD_PORT = 9
_SOMEWHERE_ELSE = "192.0.2.1"
"""An address for documentation (RFC 5737): it is nobody's, and the way to it is the way out."""


@dataclass(frozen=True, slots=True)
class Address:
    """A contact address."""

    scheme: Scheme
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    """A host as addresses name it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def parse_address(text: str) -> Address:
    """Raises `ConfigError` for anything but ``tls://host:port`` or ``tcp://host:port`` (IPv6 hosts in brackets)."""
    match = _FORM.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ConfigError(f"{text!r} is not an address\n  expected tls://HOST:PORT or tcp://HOST:PORT")
    scheme: Scheme = "tls" if match["scheme"] == "tls" else "tcp"
    return Address(scheme, match["six"] or match["host"], int(match["port"]))


def interface_address(interface: str) -> str:
    """The IPv4 address of a network interface; raises `ConfigError` that lists the interfaces there are."""
    addresses = _interfaces()
    if interface not in addresses:
        known = ", ".join(f"{name} {host}" for name, host in sorted(addresses.items())) or "none"
        raise ConfigError(f"no network interface {interface!r} with an IPv4 address here\n  there are: {known}")
    return addresses[interface]


def candidate_hosts() -> list[str]:
    """This host's own IPv4 addresses that other hosts might reach, for a listener on all interfaces."""
    return [host for host in _interfaces().values() if not ipaddress.ip_address(host).is_loopback] or ["127.0.0.1"]


def route_towards(host: str) -> str:
    """This host's own address on the route to ``host``. Nothing is sent. Raises `ConfigError`."""
    try:
        family, kind, protocol, _, peer = socket.getaddrinfo(host, _DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(peer)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(f"no route from here to {host!r}: {error.strerror or error}") from error


def primary_address() -> str:
    """This host's own address by which it reaches others. Nothing is sent."""
    try:
        return route_towards(_SOMEWHERE_ELSE)
    except ConfigError:
        # No default route: a private network of nodes, or no network at all.
        return candidate_hosts()[0]


def is_wildcard(host: str) -> bool:
    """Whether a bound host means every interface."""
    return host in ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def _interfaces() -> dict[str, str]:
    import psutil  # a worker that is told its host never needs it

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return {
        name: entry.address
        for name, entries in psutil.net_if_addrs().items()
        if name in up
        for entry in entries[::-1]
        if entry.family == socket.AF_INET
    }
