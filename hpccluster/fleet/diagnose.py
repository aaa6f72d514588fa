"""Why a job was of no use: one error from its status and the last lines of its log. Pure text work.

The job's script and its workers write a line ``hpccluster: stage NAME`` for each step that they have reached; the last
one says where to look, the exit code and the text round it say for what. Nobody is asked to inspect a log by hand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from hpccluster.errors import JobDied
from hpccluster.job import JobState, JobStatus
from hpccluster.units import format_age

EXIT_USAGE = 2
"""Of our workers: what they were told cannot be used on that node."""
EXIT_NO_HEAD = 75
"""Of our workers: the head was not reached in time."""
EXIT_REFUSED = 76
"""Of our workers: the head, or the worker's own check, refused the credential."""

_SIGKILL = 9
_LOG_FAILED_SIGNAL = 53
"""Slurm's ``ExitCode=0:53``: the output file could not be made, so the job was not even started."""

_STAGE = re.compile(r"^.*hpccluster: stage ([a-z-]+)(?:[ \t]+(\S+))?.*$", re.MULTILINE)
_NO_MODULE = re.compile(r"No module named ['\"]?([\w.]+)")
_IMPORT_ERROR = re.compile(r"ImportError: (.+)")
_NO_PYTHON = re.compile(
    r"hpccluster: python not found|(?:No such file or directory|not found|Exec format error|cannot execute)"
)
_MISSING_PYTHON = re.compile(r"hpccluster: python not found: (.+)")
"""It may be another one than the cluster's: that of the host."""
_NO_MEMORY = re.compile(
    r"oom[-_ ]kill|out of memory|Out Of Memory|exceeded (?:job )?memory limit|MemoryError|Cannot allocate memory"
)
_WALLTIME_OVER = re.compile(r"=>> PBS: job killed: walltime |slurmstepd: .* DUE TO TIME LIMIT")
"""What the batch system itself writes into a job's output: all that is left where it keeps no history."""
_EXIT_CODE = re.compile(r"^hpccluster: workers ended with exit code ([0-9]+)", re.MULTILINE)
"""What the job's script says last."""
_NO_CREDENTIAL_FILE = re.compile(r"no worker connection file at (\S+)")


class Stage(IntEnum):
    """How far a job came."""

    NOTHING = 0
    STARTED = 1
    PROLOGUE = 2
    PYTHON = 3
    IMPORT = 4
    NETWORK = 5
    AUTHENTICATED = 6


