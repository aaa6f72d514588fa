"""When the pool may submit again after something went wrong: no endless loop of submissions, whatever the cause.

Kinds of trouble do not add up: each starts its own count. A count ends with the proof that the trouble is over: a worker
that joined (after early deaths), a job that lived for a while (after brief lives), an accepted submission (after
refusals, limits and unclear answers), or a new wish of the user.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from hpccluster.ids import JobName

PAUSE_AFTER = 3
"""Deaths in a row after which the pool is paused."""

_DEATH_DELAYS = (0.0, 15.0, 60.0, 300.0)
"""Seconds from the n-th death in a row to the next submission. After one more the pool stays paused, or, where a job of
this specification has worked before (so that the cause lies elsewhere), tries again every quarter of an hour."""
_LATER_DELAY = 900.0
_REFUSAL_DELAYS = (60.0, 300.0, 900.0)
_UNCLEAR_DELAYS = (0.0, 15.0, 60.0, 300.0, 900.0)
_LIMIT_DELAY = 20.0

UNLIMITED = 1 << 30


class Trouble(StrEnum):
    """What keeps the pool from submitting."""

    NONE = "none"
    EARLY_DEATH = "early death"
    """Jobs end before any of their workers joined."""
    BRIEF_LIFE = "brief life"
    """Jobs end by a fault soon after their workers joined."""
    REFUSED = "refused"
    """The batch system refuses jobs that nobody waits for: a replacement, or adaptive growth."""
    LIMIT = "limit"
    """The batch system allows no more jobs just now."""
    UNCLEAR = "unclear"
    """Submissions fail in a way that leaves open whether there is a job, and none shows up."""


@dataclass(slots=True)
class Brake:
    """The trouble that there is, and what it allows."""

    trouble: Trouble = Trouble.NONE
    count: int = 0
    """Times in a row."""
    until: float = -math.inf
    """Nothing is submitted before."""
    cause: str = ""
    nodes: set[str] = field(default_factory=set)
    """Where it happened; with an empty text for a place that is not known."""
    probe: JobName | None = None
    """The one job that was submitted to see whether the trouble is over."""
    worked: bool = False
    """Whether a worker of this pool has ever joined."""

    @property
    def is_probing(self) -> bool:
        """Whether jobs go out one at a time only."""
        if self.trouble in (Trouble.EARLY_DEATH, Trouble.BRIEF_LIFE):
            return self.count >= PAUSE_AFTER
        return self.trouble is not Trouble.NONE

    @property
    def is_final(self) -> bool:
        """Whether only a new wish of the user ends the pause."""
        return self.until == math.inf

    @property
    def only_node(self) -> str:
        """The one node where all of it happened; empty where there are several, or one is not known."""
        return next(iter(self.nodes)) if len(self.nodes) == 1 else ""

    def meet(self, trouble: Trouble, cause: str, now: float, *, node: str = "") -> None:
        """Count one more of this trouble and wait accordingly."""
        if trouble is not self.trouble:
            self.trouble, self.count, self.nodes = trouble, 0, set()
        self.count += 1
        self.cause = cause
        self.nodes.add(node)
        self.probe = None
        self.until = max(self.until, now + self._delay())

    def allowance(self, now: float) -> int:
        """How many jobs may be submitted now."""
        if now < self.until:
            return 0
        if not self.is_probing:
            return UNLIMITED
        return 0 if self.probe is not None else 1

    def is_over(self, *troubles: Trouble) -> bool:
        """Release the brake if it was held by one of these troubles; says whether jobs had been held back by it."""
        if self.trouble not in troubles:
            return False
        held = self.is_probing
        self.release()
        return held

    def release(self) -> None:
        """Forget the trouble."""
        self.trouble, self.count, self.until, self.cause, self.probe = Trouble.NONE, 0, -math.inf, "", None
        self.nodes = set()

    def _delay(self) -> float:
        if self.trouble is Trouble.LIMIT:
            return _LIMIT_DELAY
        if self.trouble is Trouble.UNCLEAR:
            return _UNCLEAR_DELAYS[min(self.count, len(_UNCLEAR_DELAYS)) - 1]
        if self.trouble is Trouble.REFUSED:
            return _REFUSAL_DELAYS[min(self.count, len(_REFUSAL_DELAYS)) - 1]
        if self.count <= len(_DEATH_DELAYS):
            return _DEATH_DELAYS[self.count - 1]
        return _LATER_DELAY if self.worked else math.inf
