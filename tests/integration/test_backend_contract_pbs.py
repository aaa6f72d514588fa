"""The backend contract against a real OpenPBS, for machines that have one.

    HPCCLUSTER_TEST_PBS=/a/directory/that/all/nodes/share pytest tests/integration/test_backend_contract_pbs.py

as a user who may submit jobs (root may not), with a server that keeps a history (``job_history_enable``). No distribution
has a PBS, so this is skipped elsewhere: there the fakes stand in, see ``test_backend_contract_fake_pbs.py``.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path

import pytest

from hpccluster.backend.base import Backend
from hpccluster.errors import SubmitRefused
from hpccluster.job import JobState
from hpccluster.testing.backend_contract import BackendContract
from hpccluster_pbs.backend import PBSBackend
from hpccluster_pbs.options import PBSOptions

SHARED = os.environ.get("HPCCLUSTER_TEST_PBS", "")

pytestmark = [
    pytest.mark.skipif(not SHARED, reason="no real PBS: HPCCLUSTER_TEST_PBS is not set"),
    pytest.mark.timeout(240),
]


def pbs_backend(**options: object) -> PBSBackend:
    values = {"cores": 1, "memory": "100MB", **options}
    return PBSBackend(PBSOptions(**values))  # type: ignore[arg-type]


class TestPBS(BackendContract):
    patience = 60.0

    @pytest.fixture
    def directory(self) -> Path:
        path = Path(SHARED) / f"contract-{uuid.uuid4().hex[:8]}"
        path.mkdir(parents=True)
        return path

    @pytest.fixture
    def backend(self) -> Backend:
        return pbs_backend()

    @pytest.fixture
    def pending_backend(self) -> Backend:
        return pbs_backend(job_extra_directives=("-h",))

    @pytest.fixture
    def refused_backend(self) -> Backend:
        return pbs_backend(queue="no-such-queue")

    def test_walltime_is_told(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            # a mom looks at the walltime every ten seconds at first, later every two minutes
            job = await backend.submit(self.spec(directory, "sleep 300", walltime=2.0))
            await self.until_state(backend, job, JobState.TIMEOUT)

        self.run(backend, scenario)

    def test_the_queues_are_named(self, refused_backend: Backend, directory: Path) -> None:
        async def scenario() -> None:
            with pytest.raises(SubmitRefused) as caught:
                await refused_backend.submit(self.spec(directory, "true"))
            assert caught.value.code == "HPC-SUBMIT-QUEUE"
            assert caught.value.details["choices"]

        asyncio.run(scenario())
