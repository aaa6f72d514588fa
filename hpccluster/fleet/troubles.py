"""What went wrong lately, as errors for those who wait: each of them is told once, and not of what is mended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hpccluster.errors import HpcClusterError, JobDied


class Changes:
    """Lets coroutines wait for a condition: they look again after each change, and at no other time."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def announce(self) -> None:
        """Something has changed."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait_until(self, is_true: Callable[[], bool]) -> None:
        """Return when the condition holds."""
        while not is_true():
            await self._next.wait()


class Troubles:
    """Refusals and deaths, counted so that a caller can tell what happened since it began to wait."""

    def __init__(self) -> None:
        self.refusals = 0
        self.last_refusal: HpcClusterError | None = None
        self.last_hold: HpcClusterError | None = None
        """The last refusal that meant "not now"."""
        self.alarms = 0
        self.last_death: JobDied | None = None
        self.told = 0
        """Alarms up to this one were raised to somebody, or made good by a worker that joined."""

    def refused(self, error: HpcClusterError, *, held: bool = False) -> None:
        """A submission was refused; ``held``: it is tried again."""
        if held:
            self.last_hold = error
            return
        self.refusals += 1
        self.last_refusal = error

    def died(self, error: JobDied, *, alarm: bool) -> None:
        """A job was of no use; ``alarm`` if whoever waits should know."""
        self.last_death = error
        self.alarms += alarm

    def settle(self) -> None:
        """What has happened up to now is told or made good."""
        self.told = self.alarms
