"""Where a head listens."""

from __future__ import annotations

import ipaddress

import pytest

from hpccluster.errors import ConfigError
from hpccluster.head.listening import choose_hosts


def choose(
    *,
    host: str = "",
    interface: str = "",
    contact_host: str = "",
    runs_here: bool = False,
    towards: tuple[str, ...] = (),
) -> tuple[str, str | None]:
    return choose_hosts(host=host, interface=interface, contact_host=contact_host, runs_here=runs_here, towards=towards)


def test_a_local_cluster_listens_on_loopback_only() -> None:
    assert choose(runs_here=True) == ("127.0.0.1", None)


def test_what_the_user_says_wins() -> None:
    assert choose(host="10.0.0.1", interface="lo", runs_here=True) == ("10.0.0.1", None)
    assert choose(interface="lo") == ("127.0.0.1", None)
    assert choose(host="10.0.0.1", contact_host="login2") == ("10.0.0.1", "login2")


def test_a_batch_system_gets_one_address_of_this_host_never_all() -> None:
    listening, contact = choose()
    assert not ipaddress.ip_address(listening).is_unspecified
    assert contact is None


def test_known_hosts_of_workers_get_the_address_on_the_way_to_them() -> None:
    assert choose(towards=("127.0.0.1",)) == ("127.0.0.1", None)
    # a name that only SSH knows says nothing, this host itself is the last choice
    assert choose(towards=("no-such-host.invalid", "127.0.0.2")) == ("127.0.0.1", None)
    elsewhere, _ = choose()
    assert choose(towards=("127.0.0.1", "192.0.2.7")) == (elsewhere, None)
    assert choose(towards=("no-such-host.invalid",)) == (elsewhere, None)
    assert choose(host="10.0.0.1", towards=("127.0.0.1",)) == ("10.0.0.1", None)


def test_all_interfaces_only_if_asked_and_never_advertised() -> None:
    listening, contact = choose(host="0.0.0.0")
    assert listening == "0.0.0.0"
    assert contact is not None
    assert not ipaddress.ip_address(contact).is_unspecified
    assert choose(host="0.0.0.0", interface="lo") == ("0.0.0.0", "127.0.0.1")


def test_an_interface_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="ib77"):
        choose(interface="ib77")
