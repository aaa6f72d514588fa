"""The backend contract against the dockerised Slurm: commands run on its login host, logs lie on the shared volume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpccluster.backend.base import Backend
from hpccluster.ids import JobId
from hpccluster.testing.backend_contract import BackendContract
from hpccluster_slurm.backend import SlurmBackend
from hpccluster_slurm.options import SlurmOptions
from support.docker_runner import DockerRunner
from support.docker_slurm import DockerSlurm

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


def docker_backend(slurm: DockerSlurm, **options: Any) -> SlurmBackend:
    return SlurmBackend(SlurmOptions(**{"cores": 1, "memory": "100MB", **options}), DockerRunner(slurm))


class TestDockerSlurm(BackendContract):
    patience = 40.0

    @pytest.fixture(autouse=True)
    def the_slurm(self, docker_slurm: DockerSlurm) -> Iterator[None]:
        self.slurm = docker_slurm
        yield
        docker_slurm.cancel_all()

    @pytest.fixture
    def directory(self, docker_slurm: DockerSlurm, request: pytest.FixtureRequest) -> Path:
        path = f"{docker_slurm.home}/contract/{request.node.name}"
        assert docker_slurm.run("login", ["mkdir", "-p", path]).returncode == 0
        return Path(path)

    def listing(self, directory: Path) -> list[str]:
        return self.slurm.run("login", ["ls", "-A", str(directory)]).stdout.splitlines()

    @pytest.fixture
    def backend(self, docker_slurm: DockerSlurm) -> Backend:
        return docker_backend(docker_slurm)

    @pytest.fixture
    def pending_backend(self, docker_slurm: DockerSlurm) -> Backend:
        return docker_backend(docker_slurm, job_extra_directives=("--begin=now+1hour",))

    @pytest.fixture
    def refused_backend(self, docker_slurm: DockerSlurm) -> Backend:
        return docker_backend(docker_slurm, queue="shrot")

    async def submitted_text(self, backend: Backend, job: JobId) -> str:
        assert isinstance(backend, SlurmBackend)
        return (await backend.runner.run(("scontrol", "write", "batch_script", job, "-"))).stdout
