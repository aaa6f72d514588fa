"""What the end of a job means that nobody wanted to end."""

from __future__ import annotations

from enum import StrEnum

from hpccluster.job import JobState, JobStatus
from hpccluster.state.fleet.records import JobRecord


class Ending(StrEnum):
    """How much blame there is."""

    EARLY_DEATH = "early death"
    """It ended before any worker joined, and its specification may be why."""
    BRIEF_LIFE = "brief life"
    """It ended by a fault soon after its first worker joined."""
    EXPECTED = "expected"
    """Walltime, preemption, a lost node, somebody's cancel, or after a life of use: nobody's fault that we could avoid."""


def judge(record: JobRecord, state: JobState, *, now: float, brief_life: float) -> Ending:
    """What the end in that state means.

    A job that reached its walltime before any worker joined is an early death, too: the next one would waste as much. So is
    one that somebody else cancelled before that; replaced once or twice, it is not forced on him for ever.
    """
    if state in (JobState.PREEMPTED, JobState.NODE_FAIL):
        return Ending.EXPECTED
    if record.joined_at is None:
        return Ending.EARLY_DEATH
    if state in (JobState.TIMEOUT, JobState.CANCELLED) or now - record.joined_at >= brief_life:
        return Ending.EXPECTED
    return Ending.BRIEF_LIFE


def describe(status: JobStatus | None) -> str:
    """The end in a few words: ``FAILED, exit code 127, node n017``."""
    if status is None or status.state is JobState.ABSENT:
        return "no longer listed, cause unknown"
    words = [status.state.value]
    if status.reason and status.reason.lower() not in ("none", status.state.value.lower()):
        words[0] += f" ({status.reason})"
    if status.exit_code is not None:
        words.append(f"exit code {status.exit_code}")
    if status.signal:
        words.append(f"signal {status.signal}")
    if status.node:
        words.append(f"node {status.node}")
    return ", ".join(words)
