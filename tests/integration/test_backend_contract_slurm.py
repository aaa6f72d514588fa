"""The backend contract against a real Slurm, and what its own words become."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from hpccluster.backend.base import Backend
from hpccluster.errors import CancelFailed, CommandFailed, LogsUnavailable, PollFailed, SubmitRefused
from hpccluster.ids import JobId
from hpccluster.job import JobState
from hpccluster.testing.backend_contract import BackendContract
from hpccluster_slurm.backend import SlurmBackend
from hpccluster_slurm.options import SlurmOptions
from support.private_slurm import PrivateSlurm
from support.slurm_user_runner import UserRunner

pytestmark = pytest.mark.slurm


def slurm_backend(slurm: PrivateSlurm, **options: Any) -> SlurmBackend:
    return SlurmBackend(SlurmOptions(**{"cores": 1, "memory": "100MB", **options}), UserRunner(slurm))


@pytest.fixture
def directory(slurm: PrivateSlurm, request: pytest.FixtureRequest) -> Path:
    """A directory below the home of Slurm's user."""
    return slurm.shared_directory(f"logs-{abs(hash(request.node.nodeid)):x}")


class TestSlurm(BackendContract):
    patience = 30.0

    @pytest.fixture
    def directory(self, slurm: PrivateSlurm, request: pytest.FixtureRequest) -> Path:
        return slurm.shared_directory(f"logs-{abs(hash(request.node.nodeid)):x}")

    @pytest.fixture
    def backend(self, slurm: PrivateSlurm) -> Backend:
        return slurm_backend(slurm)

    @pytest.fixture
    def pending_backend(self, slurm: PrivateSlurm) -> Backend:
        return slurm_backend(slurm, job_extra_directives=("--begin=now+1hour",))

    @pytest.fixture
    def refused_backend(self, slurm: PrivateSlurm) -> Backend:
        return slurm_backend(slurm, queue="shrot")

    async def submitted_text(self, backend: Backend, job: JobId) -> str:
        assert isinstance(backend, SlurmBackend)
        return (await backend.runner.run(("scontrol", "write", "batch_script", job, "-"))).stdout


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("PARTITION", {"queue": "shrot"}, "#SBATCH --partition=shrot"),
    ("GROUP", {"queue": "staff"}, "#SBATCH --partition=staff"),
    ("TIME", {"queue": "short", "walltime": "01:00:00"}, "#SBATCH --time=01:00:00"),
    ("CPUS", {"cores": 99, "memory": "100MB"}, "#SBATCH --cpus-per-task=99"),
    ("MEMORY", {"memory": "900GiB"}, "#SBATCH --mem=900G"),
    ("GRES", {"gres": "foo:1"}, "#SBATCH --gres=foo:1"),
    ("CONFIGURATION", {"gpus": 1}, ""),
    ("CONSTRAINT", {"constraint": "nowhere"}, "#SBATCH --constraint=nowhere"),
    ("RESERVATION", {"reservation": "nope"}, "#SBATCH --reservation=nope"),
    ("NODELIST", {"exclude": "zz"}, "#SBATCH --exclude=zz"),
    ("LICENSE", {"job_extra_directives": ("--licenses=matlab:9",)}, ""),
    ("OPTION", {"job_extra_directives": ("--frobnicate",)}, "#SBATCH --frobnicate"),
    ("NODES", {"job_extra_directives": ("--nodes=9",), "job_directives_skip": ("-n",)}, "#SBATCH --nodes=9"),
    ("SIGNAL", {"signal": "XX@60"}, "#SBATCH --signal=XX@60"),
    ("SCRIPT", {"template": "empty.sh"}, ""),
]


@pytest.mark.parametrize(("cause", "options", "directive"), REFUSALS, ids=[item[0] for item in REFUSALS])
def test_refusals_name_cause_and_directive(
    slurm: PrivateSlurm, tmp_path: Path, cause: str, options: dict[str, Any], directive: str
) -> None:
    if cause == "GROUP" and slurm.user is None:
        pytest.skip("whoever runs slurmctld may use every partition")
    if "template" in options:
        template = tmp_path / options["template"]
        template.write_text("echo no shebang\n")
        options = {"template": str(template)}

    async def scenario() -> None:
        backend = slurm_backend(slurm, **options)
        walltime = backend.options.walltime_seconds()
        spec = BackendContract().spec(tmp_path, "true", resources=backend.options.resources(), walltime=walltime)
        with pytest.raises(SubmitRefused) as caught:
            await backend.submit(spec)
        error = caught.value
        assert error.code == f"HPC-SUBMIT-{cause}"
        assert str(error.details["said"]) in str(error).replace("\n" + " " * 17, "\n")
        assert error.details.get("directive", "") == directive
        assert await backend.find([spec.name]) == {}

    asyncio.run(scenario())


