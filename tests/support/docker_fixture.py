"""The fixture ``docker_slurm``: one dockerised Slurm for the whole test session."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.docker_slurm import DockerSlurm

REQUIRE = "HPCCLUSTER_REQUIRE_DOCKER"


@pytest.fixture(scope="session")
def running_docker_slurm() -> Iterator[DockerSlurm]:
    """A running one. Where there can be none, the tests that ask for it are skipped with a warning; with
    ``HPCCLUSTER_REQUIRE_DOCKER=1`` they fail.
    """
    # the SDK is heavy, and only these tests need it
    from support.docker_slurm import DockerMissing, DockerSlurm

    try:
        slurm = DockerSlurm.start()
    except DockerMissing as missing:
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(f"{REQUIRE}=1, but this machine cannot run the dockerised Slurm: {missing}")
        warnings.warn(f"TESTS ON THE DOCKERISED SLURM ARE SKIPPED: {missing}", stacklevel=1)
        pytest.skip(f"no dockerised Slurm: {missing}")
    try:
        yield slurm
    finally:
        slurm.stop()


@pytest.fixture
def docker_slurm(running_docker_slurm: DockerSlurm) -> DockerSlurm:
    """The dockerised Slurm with all nodes and an empty queue."""
    running_docker_slurm.mend()
    running_docker_slurm.cancel_all()
    return running_docker_slurm
