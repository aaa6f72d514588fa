"""A cluster on a PBS that is reached by SSH: its commands are fakes on the ``PATH`` of a real sshd's sessions.

What is the same for every batch system behind a login host is in ``test_slurm_over_ssh.py``. The user of the login host is
root, as the fake's jobs are; its home and its ``PATH`` are others.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpccluster import Client, PBSCluster
from hpccluster.backend.base import Backend
from hpccluster.backend.runner import LocalRunner
from hpccluster.errors import BackendUnavailable, CancelFailed, CommandFailed, PollFailed, SubmitRefused
from hpccluster.ids import JobId
from hpccluster.testing.backend_contract import BackendContract
from hpccluster.testing.fake_pbs import FakePBS, Times
from hpccluster_pbs.backend import PBSBackend
from hpccluster_pbs.options import PBSOptions
from support.deadline import wait_until
from support.login_host import LoginHost, login_host
from support.private_sshd import PrivateHosts

pytestmark = pytest.mark.timeout(100)


@pytest.fixture(scope="module")
def pbs() -> Iterator[FakePBS]:
    with FakePBS(times=Times(kill_delay=1.0)) as fake:
        yield fake


@pytest.fixture(autouse=True)
def emptied(pbs: FakePBS) -> Iterator[None]:
    yield
    pbs.is_down = False
    wait_until(lambda: all(job.is_over for job in list(pbs.jobs.values())), "no job is left")


@pytest.fixture(scope="module")
def login(pbs: FakePBS, private_hosts: PrivateHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginHost]:
    """``private_hosts`` is asked for what it skips or fails without: programs and permissions."""
    directory = tmp_path_factory.mktemp("login")
    home = directory / "home"
    home.mkdir()
    environment = {"PATH": pbs.environment()["PATH"]}
    with login_host(directory, user="root", home=home, readable=directory, environment=environment) as host:
        yield host


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return tmp_path / "remote"


def options(login: LoginHost, remote: Path, kind: str = "asyncssh", **more: Any) -> dict[str, Any]:
    return {
        "ssh": login.name,
        "ssh_config": str(login.config_file),
        "runner": kind,
        "remote_directory": str(remote),
        "cores": 1,
        "memory": "100MB",
        **more,
    }


class TestPBSOverSsh(BackendContract):
    patience = 30.0
    unknown_id = "4000000.pbssrv"

    @pytest.fixture
    def backend(self, login: LoginHost, remote: Path) -> Backend:
        return PBSBackend(PBSOptions(**options(login, remote)))

    @pytest.fixture
    def pending_backend(self, login: LoginHost, remote: Path) -> Backend:
        return PBSBackend(PBSOptions(**options(login, remote, queue="stopped")))

    @pytest.fixture
    def refused_backend(self, login: LoginHost, remote: Path) -> Backend:
        return PBSBackend(PBSOptions(**options(login, remote, queue="wrokq")))

    @pytest.fixture(autouse=True)
    def server(self, pbs: FakePBS) -> None:
        self.fake = pbs

    async def submitted_text(self, backend: Backend, job: JobId) -> str:
        return self.fake.jobs[job].script


@pytest.mark.parametrize("kind", ["asyncssh", "paramiko"])
def test_cluster_whose_head_shares_no_file_with_its_jobs(
    login: LoginHost, pbs: FakePBS, remote: Path, tmp_path: Path, kind: str
) -> None:
    given = options(login, remote, kind, memory="400MB")
    with PBSCluster(**given, host="127.0.0.1", state_directory=tmp_path / "state", n_workers=2) as cluster:
        cluster.wait_for_workers(2, timeout=40)
        files = list(remote.glob("*.json"))
        assert len(files) == 2
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        script = cluster.job_script()
        assert f"HPCCLUSTER_CONNECTION_FILE={remote}" in script
        assert f'#PBS -o "{remote}/' in script
        assert "PRIVATE KEY" not in script
        with Client(cluster) as client:
            assert client.submit(pow, 2, 10).result(timeout=30) == 1024
        logs = cluster.get_logs()
        assert sum("hpccluster: stage started" in text for text in logs.values()) == 2, logs
    assert not list(remote.glob("*.json")), "credentials do not outlive the cluster"
    assert all(job.is_over for job in pbs.jobs.values())


def test_refusal_comes_through_with_the_queues_and_leaves_no_credential(
    login: LoginHost, remote: Path, tmp_path: Path
) -> None:
    given = options(login, remote, queue="wrokq")
    with pytest.raises(SubmitRefused, match="did you mean 'workq'"):
        PBSCluster(**given, host="127.0.0.1", state_directory=tmp_path / "state", n_workers=1)
    assert not list(remote.glob("*.json"))


def test_a_server_that_is_down_says_nothing_about_jobs(login: LoginHost, pbs: FakePBS, remote: Path) -> None:
    async def scenario() -> None:
        backend = PBSBackend(PBSOptions(**options(login, remote)))
        spec = BackendContract().spec(remote, "sleep 60")
        job = await backend.submit(spec, b"{}")
        pbs.is_down = True
        with pytest.raises(PollFailed, match="cannot connect"):
            await backend.poll([job])
        with pytest.raises(CommandFailed, match="may exist"):
            await backend.submit(BackendContract().spec(remote, "true"), b"{}")
        pbs.is_down = False
        assert await backend.find([spec.name]) == {spec.name: job}
        await BackendContract().until_gone(backend, job)
        await backend.close()

    asyncio.run(scenario())


def test_login_host_that_is_gone_says_nothing_about_jobs(
    private_hosts: PrivateHosts, pbs: FakePBS, remote: Path, tmp_path: Path
) -> None:
    async def scenario(login: LoginHost) -> None:
        backend = PBSBackend(PBSOptions(**options(login, remote)))
        spec = BackendContract().spec(remote, "sleep 60")
        job = await backend.submit(spec, b"{}")
        login.end()
        for _ in range(2):  # the connection that breaks, and the one that cannot be made
            with pytest.raises(PollFailed):
                await backend.poll([job])
        with pytest.raises(PollFailed):
            await backend.find([spec.name])
        with pytest.raises(CancelFailed):
            await backend.cancel([job])
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            await backend.submit(BackendContract().spec(remote, "true"), b"{}")
        await backend.close()
        assert pbs.jobs[job].state == "R", "jobs do not depend on the way to them"

    home = tmp_path / "home"
    home.mkdir()
    environment = {"PATH": pbs.environment()["PATH"]}
    with login_host(tmp_path, user="root", home=home, readable=tmp_path, environment=environment) as login:
        asyncio.run(scenario(login))
    backend = PBSBackend(PBSOptions(cores=1, memory="100MB"), LocalRunner(pbs.environment()))
    (left,) = [JobId(job.id) for job in pbs.jobs.values() if not job.is_over]
    asyncio.run(BackendContract().until_gone(backend, left))
