"""The head never unpickles anything: watched by an audit hook in every process of a cluster while real work runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpccluster import Client, LocalCluster

HOOK = """
import os, sys

def _watch(event, arguments):
    if event == "pickle.find_class":
        with open(os.environ["UNPICKLED"], "a") as file:
            file.write(f"{os.getpid()} {arguments[0]}.{arguments[1]}\\n")

sys.addaudithook(_watch)
"""


class Value:
    """A class that must be looked up when it is unpickled."""

    def __init__(self, number: int) -> None:
        self.number = number


def make(number: int) -> Value:
    return Value(number)


def fail(value: Value) -> None:
    raise ValueError(value.number)


def test_only_workers_and_clients_unpickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "unpickled"
    seen.touch()
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("UNPICKLED", str(seen))
    with LocalCluster(n_workers=1, threads_per_worker=1) as cluster, Client(cluster) as client:
        values = client.map(make, range(10))
        assert sum(value.number for value in client.gather(values)) == 45
        assert isinstance(client.submit(fail, values[0]).exception(timeout=30), ValueError)
        client.submit(len, client.scatter([Value(1)])[0:1]).result(timeout=30)
        workers = {worker.pid for worker in cluster.workers}
    by_process = {int(line.split()[0]) for line in seen.read_text().splitlines()}
    assert workers & by_process, "the hook saw nothing at all"
    # the head is neither a worker nor this process
    assert by_process <= workers | {os.getpid()}
