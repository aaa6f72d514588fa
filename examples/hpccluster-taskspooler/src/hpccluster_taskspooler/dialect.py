"""How task-spooler is spoken to: command lines, and what they print. Pure; tested with recorded outputs of tsp 1.0.1.

A job's id is its label, which is its name: task-spooler's own numbers begin again at 0 with each server, so that a number
of yesterday may be somebody's job of today.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from hpccluster.backend.dialect import CommandResult, Dialect
from hpccluster.backend.refusal import Refusal
from hpccluster.backend.template import TemplateContext
from hpccluster.errors import BackendError, BackendUnavailable, CommandFailed, PollFailed
from hpccluster.ids import JobId, JobName
from hpccluster.job import JobSpec, JobState, JobStatus
from hpccluster_taskspooler.options import TaskSpoolerOptions

# $1 label, $2 slots, $3 script. The script arrives by standard input and is kept beside the log: tsp wants a file. -n: the job
# sees to its output itself; -B: say that the queue is full, and do not wait.
SUBMIT = """\
umask 077
set -C
cat >"$3" || exit 73
tsp -n -B -L "$1" -N "$2" sh "$3" </dev/null || { code=$?; rm -f "$3"; exit "$code"; }
exec tsp -l
"""
CANNOT_CREATE, QUEUE_FULL = 73, 2

# $@ labels. tsp ends one job at a time, by its number; the trap of the job's script does the rest. The first job of the queue
# cannot be removed while it waits (tsp 1.0.1 looks for the one before it): then the process that waits for its turn is ended. One
# that waited a moment ago may run by now.
CANCEL = """\
tsp -l | while read -r number state rest; do
    case $number in '' | *[!0-9]*) continue ;; esac
    for label do
        case $rest in *" [$label]sh "* | "[$label]sh "*) ;; *) continue ;; esac
        case $state in
            running) tsp -k "$number" ;;
            queued | allocating)
                tsp -r "$number" 2>/dev/null || tsp -k "$number" 2>/dev/null ||
                    pkill -TERM -u "$(id -u)" -f "^tsp -n -B -L $label -N "
                ;;
        esac
    done
