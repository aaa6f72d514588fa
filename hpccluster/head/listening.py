"""Where a head listens, and what others are told to connect to."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from hpccluster.comm.address import interface_address, is_wildcard, primary_address, route_towards
from hpccluster.errors import ConfigError

LOOPBACK = "127.0.0.1"


def choose_hosts(
    *, host: str, interface: str, contact_host: str, runs_here: bool, towards: Sequence[str] = ()
) -> tuple[str, str | None]:
    """The host to listen on, and the one to advertise (None: the same).

    What the user says wins. Else: loopback where all workers run on this host, the address on the way to ``towards``
    (hosts on which workers will run) where they are known, and for a batch system the address by which this host reaches
    others; never all interfaces. Raises `ConfigError` for an interface that is not there.
    """
    if host:
        listening = host
    elif interface:
        listening = interface_address(interface)
    elif runs_here:
        listening = LOOPBACK
    else:
        listening = _address_towards(towards) or primary_address()
    if contact_host:
        return listening, contact_host
    if is_wildcard(listening):
        return listening, interface_address(interface) if interface else primary_address()
    return listening, None


def _address_towards(hosts: Sequence[str]) -> str:
    """This host's address on the way to the first of these hosts that is another one; empty where none is known."""
    found = ""
    for host in hosts:
        try:
            address = route_towards(host)
        except ConfigError:
            continue  # an alias that only SSH knows
        if not ip_address(address).is_loopback:
            return address
        found = address
    return found