_MARKERS = {
    "started": Stage.STARTED,
    "prologue-ok": Stage.PROLOGUE,
    "python-ok": Stage.PYTHON,
    "import-ok": Stage.IMPORT,
    "net-ok": Stage.NETWORK,
    "auth-ok": Stage.AUTHENTICATED,
}
_REACHED = {
    Stage.STARTED: "started",
    Stage.PROLOGUE: "prologue ok",
    Stage.PYTHON: "python ok",
    Stage.IMPORT: "import ok",
    Stage.NETWORK: "network ok",
    Stage.AUTHENTICATED: "authenticated",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadJob:
    """What is known of it."""

    name: str
    status: JobStatus
    seconds: float | None = None
    """How long it ran, where known."""
    joined: bool = False
    """Whether any of its workers had joined."""
    log: str = ""
    log_error: str = ""
    """Why there is no log."""
    log_path: str = ""
    python: str = ""
    """The interpreter that it was to run."""
    meaning: str = ""
    """What the backend has to say about the reason."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The verdict."""

    code: str
    stage: str
    """What went wrong at the stage that it had reached."""
    fix: str


def reached(log: str) -> Stage:
    """The last stage that a log tells of."""
    return max((_MARKERS.get(match[1], Stage.NOTHING) for match in _STAGE.finditer(log)), default=Stage.NOTHING)


def diagnose(job: DeadJob, *, lines: int = 20) -> JobDied:
    """The error to raise, with the last ``lines`` lines of the log in it."""
    stage, cause = reached(job.log), find_cause(job)
    tail = [line for line in _STAGE.sub("", job.log).splitlines() if line.strip()][-lines:]
    status, node = job.status, job.status.node or _node_of(job.log)
    when = "soon after its first worker joined" if job.joined else "before its worker joined"
    text = [f"job {status.id} ended {when} ({cause.code})", f"  state:   {_state_line(job, node)}"]
    if job.meaning:
        text.append(f"  meaning: {job.meaning}")
    if status.problem:
        text.append("  problem: " + status.problem.replace("\n", "\n           "))
    if stage is not Stage.NOTHING or not status.problem:
        text.append(f"  stage:   {_stage_line(stage, cause)}")
        text.append(f"  log:     {job.log_path or '(no path)'}{_log_note(job, tail)}")
        text += [f"           | {line}" for line in tail]
    if cause.fix:
        text.append(f"  fix:     {cause.fix}")
    return JobDied(
        "\n".join(text),
        code=cause.code,
        details={
            "job_id": status.id,
            "name": job.name,
            "state": status.state.value,
            "reason": status.reason,
            "exit_code": exit_code(job),
            "signal": status.signal,
            "node": node,
            "seconds": job.seconds,
            "stage": stage.name.lower(),
            "log_path": job.log_path,
            "log_tail": "\n".join(tail),
            "hint": cause.fix,
        },
    )


def find_cause(job: DeadJob) -> Cause:
    """The most probable cause: what the batch system knows for sure first, then what the job's own words say."""
    return _by_status(job) or _by_batch_systems_note(job) or _by_exit_code(job) or _by_stage(job) or _unknown(job)


def exit_code(job: DeadJob) -> int | None:
    """What the batch system says, or else the job's own script."""
    if job.status.exit_code is not None or job.status.signal is not None:
        return job.status.exit_code
    told = [int(match[1]) for match in _EXIT_CODE.finditer(job.log)]
    return max([*told, 127] if _MISSING_PYTHON.search(job.log) else told, default=None)


def _by_status(job: DeadJob) -> Cause | None:
    state = job.status.state
    if job.status.code:
        return Cause(job.status.code, "its host failed", "")
    if job.status.signal == _LOG_FAILED_SIGNAL and not job.log:
        return Cause(
            "HPC-JOB-NOLOG-053",
            "not started: its log could not be written",
            f"the directory of {job.log_path or 'the log'} must exist and be writable on the compute nodes; "
            "set log_directory= to one that is shared",
        )
    if state is JobState.OUT_OF_MEMORY or (
        (job.status.signal == _SIGKILL or _is_killed(job)) and _NO_MEMORY.search(job.log)
    ):
        return _memory()
    if state is JobState.TIMEOUT:
        return _walltime()
    if state is JobState.CANCELLED:
        return Cause(
            "HPC-JOB-CANCELLED", "it was cancelled, not by this cluster", "ask whoever cancelled it, or scale again"
        )
    return None


def _by_batch_systems_note(job: DeadJob) -> Cause | None:
    """Only where the batch system has forgotten the job, or knows of a signal and no more."""
    if job.status.state is JobState.ABSENT or job.status.signal is not None:
        if _WALLTIME_OVER.search(job.log):
            return _walltime()
        if re.search(r"=>> PBS: job killed: p?v?mem ", job.log):
            return _memory()
    return None


def _by_exit_code(job: DeadJob) -> Cause | None:
    if missing := _NO_CREDENTIAL_FILE.search(job.log):
        return Cause(
            "HPC-STATE-UNSHARED",
            "the workers' connection file is not there",
            f"{missing[1]} cannot be seen from the node; set state_directory= to a directory that the nodes share",
        )
    if exit_code(job) == EXIT_REFUSED:
        return _refused()
    if exit_code(job) == EXIT_NO_HEAD and job.log_error and not job.log:
        # what it wrote is not here, so what the head wrote is probably not there
        return Cause(
            "HPC-STATE-UNSHARED",
            "it found no head, and its log is not to be read here",
            "the nodes must see state_directory= and log_directory=: set them to directories that are shared",
        )
    if exit_code(job) == EXIT_NO_HEAD:
        return _unreachable()
    if exit_code(job) == EXIT_USAGE and not job.joined and reached(job.log) >= Stage.IMPORT:
        return Cause(
            "HPC-JOB-SETTINGS",
            "its workers cannot be started so",
            "the log says what is wrong: correct local_directory=, interface= or worker_extra_args=",
        )
    return None


def _by_stage(job: DeadJob) -> Cause | None:
    stage = reached(job.log)
    if stage is Stage.NOTHING:
        return None
    if stage is Stage.STARTED:
        return Cause(
            "HPC-JOB-PROLOGUE", "the prologue failed", "correct job_script_prologue=; the log shows what it said"
        )
    if module := _NO_MODULE.search(job.log) or _IMPORT_ERROR.search(job.log):
        return _not_importable(job, module[1])
    match stage:
        case Stage.PROLOGUE if exit_code(job) in (126, 127) or _NO_PYTHON.search(job.log):
            return _no_python(job)
        case Stage.PROLOGUE:
            return Cause("HPC-JOB-PYTHON", "python did not start", "the log shows what it said; check python=")
        case Stage.PYTHON:
            return _not_importable(job, "")
        case Stage.IMPORT:
            return _unreachable()
        case Stage.NETWORK:
            return _refused()
        case _:
            return None


def _unknown(job: DeadJob) -> Cause:
    if job.joined:
        return Cause("HPC-JOB-DIED", "its workers had joined", "the log shows what its workers said last")
    if reached(job.log) is Stage.AUTHENTICATED:
        return Cause("HPC-JOB-DIED", "ended before its workers were ready", "the log shows what its workers said last")
    if job.log:
        return Cause("HPC-JOB-DIED", "the job's script did not begin", "the log shows what it said; check shebang=")
    return Cause(
        "HPC-JOB-DIED",
        "unknown: nothing that it has written is here",
        "ask the batch system about this job; where no log ever appears, the nodes do not see log_directory= (and "
        "state_directory=): set them to directories that are shared",
    )


def _walltime() -> Cause:
    return Cause("HPC-JOB-WALLTIME", "its walltime was over", "ask for a longer walltime=")


def _memory() -> Cause:
    return Cause("HPC-JOB-MEMORY", "the job ran out of memory", "ask for more: memory=, or fewer processes=")


def _no_python(job: DeadJob) -> Cause:
    said = _MISSING_PYTHON.search(job.log)
    fix = (
        f"the job ran {said[1] if said else job.python!r}; set python= to an interpreter that exists on the compute nodes, "
        "or load it in job_script_prologue="
    )
    return Cause("HPC-JOB-PYTHON-MISSING", "python not found", fix)


def _not_importable(job: DeadJob, module: str) -> Cause:
    what = f"{module!r} cannot be imported" if module else "hpccluster cannot be imported"
    it = "pip install 'hpccluster[dask]'" if module.partition(".")[0] in ("dask", "distributed") else "install it"
    fix = f"{it} for the python of the jobs ({job.python or 'python='}), where the compute nodes can see it"
    return Cause("HPC-JOB-IMPORT", what, fix)


def _unreachable() -> Cause:
    fix = "the node must reach the head's address; name the network between them with interface= or host="
    return Cause("HPC-NET-UNREACHABLE", "the head was not reached", fix)


def _refused() -> Cause:
    return Cause(
        "HPC-AUTH",
        "the head did not admit the worker",
        "the log says why; jobs need the connection file of this very cluster",
    )


def _is_killed(job: DeadJob) -> bool:
    return job.status.exit_code is not None and job.status.exit_code in (128 + _SIGKILL, _SIGKILL)


def _node_of(log: str) -> str:
    """The node, as the script itself has said it."""
    return next((match[2] or "" for match in _STAGE.finditer(log) if match[1] == "started"), "")


def _state_line(job: DeadJob, node: str) -> str:
    status = job.status
    if status.state is JobState.ABSENT:
        words = ["no longer listed by the batch system, cause unknown"]
    else:
        words = [status.state.value]
    if status.reason and not status.problem and status.reason.lower() not in ("none", status.state.value.lower()):
        words[0] += f" ({status.reason})"
    if (code := exit_code(job)) is not None:
        words.append(f"exit code {code}" + ("" if status.exit_code is not None else " (says its log)"))
    if status.signal:
        words.append(f"signal {status.signal}")
    if node:
        words.append(f"node {node}")
    if job.seconds is not None:
        # Below a minute the figure is ours, not the batch system's: it is as old as our last poll.
        words.append(
            f"after {max(1, round(job.seconds))} s" if job.seconds < 60 else f"after {format_age(job.seconds)}"
        )
    return ", ".join(words)


def _stage_line(stage: Stage, cause: Cause) -> str:
    steps = [text for step, text in _REACHED.items() if step <= stage]
    return f"{', '.join(steps)}; {cause.stage}" if steps else cause.stage


def _log_note(job: DeadJob, tail: list[str]) -> str:
    if job.log_error:
        return f" (not readable: {job.log_error})"
    return "" if tail else " (empty)"
