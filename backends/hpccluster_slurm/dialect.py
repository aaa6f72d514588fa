"""How Slurm is spoken to: command lines, and what they print. Pure; tested with recorded outputs.

One ``squeue`` tells all: ``--me`` lets the controller pick out this user's jobs (a list of ids makes it send everybody's),
``--states=all`` also lists what ended in the last minutes (MinJobAge), and ``--Format`` has fixed columns, which versions
from 16.05 to today print alike. ``sacct`` is asked only about jobs that squeue has forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from hpccluster.backend.dialect import CommandResult, Dialect
from hpccluster.backend.options import Safe
from hpccluster.backend.template import TemplateContext
from hpccluster.errors import BackendError, ConfigError, PollFailed
from hpccluster.ids import JobId, JobName
from hpccluster.job import JobSpec, JobState, JobStatus
from hpccluster.units import format_clock
from hpccluster_slurm import refusals, words
from hpccluster_slurm.options import SlurmOptions

COLUMNS = (
    ("JobID", 20),
    ("Name", 80),
    ("State", 20),
    ("NodeList", 80),
    ("StartTime", 24),
    ("Reason", 120),
    # the last one, so that a version that does not know it shifts no other column
    ("exit_code", 20),
)

_ID = re.compile(r"[1-9][0-9]*")
_JOB_NAME = Safe(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "letters, digits and _ . -")
_COMMENT = Safe(r"[\w.,:@+=/ -]*", "letters, digits, blanks and _ . , : @ + = / -")
_PATH = Safe(r"[\w.,:@+=/~%{}() -]*", "a path of letters, digits, blanks and _ . , : @ + = / ~ % { } ( ) -")

_QUERY_VARIABLES = (
    *(f"SQUEUE_{name}" for name in ("ACCOUNT", "ARRAY", "FORMAT", "FORMAT2", "LICENSES", "NAMES", "PARTITION", "PRIORITY",
                                    "QOS", "SORT", "STATES", "USERS")),
    *(f"SCANCEL_{name}" for name in ("ACCOUNT", "BATCH", "CTLD", "FULL", "HURRY", "INTERACTIVE", "NAME", "PARTITION",
                                     "QOS", "STATE", "USER", "VERBOSE", "WCKEY")),
    "SINFO_FORMAT", "SINFO_PARTITION", "SACCT_FORMAT",
)  # fmt: skip
"""Settings by which the user's shell would filter or reformat what we read, or make scancel ask questions."""

_SUBMIT_VARIABLES = {
    "queue": ("SBATCH_PARTITION",),
    "account": ("SBATCH_ACCOUNT",),
    "qos": ("SBATCH_QOS",),
    "reservation": ("SBATCH_RESERVATION",),
    "constraint": ("SBATCH_CONSTRAINT",),
    "memory": ("SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU", "SBATCH_MEM_PER_NODE"),
    "gres": ("SBATCH_GRES", "SBATCH_GPUS", "SBATCH_GPUS_PER_NODE", "SBATCH_GPUS_PER_TASK"),
    "walltime": ("SBATCH_TIMELIMIT",),
    "signal": ("SBATCH_SIGNAL",),
    "requeue": ("SBATCH_REQUEUE", "SBATCH_NO_REQUEUE"),
    "name": ("SBATCH_JOB_NAME", "SBATCH_OUTPUT", "SBATCH_ERROR", "SBATCH_INPUT", "SBATCH_OPEN_MODE", "SBATCH_ARRAY_INX",
             "SBATCH_WAIT", "SBATCH_IGNORE_PBS"),
}  # fmt: skip
"""Variables that would win over a directive in the script, per name of the template's context that the script sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmContext(TemplateContext):
    """What the template for Slurm may use besides; an unset value is empty or zero."""

    queue: str
    account: str
    qos: str
    reservation: str
    nodes: int
    tasks: int
    cpus: int
    """CPUs per task."""
    memory_directive: str
    """``--mem``, ``--mem-per-cpu`` or ``--mem-per-gpu``"""
    memory: str
    """In Slurm's units: ``31250000K``."""
    gres: str
    constraint: str
    exclude: str
    walltime: str
    """``HH:MM:SS``"""
    signal: str
    requeue: str
    """``--requeue`` or ``--no-requeue``"""
    extra_directives: tuple[str, ...]


