"""When is a worker that died started again? Pure."""

from __future__ import annotations

from dataclasses import dataclass

GIVE_UP = 3
"""Deaths in a row before the worker had registered, after which another start would be no use."""
FIRST_DELAY = 0.1
MOST_DELAY = 5.0
HEALTHY = 10.0
"""Seconds of life after which earlier deaths are forgotten."""


@dataclass(slots=True)
class Restarts:
    """The history of one worker's place."""

    early: int = 0
    """Deaths in a row before it had registered."""
    deaths: int = 0
    """Deaths in a row of workers that did not live long."""

    def delay(self, *, registered: bool, lifetime: float) -> float | None:
        """It died: seconds until the next start, or None to give up."""
        self.early = 0 if registered else self.early + 1
        if self.early >= GIVE_UP:
            return None
        self.deaths = 0 if lifetime >= HEALTHY else self.deaths + 1
        if self.deaths <= 1 and registered:
            return 0.0
        return min(FIRST_DELAY * 2.0 ** min(self.deaths - 1, 10), MOST_DELAY)
