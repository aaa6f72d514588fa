"""The PBS backend with Torque's commands on top of a real Slurm (Debian's slurm-wlm-torque): a lower bound, not a PBS.

They take no script from standard input, have no qselect, keep no exit code, leave unknown jobs out without a word, and end
jobs by KILL. What is tried here: that the script for Torque runs, and that `qstat -f` and `qdel` of others are understood.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from hpccluster.errors import BackendUnavailable, SubmitRefused
from hpccluster.ids import JobId
from hpccluster.job import JobSpec, JobState
from hpccluster.testing.backend_contract import BackendContract
from hpccluster_pbs.backend import PBSBackend
from hpccluster_pbs.options import PBSOptions
from support.private_slurm import PrivateSlurm
from support.slurm_user_runner import UserRunner


def is_wrapper(command: str) -> bool:
    path = shutil.which(command)
    return path is not None and b"slurm" in Path(path).read_bytes().lower()


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not all(map(is_wrapper, ("qsub", "qstat", "qdel"))), reason="slurm-wlm-torque is not installed"),
]
CONTRACT = BackendContract()


def torque(slurm: PrivateSlurm, **options: object) -> PBSBackend:
    values = {"cores": 1, "memory": "100MB", "dialect": "torque", **options}
    return PBSBackend(PBSOptions(**values), UserRunner(slurm))  # type: ignore[arg-type]


async def submit_file(slurm: PrivateSlurm, backend: PBSBackend, spec: JobSpec) -> JobId:
    """Submit what the backend renders, as a file."""
    script = Path(spec.working_directory) / f"{spec.name}.sh"
    script.write_text(backend.render(spec))
    script.chmod(0o644)
    result = await backend.runner.run(("env", "-C", spec.working_directory, "qsub", str(script)))
    assert result.returncode == 0, result
    return backend.dialect.parse_submit(result)


def test_a_job_is_seen_found_and_cancelled(slurm: PrivateSlurm) -> None:
    async def scenario() -> None:
        backend, directory = torque(slurm), slurm.shared_directory("torque-1")
        spec = CONTRACT.spec(directory, "echo ready; sleep 60")
        job = await submit_file(slurm, backend, spec)
        log = await CONTRACT.until_log(backend, job, spec, "ready")
        assert "hpccluster: stage prologue-ok" in log
        unknown = JobId("4000000")
        statuses = await backend.poll([job, unknown])
        assert statuses[job].state is JobState.RUNNING
        assert statuses[job].node in slurm.nodes
        assert statuses[unknown].state is JobState.ABSENT
        assert await backend.find([spec.name]) == {spec.name: job}
        assert (await backend.cancel([unknown])).gone == {unknown}
        await CONTRACT.until_gone(backend, job)
        assert await backend.find([spec.name]) == {}

    asyncio.run(scenario())


def test_of_an_ended_job_nothing_is_claimed(slurm: PrivateSlurm) -> None:
    async def scenario() -> None:
        backend, directory = torque(slurm), slurm.shared_directory("torque-2")
        spec = CONTRACT.spec(directory, "exit 7")
        job = await submit_file(slurm, backend, spec)
        status = await CONTRACT.until_state(backend, job, JobState.ABSENT)
        assert (status.raw_state, status.exit_code) == ("C", None)
        assert "workers ended with exit code 7" in await backend.logs(job, spec.log_path)

    asyncio.run(scenario())


def test_what_they_cannot_do_is_said(slurm: PrivateSlurm) -> None:
    async def scenario() -> None:
        spec = CONTRACT.spec(slurm.shared_directory("torque-3"), "true")
        with pytest.raises(BackendUnavailable, match="the backend 'slurm'"):
            await torque(slurm, dialect="auto").submit(spec)
        with pytest.raises(SubmitRefused, match=r"qsub \[-a start_time\]"):
            await torque(slurm).submit(spec)

    asyncio.run(scenario())
