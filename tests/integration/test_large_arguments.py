"""Large arguments where there is no worker yet: its job may wait in a queue for hours."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hpccluster import Client, LocalCluster
from hpccluster.errors import ClusterClosed
from hpccluster.runtime import delivery
from support.deadline import wait_until

LARGE = 2_000_000


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=0, threads_per_worker=1) as cluster:
        yield cluster


def test_they_are_submitted_without_a_worker_and_as_they_were(cluster: LocalCluster) -> None:
    with Client(cluster) as client:
        buffer = np.zeros(LARGE // 8 + 1)
        futures = []
        for number in range(5):
            buffer[:] = number
            futures.append(client.submit(np.max, buffer))
        lengths = client.map(len, [bytes(LARGE), "x" * (LARGE + 1)])
        cluster.scale(2)
        assert client.gather(futures, timeout=30) == list(range(5))
        assert client.gather(lengths, timeout=30) == [LARGE, LARGE + 1]
        assert not client._live().deliveries._waiting, "no copy is kept of what has arrived"


def test_they_are_work_that_adapt_starts_workers_for(cluster: LocalCluster) -> None:
    with Client(cluster) as client:
        length = client.submit(len, bytes(LARGE))
        cluster.adapt(minimum=0, maximum=1)
        assert length.result(timeout=30) == LARGE


def test_who_submits_more_than_there_is_room_for_waits_and_hears_why(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "KEPT_LIMIT", LARGE * 3 // 2)  # room for one
    with ThreadPoolExecutor() as threads, Client(cluster) as client:
        first = client.submit(len, bytes(LARGE))
        second = threads.submit(client.submit, len, bytes(LARGE + 1))
        wait_until(lambda: "wait here for a worker" in caplog.text, "why it waits")
        assert not second.done()
        cluster.scale(1)
        assert first.result(timeout=30) == LARGE
        assert second.result(timeout=30).result(timeout=30) == LARGE + 1


def test_who_waits_for_room_hears_of_the_clients_end(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "KEPT_LIMIT", LARGE * 3 // 2)  # room for one
    with ThreadPoolExecutor() as threads, Client(cluster) as client:
        client.submit(len, bytes(LARGE))
        second = threads.submit(client.submit, len, bytes(LARGE + 1))
        wait_until(lambda: "wait here for a worker" in caplog.text, "why it waits")
        client.close()
        with pytest.raises(ClusterClosed):
            second.result(timeout=10)


def test_a_client_that_is_closed_waits_for_no_worker(cluster: LocalCluster) -> None:
    with Client(cluster) as client:
        length = client.submit(len, bytes(LARGE))
    with pytest.raises(ClusterClosed):
        length.result(timeout=10)


def test_a_cluster_that_is_closed_ends_what_waits_for_its_workers(cluster: LocalCluster) -> None:
    with Client(cluster) as client:
        length = client.submit(len, bytes(LARGE))
        link = client._live()
        cluster.close()
        with pytest.raises(ClusterClosed):
            length.result(timeout=10)
        wait_until(lambda: not link.deliveries._waiting, "the end of what waited")
