"""Addresses and this host's own."""

from __future__ import annotations

import pytest

from hpccluster.comm.address import (
    candidate_hosts,
    interface_address,
    is_wildcard,
    parse_address,
    route_towards,
)
from hpccluster.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port"),
    [
        ("tls://10.0.0.1:8786", "tls", "10.0.0.1", 8786),
        ("tcp://login-2.site.org:1", "tcp", "login-2.site.org", 1),
        ("tls://[fe80::1%eth0]:65535", "tls", "fe80::1%eth0", 65535),
        ("tcp://localhost:80/", "tcp", "localhost", 80),
    ],
)
def test_addresses_survive_their_text(text: str, scheme: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert (address.scheme, address.host, address.port) == (scheme, host, port)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "calm-otter",
        "10.0.0.1:8786",
        "http://h:1",
        "tls://h",
        "tls://h:0",
        "tls://h:65536",
        "tls://h:99999999999",
        "tls://:1",
        "tls://fe80::1:2",
        "tls://a b:1",
        "tls://user@h:1",
        "tls://h:1/x",
        "tls://h:1\n",
        "tls://[::1:1",
    ],
)
def test_anything_else_is_one_error_that_shows_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match="tls://HOST:PORT"):
        parse_address(text)


def test_interfaces() -> None:
    assert interface_address("lo") == "127.0.0.1"
    with pytest.raises(ConfigError, match=r"no network interface 'ib7'.*\n.*lo 127\.0\.0\.1"):
        interface_address("ib7")
    assert candidate_hosts()


def test_the_route_towards_a_host() -> None:
    assert route_towards("127.0.0.1") == "127.0.0.1"
    with pytest.raises(ConfigError, match="no route"):
        route_towards("no-such-host.invalid")


def test_wildcards() -> None:
    assert is_wildcard("0.0.0.0")
    assert is_wildcard("::")
    assert not is_wildcard("127.0.0.1")
