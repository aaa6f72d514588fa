"""The fixture ``ssh_hosts``: private hosts with an sshd each, for the whole test session."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest

from support.private_sshd import PrivateHosts, SshdMissing

REQUIRE = "HPCCLUSTER_REQUIRE_SSHD"


@pytest.fixture(scope="session")
def private_hosts() -> Iterator[PrivateHosts]:
    """Running hosts. Where there can be none, the tests that ask for them are skipped with a warning; with
    ``HPCCLUSTER_REQUIRE_SSHD=1`` they fail.
    """
    try:
        hosts = PrivateHosts.launch()
    except SshdMissing as missing:
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(f"{REQUIRE}=1, but this machine cannot run hosts of its own: {missing}")
        warnings.warn(f"TESTS ON REAL SSH SERVERS ARE SKIPPED: {missing}", stacklevel=1)
        pytest.skip(f"no sshd: {missing}")
    try:
        yield hosts
    finally:
        hosts.stop()


@pytest.fixture
def ssh_hosts(private_hosts: PrivateHosts) -> Iterator[PrivateHosts]:
    """The private hosts, all up and connected, before and after the test."""
    private_hosts.restore()
    yield private_hosts
    private_hosts.restore()
