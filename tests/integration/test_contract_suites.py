"""The contract suites catch what they are there for: each wrong backend fails the test that says so."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpccluster.backend.dialect import CommandResult
from hpccluster.backend.runner import LocalRunner
from hpccluster.errors import BackendError, BackendUnavailable, LogsUnavailable, SubmitRefused
from hpccluster.ids import JobId, JobName
from hpccluster.job import CancelReport, JobSpec, JobState, JobStatus
from hpccluster.testing.backend_contract import BackendContract
from hpccluster.testing.fake_commands import FakeSlurm
from hpccluster.testing.runner_contract import RunnerContract
from hpccluster_local.backend import LocalBackend
from hpccluster_local.options import LocalOptions
from hpccluster_slurm.backend import SlurmBackend
from hpccluster_slurm.dialect import SlurmContext, SlurmDialect
from hpccluster_slurm.options import SlurmOptions

Caught = (AssertionError, pytest.fail.Exception, LookupError, UnicodeError, LogsUnavailable)
"""What a failing test ends with. Pytest's own failure is no `Exception`."""


class Suite(BackendContract):
    """The suite with little patience. Its methods are called one by one."""

    __test__ = False
    patience = 2.0
    unknown_id = "local-4000000"


class Honest(LocalBackend):
    """A right backend, of which each wrong one below is a copy with one fault. It ends its processes when all is over."""

    def __init__(self) -> None:
        super().__init__(LocalOptions())
        self.grace = 0.3


class AbsentIsCompleted(Honest):
    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        return {
            job: replace(status, state=JobState.COMPLETED) if status.state is JobState.ABSENT else status
            for job, status in (await super().poll(ids)).items()
        }


class LeavesOutTheUnknown(Honest):
    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        return {job: it for job, it in (await super().poll(ids)).items() if it.state is not JobState.ABSENT}


class AlwaysPending(Honest):
    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        return {
            job: replace(status, state=JobState.PENDING) if status.state.is_live else status
            for job, status in (await super().poll(ids)).items()
        }


class AllEndsAreGood(Honest):
    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        return {
            job: replace(status, state=JobState.COMPLETED, exit_code=0) if status.state.is_over else status
            for job, status in (await super().poll(ids)).items()
        }


class ForgetsExitCodes(Honest):
    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        return {job: replace(status, exit_code=None) for job, status in (await super().poll(ids)).items()}


class LosesLogs(Honest):
    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        return ""


class LosesLogsOfTheDead(Honest):
    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        return "" if (await self.poll([job]))[job].state.is_over else await super().logs(job, log_path, tail)


class RemovesWhatItReads(Honest):
    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        text = await super().logs(job, log_path, tail)
        Path(log_path).write_text("")
        return text


class ReadsTheEndOnly(Honest):
    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        return await super().logs(job, log_path, tail or 100)


class ReadsAllAlways(Honest):
    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        return await super().logs(job, log_path, None)


class ReadsTextOnly(Honest):
    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        Path(log_path).read_text(encoding="utf-8")
        return await super().logs(job, log_path, tail)


class CancelLies(Honest):
    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        return CancelReport(gone=frozenset(ids))


class CancelIsNotVerified(Honest):
    """What was told SIGTERM is taken for gone."""

    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        for job in ids:
            if job in self._jobs and not self._jobs[job].ended.is_set():
                self._jobs[job].process.signal(signal.SIGTERM)
        return CancelReport(gone=frozenset(ids))


class CancelsAll(Honest):
    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        await super().cancel(self._jobs)
        return await super().cancel(ids)


class CancelsByForce(Honest):
    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        for job in ids:
            if job in self._jobs and not self._jobs[job].ended.is_set():
                self._jobs[job].process.signal(signal.SIGKILL)
        return await super().cancel(ids)


class CancelsBesideBadIds(Honest):
    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        for job in ids:
            await super().cancel([job])
        return await super().cancel(ids)


class TakesAnyId(Honest):
    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        return await super().cancel([job for job in ids if job in self._jobs])


class SubmitsTwice(Honest):
    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        await super().submit(spec, credential)
        return await super().submit(spec, credential)


class OneIdForAll(Honest):
    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        job = await super().submit(spec, credential)
        return min(self._jobs, default=job)


class Refuses(Honest):
    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        raise SubmitRefused("no", code="HPC-SUBMIT-NO", details={"said": "no"})


