"""The backend contract against the Slurm backend on fake commands, and the faults that only a fake has at hand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccluster.backend.base import Backend
from hpccluster.backend.runner import LocalRunner
from hpccluster.errors import BackendUnavailable, CancelFailed, CommandFailed, PollFailed, SubmitRefused
from hpccluster.ids import JobId
from hpccluster.job import JobState
from hpccluster.testing.backend_contract import HOSTILE_IDS, BackendContract
from hpccluster.testing.fake_commands import FakeSlurm
from hpccluster_slurm.backend import SlurmBackend
from hpccluster_slurm.options import SlurmOptions

TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"


def slurm_backend(slurm: FakeSlurm, **options: object) -> SlurmBackend:
    values = {"cores": 1, "memory": "100MB", **options}
    return SlurmBackend(SlurmOptions(**values), LocalRunner(slurm.environment()))  # type: ignore[arg-type]


@pytest.fixture
def slurm() -> Iterator[FakeSlurm]:
    with FakeSlurm() as fake:
        yield fake


class TestFakeSlurm(BackendContract):
    patience = 15.0

    @pytest.fixture
    def backend(self, slurm: FakeSlurm) -> Backend:
        return slurm_backend(slurm)

    @pytest.fixture
    def pending_backend(self, slurm: FakeSlurm) -> Backend:
        return slurm_backend(slurm, job_extra_directives=("--begin=now+1hour",))

    @pytest.fixture
    def refused_backend(self, slurm: FakeSlurm) -> Backend:
        return slurm_backend(slurm, queue="shrot")

    async def submitted_text(self, backend: Backend, job: JobId) -> str:
        assert isinstance(backend, SlurmBackend)
        return (await backend.runner.run(("scontrol", "write", "batch_script", job, "-"))).stdout


def test_refused_partition_lists_the_partitions(slurm: FakeSlurm, tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(SubmitRefused) as caught:
            await slurm_backend(slurm, queue="shrot").submit(BackendContract().spec(tmp_path, "true"))
        assert str(caught.value).splitlines() == [
            "Slurm refused the job (HPC-SUBMIT-PARTITION)",
            "  sbatch said:   invalid partition specified: shrot",
            "  from:          queue=\"shrot\"   (rendered as '#SBATCH --partition=shrot')",
            "  partitions:    debug, short*, long, gpu          did you mean 'short'?",
        ]

    asyncio.run(scenario())


def test_job_of_a_submission_that_timed_out_is_found(slurm: FakeSlurm, tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = slurm_backend(slurm)
        spec = BackendContract().spec(tmp_path, "sleep 60")
        slurm.fail("sbatch", stderr=TIMED_OUT, happens=True)
        with pytest.raises(CommandFailed, match="may exist") as caught:
            await backend.submit(spec)
        assert not isinstance(caught.value, SubmitRefused)
        (job,) = (await backend.find([spec.name])).values()
        assert (await backend.cancel([job])).gone | (await backend.cancel([job])).unconfirmed == {job}

    asyncio.run(scenario())


def test_failed_poll_says_nothing(slurm: FakeSlurm, tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = slurm_backend(slurm)
        job = await backend.submit(BackendContract().spec(tmp_path, "sleep 60"))
        slurm.fail(
            "squeue", stderr="slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", times=2
        )
        with pytest.raises(PollFailed, match="Unable to contact"):
            await backend.poll([job])
        with pytest.raises(PollFailed):
            await backend.find([BackendContract().spec(tmp_path, "").name])
        assert (await backend.poll([job]))[job].state == JobState.RUNNING

    asyncio.run(scenario())


def test_cancel_that_fails_but_works_is_verified(slurm: FakeSlurm, tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = slurm_backend(slurm, job_extra_directives=("--begin=now+1hour",))
        job = await backend.submit(BackendContract().spec(tmp_path, "sleep 60"))
        error = f"scancel: error: Kill job error on job id {job}: Socket timed out on send/recv operation\n"
        slurm.fail("scancel", stderr=error, returncode=140, happens=True)
        assert (await backend.cancel([job])).gone == {job}
        other = await backend.submit(BackendContract().spec(tmp_path, "sleep 60"))
        slurm.fail("scancel", stderr=error, returncode=140)
        report = await backend.cancel([other])
        assert report.unconfirmed == {other}
        assert "Socket timed out" in report.message
        slurm.fail("squeue", stderr="slurm_load_jobs error: Socket timed out on send/recv operation\n")
        with pytest.raises(CancelFailed):
            await backend.cancel([other])

    asyncio.run(scenario())


def test_accounting_tells_what_the_queue_has_forgotten(slurm: FakeSlurm, tmp_path: Path) -> None:
    async def scenario(accounting: bool) -> JobState:
        slurm.accounting = accounting
        contract = TestFakeSlurm()
        backend = slurm_backend(slurm)
        job = await backend.submit(contract.spec(tmp_path, "exit 5"))
        await contract.until_state(backend, job, JobState.FAILED)
        slurm.forget(job)
        status = (await backend.poll([job]))[job]
        assert status.exit_code == (5 if accounting else None)
        return status.state

    assert asyncio.run(scenario(accounting=True)) == JobState.FAILED
    assert asyncio.run(scenario(accounting=False)) == JobState.ABSENT


def test_accounting_tells_who_has_cancelled_a_job_if_it_was_not_us(slurm: FakeSlurm, tmp_path: Path) -> None:
    async def scenario() -> None:
        slurm.accounting = True
        contract = TestFakeSlurm()
        backend, stranger = slurm_backend(slurm), slurm_backend(slurm)
        theirs, ours = [await backend.submit(contract.spec(tmp_path, "sleep 60")) for _ in range(2)]
        await stranger.cancel([theirs])
        assert (await backend.poll([theirs]))[theirs].reason == f"cancelled by uid {os.getuid()}"
        slurm.calls.clear()
        await backend.cancel([ours])
        assert (await backend.poll([ours]))[ours].state == JobState.CANCELLED
        assert "sacct" not in [call.command for call in slurm.calls]

    asyncio.run(scenario())


def test_nobody_waits_for_accounting_that_hangs(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpccluster_slurm.backend._PATIENCE", 0.3)

    async def scenario() -> None:
        slurm.accounting = True
        job = await slurm_backend(slurm).submit(TestFakeSlurm().spec(tmp_path, "sleep 60"))
        await slurm_backend(slurm).cancel([job])
        slurm.delay("sacct", 3)
        status = (await slurm_backend(slurm).poll([job]))[job]
        assert (status.state, status.reason) == (JobState.CANCELLED, "")

    asyncio.run(scenario())


def test_accounting_that_is_switched_off_is_asked_once(slurm: FakeSlurm) -> None:
    async def scenario() -> None:
        backend = slurm_backend(slurm)
        for _ in range(3):
            await backend.poll([JobId("4000000")])
        assert [call.command for call in slurm.calls] == ["squeue", "sacct", "squeue", "squeue"]

    asyncio.run(scenario())


def test_one_command_asks_for_all_jobs(slurm: FakeSlurm, tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = slurm_backend(slurm)
        jobs = [await backend.submit(BackendContract().spec(tmp_path, "sleep 60")) for _ in range(6)]
        slurm.calls.clear()
        statuses = await backend.poll(jobs)
        assert len(slurm.calls) == 1
        assert [status.state for status in statuses.values()].count(JobState.RUNNING) == 4
        assert {status.reason for status in statuses.values() if status.state == JobState.PENDING} == {"Resources"}

    asyncio.run(scenario())


def test_hostile_ids_run_no_command(slurm: FakeSlurm) -> None:
    async def scenario() -> None:
        backend = slurm_backend(slurm)
        for text in HOSTILE_IDS:
            with pytest.raises(ValueError, match="not the id"):
                await backend.cancel([JobId("101"), JobId(text)])
        assert slurm.calls == []

    asyncio.run(scenario())


def test_job_without_a_head_cancels_its_siblings_only(slurm: FakeSlurm, tmp_path: Path) -> None:
    async def scenario() -> None:
        contract = TestFakeSlurm()
        backend = slurm_backend(slurm)
        ours, others = "hpccluster 0123 head here", "hpccluster 4567 head here"
        names = {
            "hpc-calm-0001": ours,
            "hpc-calm-00ff": ours,
            "hpc-calm-0002": others,
            "hpc-calm-otter-0001": ours,
            "mine-0001": ours,
        }
        jobs = {
            name: await backend.submit(contract.spec(tmp_path, "sleep 60", name=name, comment=comment, cluster="calm"))
            for name, comment in names.items()
        }
        slurm.slots = 10
        last = await backend.submit(
            contract.spec(tmp_path, "exit 75", name="hpc-calm-0003", comment=ours, cluster="calm")
        )
        status = await contract.until_state(backend, last, JobState.FAILED)
        assert status.exit_code == 75
        await contract.until_state(backend, jobs["hpc-calm-0001"], JobState.CANCELLED)
        await contract.until_state(backend, jobs["hpc-calm-00ff"], JobState.CANCELLED)
        for name in ("hpc-calm-0002", "hpc-calm-otter-0001", "mine-0001"):
            assert (await backend.poll([jobs[name]]))[jobs[name]].state.is_live, name

    asyncio.run(scenario())


def test_missing_commands_are_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = SlurmBackend(SlurmOptions(cores=1, memory="1GB"), LocalRunner({"PATH": str(tmp_path)}))
        with pytest.raises(BackendUnavailable, match="sbatch"):
            await backend.submit(BackendContract().spec(tmp_path, "true"))

    asyncio.run(scenario())


def test_slow_command_is_given_up(slurm: FakeSlurm) -> None:
    async def scenario() -> None:
        slurm.delay("squeue", 3.0)
        with pytest.raises(CommandFailed, match="did not end within"):
            await LocalRunner(slurm.environment()).run(("squeue", "--me"), timeout=0.5)

    asyncio.run(scenario())
