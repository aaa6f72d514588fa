"""Options of the local backend and the shape of `LocalCluster`."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from hpccluster.config.schema import ClusterOptions
from hpccluster_local import options as module
from hpccluster_local.cluster import LocalCluster, _share
from hpccluster_local.options import LocalOptions


def test_memory_is_in_proportion_to_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "machine_cores", lambda: 8)
    monkeypatch.setattr(module, "machine_memory", lambda: 16_000_000_000)
    assert LocalOptions().resources().memory == 2_000_000_000
    assert LocalOptions(cores=4).resources().memory == 8_000_000_000
    assert LocalOptions(cores=16).resources().memory == 16_000_000_000
    assert LocalOptions(memory=0).resources().memory is None
    assert LocalOptions(memory="2MB").resources().memory == 2_000_000


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "shared"),
    [(8, None, None, (4, 2)), (2, None, None, (2, 1)), (8, 2, None, (2, 4)), (8, None, 2, (4, 2)), (2, 5, None, (5, 1)),
     (8, 0, None, (0, 8)), (2, None, 4, (1, 4))],
)  # fmt: skip
def test_machine_is_shared(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int | None, threads: int | None, shared: tuple[int, int]
) -> None:
    monkeypatch.setattr("hpccluster_local.cluster.machine_cores", lambda: cores)
    assert _share(workers, threads) == shared


def test_keywords_exist() -> None:
    known = {item.name for kind in (LocalOptions, ClusterOptions) for item in fields(kind)}
    own = {"self", "n_workers", "threads_per_worker", "processes", "memory_limit", "start_timeout"}
    assert set(inspect.signature(LocalCluster.__init__).parameters) - own <= known
