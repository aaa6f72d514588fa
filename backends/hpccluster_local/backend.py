"""The local backend: a job is a process group of this machine that runs the rendered ``local.sh``.

Jobs never outlive the process that started them: their standard input is a pipe that only this process holds open, and the
script ends its workers when the pipe ends. Ids are words of ours (``local-3``); a signal is only ever sent to a process
that we have started and not yet reaped, whose number cannot belong to anybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpccluster.backend.base import Backend
from hpccluster.backend.runner import read_tail
from hpccluster.backend.template import TemplateContext, load_template, render_template, script_lines
from hpccluster.errors import SubmitRefused
from hpccluster.ids import JobId, JobName
from hpccluster.job import CancelReport, JobSpec, JobState, JobStatus
from hpccluster_local.options import LocalOptions

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "local.sh"
GRACE = 5.0
"""Seconds between the request to end and the end by force."""

_ID = re.compile(r"local-[1-9][0-9]*")


@dataclass(slots=True, eq=False)
class _Job:
    id: JobId
    name: JobName
    process: subprocess.Popen[bytes]
    """Leader of a session and process group. Reaped only in `LocalBackend._on_end`: until then its number is its own."""
    script: Path
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    why: JobState | None = None
    """CANCELLED or TIMEOUT, when it was we who ended it."""
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class LocalBackend(Backend):
    """Jobs are processes of this machine."""

    runs_here = True
    poll_interval = 0.5

    def __init__(self, options: LocalOptions) -> None:
        self.options = options
        self.grace = GRACE
        self._jobs: dict[JobId, _Job] = {}
        self._count = 0
        self._pipe: tuple[int, int] | None = None

    @functools.cached_property
    def _template(self) -> Template:
        return load_template(TEMPLATE, self.options.template)

    def render(self, spec: JobSpec) -> str:
        context = TemplateContext(
            shebang=self.options.shebang,
            name=spec.name,
            cluster=spec.cluster,
            name_prefix=f"hpc-{spec.cluster}-",
            comment=spec.comment,
            command=spec.command,
            environment=spec.environment,
            prologue=script_lines(self.options.job_script_prologue),
            epilogue=script_lines(self.options.job_script_epilogue),
            cores=spec.resources.cores,
            processes=spec.resources.processes,
            threads=spec.resources.threads,
            gpus=spec.resources.gpus,
            memory_bytes=spec.resources.memory,
            walltime_seconds=spec.walltime,
            log_path=spec.log_path,
            working_directory=spec.working_directory,
        )
        return render_template(self._template, context, source=self.options.template or TEMPLATE)

    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        text = self.render(spec)
        self._count += 1
        job_id = JobId(f"local-{self._count}")
        try:
            script, process = self._start(spec, text)
        except OSError as error:
            raise SubmitRefused(
                f"this machine refused the job: {error.strerror or error}"
                + (f" ({error.filename})" if error.filename else ""),
                code="HPC-SUBMIT-LOCAL",
                details={"said": str(error)},
            ) from error
        job = _Job(job_id, spec.name, process, script)
        self._jobs[job_id] = job
        self._watch(job)
        if spec.walltime is not None:
            loop = asyncio.get_running_loop()
            job.timers.append(loop.call_later(spec.walltime, self._end, job, JobState.TIMEOUT))
        return job_id

    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        return {job: self._status(job) for job in ids}

    async def find(self, names: Collection[JobName]) -> dict[JobName, JobId]:
        wanted = set(names)
        return {job.name: job.id for job in self._jobs.values() if job.name in wanted and not job.ended.is_set()}

    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        for job_id in ids:
            if _ID.fullmatch(job_id) is None:
                raise ValueError(f"not the id of a local job: {job_id!r}")
        jobs = [job for job_id in ids if (job := self._jobs.get(job_id)) is not None]
        for job in jobs:
            self._end(job, JobState.CANCELLED)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.grace + 2.0):
                for job in jobs:
                    await job.ended.wait()
        unconfirmed = frozenset(job.id for job in jobs if not job.ended.is_set())
        return CancelReport(gone=frozenset(ids) - unconfirmed, unconfirmed=unconfirmed)

    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        if not log_path:
            return ""
        try:
            return await asyncio.to_thread(read_tail, log_path, tail)
        except FileNotFoundError:
            return ""

    async def close(self) -> None:
        # the pipe is what keeps our jobs alive: it stays as long as one of them runs, else to the end of this process
        if self._pipe is not None and all(job.ended.is_set() for job in self._jobs.values()):
            for end in self._pipe:
                os.close(end)
            self._pipe = None

    # --------------------------------------------------------------------------------------------------------- processes

    def _start(self, spec: JobSpec, text: str) -> tuple[Path, subprocess.Popen[bytes]]:
        """Raises `OSError`; then nothing runs."""
        if self._pipe is None:
            self._pipe = os.pipe()
        directory = Path(spec.log_path).parent if spec.log_path else None
        handle, name = tempfile.mkstemp(prefix=f"{spec.name}-", suffix=".sh", dir=directory)
        script = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            output = os.open(spec.log_path, flags, 0o600) if spec.log_path else os.open(os.devnull, os.O_WRONLY)
            try:
                process = subprocess.Popen(
                    ["/bin/sh", name],
                    stdin=self._pipe[0],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=spec.working_directory or None,
                    start_new_session=True,
                )
            finally:
                os.close(output)
        except BaseException:
            script.unlink(missing_ok=True)
            raise
        return script, process

    def _watch(self, job: _Job) -> None:
        """Call `_on_end` when the job's leader has ended, before it is reaped."""
        loop = asyncio.get_running_loop()
        if hasattr(os, "pidfd_open"):
            descriptor = os.pidfd_open(job.process.pid)

            def ended() -> None:
                loop.remove_reader(descriptor)
                os.close(descriptor)
                self._on_end(job)

            loop.add_reader(descriptor, ended)
        else:
            # no such thing outside of Linux: a thread waits, and what the job left behind is left to its nanny
            loop.run_in_executor(None, job.process.wait).add_done_callback(lambda _: self._on_end(job))

    def _on_end(self, job: _Job) -> None:
        # the leader is not reaped yet, so that the number of its group is still its own: end what it left behind
        self._signal(job, signal.SIGKILL)
        job.process.wait()
        for timer in job.timers:
            timer.cancel()
        job.script.unlink(missing_ok=True)
        job.ended.set()

    def _end(self, job: _Job, why: JobState) -> None:
        """Ask the job to end, and see to it that it does. Does nothing for a job that has ended or was asked before."""
        if job.ended.is_set() or job.why is not None:
            return
        job.why = why
        self._signal(job, signal.SIGTERM)
        loop = asyncio.get_running_loop()
        job.timers.append(loop.call_later(self.grace, self._signal, job, signal.SIGKILL))

    def _signal(self, job: _Job, number: signal.Signals) -> None:
        if job.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(job.process.pid, number)

    def _status(self, job_id: JobId) -> JobStatus:
        job = self._jobs.get(job_id)
        if job is None:
            return JobStatus(id=job_id, state=JobState.ABSENT)
        node = socket.gethostname()
        if not job.ended.is_set():
            return JobStatus(id=job_id, state=JobState.RUNNING, name=job.name, raw_state="running", node=node)
        code = job.process.returncode
        state = job.why or (JobState.COMPLETED if code == 0 else JobState.FAILED)
        return JobStatus(
            id=job_id,
            state=state,
            name=job.name,
            raw_state=f"ended with {code}",
            reason=f"ended by signal {-code}" if code < 0 and job.why is None else "",
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            node=node,
        )
