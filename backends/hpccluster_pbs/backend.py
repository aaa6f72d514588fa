"""The PBS backend: the commands of this host (or of the host that a runner reaches)."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from dataclasses import replace

from hpccluster.backend.batch import QUERY_TIMEOUT, BatchBackend
from hpccluster.backend.refusal import refusal_of
from hpccluster.backend.runner import Runner, last_lines
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
from hpccluster.job import JobSpec, JobState, JobStatus
from hpccluster_pbs.dialect import DELIVERED, LIVE, Answer, PBSDialect, flavour_of
from hpccluster_pbs.options import PBSOptions
from hpccluster_pbs.reports import limits_of, parse_default_queue, parse_queues

QUEUE = "HPC-SUBMIT-QUEUE"
LIMITS = ("HPC-SUBMIT-LIMITS", "HPC-SUBMIT-TIME")

FORCE_AFTER = 15.0
"""Seconds after which a cancel is repeated by force. PBS itself kills what ignores TERM after ten."""
FORCE_UNREACHED_AFTER = 4.0
"""The same where PBS has said that it cannot reach the job's node."""

DELETE_TIMEOUT = 10.0
"""Seconds that a qdel may take. It answers for all its jobs together, in some ten ms; where one of them is on a node that
hangs, it waits for that node for ever, and has asked for the end of the others long ago."""

_PBS_EXEC = """sed -n 's/^PBS_EXEC=//p' "${PBS_CONF_FILE:-/etc/pbs.conf}" """

_ATTEMPTS = 6
"""Ways of asking that are tried: each teaches one thing at most."""


