"""Large arguments on their way to workers: who submits waits while they are sent, but not for a worker to come.

Where there is no worker yet (its job may wait in a queue for hours), a copy stays here until there is one: the program may
change its own at any time. Lives on the loop thread.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hpccluster.errors import HpcClusterError
from hpccluster.runtime.data import Frames, frames_size
from hpccluster.units import format_bytes

if TYPE_CHECKING:
    from hpccluster.runtime.futures import Future
    from hpccluster.runtime.link import ClientLink

log = logging.getLogger("hpccluster.client")

PATIENCE = 0.2
"""Seconds that a submission waits for a worker to be named, while no other data waits."""
KEPT_LIMIT = 1024 * 1024 * 1024
"""Bytes of data that may wait for workers; who submits more has to wait, too."""


class Parcel:
    """One piece of data to be pushed."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self.size = frames_size(frames)
        self.lock = asyncio.Lock()
        """Held while the frames are sent, or copied."""


class Deliveries:
    """The data of one client that still waits for a worker."""

    def __init__(self, link: ClientLink) -> None:
        self._link = link
        self._waiting: dict[asyncio.Task[bool], tuple[int, Future[Any]]] = {}

    async def bring(self, future: Future[Any], parcel: Parcel) -> bool:
        """Returns as soon as the frames may be changed: they have been sent, or copied. False where no worker took them: the
        future's record has the error.
        """
        pushing = asyncio.get_running_loop().create_task(self._link.push(future._record, parcel, []))
        try:
            await asyncio.wait([pushing], timeout=0 if self._waiting else PATIENCE)
            if not pushing.done() and self._has_room(parcel.size):
                async with parcel.lock:
                    if not pushing.done():
                        parcel.frames = await asyncio.to_thread(_copy, parcel.frames)
                        self._keep(pushing, parcel.size, future)
                        return True
            return await pushing
        except asyncio.CancelledError:
            pushing.cancel()
            raise

    def close(self) -> None:
        """What has no worker yet will have none."""
        for pushing in self._waiting:
            pushing.cancel()

    def _has_room(self, size: int) -> bool:
        kept = sum(size for size, _ in self._waiting.values())
        if kept + size <= KEPT_LIMIT:
            return True
        log.warning(
            "%s of data wait here for a worker to take them: this call waits, too. Is there a worker (scale, cluster.jobs)?",
            format_bytes(kept + size),
        )
        return False

    def _keep(self, pushing: asyncio.Task[bool], size: int, future: Future[Any]) -> None:
        self._waiting[pushing] = size, future  # the future lives as long as its data is on the way
        pushing.add_done_callback(self._over)

    def _over(self, pushing: asyncio.Task[bool]) -> None:
        del self._waiting[pushing]
        with suppress(HpcClusterError, asyncio.CancelledError):  # the connection has ended: so its futures say
            pushing.result()


def _copy(frames: Frames) -> Frames:
    return [bytes(frame) for frame in frames]