class RefusesWhatItQueues(Refuses):
    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        await Honest.submit(self, spec, credential)
        return await super().submit(spec, credential)


class RefusesWithoutAWord(Refuses):
    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        raise SubmitRefused("no", code="HPC-SUBMIT-NO")


class WaitsWithoutAReason(Honest):
    """As `Waits`, which is right, but for the reason."""

    reason = ""

    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        return {
            job: replace(status, state=JobState.PENDING, reason=self.reason) if status.state.is_live else status
            for job, status in (await super().poll(ids)).items()
        }

    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        return await super().submit(replace(spec, command=("sleep", "60"), log_path=""), credential)


class Waits(WaitsWithoutAReason):
    reason = "queued"


class FailsOnTheLogOfAWaitingJob(Waits):
    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        raise LogsUnavailable("it has not started", code="HPC-LOGS-MISSING")


class FindsTheDead(Honest):
    async def find(self, names: Collection[JobName]) -> dict[JobName, JobId]:
        return {job.name: job.id for job in self._jobs.values() if job.name in names}


class FindsAnyName(Honest):
    async def find(self, names: Collection[JobName]) -> dict[JobName, JobId]:
        return {job.name: job.id for job in self._jobs.values() if not job.ended.is_set()}


class FindsAllTheDead(Honest):
    async def find_all(self) -> dict[JobName, JobId]:
        return {job.name: job.id for job in self._jobs.values()}


class CloseCancels(Honest):
    async def close(self) -> None:
        await self.cancel(list(self._jobs))
        await super().close()


class RendersAnew(Honest):
    def render(self, spec: JobSpec) -> str:
        return f"{super().render(spec)}\n# {time.monotonic_ns()}\n"


class RendersOtherwise(Honest):
    """Its script is put together by hand, in the way that the name says."""

    def change(self, text: str, spec: JobSpec) -> str:
        raise NotImplementedError

    def render(self, spec: JobSpec) -> str:
        return self.change(super().render(spec), spec)


class HasNoEpilogue(RendersOtherwise):
    def change(self, text: str, spec: JobSpec) -> str:
        return "\n".join(line for line in text.splitlines() if line not in self.options.job_script_epilogue)


class LetsTheShellExpand(RendersOtherwise):
    def change(self, text: str, spec: JobSpec) -> str:
        for name, value in spec.environment:
            text = "\n".join(
                f'export {name}="{value}"' if line.startswith(f"export {name}=") else line for line in text.splitlines()
            )
        return text


class AddsALineOfTheUser(RendersOtherwise):
    def change(self, text: str, spec: JobSpec) -> str:
        return f"{text}\n#$ -o {spec.log_path}\n"


WRONG: list[tuple[type[Honest], str]] = [
    (AbsentIsCompleted, "test_poll_answers_for_every_id"),
    (LeavesOutTheUnknown, "test_poll_answers_for_every_id"),
    (OneIdForAll, "test_poll_answers_for_every_id"),
    (AlwaysPending, "test_cancelled_job_is_told_and_gone"),
    (AllEndsAreGood, "test_failed_job_keeps_its_exit_code"),
    (AllEndsAreGood, "test_cancelled_job_is_told_and_gone"),
    (ForgetsExitCodes, "test_failed_job_keeps_its_exit_code"),
    (LosesLogs, "test_logs_are_read_and_kept"),
    (LosesLogsOfTheDead, "test_logs_are_read_and_kept"),
    (RemovesWhatItReads, "test_logs_are_read_and_kept"),
    (ReadsTheEndOnly, "test_logs_are_read_and_kept"),
    (ReadsAllAlways, "test_logs_are_read_and_kept"),
    (ReadsTextOnly, "test_logs_are_read_and_kept"),
    (CancelLies, "test_stubborn_job_is_ended_by_force"),
    (CancelIsNotVerified, "test_stubborn_job_is_ended_by_force"),
    (CancelsAll, "test_cancel_ends_no_other_job"),
    (CancelsByForce, "test_cancelled_job_is_told_and_gone"),
    (CancelsBesideBadIds, "test_hostile_ids_are_refused"),
    (TakesAnyId, "test_hostile_ids_are_refused"),
    (SubmitsTwice, "test_output_and_end_are_told"),
    (RefusesWhatItQueues, "test_refused_job_does_not_exist"),
    (RefusesWithoutAWord, "test_refused_job_does_not_exist"),
    (WaitsWithoutAReason, "test_log_of_a_pending_job_is_empty"),
    (FailsOnTheLogOfAWaitingJob, "test_log_of_a_pending_job_is_empty"),
    (FindsTheDead, "test_output_and_end_are_told"),
    (FindsAnyName, "test_submitted_job_is_queued_under_its_name"),
    (FindsAllTheDead, "test_output_and_end_are_told"),
    (CloseCancels, "test_close_cancels_nothing"),
    (RendersAnew, "test_rendering_is_pure"),
    (LetsTheShellExpand, "test_output_and_end_are_told"),
    (HasNoEpilogue, "test_script_holds_what_the_user_adds"),
    (AddsALineOfTheUser, "test_values_cannot_add_lines"),
]


