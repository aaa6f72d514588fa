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

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from hpccluster.testing.fake_pbs_jobs import REAL_TIMES, FakePBSServer, PBSJob, Times
from hpccluster.testing.fake_pbs_script import Refused, read_script
from hpccluster.testing.fake_pbs_tables import as_dsv, as_json, as_text
from hpccluster.testing.fake_system import Answer, Call

__all__ = ["REAL_TIMES", "FakePBS", "PBSJob", "Times"]

_ID = re.compile(r"([1-9][0-9]*(?:\[[0-9]*\])?)(?:\.([A-Za-z0-9.-]+))?")
_DOWN = {"qsub": 162, "qdel": 162, "qselect": 162, "qstat": 255}


@dataclass
class FakePBS(FakePBSServer):
    """The server and its commands. Use it as a context manager."""

    commands: ClassVar[tuple[str, ...]] = ("qsub", "qstat", "qdel", "qselect")
    submit_command: ClassVar[str] = "qsub"

    forms: tuple[str, ...] = ("dsv", "json")
    """What ``qstat -F`` knows; old versions know none."""
    knows_express: bool = True
    """Whether ``qstat`` knows ``-E``; old versions do not."""
    is_down: bool = False
    """The server's port is closed."""

    def __post_init__(self) -> None:
        FakePBSServer.__post_init__(self)
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
        answer = FakePBSServer._perform(self, call)
        while call.command == "qdel" and not self.hung.isdisjoint(call.arguments):
            time.sleep(0.05)  # it answers for all its jobs together
        return answer

    def _refuse_connection(self, call: Call) -> Answer:
        if call.arguments == ["--version"]:
            return self._qstat(call)
        said = f"Connection refused\n{call.command}: cannot connect to server {self.server} (errno=15010)\n"
        return Answer(_DOWN[call.command], "", said)

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
        if arguments == ["-B", "-f"]:
            return Answer(0, f"Server: {self.server}\n    server_state = Active\n    default_queue = workq\n\n")
        if arguments == ["-Q", "-f"]:
            lines = [
                f"Queue: {name}\n    queue_type = Execution\n    resources_max.walltime = 100:00:00\n"
                f"    enabled = {state != 'not enabled'}\n"
                for name, state in self.queues.items()
            ]
            return Answer(0, "\n".join(lines))
        form, is_historic, is_express, ids = "text", False, False, []
        while arguments:
            match arguments.pop(0):
                case "-f":
                    pass
                case "-x" if self.flavour == "openpbs":
                    is_historic = True
                case "-E" if self.knows_express and self.flavour == "openpbs":
                    is_express = True
                case "-F" if arguments and arguments[0] in self.forms and self.flavour == "openpbs":
                    form = arguments.pop(0)
                case "-D" if form == "dsv" and arguments:
                    delimiter = arguments.pop(0)
                case word if word.startswith("-"):
                    return Answer(2, "", f"qstat: invalid option -- '{word[1:]}'\nusage: \nqstat [-f] [-J] [-p]\n")
                case word:
                    ids.append(word)
        shown, errors, code = self._select(ids, is_historic)
        if is_express:  # one request: where it tells of any job, it does not tell of which it knows nothing
            errors, code = ([], 0) if shown else (errors[-1:], code)
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
        live = [job for job in self.jobs.values() if not job.is_over]
        return Answer(0, "".join(f"{job.id}\n" for job in live if job.state in options.get("-s", job.state)))

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
