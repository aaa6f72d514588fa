"""A fake PBS for tests on machines without one: `qsub`, `qstat`, `qselect` and `qdel` on PATH, one server behind them.

    with FakePBS() as pbs:
        backend = PBSBackend(options, runner=LocalRunner(pbs.environment()))
        pbs.fail("qsub", stderr="qsub: would exceed queue generic's per-user limit", returncode=38)

Outputs, exit codes and the way from one state to the next are those observed on OpenPBS 23.06.06 (``flavour="openpbs"``), or
as Torque's manual has them (``"torque"``); an option that this package does not use is an error. As with the real thing, a job
runs in the home directory with an environment of its own, and with umask 077. What all fakes have in common is in
`hpccluster.testing.fake_system`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import psutil

from hpccluster.testing.fake_pbs_script import Refused, Submission, read_script
from hpccluster.testing.fake_pbs_tables import as_dsv, as_json, as_text
from hpccluster.testing.fake_system import Answer, Call, FakeSystem


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

_ID = re.compile(r"([1-9][0-9]*(?:\[[0-9]*\])?)(?:\.([A-Za-z0-9.-]+))?")
_DOWN = {"qsub": 162, "qdel": 162, "qselect": 162, "qstat": 255}


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
class FakePBS(FakeSystem[PBSJob]):
    """The server and its commands. Use it as a context manager."""

    commands: ClassVar[tuple[str, ...]] = ("qsub", "qstat", "qdel", "qselect")
    submit_command: ClassVar[str] = "qsub"

    flavour: Literal["openpbs", "torque"] = "openpbs"
    server: str = "pbssrv"
    queues: Mapping[str, str] = field(
        default_factory=lambda: {"workq": "open", "long": "open", "stopped": "not started", "disabled": "not enabled"}
    )
    node: str = field(default_factory=socket.gethostname)
    """What the execution host is called."""
    history: bool = True
    """Whether ended jobs are remembered (``job_history_enable``, or Torque's ``keep_completed``)."""
    forms: tuple[str, ...] = ("dsv", "json")
    """What ``qstat -F`` knows; old versions know none."""
    is_down: bool = False
    """The server's port is closed."""
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
        self._queried = 0
        """The second of the last qstat."""

    def handlers(self) -> Mapping[str, Callable[[Call], Answer]]:
        if self.is_down:
            return dict.fromkeys(self.commands, self._refuse_connection)
        return {"qsub": self._qsub, "qstat": self._qstat, "qdel": self._qdel, "qselect": self._qselect}

    def _perform(self, call: Call) -> Answer:
        if call.command == "qstat" and call.arguments != ["--version"]:
            with self._lock:
                is_soon, self._queried = self._queried == int(time.time()), int(time.time())
            time.sleep(self.times.query_again if is_soon else 0.0)
        answer = FakeSystem._perform(self, call)
        while call.command == "qdel" and not self.hung.isdisjoint(call.arguments):
            time.sleep(0.05)  # it answers for all its jobs together
        return answer

    def _refuse_connection(self, call: Call) -> Answer:
        if call.arguments == ["--version"]:
            return self._qstat(call)
        said = f"Connection refused\n{call.command}: cannot connect to server {self.server} (errno=15010)\n"
        return Answer(_DOWN[call.command], "", said)

    def rerun(self, job: str) -> None:
        """What an administrator does by ``qrerun``: the job ends, and waits again under its id."""
        with self._lock:
            self.jobs[job].ended_by = "rerun"
            self._signal(self.jobs[job], signal.SIGKILL)

    # ------------------------------------------------------------------------------------------------------------ commands

    def _qsub(self, call: Call) -> Answer:
        if call.arguments != (["-f"] if self.flavour == "openpbs" else []):
            return Answer(2, "", f"qsub: invalid option in {call.arguments}\nusage: qsub [-a date_time]\n")
        try:
            submission = read_script(call.stdin, call.environment.get("PBS_DPREFIX", "#PBS"), self.flavour, self.queues)
        except Refused as refused:
            return Answer(refused.returncode, "", f"qsub: {refused}\n")
        self._next += 1
        job = PBSJob(
            f"{self._next}.{self.server}", call.stdin, submission, call.directory, submission.options.get("q", "workq")
        )
        if "h" in submission.options:
            job.state, job.substate, job.hold_types = "H", 20, "u"
        self.jobs[job.id] = job
        self._schedule()
        return Answer(0, f"{job.id}\n")

    def _qstat(self, call: Call) -> Answer:
        arguments = list(call.arguments)
        if arguments == ["--version"]:
            return (
                Answer(0, "pbs_version = 23.06.06\n")
                if self.flavour == "openpbs"
                else Answer(0, "", "Version: 6.1.2\n")
            )
        if arguments == ["-Q", "-f"]:
            lines = [
                f"Queue: {name}\n    queue_type = Execution\n    resources_max.walltime = 100:00:00\n"
                f"    enabled = {state != 'not enabled'}\n"
                for name, state in self.queues.items()
            ]
            return Answer(0, "\n".join(lines))
        form, is_historic, ids = "text", False, []
        while arguments:
            match arguments.pop(0):
                case "-f":
                    pass
                case "-x" if self.flavour == "openpbs":
                    is_historic = True
                case "-F" if arguments and arguments[0] in self.forms and self.flavour == "openpbs":
                    form = arguments.pop(0)
                case "-D" if form == "dsv" and arguments:
                    delimiter = arguments.pop(0)
                case word if word.startswith("-"):
                    return Answer(2, "", f"qstat: invalid option -- '{word[1:]}'\nusage: \nqstat [-f] [-J] [-p]\n")
                case word:
                    ids.append(word)
        shown, errors, code = self._select(ids, is_historic)
        tables = [(job.id, self._attributes(job)) for job in shown]
        match form:
            case "dsv":
                out = as_dsv(tables, delimiter)
            case "json":
                out = as_json(tables[:1] if ids else tables, self.server)  # as versions since 2023 do
            case _:
                out = as_text(tables)
        return Answer(code, out, "".join(f"qstat: {error}\n" for error in errors))

    def _select(self, ids: list[str], is_historic: bool) -> tuple[list[PBSJob], list[str], int]:
        """The jobs to show, the complaints, and the exit code."""
        if not ids:
            return [job for job in self.jobs.values() if is_historic or not job.is_over], [], 0
        if is_historic and not self.history:
            return [], [f"PBS is not configured to maintain job history {job}" for job in ids], 0
        shown, errors, code = list[PBSJob](), list[str](), 0
        for text in ids:
            job = self._find(text)
            if job is None:
                errors.append(f"Unknown Job Id{' Error' if self.flavour == 'torque' else ''} {text}")
                code = 153
            elif job.is_over and not is_historic and self.flavour == "openpbs":
                errors.append(f"{job.id} Job has finished, use -x or -H to obtain historical job information")
                code = 35
            else:
                shown.append(job)
        return shown, errors, code

    def _find(self, text: str) -> PBSJob | None:
        match = _ID.fullmatch(text)
        return self.jobs.get(f"{match[1]}.{self.server}") if match else None

    def _qselect(self, call: Call) -> Answer:
        options = dict(zip(call.arguments[::2], call.arguments[1::2], strict=True))
        if set(options) - {"-u", "-s"} or options.get("-u") != self.user:
            return Answer(0 if set(options) <= {"-u", "-s"} else 2)
        states = options.get("-s", "EHQRTW")
        return Answer(0, "".join(f"{job.id}\n" for job in self.jobs.values() if job.state in states))

    def _qdel(self, call: Call) -> Answer:
        ids = list(call.arguments)
        if is_forced := ids[:2] == ["-W", "force"] and self.flavour == "openpbs":
            ids = ids[2:]
        code, errors = 0, ""
        for text in ids:
            job = self._find(text)
            if _ID.fullmatch(text) is None:
                code, errors = 1, f"{errors}qdel: illegally formed job identifier: {text}\n"
            elif job is None:
                code, errors = 153, f"{errors}qdel: Unknown Job Id {text}\n"
            elif job.is_over and self.flavour == "openpbs":
                code, errors = 35, f"{errors}qdel: Job has finished {text}\n"
            elif job.is_over:
                said = "Request invalid for state of job MSG=invalid state for job - COMPLETE"
                code, errors = 170, f"{errors}qdel: {said} {text}\n"
            elif job.state == "R" and self.is_node_dead and not is_forced:
                code, errors = 222, f"{errors}qdel: Server could not connect to MOM {text}\n"
            else:
                self._delete(job, is_forced)
        return Answer(code, "", errors)

    # ---------------------------------------------------------------------------------------------------------------- jobs

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

    def _attributes(self, job: PBSJob) -> dict[str, str]:
        submission, is_torque = job.submission, self.flavour == "torque"
        found = {
            "Job_Name": job.name,
            "Job_Owner": f"{self.user}@{self.server}",
            "resources_used.walltime": "00:00:01" if job.run_count else "",
            "job_state": job.state,
            "queue": job.queue,
            "server": self.server,
            "ctime": time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime()),
            "exec_host": f"{self.node}/0" if job.run_count else "",
            "run_count": str(job.run_count or ""),
            "Hold_Types": job.hold_types,
            "Join_Path": submission.options.get("j", "n"),
            "Keep_Files": submission.options.get("k", "n"),
            "Output_Path": f"{self.server}:{submission.options.get('o', '')}",
            "Account_Name": submission.options.get("A", ""),
            "project": submission.options.get("P", ""),
            **{f"Resource_List.{name}": value for name, value in submission.resources.items()},
            "substate": "" if is_torque else str(job.substate),
            "Variable_List": ",".join(
                [f"PBS_O_WORKDIR={job.directory}", f"PBS_O_LOGNAME={self.user}"]
                + [f"{name}={value}" for name, value in submission.variables.items()]
            ),
            "comment": job.comment,
            ("exit_status" if is_torque else "Exit_status"): "" if job.exit_status is None else str(job.exit_status),
            "Submit_arguments": "-f" if not is_torque else "",
        }
        return {name: value for name, value in found.items() if value}
