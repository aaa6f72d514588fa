"""Tells the machine that time has passed: when it has asked for it, and as often as the load is to be looked at."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress

from hpccluster.state.fleet.state import FleetState

_LOAD_INTERVAL = 30.0
"""Seconds between looks at the load while only the idle timeout of `scale` depends on it."""
_RECALL_INTERVAL = 1.0
"""The same while jobs were let go that are to come back with new work."""
_LEAST_INTERVAL = 0.01
"""Between ticks, whatever the deadlines say: a wrong one must not keep the loop busy."""


class Timekeeper:
    """Calls ``tick`` in time. `rearm` after every change of the machine: its next deadline may have moved."""

    def __init__(self, state: FleetState, tick: Callable[[], None], clock: Callable[[], float]) -> None:
        self._state = state
        self._tick = tick
        self._clock = clock
        self._rearmed = asyncio.Event()

    def rearm(self) -> None:
        """Look at the deadlines again."""
        self._rearmed.set()

    async def run(self) -> None:
        """Tick until cancelled."""
        last = self._clock()
        while True:
            due = min(self._state.next_deadline(), last + self._load_interval())
            left = max(due, last + _LEAST_INTERVAL) - self._clock()
            if left > 0:
                self._rearmed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if left == math.inf else left):
                        await self._rearmed.wait()
                continue
            last = self._clock()
            self._tick()

    def _load_interval(self) -> float:
        state, idle = self._state, self._state.policy.idle_timeout
        if state.is_closing or (state.limits is None and not state.target and not state.jobs):
            return math.inf
        if state.limits is not None:
            return state.limits.interval
        if state.released:
            return _RECALL_INTERVAL
        return _LOAD_INTERVAL if idle is None else min(_LOAD_INTERVAL, max(idle / 2, 0.01))
