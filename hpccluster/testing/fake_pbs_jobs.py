"""The server and the nodes of the fake PBS: how its jobs wait, run, end, and are ended.

Nobody here knows what the commands look like: those are in `hpccluster.testing.fake_pbs`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from hpccluster.testing.fake_pbs_script import Submission
from hpccluster.testing.fake_system import FakeSystem


@dataclass(frozen=True, slots=True)
class Times:
    """How long things take, in seconds; by default a fraction of what they really do."""

    kill_delay: float = 0.5
    """From TERM to KILL."""
    exiting: float = 0.05
    """In the state E, while the output is delivered."""
    deaf: float = 0.0
    """From a job's start: a qdel in that time is not told to it, it runs on until the KILL and has failed then."""
    query_again: float = 0.0
    """What qstat waits if it was used in the same second before."""


REAL_TIMES = Times(kill_delay=10.0, exiting=1.2, deaf=0.05, query_again=0.2)
"""Those of OpenPBS 23.06.06."""


@dataclass(slots=True)
class PBSJob:
    """A job of the fake server."""

    id: str
    script: str
    submission: Submission
    directory: str
    """Where it was submitted."""
    queue: str
    state: str = "Q"
    substate: int = 10
    exit_status: int | None = None
    comment: str = ""
    hold_types: str = "n"
    ended_by: Literal["", "qdel", "force", "walltime", "rerun", "unheard qdel"] = ""
    started: float = 0.0
    run_count: int = 0
    process: subprocess.Popen[bytes] | None = None
    timer: threading.Timer | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("F", "C")

    @property
    def name(self) -> str:
        return self.submission.options.get("N", "STDIN")