done
"""

TOLD_TO_END, OUT_OF_TIME = 143, 124
"""Exit codes that the job script ends with when it was told to, and when its walltime was over."""

_STATES = {"queued": JobState.PENDING, "allocating": JobState.PENDING, "running": JobState.RUNNING}
_LABEL = re.compile(r"hpc-[a-z0-9]+(?:-[a-z0-9]+)+")
_LINE = re.compile(rf"\d+ +(?P<state>[a-z]+) +\S+ +(?:(?P<level>-?\d+) +[\d./]+ +)?\[(?P<label>{_LABEL.pattern})\]sh ")
_HEADER = re.compile(r"ID +State .*\[run=(?P<used>\d+)/(?P<slots>\d+)\]")


class TaskSpoolerDialect(Dialect[TaskSpoolerOptions]):
    """Task-spooler by tsp. ``socket``: the server's; ``node``: the host that it is on."""

    system = "task-spooler"
    template = "hpccluster_taskspooler:taskspooler.sh"

    def __init__(self, socket: str | None, node: str) -> None:
        self._socket = socket
        self._node = node

    def context(self, spec: JobSpec, options: TaskSpoolerOptions) -> TemplateContext:
        return TemplateContext.of(spec, options)

    def check_id(self, job: JobId) -> None:
        if _LABEL.fullmatch(job) is None:
            raise ValueError(f"not the id (label) of a job of hpccluster in task-spooler: {job!r}")

    # ---------------------------------------------------------------------------------------------------------- submit

    def submit_command(self, spec: JobSpec, options: TaskSpoolerOptions) -> Sequence[str]:
        slots = spec.resources.cores if options.slots is None else options.slots
        script = spec.log_path.removesuffix(".log") + ".sh"
        return ("sh", "-c", SUBMIT, "sh", spec.name, str(slots), script)

    def submit_environment(self, context: TemplateContext) -> Mapping[str, str | None]:
        # TS_ENV would run a command of the user's, TS_ONFINISH and TS_MAILTO would tell of each of our jobs
        return {**self.query_environment(), "TS_ENV": None, "TS_ONFINISH": None, "TS_MAILTO": None}

    def parse_submit(self, result: CommandResult) -> JobId:
        label = result.argv[4]
        if any(status.name == label for status in self.parse_poll(result)):
            return JobId(label)
        raise ValueError(f"no job {label} in {result.stdout!r}")

    def submit_error(self, result: CommandResult, script: str, options: TaskSpoolerOptions) -> BackendError:
        said = result.stderr.strip() or f"exit code {result.returncode}"
        if result.returncode == CANNOT_CREATE:
            return Refusal(
                system=self.system,
                command="sh",
                code="HPC-SUBMIT-SCRIPT",
                said=said,
                option="log_directory",
                value=options.log_directory or "",
                hint="scripts and output of jobs go there: it has to exist and to be writable",
            ).error()
        if result.returncode == QUEUE_FULL:
            return Refusal(
                system=self.system,
                command="tsp",
                code="HPC-SUBMIT-LIMIT",
                said=said,
                hint="its server takes no more connections (TS_MAXCONN), and each job that waits or runs is one",
            ).error()
        if "server didn't come up" in said:
            return BackendUnavailable(f"task-spooler: {said} (socket={self._socket!r})", code="HPC-BACKEND-COMMAND")
        return CommandFailed(f"tsp failed, and the job may exist all the same: {said}", code="HPC-SUBMIT-UNCLEAR")

    # ------------------------------------------------------------------------------------------------------------ poll

    def query_environment(self) -> Mapping[str, str | None]:
        return {} if self._socket is None else {"TS_SOCKET": self._socket}

    def poll_command(self, ids: Collection[JobId]) -> Sequence[str]:
        return ("tsp", "-l")

    def parse_poll(self, result: CommandResult) -> list[JobStatus]:
        header = _HEADER.match(result.stdout)
        if result.returncode != 0 or header is None:
            said = result.stderr.strip() or result.stdout.strip() or f"exit code {result.returncode}"
            raise PollFailed(f"tsp failed: {said}", code="HPC-POLL-FAILED", details={"said": said})
        usage = f"{header['used']} of {header['slots']} slots are in use"
        return [self._status(match, usage) for line in result.stdout.splitlines() if (match := _LINE.match(line))]

    def _status(self, line: re.Match[str], usage: str) -> JobStatus:
        # tsp prints an exit code as if it had a sign (143 is -113), and the end by a signal as -1, like 255
        code = int(line["level"]) % 256 if line["level"] else None
        state = _STATES.get(line["state"], JobState.UNKNOWN)
        if line["state"] == "finished":
            ends = {0: JobState.COMPLETED, TOLD_TO_END: JobState.CANCELLED, OUT_OF_TIME: JobState.TIMEOUT}
            state = ends.get(code or 0, JobState.FAILED)
        return JobStatus(
            id=JobId(line["label"]),
            name=line["label"],
            state=state,
            raw_state=line["state"],
            reason=usage if state == JobState.PENDING else "ended by a signal, or with 255" if code == 255 else "",
            exit_code=None if code == 255 else code,
            node="" if state == JobState.PENDING else self._node,
        )

    def find_command(self, names: Collection[JobName]) -> Sequence[str]:
        return ("tsp", "-l")

    def find_all_command(self) -> Sequence[str]:
        return ("tsp", "-l")

    def explain(self, status: JobStatus) -> str:
        if status.state != JobState.PENDING:
            return ""
        return "a job waits until as many slots are free as it has cores; 'tsp -S N' gives the queue N slots"

    # ---------------------------------------------------------------------------------------------------------- cancel

    def cancel_command(self, ids: Collection[JobId]) -> Sequence[str]:
        return ("sh", "-c", CANCEL, "sh", *sorted(ids))
