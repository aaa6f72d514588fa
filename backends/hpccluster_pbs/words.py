"""What PBS says of a job, in our words: its state, the cause of its end, why it waits.

States and exit codes: qstat(1B) and the chapter on exit status of the administrator's guide of OpenPBS, whose ``job.h`` names
the negative ones; for Torque, the appendix on error codes of its administrator's guide. Only F, X and C are ends: a job that
was put back into the queue still has an exit status, and one that was deleted while it waited never gets any.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from hpccluster.ids import JobId
from hpccluster.job import JobState, JobStatus

STATES = {
    "Q": JobState.PENDING,
    "H": JobState.PENDING,
    "W": JobState.PENDING,
    # on its way to another place of the queue
    "T": JobState.PENDING,
    # it waits to be continued
    "S": JobState.PENDING,
    "U": JobState.PENDING,
    "R": JobState.RUNNING,
    # its output is being delivered: that may take half a minute, and is not an end
    "E": JobState.RUNNING,
    "B": JobState.RUNNING,
}
"""States of jobs that are not over. M (moved to another server) is not known to be anything."""

OVER = ("F", "X", "C")
"""Finished; a finished part of an array; Torque's completed."""

DELETED = "91"
"""Substate of a job that was deleted."""

_OPENPBS_CODES = {
    -1: (JobState.FAILED, "it could not be started"),
    -2: (JobState.FAILED, "it could not be started (its home directory, or the prologue)"),
    -3: (JobState.FAILED, "it could not be started, and was tried again"),
    -4: (JobState.NODE_FAIL, "the daemon of its node was started anew"),
    -5: (JobState.NODE_FAIL, "the daemon of its node was started anew"),
    -6: (JobState.NODE_FAIL, "the daemon of its node was started anew"),
    -10: (JobState.FAILED, "its user is not known on its node"),
    -14: (JobState.NODE_FAIL, "one of its nodes was lost"),
    -16: (JobState.FAILED, "a hook of this site refused it"),
    -17: (JobState.FAILED, "a hook of this site refused it"),
    -19: (JobState.CANCELLED, "a hook of this site deleted it"),
    -20: (JobState.NODE_FAIL, "its node was lost"),
    -22: (JobState.FAILED, "a hook of this site failed"),
    -24: (JobState.FAILED, "it used more CPUs than it asked for"),
    -25: (JobState.FAILED, "it used more CPUs than it asked for"),
    -26: (JobState.OUT_OF_MEMORY, "it used more virtual memory than it asked for"),
    -27: (JobState.OUT_OF_MEMORY, "it used more memory than it asked for"),
    -28: (JobState.FAILED, "it used more CPU time than it asked for"),
    -29: (JobState.TIMEOUT, "it reached its walltime"),
    -31: (JobState.OUT_OF_MEMORY, "it used more huge pages than it asked for"),
    -32: (JobState.NODE_FAIL, "its node has lost it"),
}
_TORQUE_CODES = {
    -1: (JobState.FAILED, "it could not be started"),
    -2: (JobState.FAILED, "it could not be started"),
    -3: (JobState.FAILED, "it could not be started, and was tried again"),
    -9: (JobState.FAILED, "its output file could not be made"),
    -10: (JobState.OUT_OF_MEMORY, "it used more memory than it asked for"),
    -11: (JobState.TIMEOUT, "it reached its walltime"),
    -12: (JobState.FAILED, "it used more CPU time than it asked for"),
}

HELD_FOR_GOOD = "job held, too many failed attempts to run"

_SHORTER = "a shorter walltime= may fit before"
_HELD = (
    "PBS failed to start it many times, and holds it for good: set log_directory= to one that the nodes can write to; if they "
    "can, ask your administrators what a prologue or a hook objects to"
)
_IN_USE = (
    "what it asks for is in use: it starts when other jobs have ended, smaller or shorter ones sooner; or its nodes are down, "
    "see pbsnodes -l"
)

MEANINGS = (
    (
        HELD_FOR_GOOD,
        _HELD,
    ),
    (
        r"Can Never Run|largest placement set|Not enough total nodes|Specified .* does not exist",
        "no nodes have what it asks for, so it never starts: ask for less, or choose another queue=",
    ),
    (r"Queue not started", "its queue does not start jobs now; choose another queue= or wait for the administrators"),
    (
        r"limit(?: reached)? on resource",
        "a limit on this resource is reached: it starts when other jobs of yours have ended",
    ),
    (
        r"(?:run|running|job) limit|subjobs limit",
        "as many jobs run as are allowed: it starts when one of them has ended",
    ),
    (r"reservation or top job", f"it would delay a job of higher priority, or run into a reservation: {_SHORTER}"),
    (r"top job|strict sorted order|backfill job|preempt enough", "jobs of higher priority wait before it"),
    (r"reservation", f"it would run into a reservation: {_SHORTER}"),
    (r"dedicated time|prime ?time|will cross into", f"it would run into a time that is kept for others: {_SHORTER}"),
    (r"zero shares", "you have no shares on this system; ask its administrators"),
    (r"under job_sort_formula threshold", "its priority is too low for now; it grows while it waits"),
    (r"resource: host|ineligible (?:state|type)|no PBS license", "the node that it needs is down or not in use now"),
    (r"PBS Error|Cannot provision", "PBS has tried to start it and failed; ask your administrators if it goes on"),
    (
        r"Insufficient amount of|Not enough |too few free resources|No available resources|exclusive node|won't fit on",
        _IN_USE,
    ),
    (r"^held \([^)]*[os][^)]*\)", "it is held by an administrator or by the system; ask them why"),
    (r"^held \([^)]*u[^)]*\)", "it is held by you: qrls JOBID"),
    (r"^suspended", "PBS has stopped it, to run others first, and continues it later"),
    (r"^waits until", "it may not start before a certain time"),
)
"""Patterns of what PBS says of a waiting job, and what it means. The first that fits counts. What there is to say is
OpenPBS's table of reasons in its scheduler's ``job_info``."""


