"""Every job has a credential of its own: it is for that job's workers only, and worthless when the job is over."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from hpccluster import Client, LocalCluster
from hpccluster.comm.connect import connect
from hpccluster.comm.connection_file import ConnectionFile, read_connection_file
from hpccluster.comm.tls import Security
from hpccluster.errors import CommError
from hpccluster.protocol.messages import PROTOCOL_VERSION, Hello, Role
from support.comm_peers import inspect_certificate
from support.deadline import wait_until


def join(file: ConnectionFile, *, job: str) -> None:
    """Try to join as a worker of that job."""

    async def attempt() -> None:
        hello = Hello(protocol=PROTOCOL_VERSION, role=Role.WORKER, name="intruder", job=job, threads=1)
        channel = await connect(file.addresses, hello, Security.from_connection_file(file))
        channel.abort()

    asyncio.run(attempt())


def files(cluster: LocalCluster) -> dict[str, Path]:
    return {path.stem: path for path in (cluster.directory / "credentials").glob("*.json")}


def test_a_jobs_credential_is_for_its_own_workers_and_its_own_time() -> None:
    with LocalCluster(n_workers=2, threads_per_worker=1) as cluster:
        cluster.wait_for_workers(2, timeout=30)
        first, second = sorted(files(cluster))
        assert {job.name for job in cluster.jobs} == {first, second}
        path = files(cluster)[first]
        assert stat.S_IMODE(path.stat().st_mode) == 0o400
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        mine = read_connection_file(path, Role.WORKER)
        identity, _ = inspect_certificate(mine.certificate, mine.ca)
        assert (identity.role, identity.token) == (Role.WORKER, first)
        for wrong in (second, "", "hpc-other-0000"):
            with pytest.raises(CommError, match="for the workers of job"):
                join(mine, job=wrong)
        with pytest.raises(CommError):  # nor is it a client's
            Client(path)
        cluster.scale(0)
        wait_until(lambda: not cluster.workers, "the end of the workers")
        with pytest.raises(CommError, match="no longer"):
            join(mine, job=first)
        cluster.scale(1)
        cluster.wait_for_workers(1, timeout=30)
        assert not {first, second} & set(files(cluster))  # those of jobs that are over go with the next one