RIGHT: dict[str, type[Honest]] = {
    "test_refused_job_does_not_exist": Refuses,
    "test_log_of_a_pending_job_is_empty": Waits,
}
"""What passes tests that need another backend than `Honest`."""


@pytest.fixture
def clean() -> Iterator[Callable[[Honest], None]]:
    """Ends the processes of wrong backends, which do not do so themselves."""
    made: list[Honest] = []
    yield made.append
    for backend in made:
        for job in backend._jobs.values():
            if not job.ended.is_set():
                job.process.signal(signal.SIGKILL)


@pytest.mark.parametrize(("wrong", "test"), WRONG, ids=[f"{wrong.__name__}-{test}" for wrong, test in WRONG])
def test_wrong_backend_is_caught(
    wrong: type[Honest], test: str, tmp_path: Path, clean: Callable[[Honest], None]
) -> None:
    getattr(Suite(), test)(RIGHT.get(test, Honest)(), tmp_path)
    bad = wrong()
    clean(bad)
    with pytest.raises(Caught):
        getattr(Suite(), test)(bad, tmp_path)


class SlurmSuite(Suite):
    patience = 15.0
    unknown_id = "4000000"


class PollsJobByJob(SlurmBackend):
    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        return {job: status for one in ids for job, status in (await SlurmBackend.poll(self, [one])).items()}


class TakesFailureForAnEmptyList(SlurmDialect):
    def parse_poll(self, result: CommandResult) -> list[JobStatus]:
        return super().parse_poll(replace(result, returncode=0))


class TakesFailureToFindForNothing(SlurmDialect):
    def parse_find(self, result: CommandResult) -> list[JobStatus]:
        return [] if result.returncode else super().parse_find(result)


class ForgetsDirectivesOfTheUser(SlurmDialect):
    def context(self, spec: JobSpec, options: SlurmOptions) -> SlurmContext:
        return replace(super().context(spec, options), extra_directives=())


class RefusesWhateverItDoesNotKnow(SlurmDialect):
    def submit_error(self, result: CommandResult, script: str, options: SlurmOptions) -> BackendError:
        return SubmitRefused(result.stderr, code="HPC-SUBMIT-NO", details={"said": result.stderr})


@pytest.mark.parametrize(
    ("backend_type", "dialect", "test"),
    [
        (PollsJobByJob, SlurmDialect, "test_poll_asks_once_for_all"),
        (SlurmBackend, ForgetsDirectivesOfTheUser, "test_script_holds_what_the_user_adds"),
        (SlurmBackend, TakesFailureForAnEmptyList, "test_failing_commands_say_nothing"),
        (SlurmBackend, TakesFailureToFindForNothing, "test_failing_commands_say_nothing"),
        (SlurmBackend, RefusesWhateverItDoesNotKnow, "test_failing_commands_say_nothing"),
    ],
)
def test_wrong_dialect_is_caught(
    backend_type: type[SlurmBackend], dialect: type[SlurmDialect], test: str, tmp_path: Path
) -> None:
    with FakeSlurm() as slurm:
        backend = backend_type(SlurmOptions(cores=1, memory="100MB"), LocalRunner(slurm.environment()))
        backend.dialect = dialect()
        with pytest.raises(Caught):
            getattr(SlurmSuite(), test)(backend, tmp_path)


class Forgetful(Honest):
    """Tells nothing of what has ended, as a batch system without accounting."""

    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        return {
            job: JobStatus(id=job, state=JobState.ABSENT) if status.state.is_over else status
            for job, status in (await super().poll(ids)).items()
        }


