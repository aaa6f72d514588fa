"""How many jobs the load deserves. Pure: the caller keeps the history between calls.

Growing is immediate, shrinking is slow. The wish is computed from the expected duration of the queued work; what it *was*
lately is remembered, and the fleet shrinks only to the highest wish of that window, so that a load that goes up and down
does not make jobs that have waited in the queue for an hour lose their place. Only jobs that wait or are idle leave; jobs
are never split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hpccluster.errors import ConfigError
from hpccluster.ids import JobName
from hpccluster.resources import JobResources

UNKNOWN_DURATION = 0.5
"""Seconds that a task is taken for while no duration of any queued task is known."""

PENDING_PATIENCE = 60.0
"""A waiting job leaves when it was not needed for this long (or for ``idle_timeout`` if that is shorter)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptSettings:
    """What ``cluster.adapt(...)`` is told: limits in workers, jobs, cores or bytes of memory; the narrowest count."""

    minimum: int = 0
    """Workers."""
    maximum: int | None = None
    minimum_jobs: int = 0
    maximum_jobs: int | None = None
    minimum_cores: int = 0
    maximum_cores: int | None = None
    minimum_memory: int = 0
    """Bytes."""
    maximum_memory: int | None = None
    target_duration: float = 5.0
    """Seconds in which the work that is known now should be done."""
    interval: float = 1.0
    """Seconds between decisions."""
    wait_count: int = 3
    """Decisions in a row that must find jobs to be too many before any leaves."""
    idle_timeout: float = 300.0
    """Seconds that a job's workers must all have been idle before it leaves."""
    max_pending: int | None = 50
    """Jobs that may wait in the queue at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptLimits:
    """`AdaptSettings` for one kind of job: everything in whole jobs."""

    minimum: int = 0
    maximum: int | None = None
    target_duration: float = 5.0
    interval: float = 1.0
    wait_count: int = 3
    idle_timeout: float = 300.0
    max_pending: int | None = None


def limits_in_jobs(settings: AdaptSettings, resources: JobResources) -> AdaptLimits:
    """Settings -> limits in whole jobs: minima are rounded up, maxima down (but not to zero).

    Raises `ConfigError` for limits that contradict one another, and for memory limits where jobs have none.
    """
    _check(settings, resources)
    per_job = (resources.processes, 1, resources.cores, resources.memory or 1)
    minima = (settings.minimum, settings.minimum_jobs, settings.minimum_cores, settings.minimum_memory)
    maxima = (settings.maximum, settings.maximum_jobs, settings.maximum_cores, settings.maximum_memory)
    least = max(-(-value // size) for value, size in zip(minima, per_job, strict=True))
    given = [(value, size) for value, size in zip(maxima, per_job, strict=True) if value is not None]
    most = min((max(value // size, min(value, 1)) for value, size in given), default=None)
    if most is not None and least > most:
        raise ConfigError(
            f"adapt: the minimum needs {least} jobs but the maximum allows {most} "
            f"(workers a job: {resources.processes}, cores: {resources.cores})"
        )
    return AdaptLimits(
        minimum=least,
        maximum=most,
        target_duration=settings.target_duration,
        interval=settings.interval,
        wait_count=settings.wait_count,
        idle_timeout=settings.idle_timeout,
        max_pending=settings.max_pending,
    )


def _check(settings: AdaptSettings, resources: JobResources) -> None:
    for name in ("target_duration", "interval"):
        if not getattr(settings, name) > 0:
            raise ConfigError(f"adapt: {name}={getattr(settings, name)}: must be above zero")
    names = [f"{end}{unit}" for end in ("minimum", "maximum") for unit in ("", "_jobs", "_cores", "_memory")]
    for name in (*names, "wait_count", "idle_timeout", "max_pending"):
        value = getattr(settings, name)
        if value is not None and value < 0:
            raise ConfigError(f"adapt: {name}={value}: must not be negative")
    if resources.memory is None and (settings.minimum_memory or settings.maximum_memory is not None):
        raise ConfigError("adapt: a limit of memory needs jobs with a memory of their own; set memory=")


class JobView(NamedTuple):
    """A job as far as `decide` must know it."""

    name: JobName
    waits: bool
    """No worker of it has joined yet."""
    idle_since: float | None = None
    """Since when all of its workers have had nothing to do."""


class Wish(NamedTuple):
    """What was wished for at a time."""

    time: float
    jobs: int


class Decision(NamedTuple):
    """What to do now."""

    target: int
    """Jobs to have, not counting those that leave."""
    leave: tuple[JobName, ...]
    history: tuple[Wish, ...]
    """To be given to the next call."""


def decide(
    limits: AdaptLimits,
    *,
    queued: int,
    unfinished: int,
    expected_seconds: float,
    jobs: Sequence[JobView],
    cores_per_job: int,
    history: Sequence[Wish],
    now: float,
) -> Decision:
    """Decide how many jobs to have, and which of ``jobs`` (oldest first) leave."""
    busy = sum(1 for job in jobs if not job.waits and job.idle_since is None)
    cores = _wanted_cores(limits, queued=queued, unfinished=unfinished, seconds=expected_seconds,
                          busy_cores=busy * cores_per_job)  # fmt: skip
    wish = max(limits.minimum, -(-cores // cores_per_job))
    if limits.maximum is not None:
        wish = min(wish, limits.maximum)
    recent = _recent((*history, Wish(now, wish)), limits, now)
    if wish > len(jobs):
        return Decision(_grown(wish, jobs, limits), (), recent)
    too_many = 0 if limits.maximum is None else len(jobs) - limits.maximum
    settled = len(recent) >= limits.wait_count and recent[0].time <= now - min(limits.idle_timeout, PENDING_PATIENCE)
    surplus = len(jobs) - max(entry.jobs for entry in recent) if settled else 0
    waiting = [job.name for job in reversed(jobs) if job.waits]
    leave = (waiting + _idle(jobs, now - limits.idle_timeout))[: max(0, surplus)]
    if len(leave) < too_many:
        # Above a maximum that was lowered, busy jobs retire, too: the youngest first, as with scale().
        stay = [job.name for job in reversed(jobs) if job.name not in leave]
        order = [name for name in (*waiting, *_idle(jobs, now)) if name in stay]
        order += [name for name in stay if name not in order]
        leave += order[: too_many - len(leave)]
    return Decision(len(jobs) - len(leave), tuple(leave), recent)


def _wanted_cores(limits: AdaptLimits, *, queued: int, unfinished: int, seconds: float, busy_cores: int) -> int:
    """Cores that would do the work that is known now within the target duration, but no more than tasks could use."""
    if not unfinished:
        return 0
    expected = seconds if seconds > 0 else queued * UNKNOWN_DURATION
    could_run = min(unfinished, queued + busy_cores)
    return max(1, min(math.ceil(expected / limits.target_duration), could_run))


def _grown(wish: int, jobs: Sequence[JobView], limits: AdaptLimits) -> int:
    if limits.max_pending is None:
        return wish
    room = max(0, limits.max_pending - sum(1 for job in jobs if job.waits))
    return min(wish, len(jobs) + room)


def _idle(jobs: Sequence[JobView], since: float) -> list[JobName]:
    """Jobs that have been idle since before that time, the longest idle first."""
    idle = [(job.idle_since, job.name) for job in jobs if job.idle_since is not None and job.idle_since <= since]
    return [name for _, name in sorted(idle)]


def _recent(history: tuple[Wish, ...], limits: AdaptLimits, now: float) -> tuple[Wish, ...]:
    """The wishes of the window: one entry from before its beginning is kept, as proof that it is covered."""
    begin = now - min(limits.idle_timeout, PENDING_PATIENCE)
    first = 0
    while len(history) - first > max(1, limits.wait_count) and history[first + 1].time <= begin:
        first += 1
    return history[first:]
