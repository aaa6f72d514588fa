"""A cluster on a Slurm that is reached by SSH: a head that shares no file with the jobs, and a real sshd in between."""

from __future__ import annotations

import asyncio
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from hpccluster import Client, SLURMCluster
from hpccluster.backend.base import Backend
from hpccluster.errors import BackendUnavailable, CancelFailed, ConfigError, PollFailed, SubmitRefused
from hpccluster.ids import JobId, JobName
from hpccluster.testing.backend_contract import BackendContract
from hpccluster_slurm.backend import SlurmBackend
from hpccluster_slurm.options import SlurmOptions
from support.deadline import wait_until
from support.login_host import LoginHost, login_host
from support.private_slurm import PrivateSlurm
from support.private_sshd import PrivateHosts

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def login(
    private_slurm: PrivateSlurm, private_hosts: PrivateHosts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoginHost]:
    """``private_hosts`` is asked for what it skips or fails without: programs and permissions."""
    with login_of(private_slurm, tmp_path_factory.mktemp("login")) as host:
        yield host


def login_of(slurm: PrivateSlurm, directory: Path) -> AbstractContextManager[LoginHost]:
    assert slurm.user is not None, "needs root"
    environment = {"SLURM_CONF": str(slurm.conf)}
    return login_host(directory, user=slurm.user, home=slurm.home, readable=slurm.directory, environment=environment)


def options(login: LoginHost, slurm: PrivateSlurm, kind: str = "asyncssh", **more: Any) -> dict[str, Any]:
    return {
        "ssh": login.name,
        "ssh_config": str(login.config_file),
        "runner": kind,
        "remote_directory": str(slurm.home / "remote"),
        "cores": 1,
        "memory": "100MB",
        **more,
    }


class TestSlurmOverSsh(BackendContract):
    patience = 40.0

    @pytest.fixture
    def directory(self, slurm: PrivateSlurm, request: pytest.FixtureRequest) -> Path:
        return slurm.shared_directory(f"logs-{abs(hash(request.node.nodeid)):x}")

    @pytest.fixture
    def backend(self, login: LoginHost, slurm: PrivateSlurm) -> Backend:
        return SlurmBackend(SlurmOptions(**options(login, slurm)))

    @pytest.fixture
    def pending_backend(self, login: LoginHost, slurm: PrivateSlurm) -> Backend:
        return SlurmBackend(SlurmOptions(**options(login, slurm, job_extra_directives=("--begin=now+1hour",))))

    @pytest.fixture
    def refused_backend(self, login: LoginHost, slurm: PrivateSlurm) -> Backend:
        return SlurmBackend(SlurmOptions(**options(login, slurm, queue="shrot")))

    async def submitted_text(self, backend: Backend, job: JobId) -> str:
        assert isinstance(backend, SlurmBackend)
        return (await backend.runner.run(("scontrol", "write", "batch_script", job, "-"))).stdout


@pytest.mark.parametrize("kind", ["asyncssh", "paramiko"])
def test_cluster_whose_head_shares_no_file_with_its_jobs(
    login: LoginHost, slurm: PrivateSlurm, tmp_path: Path, kind: str
) -> None:
    """The head is root's, in a directory that the user of the jobs cannot look into."""
    remote = slurm.home / "remote"
    outputs = slurm.home / f"logs-{kind}" / "deep"
    given = options(login, slurm, kind, python=slurm.python, log_directory=str(outputs))
    with SLURMCluster(**given, host="127.0.0.1", state_directory=tmp_path / "state", n_workers=2) as cluster:
        cluster.wait_for_workers(2, timeout=40)
        files = list(remote.glob("*.json"))
        assert len(files) == 2
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE(remote.stat().st_mode) == 0o700
        script = cluster.job_script()
        assert f"HPCCLUSTER_CONNECTION_FILE={remote}" in script
        assert "PRIVATE KEY" not in script
        with Client(cluster) as client:
            assert client.submit(pow, 2, 10).result(timeout=30) == 1024
            assert client.submit(os.getuid).result(timeout=30) == pwd.getpwnam(str(slurm.user)).pw_uid
        assert len(list(outputs.glob("*.log"))) == 2, "the directory of the output was made"
        logs = cluster.get_logs()
        assert any("hpccluster: stage started" in text for text in logs.values()), logs
    assert not list(remote.glob("*.json")), "credentials do not outlive the cluster"
    wait_until(lambda: not slurm.job_ids(), "no job is left")


def test_refusal_comes_through_and_leaves_no_credential(login: LoginHost, slurm: PrivateSlurm, tmp_path: Path) -> None:
    given = options(login, slurm, queue="shrot")
    with pytest.raises(SubmitRefused, match="invalid partition"):
        SLURMCluster(**given, host="127.0.0.1", state_directory=tmp_path / "state", n_workers=1)
    assert not list((slurm.home / "remote").glob("*.json"))


def test_directory_that_is_not_private_is_refused(login: LoginHost, slurm: PrivateSlurm) -> None:
    contract = BackendContract()
    shared = slurm.shared_directory("open")
    shared.chmod(0o777)
    foreign = slurm.home / "foreign"
    foreign.mkdir(mode=0o755)

    async def submit(directory: str) -> str:
        backend = SlurmBackend(SlurmOptions(**options(login, slurm, remote_directory=directory)))
        try:
            with pytest.raises(BackendUnavailable) as caught:
                await backend.submit(contract.spec(slurm.home, "true"), b"{}")
        finally:
            await backend.close()
        assert caught.value.code == "HPC-SSH-DIRECTORY"
        return str(caught.value)

    assert "others may write to it" in asyncio.run(submit(str(shared)))
    assert "belongs to somebody else" in asyncio.run(submit(str(foreign)))
    assert "Permission denied" in asyncio.run(submit("/proc/1/fd/x"))
    assert not slurm.job_ids()


def test_login_host_that_is_gone_says_nothing_about_jobs(
    private_hosts: PrivateHosts, slurm: PrivateSlurm, tmp_path: Path
) -> None:
    contract = BackendContract()

    async def scenario(login: LoginHost) -> None:
        backend = SlurmBackend(SlurmOptions(**options(login, slurm)))
        job = await backend.submit(contract.spec(slurm.home, "sleep 60"), b"{}")
        assert (await backend.poll([job]))[job].state.is_live
        login.end()
        for _ in range(2):  # the connection that breaks, and the one that cannot be made
            with pytest.raises(PollFailed):
                await backend.poll([job])
        with pytest.raises(PollFailed):
            await backend.find([JobName("hpc-nobody-0000")])
        with pytest.raises(CancelFailed):
            await backend.cancel([job])
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            await backend.submit(contract.spec(slurm.home, "true"), b"{}")
        await backend.close()
        assert slurm.job_ids() == [job], "jobs do not depend on the way to them"

    with login_of(slurm, tmp_path) as login:
        asyncio.run(scenario(login))


def test_options_of_the_way_are_checked() -> None:
    for wrong, named in (
        ({"ssh": "login"}, "remote_directory"),
        ({"ssh": "login", "remote_directory": "relative"}, "remote_directory"),
        ({"ssh": "login", "remote_directory": "/x", "log_directory": "~/logs"}, "log_directory"),
        ({"ssh": "-oProxyCommand=x", "remote_directory": "/x"}, "ssh"),
        ({"ssh": "login:many", "remote_directory": "/x"}, "ssh"),
    ):
        with pytest.raises(ConfigError, match=named):
            SlurmOptions(**wrong)  # type: ignore[arg-type]
