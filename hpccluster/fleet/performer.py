"""Does one thing with the batch system or the engine, and says what came of it as an event. Never raises their errors."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from hpccluster.backend.base import Backend
from hpccluster.engine.base import Engine
from hpccluster.errors import BackendUnavailable, ConfigError, HpcClusterError, PolicyRefused, SubmitRefused
from hpccluster.fleet import answers
from hpccluster.fleet.asking import ask, explain
from hpccluster.fleet.diagnose import DeadJob
from hpccluster.fleet.logs import LogReader
from hpccluster.fleet.values import FleetSettings
from hpccluster.ids import JobId, JobName
from hpccluster.job import JobSpec
from hpccluster.state.fleet import actions, events

_NO_JOB = (SubmitRefused, PolicyRefused, BackendUnavailable, ConfigError)
"""Errors of a submission that prove that there is no job: it was refused, or nothing was sent at all."""
LIMIT_CODE = "HPC-SUBMIT-LIMIT"
"""Code of a refusal that means "not now, you have enough"."""
FULL_CODE = "HPC-SUBMIT-FULL"
"""Code of a refusal that means "not now, and nothing says when": whoever waits is told."""

_LOG_LINES = 2000
"""Lines of a dead job's log that are looked at."""


class Submission(NamedTuple):
    """What came of a submission."""

    event: events.Submitted | events.SubmitRefused | events.SubmitDoubtful
    refusal: HpcClusterError | None = None
    """The error, if there is no job and will not be one by itself."""


def _refused(name: JobName, error: HpcClusterError) -> Submission:
    is_limit = error.code in (LIMIT_CODE, FULL_CODE)
    return Submission(events.SubmitRefused(name, str(error), error.code or "HPC-SUBMIT-REFUSED", is_limit), error)


class Performer:
    """The hands of the fleet."""

    def __init__(
        self,
        backend: Backend,
        engine: Engine,
        *,
        make_spec: Callable[[JobName], JobSpec],
        make_credential: Callable[[JobName], bytes | None] | None,
        settings: FleetSettings,
    ) -> None:
        self._backend = backend
        self._engine = engine
        self._make_spec = make_spec
        self._make_credential = make_credential
        self._settings = settings
        self._specs: dict[JobName, JobSpec] = {}
        self.logs = LogReader(backend, timeout=settings.command_timeout, patience=settings.log_patience)

    async def submit(self, name: JobName) -> Submission:
        """Submit the job of that name."""
        try:
            spec = self._specs[name] = self._make_spec(name)
            credential = self._make_credential(name) if self._make_credential is not None else None
        except HpcClusterError as error:
            return _refused(name, error)  # nothing was sent
        try:
            job = await ask(
                lambda: self._backend.submit(spec, credential),
                doing=f"submit {name}",
                timeout=self._settings.submit_timeout,
                check=answers.job_id,
            )
        except _NO_JOB as error:
            return _refused(name, error)
        except HpcClusterError as error:
            return Submission(events.SubmitDoubtful(name, str(error)))
        return Submission(events.Submitted(name, job))

    async def cancel(self, ids: Collection[JobId]) -> events.CancelReported:
        """Cancel these jobs."""
        wanted = frozenset(ids)
        try:
            report = await ask(
                lambda: self._backend.cancel(wanted),
                doing="cancel jobs",
                timeout=self._settings.command_timeout,
                check=answers.report,
            )
        except HpcClusterError as error:
            return events.CancelReported(frozenset(), wanted, str(error))
        return events.CancelReported(report.gone & wanted, wanted - report.gone, report.message)

    async def retire(self, jobs: Collection[JobName]) -> events.Retired | events.RetireFailed:
        """Let the workers of these jobs finish, however long that takes."""
        try:
            await ask(lambda: self._engine.retire(list(jobs)), doing="retire workers", timeout=None)
        except HpcClusterError as error:
            return events.RetireFailed(frozenset(jobs), str(error))
        return events.Retired(frozenset(jobs))

    async def fetch_log(self, name: JobName, job: JobId) -> events.LogFetched:
        """The last lines of a dead job."""
        # More than is shown: stage markers come first and must not be cut off by what was written after them.
        text, error = await self.logs.read_dead(job, self.log_path(name), _LOG_LINES)
        return events.LogFetched(name, text, error)

    def log_path(self, name: JobName) -> str:
        """Where the job of that name writes, if we have made it."""
        spec = self._specs.get(name)
        return spec.log_path if spec is not None else ""

    def dead_job(self, failed: actions.JobFailed) -> DeadJob:
        """All that the diagnosis needs to know."""
        spec = self._specs.get(failed.name)
        return DeadJob(
            name=failed.name,
            status=failed.status,
            seconds=failed.seconds,
            joined=failed.joined,
            log=failed.log,
            log_error=failed.log_error,
            log_path=self.log_path(failed.name),
            python=failed.status.python or (spec.command[0] if spec is not None and spec.command else ""),
            meaning=explain(self._backend, failed.status),
        )

    def forget_all_but(self, names: Collection[JobName]) -> None:
        """Drop the specifications of jobs that the machine has forgotten."""
        if len(self._specs) > len(names):
            self._specs = {name: spec for name, spec in self._specs.items() if name in names}