NO_NODE = "None assigned"
"""What sacct says of a job that was never started."""


class SlurmDialect(Dialect[SlurmOptions]):
    """Slurm by sbatch, squeue, scancel and sacct."""

    system = "Slurm"
    template = "slurm.sh"

    # ---------------------------------------------------------------------------------------------------------- script

    def context(self, spec: JobSpec, options: SlurmOptions) -> SlurmContext:
        cpus = options.requested_cpus()
        memory = options.requested_memory()
        left_out = options.left_out()

        def text(name: str, value: str | None) -> str:
            return "" if value is None or name in left_out else value

        def number(name: str, value: int) -> int:
            return 0 if name in left_out else value

        return SlurmContext.of(
            spec,
            options,
            name=_JOB_NAME.check("name", spec.name),
            comment=text("comment", _COMMENT.check("comment", spec.comment)),
            log_path=_PATH.check("log_directory", spec.log_path or "/dev/null").replace(
                "%", "%%"
            ),  # sbatch expands %j and the like
            working_directory=text("working_directory", _PATH.check("working_directory", spec.working_directory)),
            queue=text("queue", options.queue),
            account=text("account", options.account),
            qos=text("qos", options.qos),
            reservation=text("reservation", options.reservation),
            nodes=number("nodes", 1),
            tasks=number("tasks", 1),
            cpus=number("cpus", cpus),
            memory_directive=options.memory_directive,
            memory=text("memory", memory_text(options, cpus, memory)),
            gres=text("gres", options.gres or (f"gpu:{spec.resources.gpus}" if spec.resources.gpus else None)),
            constraint=text("constraint", options.constraint),
            exclude=text("exclude", options.exclude),
            walltime=text("walltime", None if spec.walltime is None else format_clock(spec.walltime)),
            signal=text("signal", options.signal),
            requeue=text("requeue", _requeue(options.requeue)),
            extra_directives=options.job_extra_directives,
        )

    def check_id(self, job: JobId) -> None:
        if _ID.fullmatch(job) is None or int(job) < 1:
            raise ValueError(f"not the id of a Slurm job: {job!r}")

    # ---------------------------------------------------------------------------------------------------------- submit

    def submit_command(self, spec: JobSpec, options: SlurmOptions) -> Sequence[str]:
        return ("sbatch", "--parsable")

    def submit_environment(self, context: TemplateContext) -> Mapping[str, str | None]:
        names = (name for name in _SUBMIT_VARIABLES if getattr(context, name, None))
        return {variable: None for name in names for variable in _SUBMIT_VARIABLES[name]}

    def parse_submit(self, result: CommandResult) -> JobId:
        # "123", or "123;cluster" in a federation; a site's wrapper may print lines of its own before
        for line in reversed(result.stdout.splitlines()):
            if match := re.fullmatch(r"([1-9][0-9]*)(?:;\S*)?", line.strip()):
                return JobId(match[1])
        raise ValueError(f"no job id in {result.stdout!r}")

    def submit_error(self, result: CommandResult, script: str, options: SlurmOptions) -> BackendError:
        return refusals.classify(result, script, options)

    # ------------------------------------------------------------------------------------------------------------ poll

    def query_environment(self) -> Mapping[str, str | None]:
        # %s: seconds since the epoch, whatever the time zone of the machine
        return {**dict.fromkeys(_QUERY_VARIABLES), "SLURM_TIME_FORMAT": "%s"}

    def poll_command(self, ids: Collection[JobId]) -> Sequence[str]:
        columns = ",".join(f"{name}:{width}" for name, width in COLUMNS)
        return ("squeue", "--me", "--noheader", "--states=all", f"--Format={columns}")

    def parse_poll(self, result: CommandResult) -> list[JobStatus]:
        if result.returncode != 0:
            said = (result.stderr or result.stdout).strip() or f"exit code {result.returncode}"
            raise PollFailed(f"squeue failed: {said}", code="HPC-POLL-FAILED", details={"said": said})
        return [status for line in result.stdout.splitlines() if (status := _parse_line(line)) is not None]

    def find_command(self, names: Collection[JobName]) -> Sequence[str]:
        return (*self.poll_command(()), f"--name={','.join(sorted(names))}")

    def find_all_command(self) -> Sequence[str]:
        return self.poll_command(())

    def history_command(self, ids: Collection[JobId]) -> Sequence[str] | None:
        fields = "JobIDRaw,State,ExitCode,NodeList"
        return (
            "sacct",
            "--allocations",
            "--noheader",
            "--parsable2",
            f"--format={fields}",
            f"--jobs={','.join(sorted(ids))}",
        )

    def parse_history(self, result: CommandResult) -> list[JobStatus] | None:
        if result.returncode != 0:
            # "Slurm accounting storage is disabled": it will not come back by itself
            return None if "disabled" in result.stderr else []
        found = []
        for line in result.stdout.splitlines():
            cells = line.split("|")
            if len(cells) < 4 or _ID.fullmatch(cells[0]) is None:
                continue
            word, _, rest = cells[1].partition(" ")
            state = STATES_OVER.get(word)
            # what accounting believes to run or wait, but squeue does not list, is simply absent
            if state is not None:
                code, signal = _exit_code(cells[2])
                reason = f"cancelled {rest.replace('by', 'by uid')}" if rest.startswith("by ") else ""
                found.append(
                    JobStatus(
                        id=JobId(cells[0]), state=state, raw_state=cells[1], exit_code=code, signal=signal, reason=reason,
                        node="" if cells[3] == NO_NODE else cells[3],
                    )
                )  # fmt: skip
        return found

    # ---------------------------------------------------------------------------------------------------------- cancel

    def cancel_command(self, ids: Collection[JobId]) -> Sequence[str]:
        return ("scancel", *sorted(ids, key=int))

    def explain(self, status: JobStatus) -> str:
        return words.explain(status.reason)


