"""The suite that every backend must pass, as a class to subclass in a test module:

    class TestMyBackend(BackendContract):
        @pytest.fixture
        def backend(self) -> Backend:
            return MyBackend(MyOptions(cores=1, memory="100MB"))

Each test says one sentence of the contract in `hpccluster.backend.base.Backend`. Jobs are small shell commands, three at a
time at most. It needs nothing but pytest, and a batch system (or a fake of one) that starts a job within `patience` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hpccluster.backend.base import Backend
from hpccluster.backend.batch import BatchBackend
from hpccluster.backend.dialect import CommandResult
from hpccluster.backend.options import BatchOptions, JobOptions
from hpccluster.errors import BackendError, BackendUnavailable, CancelFailed, ConfigError, PollFailed, SubmitRefused
from hpccluster.ids import JobId, JobName
from hpccluster.job import JobSpec, JobState, JobStatus
from hpccluster.resources import JobResources

HOSTILE_IDS = (
    "",
    " ",
    "0",
    "-1",
    "-9",
    "1 2",
    "1;2",
    "*",
    "all",
    "--user=root",
    "1\n2",
    "\0",
    "$(id)",
    "01",
    "1.5",
    "٣",
)
"""Texts that are no job's id in any batch system."""


HOSTILE_VALUE = 'b\'l ue "$HOME" `id` \\'
"""A value that arrives unchanged only where it is quoted for the shell (``{{ value | q }}``), not merely put between quotes."""


