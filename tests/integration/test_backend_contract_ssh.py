"""The backend contract against the SSH backend: on real hosts by both runners, and without connections, for what only needs
the script.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpccluster.backend.base import Backend
from hpccluster.backend.options import build_options
from hpccluster.backend.runner import LocalRunner
from hpccluster.job import JobState
from hpccluster.testing.backend_contract import BackendContract
from hpccluster_ssh.backend import SSHBackend
from hpccluster_ssh.options import SSHOptions
from support.private_sshd import PrivateHosts


def make_backend(home: Path, **keywords: object) -> SSHBackend:
    home.mkdir(exist_ok=True)
    options = build_options(
        SSHOptions, {"hosts": [{"host": "here", "jobs": 3}], "connect_options": {"keepalive": 1}, **keywords}
    )
    return SSHBackend(options, lambda target: LocalRunner({**os.environ, "TMPDIR": str(home)}))


class TestSSHBackend(BackendContract):
    patience = 20.0
    unknown_id = "ssh-4000000"

    @pytest.fixture
    def home(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("host")

    @pytest.fixture
    def backend(self, home: Path) -> Backend:
        return make_backend(home)

    @pytest.fixture
    def refused_backend(self, home: Path) -> Backend:
        backend = make_backend(home)
        for place in backend.places.all:
            place.jobs = place.host.jobs
        return backend

    def run(self, backend: Backend, scenario: Callable[[Backend], Coroutine[Any, Any, None]]) -> None:
        others = set(psutil.Process().children())

        async def and_its_processes(backend: Backend) -> None:
            await scenario(backend)
            assert isinstance(backend, SSHBackend)
            await backend.cancel(list(backend._jobs))

            async def reaped() -> bool:
                return set(psutil.Process().children()) <= others

            await self.until(reaped, "the processes of this test have been reaped")

        super().run(backend, and_its_processes)

    def test_nothing_is_left_on_the_host(self, backend: Backend, directory: Path, home: Path) -> None:
        async def scenario(backend: Backend) -> None:
            line = (
                'cat "$HPCCLUSTER_CONNECTION_FILE"; stat -c %a "$HPCCLUSTER_CONNECTION_FILE"; sleep 71.7 & echo pid $!'
            )
            spec = self.spec(directory, line)
            job = await backend.submit(spec, b"a secret\n")
            await self.until_state(backend, job, JobState.COMPLETED)
            log = await backend.logs(job, spec.log_path)
            assert "a secret\n600\n" in log
            assert Path(spec.log_path).stat().st_mode & 0o777 == 0o600
            pid = int(log.split("pid ")[1].split()[0])

            async def all_gone() -> bool:
                return not runs(pid) and not list(home.iterdir())

            await self.until(all_gone, "what the job has left behind is gone")

        self.run(backend, scenario)

    def test_job_reaches_its_walltime(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            job = await backend.submit(self.spec(directory, "sleep 60", walltime=0.2))
            await self.until_state(backend, job, JobState.TIMEOUT)

        self.run(backend, scenario)


class TestSSHBackendOnHosts(BackendContract):
    patience = 20.0
    unknown_id = "ssh-4000000"

    @pytest.fixture(params=["asyncssh", "paramiko"])
    def backend(self, request: pytest.FixtureRequest, ssh_hosts: PrivateHosts) -> Backend:
        connect = {"config_file": str(ssh_hosts.config_file), "keepalive": 2}
        hosts = [{"host": "host1", "jobs": 2}, "host2"]
        return SSHBackend(
            build_options(SSHOptions, {"hosts": hosts, "connect_options": connect, "runner": request.param})
        )

    def test_what_a_job_leaves_behind_ends_with_it(
        self, backend: Backend, directory: Path, ssh_hosts: PrivateHosts
    ) -> None:
        async def scenario(backend: Backend) -> None:
            spec = self.spec(directory, 'ls -l "$HPCCLUSTER_CONNECTION_FILE"; sleep 71.8 &')
            job = await backend.submit(spec, b"a secret\n")
            await self.until_state(backend, job, JobState.COMPLETED)
            assert "-rw------- 1" in await backend.logs(job, spec.log_path)

            async def all_gone() -> bool:
                seen = ssh_hosts.run("host1", ["sh", "-c", "ls -A /tmp; ps -eo args"]).stdout
                return "hpccluster-" not in seen.replace("/var/tmp/hpccluster-", "") and "sleep 71.8" not in seen

            await self.until(all_gone, "what the job has left behind is gone")

        self.run(backend, scenario)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