@dataclass
class FakePBSServer(FakeSystem[PBSJob]):
    """The server with its nodes. ``commands`` are left to a subclass."""

    flavour: Literal["openpbs", "torque"] = "openpbs"
    server: str = "pbssrv"
    queues: Mapping[str, str] = field(
        default_factory=lambda: {"workq": "open", "long": "open", "stopped": "not started", "disabled": "not enabled"}
    )
    node: str = field(default_factory=socket.gethostname)
    """What the execution host is called."""
    history: bool = True
    """Whether ended jobs are remembered (``job_history_enable``, or Torque's ``keep_completed``)."""
    writes_at_once: bool = True
    """Whether ``-k oed`` is heeded: nodes without a $usecp for the path keep the output until the job's end."""
    can_write_output: bool = True
    """Whether the node can write where ``-k oed`` is to put the output."""
    is_node_dead: bool = False
    """The server cannot reach the node that runs the jobs."""
    hung: set[str] = field(default_factory=set)
    """Jobs on a node that hangs: the server hears of nothing that happens to them, and a qdel that names one of them waits."""
    times: Times = field(default_factory=Times)

    def __post_init__(self) -> None:
        FakeSystem.__post_init__(self)
        self.user = pwd.getpwuid(os.getuid()).pw_name

    def rerun(self, job: str) -> None:
        """What an administrator does by ``qrerun``: the job ends, and waits again under its id."""
        with self._lock:
            self.jobs[job].ended_by = "rerun"
            self._signal(self.jobs[job], signal.SIGKILL)

    def _delete(self, job: PBSJob, is_forced: bool) -> None:
        if job.id in self.hung:
            return  # by force, too, for all but managers (req_deletejob2 of req_delete.c)
        if job.state == "E" and self.flavour == "openpbs" and job.timer is not None:
            job.timer.cancel()  # it is ended at once, and its output is not delivered (req_deletejob2 of req_delete.c)
        if job.process is None:
            if job.state != "E" or self.flavour == "openpbs":
                self._finish(job, 91)
                self._schedule()
            return
        if job.timer is not None:
            job.timer.cancel()
        if is_forced:
            job.ended_by = job.ended_by or "force"
            self._signal(job, signal.SIGKILL)
            return
        is_heard = time.monotonic() >= job.started + self.times.deaf
        job.ended_by = job.ended_by or ("qdel" if is_heard else "unheard qdel")
        if is_heard:
            self._signal(job, signal.SIGTERM)
        self._kill_later(job, self.times.kill_delay)  # asked again, it begins to wait again

    def _signal(self, job: PBSJob, number: signal.Signals) -> None:
        """All processes of the job's session at once, whatever their groups; those in sessions of their own live on."""
        if job.process is None or job.process.returncode is not None:
            return
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) == job.process.pid:  # which is not reaped yet: the number is nobody else's
                    os.kill(pid, number)

    def _schedule(self) -> None:
        running = sum(job.state in ("R", "E") for job in self.jobs.values())
        for job in list(self.jobs.values()):
            if job.state != "Q":
                continue
            if self.queues[job.queue] == "not started":
                job.comment = "Not Running: Queue not started."
            elif job.submission.ncpus > 12:
                job.comment = (
                    f"Can Never Run: Insufficient amount of resource: ncpus (R: {job.submission.ncpus} A: 12 T: 12)"
                )
            elif running < self.slots:
                self._start(job)
                running += 1
            else:
                job.comment = "Not Running: Not enough free nodes available"

    def _start(self, job: PBSJob) -> None:
        options = job.submission.options
        home, spool = self.directory / "home", self.directory / f"{job.id}.OU"
        home.mkdir(exist_ok=True)
        script = self.directory / f"{job.id}.SC"
        script.write_text(job.script)
        script.chmod(0o700)
        is_direct = self._is_direct(job)
        try:
            if is_direct and not self.can_write_output:
                raise PermissionError
            output = (Path(options["o"]) if is_direct else spool).open("ab" if is_direct else "wb")
        except OSError:
            # what PBS does after 21 tries
            job.state, job.substate, job.hold_types = "H", 20, "s"
            job.comment, job.exit_status = "job held, too many failed attempts to run", -3
            return
        shell = [] if self.flavour == "openpbs" else [options.get("S", "/bin/sh")]
        with output:
            process = subprocess.Popen(
                [*shell, str(script)], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=self._job_environment(job, home), cwd=home, umask=int(job.submission.umask, 8), start_new_session=True,
            )  # fmt: skip
        job.state, job.substate, job.run_count, job.started = "R", 42, job.run_count + 1, time.monotonic()
        job.comment = f"Job run at Tue Nov 24 at 06:21 on ({self.node}:ncpus=1)" if self.flavour == "openpbs" else ""
        self._watch(job, process)
        if (walltime := job.submission.walltime) is not None:
            self._later(job, walltime, self._end_of_walltime, job, walltime)

    def _is_direct(self, job: PBSJob) -> bool:
        return job.submission.options.get("k") == "oed" and self.writes_at_once

    def _job_environment(self, job: PBSJob, home: Path) -> dict[str, str]:
        return {
            "ENVIRONMENT": "BATCH",
            "HOME": str(home),
            "LOGNAME": self.user,
            "USER": self.user,
            "SHELL": "/bin/sh",
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin",
            "NCPUS": str(job.submission.ncpus),
            "OMP_NUM_THREADS": str(job.submission.ncpus),
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "PBS_JOBID": job.id,
            "PBS_JOBNAME": job.name,
            "PBS_O_WORKDIR": job.directory,
            "PBS_O_LOGNAME": self.user,
            "PBS_QUEUE": job.queue,
            **job.submission.variables,
        }

    def _end_of_walltime(self, job: PBSJob, limit: float) -> None:
        with self._lock:
            if job.process is None or job.ended_by:
                return
            job.ended_by = "walltime"
            target = Path(job.submission.options["o"]) if self._is_direct(job) else self.directory / f"{job.id}.OU"
            with target.open("a") as output:
                output.write(f"=>> PBS: job killed: walltime {limit:.0f} exceeded limit {limit:.0f}\n")
            self._signal(job, signal.SIGTERM)
            self._kill_later(job, self.times.kill_delay)

    def ended(self, job: PBSJob, code: int) -> None:
        if job.id in self.hung:
            self._later(job, 0.05, self._heard_of, job, code)
            return
        is_torque = self.flavour == "torque"
        match job.ended_by:
            case "qdel":
                status, how = 271, f"terminated by {self.user}@{self.server}"
            case "unheard qdel":
                status, how = 265, "failed"
            case "force":
                status, how = 265, f"terminated by {self.user}@{self.server}"
            case "rerun":
                job.state, job.substate, job.exit_status, job.ended_by = "Q", 10, -11, ""
                self._schedule()
                return
            case "walltime":
                status, how = -11 if is_torque else -29, "exceeded resource walltime"
            case _:
                status, how = code if code >= 0 else 128 - code, "finished" if code == 0 else "failed"
        job.exit_status = status
        job.comment = "" if is_torque else f"{job.comment} and {how}"
        job.state, job.substate = "E", 50
        self._later(job, self.times.exiting, self._deliver, job)

    def _heard_of(self, job: PBSJob, code: int) -> None:
        with self._lock:
            self.ended(job, code)

    def _later(self, job: PBSJob, seconds: float, what: Callable[..., None], *arguments: object) -> None:
        job.timer = threading.Timer(seconds, what, arguments)
        job.timer.daemon = True
        job.timer.start()

    def _deliver(self, job: PBSJob) -> None:
        with self._lock:
            if job.state != "E":
                return  # deleted meanwhile
            spool = self.directory / f"{job.id}.OU"
            if spool.exists() and (target := job.submission.options.get("o")):
                with contextlib.suppress(OSError):  # Stageout_status = 0 then
                    Path(target).write_bytes(spool.read_bytes())
            self._finish(job, 91 if job.ended_by in ("qdel", "force") else 92 if job.exit_status == 0 else 93)
            self._schedule()

    def _finish(self, job: PBSJob, substate: int) -> None:
        job.state, job.substate = "F" if self.flavour == "openpbs" else "C", substate
        if not self.history:
            del self.jobs[job.id]
