"""The fixture ``slurm``: one private Slurm for the whole test session."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest

from support.private_slurm import PrivateSlurm, SlurmMissing

REQUIRE = "HPCCLUSTER_REQUIRE_SLURM"


@pytest.fixture(scope="session")
def private_slurm() -> Iterator[PrivateSlurm]:
    """A running Slurm. Where there can be none, the tests that ask for it are skipped with a warning; with
    ``HPCCLUSTER_REQUIRE_SLURM=1`` they fail.
    """
    try:
        slurm = PrivateSlurm.start()
    except SlurmMissing as missing:
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(f"{REQUIRE}=1, but this machine cannot run a Slurm: {missing}")
        warnings.warn(f"TESTS ON A REAL SLURM ARE SKIPPED: {missing}", stacklevel=1)
        pytest.skip(f"no Slurm: {missing}")
    try:
        yield slurm
    finally:
        slurm.stop()


@pytest.fixture
def slurm(private_slurm: PrivateSlurm) -> Iterator[PrivateSlurm]:
    """The private Slurm with an empty queue, before and after the test."""
    private_slurm.cancel_all()
    yield private_slurm
    private_slurm.resume_controller()
    private_slurm.cancel_all()