class ForgetfulSuite(Suite):
    forgets = True


@pytest.mark.parametrize("test", sorted(name for name in vars(BackendContract) if name.startswith("test_")))
def test_batch_system_without_accounting_can_pass(test: str, tmp_path: Path) -> None:
    with contextlib.suppress(pytest.skip.Exception):
        getattr(ForgetfulSuite(), test)(RIGHT.get(test, Forgetful)(), tmp_path)


# --------------------------------------------------------------------------------------------------------------- runners


class RunnerSuite(RunnerContract):
    __test__ = False
    patience = 4.0


class WrongRunner(LocalRunner):
    """The runner of this host, each time with one fault: what it does with the arguments and the result of `run`."""

    def before(self, argv: Sequence[str], how: dict[str, Any]) -> Sequence[str]:
        return argv

    def after(self, result: CommandResult) -> CommandResult:
        return result

    async def run(self, argv: Sequence[str], **how: Any) -> CommandResult:
        return self.after(await super().run(self.before(argv, how), **how))


class SplitsWords(WrongRunner):
    def before(self, argv: Sequence[str], how: dict[str, Any]) -> Sequence[str]:
        return argv if argv[0] != "printf" else ("sh", "-c", " ".join(argv))


class ForgetsTheEnvironment(WrongRunner):
    def before(self, argv: Sequence[str], how: dict[str, Any]) -> Sequence[str]:
        how.pop("environment", None)
        return argv


class HasNoTimeout(WrongRunner):
    def before(self, argv: Sequence[str], how: dict[str, Any]) -> Sequence[str]:
        how["timeout"] = 60.0
        return argv


class MixesOutputs(WrongRunner):
    def after(self, result: CommandResult) -> CommandResult:
        return replace(result, stdout=result.stdout + result.stderr)


class CutsOutput(WrongRunner):
    def after(self, result: CommandResult) -> CommandResult:
        return replace(result, stdout=result.stdout[:1_000_000])


class TellsSignalsAsAShellDoes(WrongRunner):
    def after(self, result: CommandResult) -> CommandResult:
        return replace(result, returncode=result.returncode if result.returncode >= 0 else 128 - result.returncode)


class TakesAMissingCommandForItsResult(WrongRunner):
    async def run(self, argv: Sequence[str], **how: Any) -> CommandResult:
        try:
            return await super().run(argv, **how)
        except BackendUnavailable as error:
            return CommandResult(tuple(argv), 127, "", str(error))


class LeavesTheCancelledAlive(WrongRunner):
    """Until it is closed, so that the test leaves nothing behind."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[asyncio.Task[CommandResult]] = []

    async def run(self, argv: Sequence[str], **how: Any) -> CommandResult:
        self.tasks.append(asyncio.create_task(super().run(argv, **how)))
        return await asyncio.shield(self.tasks[-1])

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await super().close()


class ReadsNothingForAMissingFile(WrongRunner):
    async def read_tail(self, path: str, lines: int | None = None) -> str:
        try:
            return await super().read_tail(path, lines)
        except FileNotFoundError:
            return ""


class ReadsWholeFiles(WrongRunner):
    async def read_tail(self, path: str, lines: int | None = None) -> str:
        return await super().read_tail(path)


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        (SplitsWords, "test_words_arrive_unchanged"),
        (ForgetsTheEnvironment, "test_environment_is_changed_and_messages_are_english"),
        (HasNoTimeout, "test_command_that_takes_too_long_is_killed"),
        (MixesOutputs, "test_result_is_told_whole"),
        (CutsOutput, "test_large_output_comes_whole"),
        (TellsSignalsAsAShellDoes, "test_signal_that_ended_it_is_told"),
        (TakesAMissingCommandForItsResult, "test_command_that_is_not_there"),
        (LeavesTheCancelledAlive, "test_cancelled_command_is_killed"),
        (ReadsNothingForAMissingFile, "test_file_that_is_missing_or_cannot_be_read"),
        (ReadsWholeFiles, "test_tail_of_a_file"),
    ],
)
def test_wrong_runner_is_caught(wrong: type[WrongRunner], test: str) -> None:
    getattr(RunnerSuite(), test)(LocalRunner())
    with pytest.raises((AssertionError, pytest.fail.Exception, TimeoutError)):
        getattr(RunnerSuite(), test)(wrong())
