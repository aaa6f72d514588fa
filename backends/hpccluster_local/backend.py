"""The local backend: a job is a process group of this machine that runs the rendered ``local.sh``.

Where that script would do nothing but start workers with this very interpreter, and there is a launcher, the workers'
nanny is forked from it: the same command, without the shell and the start of an interpreter.

Jobs never outlive the process that started them: the standard input of a script is a pipe that only this process holds
open, and the script ends its workers when the pipe ends; the launcher ends with this process, and its nannies with it. Ids
are words of ours (``local-3``).
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpccluster.backend.base import JobLauncher
from hpccluster.backend.own_jobs import OwnJob, OwnJobsBackend
from hpccluster.backend.template import TemplateContext, load_template, render_template
from hpccluster.errors import SubmitRefused
from hpccluster.ids import JobId
from hpccluster.job import JobSpec, JobState, JobStatus
from hpccluster_local.options import LocalOptions
from hpccluster_local.processes import ForkedProcess, JobProcess, ScriptProcess

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "local.sh"
GRACE = 5.0
"""Seconds between the request to end and the end by force."""

_COMMAND = (sys.executable, "-m", "hpccluster.runtime")
"""How a job's command begins that a launcher can take over: our own interpreter."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Job(OwnJob):
    process: JobProcess = field(init=False)


class LocalBackend(OwnJobsBackend[_Job]):
    """Jobs are processes of this machine."""

    runs_here = True
    ends_with_head = True

    def __init__(self, options: LocalOptions) -> None:
        super().__init__("local", cancel_time=GRACE + 2.0)
        self.options = options
        self.grace = GRACE
        self._pipe: tuple[int, int] | None = None
        self._launcher: JobLauncher | None = None

    def use_launcher(self, launcher: JobLauncher) -> None:
        self._launcher = launcher

    @functools.cached_property
    def _template(self) -> Template:
        return load_template(TEMPLATE, self.options.template)

    def render(self, spec: JobSpec) -> str:
        context = TemplateContext.of(spec, self.options)
        return render_template(self._template, context, source=self.options.template or TEMPLATE)

    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        job = _Job(id=self._next_id(), name=spec.name)
        try:
            job.process = self._start(spec, job.over)
        except OSError as error:
            raise SubmitRefused(
                f"this machine refused the job: {error.strerror or error}"
                + (f" ({error.filename})" if error.filename else ""),
                code="HPC-SUBMIT-LOCAL",
                details={"said": str(error)},
            ) from error
        self._keep(job, spec.walltime)
        return job.id

    async def close(self) -> None:
        # the pipe is what keeps our jobs alive: it stays as long as one of them runs, else to the end of this process
        if self._pipe is not None and all(job.ended.is_set() for job in self._jobs.values()):
            for end in self._pipe:
                os.close(end)
            self._pipe = None

    # --------------------------------------------------------------------------------------------------------- processes

    def _start(self, spec: JobSpec, on_end: Callable[[], None]) -> JobProcess:
        """Raises `OSError`; then nothing runs."""
        arguments = None if self._launcher is None else self._worker_arguments(spec)
        text = self.render(spec) if arguments is None else ""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        output = os.open(spec.log_path, flags, 0o600) if spec.log_path else os.open(os.devnull, os.O_WRONLY)
        try:
            if arguments is None or self._launcher is None:
                return self._start_script(spec, text, output, on_end)
            return ForkedProcess(
                self._launcher,
                arguments,
                environment={"HPCCLUSTER_JOB": spec.name, **dict(spec.environment)},
                output=output,
                directory=spec.working_directory,
                on_end=on_end,
            )
        finally:
            os.close(output)

    def _worker_arguments(self, spec: JobSpec) -> tuple[str, ...] | None:
        """What a launcher needs to do the same as the job's script; None where only the script can."""
        options = self.options
        if options.template or options.job_script_prologue or options.job_script_epilogue:
            return None
        return spec.command[len(_COMMAND) :] if spec.command[: len(_COMMAND)] == _COMMAND else None

    def _start_script(self, spec: JobSpec, text: str, output: int, on_end: Callable[[], None]) -> JobProcess:
        if self._pipe is None:
            self._pipe = os.pipe()
        directory = Path(spec.log_path).parent if spec.log_path else None
        handle, name = tempfile.mkstemp(prefix=f"{spec.name}-", suffix=".sh", dir=directory)
        script = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            return ScriptProcess(
                script, stdin=self._pipe[0], output=output, directory=spec.working_directory, on_end=on_end
            )
        except BaseException:
            script.unlink(missing_ok=True)
            raise

    def _stop(self, job: _Job) -> None:
        job.process.signal(signal.SIGTERM)
        loop = asyncio.get_running_loop()
        job.timers.append(loop.call_later(self.grace, job.process.signal, signal.SIGKILL))

    def _status(self, job: _Job) -> JobStatus:
        status = JobStatus(
            id=job.id, state=JobState.RUNNING, name=job.name, raw_state="running", node=socket.gethostname()
        )
        return job.verdict(status, job.process.returncode or 0) if job.ended.is_set() else status