STATES_OVER = {word: state for word, state in words.STATES.items() if state.is_over}


def _parse_line(line: str) -> JobStatus | None:
    """One line of squeue. None for what is not a whole job (the tasks of somebody's array have ids of their own form)."""
    cells: dict[str, str] = {}
    start = 0
    for name, width in COLUMNS:
        cells[name] = line[start : start + width].strip()
        start += width
    if _ID.fullmatch(cells["JobID"]) is None:
        return None
    state = words.STATES.get(cells["State"], JobState.UNKNOWN)
    code, signal = _exit_code(cells["exit_code"]) if state.is_over else (None, None)
    reason = _none(cells["Reason"])
    return JobStatus(
        id=JobId(cells["JobID"]),
        state=state,
        name=cells["Name"],
        raw_state=cells["State"],
        # a cancelled job keeps the reason for which it waited
        reason="" if state in (JobState.CANCELLED, JobState.COMPLETED) else reason,
        exit_code=code,
        signal=signal,
        node=_none(cells["NodeList"]),
        estimated_start=float(cells["StartTime"])
        if state == JobState.PENDING and re.fullmatch(r"[0-9]+", cells["StartTime"])
        else None,
    )


def _none(text: str) -> str:
    return "" if text in ("None", "(null)", "N/A", "none") else text


def _exit_code(text: str) -> tuple[int | None, int | None]:
    """``"3:0"`` (sacct, scontrol, newer squeue) or a wait status (squeue of 22.05: ``768``) -> exit code and signal."""
    if match := re.fullmatch(r"([0-9]+):([0-9]+)", text):
        code, signal = int(match[1]), int(match[2])
    elif re.fullmatch(r"[0-9]+", text):
        code, signal = int(text) >> 8, int(text) & 0x7F
        code = 0 if signal else code
    else:
        return None, None
    return code, signal or None


def memory_text(options: SlurmOptions, cpus: int, memory: int | None) -> str | None:
    """The value of the memory directive, exact or rounded up to whole KiB; None where none is wanted."""
    if memory is None or options.memory_directive == "none":
        return None
    shares = {"--mem": 1, "--mem-per-cpu": cpus, "--mem-per-gpu": options.gpus}[options.memory_directive]
    if shares == 0:
        raise ConfigError(
            "memory_directive='--mem-per-gpu' needs gpus=",
            code="HPC-CONFIG-VALUE",
            details={"option": "memory_directive"},
        )
    if memory == 0:
        return "0"  # all of the node's
    size = -(-memory // (1024 * shares))
    for unit in "KMGT":
        if size % 1024 or unit == "T":
            return f"{size}{unit}"
        size //= 1024
    raise AssertionError


def _requeue(wanted: bool | None) -> str | None:
    return {True: "--requeue", False: "--no-requeue", None: None}[wanted]