class BackendContract:
    """Subclass, name it ``Test...``, and override the fixtures and attributes that differ."""

    patience: ClassVar[float] = 30.0
    """Seconds that a change may take to show."""

    unknown_id: ClassVar[str] = "4000000"
    """An id of the right form that no job has."""

    forgets: ClassVar[bool] = False
    """The batch system tells nothing of jobs that have ended: they are ABSENT, and nobody learns their exit codes."""

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend under test; used in one event loop only."""
        raise NotImplementedError

    @pytest.fixture
    def pending_backend(self) -> Backend | None:
        """One whose jobs wait in the queue for longer than a test takes; None where that cannot be had."""
        return None

    @pytest.fixture
    def refused_backend(self) -> Backend | None:
        """One whose jobs the batch system refuses; None where that cannot be had."""
        return None

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        """A directory that jobs can write to."""
        return tmp_path

    def listing(self, directory: Path) -> list[str]:
        """The files in such a directory; to override where it is not on this host."""
        return sorted(path.name for path in directory.iterdir())

    async def submitted_text(self, backend: Backend, job: JobId) -> str | None:
        """The text that the batch system was given for this job; None where it cannot be had."""
        return None

    # ------------------------------------------------------------------------------------------------------------- helpers

    def spec(self, directory: Path, line: str, **changes: Any) -> JobSpec:
        """A job that runs one line of shell."""
        name = JobName(f"hpc-contract-{uuid.uuid4().hex[:12]}")
        values: dict[str, Any] = {
            "name": name,
            "cluster": "contract",
            "command": ("/bin/sh", "-c", line),
            "resources": JobResources(cores=1, memory=100_000_000, processes=1),
            "walltime": 60.0,
            "log_path": str(directory / f"{name}.log"),
            "working_directory": str(directory),
        }
        return JobSpec(**(values | changes))

    def run(self, backend: Backend, scenario: Callable[[Backend], Coroutine[Any, Any, None]]) -> None:
        """Run one test; then cancel every job that it submitted, until all are gone."""
        submitted: list[JobId] = []
        submit = backend.submit

        async def recorded(spec: JobSpec, credential: bytes | None = None) -> JobId:
            job = await submit(spec, credential)
            submitted.append(job)
            return job

        async def whole() -> None:
            backend.submit = recorded  # type: ignore[method-assign]
            try:
                await scenario(backend)
            finally:
                await self.until_all_gone(backend, submitted)
                await backend.close()

        asyncio.run(whole())

    async def until(self, question: Callable[[], Awaitable[Any]], what: str) -> Any:
        """The first true answer."""
        end = time.monotonic() + self.patience
        while not (answer := await question()):
            assert time.monotonic() < end, f"{what}: not within {self.patience:g} s"
            await asyncio.sleep(0.05)
        return answer

    async def until_state(self, backend: Backend, job: JobId, *states: JobState) -> JobStatus:
        """The job's status once it is in one of these states."""

        async def reached() -> JobStatus | None:
            status = (await backend.poll([job]))[job]
            return status if status.state in awaited else None

        ended = self.forgets and any(state.is_over for state in states)
        awaited = {*states, JobState.ABSENT} if ended else states

        status = await self.until(reached, f"job {job} is {' or '.join(states)}")
        assert isinstance(status, JobStatus)
        return status

    async def until_log(self, backend: Backend, job: JobId, spec: JobSpec, text: str) -> str:
        """The job's output once it holds ``text``."""

        async def reached() -> str:
            log = await backend.logs(job, spec.log_path)
            return log if text in log else ""

        return str(await self.until(reached, f"{text!r} in the output of job {job}"))

    async def until_gone(self, backend: Backend, job: JobId) -> None:
        """Cancel the job until the report says that it is gone, as the fleet does."""

        async def gone() -> bool:
            report = await backend.cancel([job])
            assert report.gone | report.unconfirmed == {job}
            assert not report.gone & report.unconfirmed
            return job in report.gone

        await self.until(gone, f"job {job} is gone")

    async def until_all_gone(self, backend: Backend, jobs: list[JobId]) -> None:
        """Cancel the jobs until the report says that they are gone."""

        async def gone() -> bool:
            return (await backend.cancel(jobs)).gone >= set(jobs)

        await self.until(gone, f"jobs {jobs} are gone")

    # -------------------------------------------------------------------------------------------------------------- submit

    def test_submitted_job_is_queued_under_its_name(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            spec = self.spec(directory, "sleep 60")
            job = await backend.submit(spec)
            status = (await backend.poll([job]))[job]
            assert status.state.is_live
            other = self.spec(directory, "sleep 60")
            await backend.submit(other)
            assert await backend.find([spec.name, JobName("hpc-contract-nobody")]) == {spec.name: job}, (
                "only jobs of these names"
            )
            every = await backend.find_all()  # says nothing where it cannot tell
            assert not every or every[spec.name] == job

        self.run(backend, scenario)

    def test_output_and_end_are_told(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            spec = self.spec(
                directory,
                """printf 'hello from %s %s\\n' "$HPCCLUSTER_JOB" "$COLOUR" """,
                environment=(("COLOUR", HOSTILE_VALUE),),
            )
            job = await backend.submit(spec)
            status = await self.until_state(backend, job, JobState.COMPLETED)
            assert status.exit_code in (0, None)
            log = await self.until_log(backend, job, spec, "hello")
            assert f"hello from {spec.name} {HOSTILE_VALUE}\n" in log, (
                "HPCCLUSTER_JOB and the environment arrive unchanged"
            )
            assert "hpccluster: stage started" in log
            assert "hpccluster: stage prologue-ok" in log
            assert log.count("hello from") == 1, "submitted once, it ran once"
            assert await backend.find([spec.name]) == {}, "what has ended is not found"
            assert spec.name not in await backend.find_all(), "what has ended is not found"

        self.run(backend, scenario)

    def test_failed_job_keeps_its_exit_code(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            job = await backend.submit(self.spec(directory, "exit 7"))
            status = await self.until_state(backend, job, JobState.FAILED)
            if not self.forgets:
                assert status.exit_code == 7, "the exit code of the command is that of the job"
                assert status.raw_state, "JobStatus.raw_state is the batch system's own word, for whatever it tells"

        self.run(backend, scenario)

    def test_missing_interpreter_is_named(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            spec = self.spec(directory, "", command=("/nowhere/bin/python", "-V"))
            job = await backend.submit(spec)
            status = await self.until_state(backend, job, JobState.FAILED)
            assert status.exit_code == 127 or self.forgets
            assert "python not found: /nowhere/bin/python" in await self.until_log(backend, job, spec, "not found")

        self.run(backend, scenario)

    def test_refused_job_does_not_exist(self, refused_backend: Backend | None, directory: Path) -> None:
        if refused_backend is None:
            pytest.skip("this backend refuses nothing that a test could ask for")

        async def scenario(backend: Backend) -> None:
            spec = self.spec(directory, "true")
            with pytest.raises(SubmitRefused) as caught:
                await backend.submit(spec)
            assert caught.value.code.startswith("HPC-SUBMIT-")
            assert caught.value.details["said"]
            assert await backend.find([spec.name]) == {}

        self.run(refused_backend, scenario)

    def test_cancelled_submission_can_be_found(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            spec = self.spec(directory, "sleep 60")
            task = asyncio.create_task(backend.submit(spec))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            # there may be a job, now or later: whatever the name leads to can be cancelled
            for _ in range(2):
                for job in (await backend.find([spec.name])).values():
                    await self.until_gone(backend, job)
                await asyncio.sleep(0.5)

        self.run(backend, scenario)

    # -------------------------------------------------------------------------------------------------------------- render

    def test_rendering_is_pure(self, backend: Backend, directory: Path) -> None:
        spec = self.spec(directory, "echo 'a  b' \"$HOME\"; # '")
        before = self.listing(directory)
        assert backend.render(spec) == backend.render(spec)
        assert self.listing(directory) == before

    def test_rendered_is_what_is_submitted(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            spec = self.spec(directory, "sleep 60")
            job = await backend.submit(spec)
            text = await self.submitted_text(backend, job)
            if text is None:
                pytest.skip("this batch system does not show the scripts of jobs")
            assert text == backend.render(spec)

        self.run(backend, scenario)

    def test_values_cannot_add_lines(self, backend: Backend, directory: Path) -> None:
        for bad in ("a\nb", "a\rb", "a\0b"):
            with pytest.raises(ConfigError):
                backend.render(self.spec(directory, "true", environment=(("X", bad),)))
            with pytest.raises(ConfigError):
                backend.render(self.spec(directory, "true", command=("/bin/echo", bad)))
        for name in ("cluster", "comment", "log_path", "working_directory"):
            with contextlib.suppress(ConfigError):
                text = backend.render(self.spec(directory, "true", **{name: "/a\nhpc-added-line"}))
                assert "\nhpc-added-line" not in text, f"the {name} of the job has added a line to its script"

    def test_script_holds_what_the_user_adds(self, backend: Backend, directory: Path) -> None:
        usual: Any = getattr(backend, "options", None)
        if not isinstance(usual, JobOptions):
            pytest.skip("this backend keeps no options")
        added: dict[str, Any] = {
            "job_script_prologue": ("echo prologue; #1",),
            "job_script_epilogue": ("echo epilogue; #2",),
        }
        if isinstance(usual, BatchOptions):
            added["job_extra_directives"] = ("-Z hpc-contract",)
        changed: Any = backend
        try:
            changed.options = replace(usual, **added)
            script = backend.render(self.spec(directory, "true"))
        finally:
            changed.options = usual
        for option, lines in added.items():
            assert lines[0] in script, f"{option}= is not in the script"

    def test_credential_arrives(self, backend: Backend, directory: Path) -> None:
        if backend.credential_way not in ("stdin", "inline"):
            pytest.skip("jobs of this backend read the file of the head, or of the login host")

        async def scenario(backend: Backend) -> None:
            spec = self.spec(directory, 'cat "$HPCCLUSTER_CONNECTION_FILE"; ls -l "$HPCCLUSTER_CONNECTION_FILE"')
            job = await backend.submit(spec, b"a secret\n")
            log = await self.until_log(backend, job, spec, "-rw-------")
            assert "a secret\n" in log
            assert "a secret" not in backend.render(spec)

        self.run(backend, scenario)

    # ---------------------------------------------------------------------------------------------------------------- poll

    def test_poll_answers_for_every_id(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            assert await backend.poll([]) == {}
            unknown = JobId(self.unknown_id)
            alone = await backend.poll([unknown])
            assert alone[unknown].state == JobState.ABSENT
            jobs = await asyncio.gather(*(backend.submit(self.spec(directory, "sleep 60")) for _ in range(2)))
            statuses = await backend.poll([*jobs, unknown])
            assert set(statuses) == {*jobs, unknown}
            assert statuses[unknown].state == JobState.ABSENT
            assert all(statuses[job].state.is_live and statuses[job].id == job for job in jobs)
            assert len(set(jobs)) == 2

        self.run(backend, scenario)

    def test_poll_asks_once_for_all(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            if not isinstance(backend, BatchBackend):
                pytest.skip("only the commands of a BatchBackend can be counted")
            jobs = [await backend.submit(self.spec(directory, "sleep 60")) for _ in range(3)]
            await backend.poll(jobs)  # what has to be learnt once is not counted
            commands: list[str] = []
            usual = backend.runner.run

            async def counted(argv: Sequence[str], **how: Any) -> CommandResult:
                commands.append(argv[0])
                return await usual(argv, **how)

            with commands_by(backend, counted):
                await backend.poll(jobs[:1])
                for_one = commands.copy()
                await backend.poll(jobs)
            assert commands == for_one * 2, "many jobs are polled by as many commands as one"

        self.run(backend, scenario)

    def test_failing_commands_say_nothing(self, backend: Backend, directory: Path) -> None:
        """Where each command fails with words that nobody knows, no job is absent, gone or refused for that."""

        async def scenario(backend: Backend) -> None:
            if not isinstance(backend, BatchBackend):
                pytest.skip("only the commands of a BatchBackend can be made to fail")
            spec = self.spec(directory, "sleep 60")
            job = await backend.submit(spec)
            with commands_by(backend, fails):
                with pytest.raises((PollFailed, BackendUnavailable)):
                    await backend.poll([job])
                with pytest.raises((PollFailed, BackendUnavailable)):
                    await backend.find([spec.name])
                with pytest.raises((CancelFailed, BackendUnavailable)):
                    await backend.cancel([JobId(self.unknown_id)])
                with pytest.raises(BackendError) as caught:
                    await backend.submit(self.spec(directory, "true"))
                assert not isinstance(caught.value, SubmitRefused), "refused is what the batch system certainly refused"
            assert (await backend.poll([job]))[job].state.is_live

        self.run(backend, scenario)

    # -------------------------------------------------------------------------------------------------------------- cancel

    def test_cancelled_job_is_told_and_gone(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            # it is ready after a moment: OpenPBS tells a job nothing in the first 50 ms, and kills it later
            line = "trap 'echo told to end; exit 0' TERM; sleep 0.3; echo ready; while :; do sleep 0.1; done"
            spec = self.spec(directory, line)
            job = await backend.submit(spec)
            await self.until_log(backend, job, spec, "ready")
            assert (await self.until_state(backend, job, JobState.RUNNING)).node, "JobStatus.node says where it runs"
            await self.until_gone(backend, job)
            assert "told to end" in await self.until_log(backend, job, spec, "told to end")
            status = (await backend.poll([job]))[job]
            assert status.state in (JobState.CANCELLED, JobState.ABSENT)
            assert await backend.find([spec.name]) == {}

        self.run(backend, scenario)

    def test_stubborn_job_is_ended_by_force(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            spec = self.spec(directory, "trap '' TERM; echo ready; while :; do echo alive; sleep 0.2; done")
            job = await backend.submit(spec)
            await self.until_log(backend, job, spec, "ready")
            await self.until_gone(backend, job)

            async def is_silent() -> bool:
                before = await backend.logs(job, spec.log_path)
                await asyncio.sleep(1)
                return await backend.logs(job, spec.log_path) == before

            await self.until(is_silent, "what is reported as gone has ended, and writes no more")

        self.run(backend, scenario)

    def test_cancel_ends_no_other_job(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            specs = [self.spec(directory, "sleep 60") for _ in range(3)]
            jobs = [await backend.submit(spec) for spec in specs]
            await self.until_all_gone(backend, jobs[:2])
            assert await backend.find([spec.name for spec in specs]) == {specs[2].name: jobs[2]}
            assert (await backend.poll(jobs))[jobs[2]].state.is_live

        self.run(backend, scenario)

    def test_cancel_is_idempotent(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            assert await backend.cancel([]) == await backend.cancel([])
            unknown = JobId(self.unknown_id)
            assert (await backend.cancel([unknown])).gone == {unknown}
            job = await backend.submit(self.spec(directory, "true"))
            await self.until_state(backend, job, JobState.COMPLETED)
            assert (await backend.cancel([job, unknown])).gone == {job, unknown}
            assert (await backend.cancel([job])).gone == {job}
            # it had ended by itself, and still says so
            assert (await backend.poll([job]))[job].state in (JobState.COMPLETED, JobState.ABSENT)

        self.run(backend, scenario)

    def test_hostile_ids_are_refused(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            job = await backend.submit(self.spec(directory, "sleep 60"))
            for text in HOSTILE_IDS:
                with pytest.raises(ValueError, match="id"):
                    await backend.cancel([job, JobId(text)])
            # nothing was cancelled, not even what stood beside the bad id
            assert (await backend.poll([job]))[job].state.is_live

        self.run(backend, scenario)

    # ---------------------------------------------------------------------------------------------------------------- logs

    def test_logs_are_read_and_kept(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            line = r"i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; done; printf '\351\377\n'; echo ready; sleep 60"
            spec = self.spec(directory, line)
            job = await backend.submit(spec)
            running = await self.until_log(backend, job, spec, "ready")
            assert await backend.logs(job, spec.log_path) == running, "reading removes nothing"
            assert "line 1\n" in running, "without tail=, all of it"
            last = await backend.logs(job, spec.log_path, tail=3)
            assert last.startswith("line 300\n"), "the last lines, also where some are no text"
            assert last.endswith("\nready\n")
            await self.until_gone(backend, job)
            dead = await backend.logs(job, spec.log_path)
            assert dead.startswith(running), "what a dead job has written stays"
            assert await backend.logs(job, spec.log_path) == dead

        self.run(backend, scenario)

    def test_log_of_a_pending_job_is_empty(self, pending_backend: Backend | None, directory: Path) -> None:
        if pending_backend is None:
            pytest.skip("jobs of this backend never wait")

        async def scenario(backend: Backend) -> None:
            spec = self.spec(directory, "true")
            job = await backend.submit(spec)
            status = await self.until_state(backend, job, JobState.PENDING)
            assert await backend.logs(job, spec.log_path) == ""

            async def has_reason() -> str:
                return (await backend.poll([job]))[job].reason

            await self.until(has_reason, "JobStatus.reason says why the job waits (the system's own word, if no more)")
            assert backend.explain(status) == "" or backend.explain(status).strip()
            await self.until_gone(backend, job)

        self.run(pending_backend, scenario)

    # --------------------------------------------------------------------------------------------------------------- close

    def test_close_cancels_nothing(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            job = await backend.submit(self.spec(directory, "sleep 60"))
            await backend.close()
            assert (await backend.poll([job]))[job].state.is_live

        self.run(backend, scenario)


Run = Callable[..., Coroutine[Any, Any, CommandResult]]


async def fails(argv: Sequence[str], **_: Any) -> CommandResult:
    """Runs nothing: each command fails, in words that nobody knows."""
    return CommandResult(tuple(argv), 1, "", "the flux capacitor is out of plutonium\n")


@contextlib.contextmanager
def commands_by(backend: BatchBackend[Any], run: Run) -> Iterator[None]:
    """Meanwhile, this is how the backend's commands are run."""
    runner: Any = backend.runner
    runner.run = run
    try:
        yield
    finally:
        del runner.run
