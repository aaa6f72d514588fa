"""One poll for all jobs: quick after something happened, rarer the longer nothing does, and none without need."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

from hpccluster.backend.base import Backend
from hpccluster.errors import HpcClusterError
from hpccluster.fleet import answers
from hpccluster.fleet.asking import ask
from hpccluster.ids import JobId
from hpccluster.job import JobStatus
from hpccluster.state.fleet import events
from hpccluster.state.fleet.book import Watch

_GROWTH = 1.5
_QUIET_ROUNDS = 10
"""Polls at the normal interval without news before they get rarer still."""
_URGENT = 5.0
"""Seconds between polls at most, while somebody waits for the end of jobs, and whether the system answers or not."""
_HURRY_AGAIN = 2.0
"""Intervals from one quick series of polls to the next: where something happens all the time, haste is no use."""


@dataclass(slots=True)
class Pace:
    """When to poll next. Pure: fed with what polls brought."""

    first: float
    interval: float
    slowest: float
    rare: float
    failures: int = 0
    _delay: float = 0.0
    _quiet: int = 0
    _hurried_at: float = -math.inf

    def __post_init__(self) -> None:
        self.first = min(self.first, self.interval)
        self.slowest = max(self.slowest, self.interval)
        self._delay = self.first

    def hurry(self, now: float) -> None:
        """Something happened."""
        self._quiet = 0
        self._delay = min(self._delay, self.interval)
        if now >= self._hurried_at + _HURRY_AGAIN * self.interval:
            self._delay, self._hurried_at = self.first, now

    def polled(self, *, is_news: bool) -> None:
        """A poll was successful."""
        self.failures = 0
        self._quiet = 0 if is_news else self._quiet + 1
        ceiling = self.interval if self._quiet <= _QUIET_ROUNDS else self.slowest
        self._delay = min(self._delay * _GROWTH, ceiling)

    def failed(self) -> None:
        """A poll failed."""
        self.failures += 1

    def delay(self, watch: Watch) -> float:
        """Seconds to the next poll; infinite if there is nothing to ask for."""
        if not watch.ids and not watch.names:
            return math.inf
        if not watch.is_changing:
            return self.rare
        delay = self._delay
        if self.failures:
            delay = min(max(delay, 1.0) * 2.0 ** min(self.failures, 16), self.slowest)
        if watch.is_urgent:
            delay = min(delay, self.interval, _URGENT)
        return delay


class Poller:
    """Asks, tells what it heard, decides nothing."""

    def __init__(
        self,
        backend: Backend,
        *,
        pace: Pace,
        watch: Callable[[], Watch],
        tell: Callable[[list[events.FleetEvent]], None],
        clock: Callable[[], float],
        spread: Callable[[float], float],
        timeout: float,
    ) -> None:
        self._backend = backend
        self._pace = pace
        self._watch = watch
        self._tell = tell
        self._clock = clock
        self._spread = spread
        self._timeout = timeout
        self._woken = asyncio.Event()
        self._last: dict[JobId, JobStatus] = {}

    def wake(self) -> None:
        """Something happened that the batch system knows more about."""
        self._woken.set()

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self._wait()
            await self._poll()

    async def _wait(self) -> None:
        """Until the next poll is due. Being woken makes it due sooner, never later, however often it happens."""
        due = self._clock() + self._spread(self._pace.delay(self._watch()))
        while (left := due - self._clock()) > 0:
            try:
                async with asyncio.timeout(None if left == math.inf else left):
                    await self._woken.wait()
            except TimeoutError:
                return
            self._woken.clear()
            self._pace.hurry(self._clock())
            # Not at once: the batch system needs a moment to know, and what happens together is asked for together.
            # Were nothing expected, this event would still be worth a look.
            delay = min(self._pace.delay(self._watch()), self._pace.interval)
            due = min(due, self._clock() + self._spread(delay))

    async def _poll(self) -> None:
        watch, begun = self._watch(), self._clock()
        heard: list[events.FleetEvent] = []
        try:
            if watch.ids:
                statuses = await ask(
                    lambda: self._backend.poll(watch.ids),
                    doing="poll",
                    timeout=self._timeout,
                    check=answers.statuses(watch.ids),
                )
                heard.append(events.Polled(statuses, begun))
                is_news, self._last = statuses != self._last, statuses
                self._pace.polled(is_news=is_news)
            if watch.names:
                names = await ask(
                    lambda: self._backend.find(watch.names),
                    doing="look for jobs",
                    timeout=self._timeout,
                    check=answers.found(watch.names),
                )
                heard.append(events.Found(watch.names, names))
                if not watch.ids:
                    self._pace.polled(is_news=bool(names))
        except HpcClusterError as error:
            self._pace.failed()
            heard.append(events.PollFailed(str(error)))
        self._tell(heard)
