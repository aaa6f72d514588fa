"""Workers are killed, again and again, while a graph of tasks runs: every result is right, little is done twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hpccluster import Client, LocalCluster
from support.deadline import wait_until

pytestmark = pytest.mark.timeout(120)


def leaf(number: int, log: str) -> int:
    """Says that it runs, in the order in which it really happens."""
    with open(log, "a") as file:  # noqa: PTH123 - one write of one line
        file.write(f"{number}\n")
    time.sleep(0.005)
    return number


def block(number: int, log: str) -> bytes:
    """The same with a result that stays with the worker, and is lost with it."""
    return bytes([leaf(number, log) % 251]) * 100_000


def add_blocks(left: bytes, right: bytes) -> bytes:
    return bytes([(left[0] + right[0]) % 251]) * 100_000


def executions(log: Path) -> Counter[str]:
    """How often each leaf has begun."""
    return Counter(log.read_text().split()) if log.exists() else Counter()


@contextmanager
def killing(cluster: LocalCluster, log: Path, every: int) -> Iterator[list[int]]:
    """Kill a worker, in turn, each time ``every`` more leaves have begun; the pids of those that were killed."""
    stop, killed = threading.Event(), list[int]()

    def work() -> None:
        while not stop.wait(0.02):
            if executions(log).total() < every * (len(killed) + 1):
                continue
            if workers := cluster.workers:
                pid = workers[len(killed) % len(workers)].pid
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed.append(pid)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def test_killed_workers_cost_a_moment_and_no_result(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        LocalCluster(n_workers=4, threads_per_worker=2) as cluster,
        Client(cluster) as client,
        killing(cluster, log, every=150) as killed,
    ):
        leaves = client.map(leaf, range(1000), [str(log)] * 1000)
        sums = [client.submit(lambda *parts: sum(parts), *leaves[n : n + 10]) for n in range(0, 1000, 10)]
        assert client.gather(sums) == [sum(range(n, n + 10)) for n in range(0, 1000, 10)]
    begun = executions(log)
    assert len(killed) >= 4
    assert set(begun) == {str(number) for number in range(1000)}
    # a small result that the scheduler has is never computed again: only what a killed worker ran, or had not told yet
    assert begun.total() <= 1100 + 2 * len(killed)


def test_results_that_are_lost_with_their_workers_are_computed_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        LocalCluster(n_workers=4, threads_per_worker=1) as cluster,
        Client(cluster) as client,
        killing(cluster, log, every=80) as killed,
    ):
        layer = client.map(block, range(256), [str(log)] * 256)
        wanted = [number % 251 for number in range(256)]
        while len(layer) > 1:
            pairs = range(0, len(layer), 2)
            layer = [client.submit(add_blocks, *layer[n : n + 2]) for n in pairs]
            wanted = [(wanted[n] + wanted[n + 1]) % 251 for n in pairs]
        assert layer[0].result(timeout=60)[0] == wanted[0]
    assert len(killed) >= 2


def test_a_stopped_worker_is_replaced_and_nothing_counts_twice(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as client:
        leaves = client.map(leaf, range(400), [str(log)] * 400)
        wait_until(lambda: executions(log).total() >= 20, "tasks that run")
        stopped = cluster.workers[0].pid
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert client.gather(leaves) == list(range(400))
            wait_until(lambda: stopped not in [worker.pid for worker in cluster.workers], "another worker", timeout=40)
            cluster.wait_for_workers(2, timeout=30)
        finally:
            with suppress(ProcessLookupError):
                os.kill(stopped, signal.SIGCONT)
        assert client.submit(pow, 2, 3).result(timeout=30) == 8
    assert max(executions(log).values()) <= 2
