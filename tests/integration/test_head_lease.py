"""An owner is gone when it is proven to be, and not before."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from hpccluster.errors import ClusterError
from hpccluster.head.directory import process_start
from hpccluster.head.lease import Lease


class Over:
    """Notes the one call that a lease makes."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.happened = asyncio.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self.happened.set()


async def wait_for_end(linger: float, end_owner: bool) -> list[str]:
    over = Over()
    reading, writing = os.pipe()
    lease = Lease(linger, over)
    lease.watch_pipe(reading, 42)
    os.write(writing, b"ignored\n")
    await asyncio.sleep(0)
    assert lease.is_owned
    if end_owner:
        os.close(writing)
        async with asyncio.timeout(5):
            await over.happened.wait()
    else:
        lease.end()
        os.close(writing)
    return over.reasons


def test_the_lease_is_over_when_the_pipe_closes() -> None:
    assert asyncio.run(wait_for_end(0.0, end_owner=True)) == ["its owner (process 42) is gone"]


def test_a_lease_that_was_ended_says_nothing() -> None:
    assert asyncio.run(wait_for_end(0.0, end_owner=False)) == []


def test_another_process_takes_over_while_the_cluster_lingers() -> None:
    async def scenario() -> list[str]:
        over = Over()
        reading, writing = os.pipe()
        lease = Lease(60.0, over)
        lease.watch_pipe(reading, 42)
        owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        start = process_start(owner.pid)
        assert start is not None
        with pytest.raises(ClusterError, match="alive"):
            lease.take_over(owner.pid, start, 0.0)
        os.close(writing)
        while lease.is_owned:
            await asyncio.sleep(0)
        with pytest.raises(ClusterError, match="cannot be watched"):
            lease.take_over(owner.pid, "another", 0.0)
        lease.take_over(owner.pid, start, 0.0)
        assert (lease.is_owned, lease.owner) == (True, owner.pid)
        owner.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0)
        assert over.reasons == []
        owner.kill()
        async with asyncio.timeout(5):
            await over.happened.wait()
        owner.communicate()
        return over.reasons

    assert len(asyncio.run(scenario())) == 1


@pytest.mark.parametrize("pid", [-1, 0, 1, 2**22 + 7])
def test_only_a_process_that_is_there_can_take_over(pid: int) -> None:
    with pytest.raises(ClusterError, match="cannot be watched"):
        Lease(0.0, lambda _: None).take_over(pid, "x", 0.0)
