"""A cluster inside the calling process."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from hpccluster import Client, LocalCluster
from hpccluster.errors import ClusterError
from support.cluster_processes import files_of, processes_of


def make(workers: int, **keywords: str) -> LocalCluster:
    return LocalCluster(n_workers=workers, threads_per_worker=1, processes=False, **keywords)  # type: ignore[arg-type]


def test_everything_is_in_this_process(state: Path) -> None:
    with make(2) as cluster, Client(cluster) as client:
        assert client.submit(os.getpid).result() == os.getpid()
        assert client.gather(client.map(abs, range(-3, 0))) == [3, 2, 1]
        assert cluster.scheduler.address == cluster.scheduler_address
        assert sorted(cluster.scheduler.state.workers) == [worker.name for worker in cluster.workers]
        data = client.scatter(b"x" * 300_000)
        assert cluster.scale(3).workers == 3
        assert cluster.scale(1).workers == 1
        assert len(client.gather(data)) == 300_000
        assert "-m hpccluster.runtime" in cluster.job_script()
    assert cluster.is_closed
    assert processes_of(state) == {}
    assert files_of(state) == []


def test_it_leaves_no_thread_and_no_descriptor(state: Path) -> None:
    def used() -> tuple[int, int]:
        return threading.active_count(), sum(1 for _ in Path("/proc/self/fd").iterdir())

    with make(1):
        pass
    before = used()
    for _ in range(3):
        with make(1, protocol="tcp") as cluster, Client(cluster) as client:
            assert client.submit(pow, 2, 2).result() == 4
    assert used() <= before


def test_the_scheduler_of_another_process_cannot_be_looked_into(state: Path) -> None:
    with (
        LocalCluster(n_workers=0, threads_per_worker=1) as cluster,
        pytest.raises(ClusterError, match="processes=False"),
    ):
        _ = cluster.scheduler
