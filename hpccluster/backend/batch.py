"""A backend for a batch system that is used by commands: one class over a dialect and a runner."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Generic

from hpccluster.backend.base import Backend
from hpccluster.backend.dialect import AnyOptions, CommandResult, Dialect
from hpccluster.backend.login import CONNECTION_FILE_VARIABLE, JobCredentials, login_of
from hpccluster.backend.runner import LocalRunner, Runner
from hpccluster.backend.template import load_template, render_template
from hpccluster.errors import (
    BackendError,
    BackendUnavailable,
    CancelFailed,
    CommandFailed,
    LogsUnavailable,
    PollFailed,
    SubmitRefused,
)
from hpccluster.ids import JobId, JobName, is_job_name
from hpccluster.job import CancelReport, JobSpec, JobState, JobStatus

if TYPE_CHECKING:
    from jinja2 import Template

SUBMIT_TIMEOUT = 60.0
QUERY_TIMEOUT = 30.0
HISTORY_TIMEOUT = 10.0
"""The accounting is a help only: while it hangs, what the batch system itself says must not wait long."""


class BatchBackend(Backend, Generic[AnyOptions]):
    """Submits by standard input, polls all jobs by one command, verifies what it cancels."""

    def __init__(self, options: AnyOptions, dialect: Dialect[AnyOptions], runner: Runner | None = None) -> None:
        self.options = options
        self.dialect = dialect
        self._given_runner = runner
        self._has_history = True
        self._login = login_of(options)
        self._credentials = None if self._login is None else JobCredentials(self._login.directory)
        self._names: dict[JobId, JobName] = {}
        """Of the jobs that have a credential on the login host."""
        if self._login is not None:
            self.credential_way = "copied"

    @functools.cached_property
    def runner(self) -> Runner:
        """What runs the commands. Raises `BackendUnavailable` where that is not installed."""
        if self._given_runner is not None:
            return self._given_runner
        return LocalRunner() if self._login is None else self._login.make_runner()

    @property
    def towards(self) -> Sequence[str]:
        return () if self._login is None else (self._login.target.host,)

    @functools.cached_property
    def _template(self) -> Template:
        return load_template(self.dialect.template, self.options.template)

    def render(self, spec: JobSpec) -> str:
        if self._credentials is not None:
            told = (CONNECTION_FILE_VARIABLE, self._credentials.path(spec.name))
            spec = replace(spec, environment=(*spec.environment, told))
        context = self.dialect.context(spec, self.options)
        return render_template(self._template, context, source=self.options.template or self.dialect.template)

    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        script = self.render(spec)
        environment = self.dialect.submit_environment(self.dialect.context(spec, self.options))
        if self._credentials is not None and credential is not None:
            await self._credentials.write(self.runner, spec.name, credential, log_path=spec.log_path)
        result = await self.runner.run(
            self.dialect.submit_command(spec, self.options),
            stdin=script,
            environment=environment,
            timeout=SUBMIT_TIMEOUT,
        )
        if result.returncode != 0:
            refusal = await self.refusal(self.dialect.submit_error(result, script, self.options))
            if isinstance(refusal, SubmitRefused):
                await self._forget([spec.name])
            raise refusal
        try:
            job = self.dialect.parse_submit(result)
            self.dialect.check_id(job)
        except ValueError as error:
            raise CommandFailed(
                f"{self.dialect.system} accepted a job, but its answer holds no job id: {result.stdout.strip()!r}",
                code="HPC-SUBMIT-UNREADABLE",
                details={"said": result.stdout.strip()},
            ) from error
        if self._credentials is not None:
            self._names[job] = spec.name
        return job

    async def refusal(self, error: BackendError) -> BackendError:
        """The error with what the batch system can add to it (its partitions, for one). For subclasses."""
        return error

    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        if not ids:
            return {}
        result = await self._query(self.dialect.poll_command(ids))
        wanted = set(ids)
        found = {status.id: status for status in self.dialect.parse_poll(result) if status.id in wanted}
        missing = wanted - found.keys()
        if missing and self._has_history:
            found |= await self._history(missing)
        absent = {job: JobStatus(id=job, state=JobState.ABSENT) for job in wanted - found.keys()}
        return found | absent

    async def _history(self, ids: Collection[JobId], timeout: float = HISTORY_TIMEOUT) -> dict[JobId, JobStatus]:
        """What the accounting knows. It is a help only: where it fails, these jobs are simply absent."""
        command = self.dialect.history_command(ids)
        if command is None:
            self._has_history = False
            return {}
        try:
            result = await self.runner.run(command, environment=self.dialect.query_environment(), timeout=timeout)
        except BackendUnavailable:
            self._has_history = False
            return {}
        except CommandFailed:
            return {}
        told = self.dialect.parse_history(result)
        if told is None:
            self._has_history = False
            return {}
        return {status.id: status for status in told if status.id in ids}

    async def find(self, names: Collection[JobName]) -> dict[JobName, JobId]:
        if not names:
            return {}
        result = await self._query(self.dialect.find_command(names))
        wanted = set(names)
        return {
            JobName(status.name): status.id
            for status in self.dialect.parse_find(result)
            if status.name in wanted and not status.state.is_over
        }

    async def find_all(self) -> dict[JobName, JobId]:
        command = self.dialect.find_all_command()
        if command is None:
            return {}
        listed = self.dialect.parse_find(await self._query(command))
        return {JobName(it.name): it.id for it in listed if is_job_name(it.name) and not it.state.is_over}

    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        for job in ids:
            self.dialect.check_id(job)
        if not ids:
            return CancelReport()
        problem = await self.request_end(ids)
        try:
            seen = await self.poll(ids)
        except PollFailed as error:
            raise CancelFailed(
                f"it is not known whether {len(ids)} jobs are cancelled: {problem or error}",
                code="HPC-CANCEL-UNVERIFIED",
            ) from error
        gone = frozenset(job for job, status in seen.items() if status.state.is_over or status.state == JobState.ABSENT)
        await self._forget([self._names.pop(job) for job in gone if job in self._names])
        return CancelReport(gone=gone, unconfirmed=frozenset(ids) - gone, message=problem)

    async def request_end(self, ids: Collection[JobId]) -> str:
        """Ask the batch system to cancel these jobs; what went wrong. What counts is what the next poll says. For subclasses."""
        try:
            result = await self.runner.run(
                self.dialect.cancel_command(ids), environment=self.dialect.query_environment(), timeout=QUERY_TIMEOUT
            )
        except (CommandFailed, BackendUnavailable) as error:
            return str(error)  # it may have worked all the same
        return self.dialect.cancel_problem(result)

    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        if not log_path:
            raise LogsUnavailable(f"it is not known where job {job} writes its output", code="HPC-LOGS-NOWHERE")
        try:
            return await self.runner.read_tail(log_path, tail)
        except FileNotFoundError:
            return await self._no_log(job, log_path)

    async def _no_log(self, job: JobId, log_path: str) -> str:
        """Empty where no output is to be expected yet. Raises `LogsUnavailable` for a job that has ended without any."""
        try:
            status = (await self.poll([job]))[job]
        except PollFailed:
            return ""
        if not status.state.is_over or status.state == JobState.CANCELLED:
            return ""
        raise LogsUnavailable(
            f"job {job} has ended ({status.state}) but its output {log_path} is not there: "
            "is that directory visible and writable on the node?",
            code="HPC-LOGS-MISSING",
            details={"path": log_path, "job_id": job, "node": status.node},
        )

    async def _forget(self, jobs: Collection[JobName] | None = None) -> None:
        """Remove the credentials of these jobs (or of all) on the login host, if that can be done."""
        if self._credentials is not None:
            with contextlib.suppress(BackendError):
                await self._credentials.remove(self.runner, jobs)

    async def close(self) -> None:
        await self._forget()
        await self.runner.close()

    def explain(self, status: JobStatus) -> str:
        return self.dialect.explain(status)

    async def _query(self, command: Sequence[str]) -> CommandResult:
        try:
            return await self.runner.run(command, environment=self.dialect.query_environment(), timeout=QUERY_TIMEOUT)
        except CommandFailed as error:
            raise PollFailed(str(error), code=error.code, details=error.details) from error
        except BackendUnavailable as error:
            if self._login is None:
                raise
            # the login host is down, for now: that says nothing about any job
            raise PollFailed(str(error), code=error.code, details=error.details) from error
