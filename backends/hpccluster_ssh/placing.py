"""On which host the next job goes. Pure: the caller tells the time, and what became of each job.

A host whose job was of no use rests for a while, longer each time, and comes after those that work: one broken host costs
a job now and then, and never the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpccluster.errors import SubmitRefused
from hpccluster_ssh.options import HostOptions

FULL_CODE = "HPC-SUBMIT-FULL"
SETTLED = 60.0
"""Seconds after which a job has been of use, and what went wrong with its host before is forgotten."""
_RESTS = (15.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds of rest after the n-th failure in a row."""


@dataclass(slots=True, eq=False)
class Place:
    """One host, and how it fares."""

    host: HostOptions
    index: int
    jobs: int = 0
    """How many of our jobs are there now."""
    failures: int = 0
    """Jobs in a row that were of no use."""
    rests_until: float = -math.inf
    problem: str = ""
    """What went wrong last."""

    @property
    def name(self) -> str:
        return self.host.name

    def failed(self, problem: str, *, now: float, lived: float) -> None:
        """A job there has ended though nobody wanted it, after ``lived`` seconds."""
        self.failures = 1 if lived >= SETTLED else self.failures + 1
        self.problem = problem
        self.rests_until = now + _RESTS[min(self.failures, len(_RESTS)) - 1]

    def was_of_use(self) -> None:
        """A job there has lived for a while."""
        self.failures, self.problem, self.rests_until = 0, "", -math.inf


class Places:
    """All hosts of a cluster."""

    def __init__(self, hosts: Sequence[HostOptions]) -> None:
        self.all = [Place(host, index) for index, host in enumerate(hosts)]

    def take(self, now: float) -> Place:
        """The host for one more job, which counts there at once.

        Raises `SubmitRefused` (``HPC-SUBMIT-FULL``) that says of every host why not.
        """
        free = [place for place in self.all if place.jobs < place.host.jobs and place.rests_until <= now]
        if not free:
            raise self._full(now)
        place = min(free, key=lambda place: (place.failures > 0, place.jobs / place.host.jobs, place.index))
        place.jobs += 1
        return place

    def forgive(self) -> None:
        """Try hosts again that rest; they come last all the same."""
        for place in self.all:
            place.rests_until = -math.inf

    def leave(self, place: Place) -> None:
        """A job there is over."""
        place.jobs -= 1

    def _full(self, now: float) -> SubmitRefused:
        broken = [place for place in self.all if place.rests_until > now]
        used = sum(1 for place in self.all if place.jobs >= place.host.jobs)
        lines = [
            f"no host for one more job: of {len(self.all)} hosts {used} are in use, {len(broken)} have failed lately"
        ]
        for place in broken:
            first, *rest = place.problem.splitlines()
            lines += [f"  {first}, tried again in {place.rests_until - now:.0f} s", *(f"  {line}" for line in rest)]
        text = "\n".join(lines)
        return SubmitRefused(text, code=FULL_CODE, details={"said": lines[min(1, len(lines) - 1)].strip()})