class PBSBackend(BatchBackend[PBSOptions]):
    """Jobs in the queues of OpenPBS, PBS Pro or Torque."""

    dialect: PBSDialect
    poll_interval = 15.0
    force_after = FORCE_AFTER
    force_unreached_after = FORCE_UNREACHED_AFTER

    def __init__(self, options: PBSOptions, runner: Runner | None = None) -> None:
        known = options.dialect
        super().__init__(options, PBSDialect.of("openpbs" if known == "auto" else known), runner)
        self._is_known = known != "auto"
        self._user = ""
        self._asked: dict[JobId, float] = {}
        """When we asked for the end of a job."""
        self._unreached: set[JobId] = set()
        """Jobs on nodes that PBS could not reach when we asked."""

    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        await self._learn()
        return await super().submit(spec, credential)

    async def _learn(self) -> None:
        """Ask the commands what they are, once. Raises `BackendUnavailable`, `CommandFailed`."""
        if self._is_known:
            return
        directory = ""
        try:
            result = await self.runner.run(("qstat", "--version"), timeout=QUERY_TIMEOUT)
        except BackendUnavailable as error:
            directory = await self._directory() if error.code == "HPC-BACKEND-COMMAND" else ""
            if not directory:
                raise
            result = await self.runner.run((f"{directory}qstat", "--version"), timeout=QUERY_TIMEOUT)
        flavour = flavour_of(result)
        if flavour is None:
            said = (result.stdout + result.stderr).strip() or f"exit code {result.returncode}"
            raise BackendUnavailable(
                f"qstat --version says neither OpenPBS nor Torque, but: {said[:200]}\n"
                "Is PBS set up on this host? If these are its commands, say dialect='openpbs' or dialect='torque'. "
                "On a Slurm with commands of these names, use the backend 'slurm'",
                code="HPC-BACKEND-DIALECT",
                details={"said": said[:500]},
            )
        self.dialect, self._is_known = replace(PBSDialect.of(flavour), directory=directory), True

    async def _directory(self) -> str:
        """Where PBS's configuration says that its commands are: ``/opt/pbs`` is on the ``PATH`` of login shells only, so
        not of commands by SSH. Empty where nothing says so."""
        try:
            told = await self.runner.run(("/bin/sh", "-c", _PBS_EXEC), timeout=QUERY_TIMEOUT)
        except BackendError:
            return ""
        path = told.stdout.strip()
        return f"{path}/bin/" if re.fullmatch(r"/[\x21-\x7e]+", path) else ""

    async def refusal(self, error: BackendError) -> BackendError:
        """Adds what the server would accept: its queues, with the nearest as a suggestion, or the limits of the queue."""
        if not isinstance(error, SubmitRefused) or error.code not in (QUEUE, *LIMITS):
            return error
        refusal = refusal_of(error)
        try:
            queues = parse_queues(await self._told("-Q"))
            if error.code == QUEUE:
                name, choices = "queues", [queue for queue, facts in queues.items() if facts.get("enabled") == "True"]
            else:
                queue = self.options.queue or parse_default_queue(await self._told("-B"))
                name, choices = "limits", limits_of(queues.get(queue, {}))
        except BackendError:
            return error  # a help only: the refusal itself is what matters
        return error if refusal is None or not choices else refusal.with_choices(name, choices).error()

    async def _told(self, about: str) -> str:
        """What qstat prints of all queues (``-Q``) or of the server (``-B``); empty where it fails."""
        command = self.dialect.command("qstat", about, "-f")
        result = await self.runner.run(command, environment=self.dialect.query_environment(), timeout=QUERY_TIMEOUT)
        return result.stdout if result.returncode == 0 else ""

    # ------------------------------------------------------------------------------------------------------------ poll

    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        if not ids:
            return {}
        statuses = (await self._ask(ids)).statuses
        return {job: self._as_cancelled(status) for job, status in statuses.items()}

    async def _ask(self, ids: Collection[JobId]) -> Answer:
        """One qstat; and another one where the first has taught how to ask better."""
        try:
            await self._learn()
        except BackendError as error:
            raise PollFailed(str(error), code=error.code, details=error.details) from error
        for _ in range(_ATTEMPTS):
            answer = self.dialect.read(await self._query(self.dialect.poll_command(ids)), ids)
            if answer.better is None:
                return await self._ask_one_by_one(answer) if answer.untold else answer
            self.dialect = answer.better
        raise PollFailed("qstat answers in no form that can be read", code="HPC-POLL-FAILED")

    async def _ask_one_by_one(self, answer: Answer) -> Answer:
        """The answer with what is said of the jobs that an express request was silent about."""
        dialect = self.dialect.one_by_one()
        rest = dialect.read(await self._query(dialect.poll_command(answer.untold)), answer.untold)
        if rest.better is not None:  # for the next time; until then nothing is known of these jobs
            self.dialect = replace(rest.better, express=self.dialect.express)
        return Answer({**answer.statuses, **rest.statuses}, {**answer.owners, **rest.owners})

    def _as_cancelled(self, status: JobStatus) -> JobStatus:
        """A job that we have cancelled is CANCELLED, also where PBS says that it failed: one that had only just begun gets
        no TERM and is killed, Torque knows signals only."""
        was_killed = status.signal is not None or (status.exit_code is None and status.state is JobState.FAILED)
        if status.id in self._asked and status.state is JobState.FAILED and was_killed:
            return replace(status, state=JobState.CANCELLED)
        return status

    async def find(self, names: Collection[JobName]) -> dict[JobName, JobId]:
        if not names:
            return {}
        wanted = set(names)
        statuses = await self._live()
        return {
            JobName(status.name): status.id
            for status in statuses
            if status.name in wanted and (status.state.is_live or status.state is JobState.UNKNOWN)
        }

    async def find_all(self) -> dict[JobName, JobId]:
        return {
            JobName(it.name): it.id
            for it in await self._live()
            if is_job_name(it.name) and (it.state.is_live or it.state is JobState.UNKNOWN)
        }

    async def _live(self) -> list[JobStatus]:
        """This user's jobs that wait or run."""
        try:
            await self._learn()
            user = await self._user_name()
        except BackendError as error:
            raise PollFailed(str(error), code=error.code, details=error.details) from error
        try:
            selected = await self.runner.run(
                self.dialect.select_command(user), environment=self.dialect.query_environment(), timeout=QUERY_TIMEOUT
            )
        except BackendUnavailable:
            return await self._all_live(user)
        except CommandFailed as error:
            raise PollFailed(str(error), code=error.code, details=error.details) from error
        ids = self.dialect.parse_select(selected)
        return list((await self._ask(ids)).statuses.values()) if ids else []

    async def _all_live(self, user: str) -> list[JobStatus]:
        """The same where there is no qselect: from everybody's jobs."""
        result = await self._query(self.dialect.find_command(()))
        ids = [status.id for status in self.dialect.parse_poll(result)]
        answer = self.dialect.read(result, ids)
        return [status for job, status in answer.statuses.items() if answer.owners.get(job, "") in (user, "")]

    async def _user_name(self) -> str:
        """Whose jobs are looked for: the user that the runner's commands run as."""
        if not self._user:
            result = await self.runner.run(("id", "-un"), timeout=QUERY_TIMEOUT)
            if result.returncode != 0 or not result.stdout.strip():
                raise CommandFailed(f"id -un failed: {result.stderr.strip()}", code="HPC-COMMAND-FAILED")
            self._user = result.stdout.strip()
        return self._user

    # ---------------------------------------------------------------------------------------------------------- cancel

    async def request_end(self, ids: Collection[JobId]) -> str:
        try:
            await self._learn()
        except (CommandFailed, BackendUnavailable) as error:
            raise CancelFailed(str(error), code="HPC-CANCEL-UNVERIFIED", details=error.details) from error
        # The first time plainly; not again, because each repeated TERM puts off PBS's own KILL; by force after a while.
        now = time.monotonic()
        fresh = {job for job in ids if job not in self._asked}
        overdue = {job for job in ids if job not in fresh and now >= self._asked[job] + self._patience(job)}
        problems = [await self._delete(fresh, force=False), await self._delete(overdue, force=True)]
        return "\n".join(filter(None, problems))

    async def _delete(self, ids: Collection[JobId], *, force: bool) -> str:
        """Ask for the end of these jobs; what went wrong."""
        if not ids:
            return ""
        began = time.monotonic()
        try:
            result = await self.runner.run(
                self.dialect.cancel_command(ids, force=force),
                environment=self.dialect.query_environment(),
                timeout=DELETE_TIMEOUT,
            )
        except BackendUnavailable as error:
            return str(error)  # nothing was asked for
        except CommandFailed as error:
            # It may have worked all the same: what counts is what the poll says. A second TERM were of no use.
            self._asked |= dict.fromkeys(ids, began)
            return f"{error}: PBS, or a node that runs one of these jobs, hangs"
        problem = self.dialect.cancel_problem(result)
        if not self.dialect.is_unanswered(result):
            self._asked |= dict.fromkeys(ids, began)
            self._unreached |= {job for job in ids if self.dialect.is_unreached(result, job)}
        return problem

    def _patience(self, job: JobId) -> float:
        return self.force_unreached_after if job in self._unreached else self.force_after

    # ------------------------------------------------------------------------------------------------------------ logs

    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        """What the job has written itself, and what PBS has written or delivered: in one file, or in two."""
        if not log_path:
            return await super().logs(job, log_path, tail)
        is_pbs_to_write = self.dialect.flavour == "openpbs" and "keep_files" not in self.options.left_out()
        beside = f"{log_path}{LIVE if is_pbs_to_write else DELIVERED}"
        second = await self._read(beside, tail)
        if not second:
            return await super().logs(job, log_path, tail)
        first = await self._read(log_path, tail)
        return last_lines(second + first if is_pbs_to_write else first + second, tail)

    async def _read(self, path: str, tail: int | None) -> str:
        """The end of a file; empty where it is not there, or cannot be read."""
        try:
            return await self.runner.read_tail(path, tail)
        except (FileNotFoundError, LogsUnavailable):
            return ""
