"""The engine dask on hosts that are reached by SSH: real sshds, hosts that share no files with the head."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpccluster_ssh.cluster import SSHCluster
from support.deadline import wait_until
from support.private_sshd import PrivateHosts

distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
pytest.importorskip("asyncssh")

pytestmark = pytest.mark.timeout(120)


@pytest.mark.filterwarnings("ignore:Mismatched versions")  # the hosts may have another patch level of Python
def test_dask_on_hosts(ssh_hosts: PrivateHosts, tmp_path: Path) -> None:
    import dask.array

    cluster = SSHCluster(
        ["host1", "host2"],
        engine="dask",
        connect_options={"config_file": str(ssh_hosts.config_file)},
        host=ssh_hosts.head,
        python=ssh_hosts.python,
        cores=1,
        memory="400MB",
        state_directory=tmp_path / "state",
    )
    with cluster, distributed.Client(cluster) as client:
        cluster.wait_for_workers(2, timeout=60)
        assert dask.array.arange(10_000, chunks=500).sum().compute() == 49_995_000
        assert workers_on(ssh_hosts, "host1")
        assert workers_on(ssh_hosts, "host2")
        first, second = (worker.address for worker in cluster.workers)
        data = [client.scatter(n, workers=[address], hash=False) for n, address in enumerate((first, second))]
        cluster.scale(1)
        wait_until(lambda: len(cluster.workers) == 1, "one worker to go")
        assert client.gather(data) == [0, 1]
    assert not any(workers_on(ssh_hosts, name) for name in ("host1", "host2"))
    for name in ("host1", "host2"):
        wait_until(lambda name=name: not ssh_hosts.run(name, ["ls", "/tmp"]).stdout, f"nothing is left on {name}")  # type: ignore[misc]


def workers_on(hosts: PrivateHosts, name: str) -> bool:
    return "hpccluster.engine.dask_worker" in hosts.run(name, ["ps", "ax", "-o", "args="]).stdout
