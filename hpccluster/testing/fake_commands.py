"""A fake Slurm for tests on machines without one: real programs on PATH, one controller behind them.

    with FakeSlurm() as slurm:
        backend = SlurmBackend(options, runner=LocalRunner(slurm.environment()))
        slurm.fail("sbatch", stderr="Batch job submission failed: ...", returncode=1)

Outputs and exit codes are those of Slurm 22.05.8, for the options that this package uses; another option is an error. What
all fakes have in common is in `hpccluster.testing.fake_system`.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hpccluster.testing.fake_system import Answer, Call, FakeSystem

KILL_WAIT = 0.5
"""Seconds between TERM and KILL."""

_ID = re.compile(r"[1-9][0-9]*")


@dataclass(slots=True)
class FakeJob:
    """A job of the fake controller."""

    id: str
    script: str
    options: dict[str, str]
    environment: dict[str, str]
    directory: str
    state: str = "PENDING"
    reason: str = "None"
    status: int = 0
    """Wait status."""
    node: str = ""
    start: float | None = None
    process: subprocess.Popen[bytes] | None = None
    timer: threading.Timer | None = None

    @property
    def name(self) -> str:
        return self.options.get("job-name", "sbatch")

    @property
    def is_over(self) -> bool:
        return self.state in ("COMPLETED", "FAILED", "CANCELLED")


@dataclass
class FakeSlurm(FakeSystem[FakeJob]):
    """The controller and its commands. Use it as a context manager."""

    commands: ClassVar[tuple[str, ...]] = ("sbatch", "squeue", "scancel", "scontrol", "sacct", "sinfo")
    submit_command: ClassVar[str] = "sbatch"

    partitions: tuple[str, ...] = ("debug", "short*", "long", "gpu")
    accounting: bool = False
    """Whether sacct has something to tell."""

    def forget(self, job: str) -> None:
        """Drop a job that is over from the table, as Slurm does after MinJobAge."""
        assert self.jobs[job].is_over
        del self.jobs[job]

    def handlers(self) -> Mapping[str, Callable[[Call], Answer]]:
        return {
            "sbatch": self._sbatch,
            "squeue": self._squeue,
            "scancel": self._scancel,
            "scontrol": self._scontrol,
            "sacct": self._sacct,
            "sinfo": self._sinfo,
        }

    # ------------------------------------------------------------------------------------------------------------ commands

    def _sbatch(self, call: Call) -> Answer:
        if set(call.arguments) != {"--parsable"}:
            return Answer(1, "", f"sbatch: unrecognized option in {call.arguments}\n")
        if refusal := _script_problem(call.stdin):
            return Answer(1, "", refusal)
        options = _directives(call.stdin)
        partition = options.get("partition")
        if partition is not None and partition not in {name.rstrip("*") for name in self.partitions}:
            return Answer(
                1,
                "",
                f"sbatch: error: invalid partition specified: {partition}\n"
                "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
            )
        self._next += 1
        job = FakeJob(str(self._next), call.stdin, options, call.environment, options.get("chdir", call.directory))
        if "begin" in options:
            job.reason = "BeginTime"
        self.jobs[job.id] = job
        self._schedule()
        return Answer(0, f"{job.id}\n")

    def _squeue(self, call: Call) -> Answer:
        arguments = _long_options(call.arguments)
        wanted = arguments.pop("states", "live")
        names = arguments.pop("name", "").split(",") if "name" in arguments else None
        columns = arguments.pop("Format", None)
        fields = arguments.pop("format", "%i|%j|%k")
        if set(arguments) - {"me", "noheader"}:
            return Answer(1, "", f"squeue: unrecognized option in {call.arguments}\n")
        shown = [job for job in self.jobs.values() if (wanted == "all" or not job.is_over)]
        shown = [job for job in shown if names is None or job.name in names]
        if columns is not None:
            widths = [column.split(":") for column in columns.split(",")]
            lines = [
                "".join(_cell(job, name)[: int(width)].ljust(int(width)) for name, width in widths) for job in shown
            ]
        else:
            cells = {"%i": "JobID", "%j": "Name", "%k": "Comment", "%T": "State"}
            lines = [re.sub("%[a-zA-Z]", lambda match, job=job: _cell(job, cells[match[0]]), fields) for job in shown]  # type: ignore[misc]
        return Answer(0, "".join(f"{line}\n" for line in lines))

    def _scancel(self, call: Call) -> Answer:
        for text in call.arguments:
            if _ID.fullmatch(text) is None:
                return Answer(1, "", f"scancel: error: Invalid job id {text}\n")
        for text in call.arguments:
            if (job := self.jobs.get(text)) is not None and not job.is_over:
                self._cancel(job)
        return Answer()

    def _scontrol(self, call: Call) -> Answer:
        match call.arguments:
            case ["show", "job", text]:
                job = self.jobs.get(text)
                if job is None:
                    return Answer(1, "", "slurm_load_jobs error: Invalid job id specified\n")
                code = f"{job.status >> 8}:{job.status & 0x7F}"
                return Answer(
                    0,
                    f"JobId={job.id} JobName={job.name}\n   JobState={job.state} Reason={job.reason} ExitCode={code}\n",
                )
            case ["write", "batch_script", text, "-"] if text in self.jobs:
                return Answer(0, self.jobs[text].script)
        return Answer(1, "", f"invalid keyword: {' '.join(call.arguments)}\n")

    def _sacct(self, call: Call) -> Answer:
        if not self.accounting:
            return Answer(1, "", "Slurm accounting storage is disabled\n")
        wanted = _long_options(call.arguments)["jobs"].split(",")
        lines = [
            f"{job.id}|{job.state}{f' by {os.getuid()}' if job.state == 'CANCELLED' else ''}|"
            f"{job.status >> 8}:{job.status & 0x7F}|{job.node}\n"
            for job in self._history()
            if job.id in wanted
        ]
        return Answer(0, "".join(lines))

    def _sinfo(self, call: Call) -> Answer:
        return Answer(0, "".join(f"{name}\n" for name in self.partitions))

    # ---------------------------------------------------------------------------------------------------------------- jobs

    def _history(self) -> list[FakeJob]:
        """What accounting knows: all jobs, the forgotten ones too."""
        self._known = getattr(self, "_known", {}) | self.jobs
        return list(self._known.values())

    def _schedule(self) -> None:
        self._history()
        running = sum(job.state in ("RUNNING", "COMPLETING") for job in self.jobs.values())
        for job in list(self.jobs.values()):
            if job.state == "PENDING" and job.reason != "BeginTime":
                if running < self.slots:
                    self._start(job)
                    running += 1
                else:
                    job.reason = "Resources"

    def _start(self, job: FakeJob) -> None:
        script = self.directory / f"job{job.id}"
        script.write_text(job.script)
        script.chmod(0o700)
        variables = {
            **job.environment,
            "SLURM_JOB_ID": job.id,
            "SLURM_JOB_NAME": job.name,
            "SLURMD_NODENAME": "fake1",
        }
        job.state, job.reason, job.node, job.start = "RUNNING", "None", "fake1", time.time()
        try:
            with Path(job.options.get("output", os.devnull).replace("%%", "%")).open("ab") as output:
                process = subprocess.Popen(
                    [str(script)], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=variables,
                    cwd=job.directory, start_new_session=True,
                )  # fmt: skip
        except OSError:
            # what Slurm says when it cannot open the output file: ExitCode=0:53
            job.state, job.reason, job.status = "FAILED", "JobLaunchFailure", 53
            return
        self._watch(job, process)

    def ended(self, job: FakeJob, code: int) -> None:
        job.status = -code if code < 0 else code << 8
        if job.state == "COMPLETING":
            job.state = "CANCELLED"
        elif code == 0:
            job.state = "COMPLETED"
        else:
            job.state, job.reason = "FAILED", "NonZeroExitCode" if code > 0 else "RaisedSignal"
        self._schedule()

    def _cancel(self, job: FakeJob) -> None:
        if job.process is None:
            job.state = "CANCELLED"
            return
        if job.state == "COMPLETING":
            return
        job.state = "COMPLETING"
        self._signal(job, signal.SIGTERM)
        self._kill_later(job, KILL_WAIT)


def _script_problem(script: str) -> str:
    if not script:
        return "sbatch: error: Batch script is empty!\n"
    if not script.startswith("#!"):
        return "sbatch: error: This does not look like a batch script.  The first\n"
    if "\r\n" in script:
        return "sbatch: error: Batch script contains DOS line breaks (\\r\\n)\n"
    return ""


def _directives(script: str) -> dict[str, str]:
    """The directives of a script by their long names; those that follow the first command do not count."""
    found: dict[str, str] = {}
    for line in script.splitlines()[1:]:
        if line.startswith("#SBATCH "):
            name, _, value = line.removeprefix("#SBATCH ").strip().partition("=")
            found[name.removeprefix("--")] = value.strip('"')
        elif line.strip() and not line.startswith("#"):
            break
    return found


def _long_options(arguments: Sequence[str]) -> dict[str, str]:
    pairs = (argument.removeprefix("--").partition("=") for argument in arguments)
    return {name: value for name, _, value in pairs}


def _cell(job: FakeJob, column: str) -> str:
    cells: Mapping[str, str] = {
        "JobID": job.id,
        "Name": job.name,
        "State": job.state,
        "NodeList": job.node,
        "StartTime": "N/A" if job.start is None else f"{job.start:.0f}",
        "Reason": job.reason,
        "exit_code": str(job.status),
        "Comment": job.options.get("comment", "(null)"),
        "UserName": pwd.getpwuid(os.getuid()).pw_name,
    }
    return cells[column]