def test_frozen_controller_is_never_a_refusal(slurm: PrivateSlurm, directory: Path) -> None:
    """sbatch fails, and the job is there all the same: the name leads to it."""

    async def scenario() -> None:
        contract = TestSlurm()
        backend = slurm_backend(slurm)
        spec, other = contract.spec(directory, "sleep 60"), contract.spec(directory, "sleep 60")
        running = await backend.submit(other)
        slurm.freeze_controller()
        try:
            with pytest.raises(CommandFailed) as caught:
                await backend.submit(spec)
            with pytest.raises(PollFailed):
                await backend.poll([running])
        finally:
            slurm.resume_controller()
        assert caught.value.code == "HPC-SUBMIT-UNREACHABLE"

        async def found() -> JobId | None:
            return (await backend.find([spec.name])).get(spec.name)

        job = await contract.until(found, "the job of the failed submission")
        assert job != running
        assert (await backend.poll([running]))[running].state.is_live

    asyncio.run(scenario())


def test_cancel_under_a_frozen_controller_is_not_believed(slurm: PrivateSlurm, directory: Path) -> None:
    async def scenario() -> None:
        contract = TestSlurm()
        backend = slurm_backend(slurm, job_extra_directives=("--begin=now+1hour",))
        job = await backend.submit(contract.spec(directory, "true"))
        slurm.freeze_controller()
        try:
            with pytest.raises(CancelFailed):
                await backend.cancel([job])
        finally:
            slurm.resume_controller()
        await contract.until_gone(backend, job)

    asyncio.run(scenario())


def test_missing_log_directory_is_said(slurm: PrivateSlurm, directory: Path) -> None:
    """Slurm says FAILED 0:53 and writes nothing anywhere."""

    async def scenario() -> None:
        contract = TestSlurm()
        backend = slurm_backend(slurm)
        job = await backend.submit(contract.spec(directory, "true", log_path="/nowhere/x.log"))
        status = await contract.until_state(backend, job, JobState.FAILED)
        assert (status.exit_code, status.signal) == (0, 53)
        with pytest.raises(LogsUnavailable, match="visible and writable"):
            await backend.logs(job, "/nowhere/x.log")

    asyncio.run(scenario())


def test_odd_paths_arrive_unchanged(slurm: PrivateSlurm, directory: Path) -> None:
    async def scenario() -> None:
        contract = TestSlurm()
        backend = slurm_backend(slurm)
        odd = directory / "a b %j ü(1)"
        odd.mkdir()
        os.chown(odd, directory.stat().st_uid, directory.stat().st_gid)
        spec = contract.spec(odd, "pwd")
        job = await backend.submit(spec)
        await contract.until_state(backend, job, JobState.COMPLETED)
        assert str(odd) in await contract.until_log(backend, job, spec, "ended with")

    asyncio.run(scenario())


def test_settings_of_the_users_shell_change_nothing(slurm: PrivateSlurm, directory: Path) -> None:
    async def scenario() -> None:
        contract = TestSlurm()
        runner = UserRunner(
            slurm,
            SQUEUE_FORMAT="%i",
            SQUEUE_STATES="COMPLETED",
            SQUEUE_PARTITION="closed",
            SBATCH_PARTITION="closed",
            SBATCH_OUTPUT="/nowhere",
            SBATCH_JOB_NAME="other",
            SCANCEL_STATE="RUNNING",
            SLURM_TIME_FORMAT="relative",
        )
        options = SlurmOptions(cores=1, memory="100MB", queue="normal", job_extra_directives=("--begin=now+1hour",))
        backend = SlurmBackend(options, runner)
        spec = contract.spec(directory, "true")
        job = await backend.submit(spec)
        assert (await backend.find([spec.name])) == {spec.name: job}
        status = await contract.until_state(backend, job, JobState.PENDING)
        assert status.estimated_start is None or status.estimated_start > 1e9
        await contract.until_gone(backend, job)

    asyncio.run(scenario())


def test_reason_and_estimated_start(slurm: PrivateSlurm, directory: Path) -> None:
    async def scenario() -> None:
        contract = TestSlurm()
        backend = slurm_backend(slurm, queue="closed")
        job = await backend.submit(contract.spec(directory, "true"))
        status = (await backend.poll([job]))[job]
        assert (status.state, status.reason) == (JobState.PENDING, "PartitionDown")
        assert "queue=" in backend.explain(status)

    asyncio.run(scenario())


def test_real_siblings_are_cancelled(slurm: PrivateSlurm, directory: Path) -> None:
    """A job that ends with 75 (no head) cancels the jobs of its own cluster."""

    async def scenario() -> None:
        contract = TestSlurm()
        backend = slurm_backend(slurm)
        comment = "hpccluster 0123 head here"
        waiting = slurm_backend(slurm, job_extra_directives=("--begin=now+1hour",))
        values = {"cluster": "calm", "comment": comment}
        sibling = await waiting.submit(contract.spec(directory, "true", name="hpc-calm-0001", **values))
        stranger = await waiting.submit(contract.spec(directory, "true", name="hpc-calm-b-0001", **values))
        await backend.submit(contract.spec(directory, "exit 75", name="hpc-calm-0002", **values))
        await contract.until_state(backend, sibling, JobState.CANCELLED)
        assert (await backend.poll([stranger]))[stranger].state == JobState.PENDING

    asyncio.run(scenario())
