"""A scheduler machine for each test; whatever a peer was told and the test did not expect fails it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpccluster.testing.scheduler_env import SchedulerEnv


@pytest.fixture
def env() -> Iterator[SchedulerEnv]:
    env = SchedulerEnv()
    yield env
    env.expect_nothing()