def status_of(job: JobId, attributes: Mapping[str, str]) -> JobStatus:
    """The status of a job from what qstat told of it."""
    word = attributes.get("job_state", "")
    if word in OVER:
        return _ended(job, word, attributes)
    state = STATES.get(word, JobState.UNKNOWN)
    return JobStatus(
        id=job,
        state=state,
        name=attributes.get("Job_Name", ""),
        raw_state=word,
        reason=_why_it_waits(word, attributes) if state is JobState.PENDING else "",
        # one that was put back still has the host of its first run
        node="" if state is JobState.PENDING else _nodes(attributes),
        estimated_start=_time(attributes.get("estimated.start_time", "")) if state is JobState.PENDING else None,
    )


def _ended(job: JobId, word: str, attributes: Mapping[str, str]) -> JobStatus:
    is_torque = word == "C"
    code = _number(attributes.get("exit_status" if is_torque else "Exit_status"))
    state, reason = _end(code, word, attributes)
    return JobStatus(
        id=job,
        state=state,
        name=attributes.get("Job_Name", ""),
        raw_state=word,
        reason=reason,
        exit_code=code if code is not None and 0 <= code < 256 else None,
        signal=code - 256 if code is not None and 256 < code < 384 else None,
        node=_nodes(attributes),
    )


def _end(code: int | None, word: str, attributes: Mapping[str, str]) -> tuple[JobState, str]:
    """How it ended, and the reason in PBS's words or ours."""
    comment = attributes.get("comment", "")
    said = comment.rpartition(" and ")[2] if " and " in comment else comment
    told = said if said not in ("finished", "failed", "terminated") and not said.startswith("Job run at") else ""
    if attributes.get("substate") == DELETED:
        preempted = "preempt" in comment.lower()
        return JobState.PREEMPTED if preempted else JobState.CANCELLED, told or "deleted"
    if code is None and attributes.get("exec_host"):
        # what Torque's commands on top of Slurm say of every job that has run
        return JobState.ABSENT, told or "it has ended, nobody knows how"
    if code is None:
        # Torque says no more of a job that was deleted while it waited; in OpenPBS, a dependency was not met
        return (JobState.CANCELLED, told or "deleted") if word == "C" else (JobState.FAILED, told or "it was never run")
    if code < 0:
        known = (_TORQUE_CODES if word == "C" else _OPENPBS_CODES).get(code)
        state, meaning = known or (JobState.FAILED, "PBS could not run it")
        return state, told or f"{meaning} (exit status {code})"
    if code == 0:
        return JobState.COMPLETED, ""
    if word == "C" and code > 256 and _used_up(attributes):
        return JobState.TIMEOUT, told or "it reached its walltime"
    return JobState.FAILED, told


def _used_up(attributes: Mapping[str, str]) -> bool:
    """Whether a job has run for as long as it was allowed to: Torque only says that it was killed."""
    used = _clock(attributes.get("resources_used.walltime", ""))
    limit = _clock(attributes.get("Resource_List.walltime", ""))
    return used is not None and limit is not None and used >= limit


def _why_it_waits(word: str, attributes: Mapping[str, str]) -> str:
    comment = attributes.get("comment", "").strip()
    if word == "H":
        held = f"held ({attributes.get('Hold_Types', '') or 'u'})"
        # "Job held by USER on DATE": who has set the latest hold, not which holds there are
        return f"{held}: {comment}" if comment else held
    if comment:
        return comment
    match word:
        case "W":
            return f"waits until {attributes.get('Execution_Time', 'later')}"
        case "S" | "U":
            return "suspended"
    return ""


def explain(status: JobStatus) -> str:
    """What a waiting job's reason means and what to do about it; empty if there is nothing to add."""
    if not status.reason or status.state.is_over:
        return ""
    return next((text for pattern, text in MEANINGS if re.search(pattern, status.reason, re.IGNORECASE)), "")


def _nodes(attributes: Mapping[str, str]) -> str:
    """``n1/0*2+n2/0*2`` -> ``n1,n2``"""
    parts = attributes.get("exec_host", "").split("+")
    return ",".join(dict.fromkeys(part.partition("/")[0].strip() for part in parts if part.strip()))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,9}", text.strip()) else None


def _clock(text: str) -> int | None:
    match = re.fullmatch(r"([0-9]+):([0-9]+):([0-9]+)", text.strip())
    return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3]) if match else None


def _time(text: str) -> float | None:
    """``Tue Nov 24 06:36:31 2026`` (commands are run with TZ=UTC) or seconds since the epoch."""
    if re.fullmatch(r"[0-9]{9,}", text):
        return float(text)
    try:
        return datetime.strptime(text, "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
