"""On which host the next job goes."""

from __future__ import annotations

import pytest

from hpccluster.errors import SubmitRefused
from hpccluster_ssh.options import HostOptions
from hpccluster_ssh.placing import Places


def places(*jobs: int) -> Places:
    return Places([HostOptions(host=f"n{index}", jobs=number) for index, number in enumerate(jobs)])


def names(hosts: Places, number: int, now: float = 0.0) -> list[str]:
    return [hosts.take(now).name for _ in range(number)]


def test_the_least_used_host_comes_first() -> None:
    assert names(places(1, 1, 1), 3) == ["n0", "n1", "n2"]
    assert names(places(1, 3, 2), 6) == ["n0", "n1", "n2", "n1", "n2", "n1"]


def test_a_host_that_is_left_is_free_again() -> None:
    hosts = places(1, 1)
    first = hosts.take(0.0)
    assert hosts.take(0.0).name == "n1"
    hosts.leave(first)
    assert hosts.take(0.0) is first


def test_a_host_that_failed_rests_and_comes_last() -> None:
    hosts = places(1, 1)
    first = hosts.take(0.0)
    first.failed("refused", now=0.0, lived=0.0)
    hosts.leave(first)
    second = hosts.take(1.0)
    assert second.name == "n1"
    with pytest.raises(SubmitRefused):
        hosts.take(14.0)
    hosts.leave(second)
    assert hosts.take(16.0) is second
    assert hosts.take(16.0) is first


def test_a_host_that_may_be_mended_is_tried_at_once_but_last() -> None:
    hosts = places(1, 1)
    first = hosts.take(0.0)
    first.failed("refused", now=0.0, lived=0.0)
    hosts.leave(first)
    hosts.forgive()
    assert names(hosts, 2, now=1.0) == ["n1", "n0"]


def test_rests_grow_until_a_job_has_been_of_use() -> None:
    hosts = places(1)
    (place,) = hosts.all
    rests = []
    for _ in range(6):
        place.failed("refused", now=100.0, lived=1.0)
        rests.append(place.rests_until - 100.0)
    assert rests == [15, 30, 60, 120, 300, 300]
    place.failed("lost", now=100.0, lived=3600.0)
    assert place.rests_until == 115.0
    place.was_of_use()
    assert hosts.take(0.0) is place


def test_no_host_left_says_of_every_one_why() -> None:
    hosts = places(1, 1, 1)
    used, broken = hosts.take(0.0), hosts.take(0.0)
    broken.failed("n1: cannot be reached\n  fix: try: ssh n1", now=10.0, lived=0.0)
    hosts.leave(broken)
    hosts.take(10.0)
    with pytest.raises(SubmitRefused) as caught:
        hosts.take(12.0)
    assert caught.value.code == "HPC-SUBMIT-FULL"
    assert str(caught.value).splitlines() == [
        "no host for one more job: of 3 hosts 2 are in use, 1 have failed lately",
        "  n1: cannot be reached, tried again in 13 s",
        "    fix: try: ssh n1",
    ]
    assert used.name == "n0"
