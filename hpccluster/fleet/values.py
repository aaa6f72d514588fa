"""What the fleet is given and what it answers: plain values that become JSON. They know nothing of how it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from hpccluster.units import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """How the fleet treats the batch system. Times are seconds."""

    idle_timeout: float | None = 1800.0
    """Under `scale`: jobs that have been idle this long, with no work left, hand over and go; None keeps them."""
    concurrent_submissions: int = 4
    poll_first: float = 1.0
    """From an event to the first poll; polls get rarer from there."""
    poll_interval: float | None = None
    """Between polls while something can change; None takes the backend's."""
    poll_slowest: float | None = None
    """Between polls when nothing has changed for long, or the batch system does not answer; None takes the backend's."""
    poll_rare: float = 300.0
    """Between polls while nothing can change."""
    command_timeout: float = 60.0
    """Until a poll, cancel or look at logs counts as failed."""
    submit_timeout: float = 120.0
    """Until a submission counts as doubtful."""
    silence: float = 120.0
    """Until a running job that all its workers have left counts as lost; see `FleetPolicy.silence`."""
    leave_patience: float = 5.0
    """How long `scale` waits for jobs that leave; they go on leaving afterwards."""
    log_lines: int = 20
    """Lines of a dead job's log in its error."""
    log_patience: float = 3.0
    """How long a dead job's log may take to appear on a shared file system."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan:
    """What `scale` decided. Its text, also at a prompt, reads ``Plan: 4 jobs x 4 workers x 2 threads = 32 cores, 4 x 32 GB``."""

    jobs: int
    workers_per_job: int
    threads: int | None
    """Per worker; None where it has all cores of its host, as the next."""
    cores: int | None
    """Of all jobs together."""
    memory: int | None
    """Of one job, in bytes; None where it is not limited."""
    held: int = 0
    """Jobs that are not submitted yet, since the batch system takes no more now."""

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Plan:
        """The plan that was sent as JSON."""
        return msgspec.convert(plain, cls)

    @property
    def workers(self) -> int:
        """Of all jobs together."""
        return self.jobs * self.workers_per_job

    def __str__(self) -> str:
        if not self.jobs:
            return "Plan: no jobs"
        text = f"Plan: {_count(self.jobs, 'job')} x {_count(self.workers_per_job, 'worker')}"
        if self.threads is None or self.cores is None:
            text += " with all cores of their hosts"
        else:
            text += f" x {_count(self.threads, 'thread')} = {_count(self.cores, 'core')}"
        if self.memory is not None:
            text += f", {self.jobs} x {_format_memory(self.memory)}"
        if self.held:
            text += f" ({self.held} held back until there is room)"
        return text

    __repr__ = __str__


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One job, for people and programs."""

    name: str
    id: str
    """The batch system's; empty while it is being submitted."""
    state: str
    """A `hpccluster.job.JobState`."""
    phase: str
    """Where it stands with the fleet: submitting, doubtful, pending, running, retiring, cancelling, over."""
    reason: str
    """Why it waits or how it ended."""
    meaning: str
    """What the batch system's reason means, where there is something to say."""
    node: str
    age_seconds: float
    """Since it was submitted; of one that is over, until it ended."""
    exit_code: int | None
    workers: int
    """Connected now."""
    expected_workers: int
    estimated_start: float | None
    """Seconds since the epoch, where the batch system makes a guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReport:
    """What became of the jobs when the fleet was closed."""

    cancelled: tuple[str, ...] = ()
    """Names of jobs that were ended, verified."""
    unconfirmed: tuple[str, ...] = ()
    """Names of jobs that may still be there."""
    problem: str = ""
    """What the batch system said when it was last asked for their end."""

    def __str__(self) -> str:
        text = f"{_count(len(self.cancelled), 'job')} ended"
        if self.unconfirmed:
            text += f"; not verified to be gone: {', '.join(self.unconfirmed)}"
        return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _format_memory(size: int) -> str:
    """As people write it: 32 GB for 32 * 10**9 bytes, 32 GiB for 32 * 2**30."""
    for factor, unit in ((10**12, "TB"), (2**40, "TiB"), (10**9, "GB"), (2**30, "GiB"), (10**6, "MB")):
        if size % factor == 0 and size >= factor:
            return f"{size // factor} {unit}"
    return format_bytes(size)
