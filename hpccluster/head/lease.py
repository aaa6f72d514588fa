"""Whether the owner of a cluster is still there.

A head belongs to the process that started it, and both are on one host. The owner holds the write end of a pipe that
nobody else inherits: when the pipe closes, the owner is *proven* dead, however it died, and only then. There are no
heartbeats: an owner that is suspended, or computes without releasing the GIL, is alive and stays so. A process that takes a
cluster over later (the same cell of a restarted notebook) is watched by its pidfd, which proves the same.

Must not know what happens when the lease is over.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from hpccluster.errors import ClusterError
from hpccluster.head.directory import process_start


class Lease:
    """Calls ``on_over`` once, on the loop, when the owner has been gone for ``linger`` seconds."""

    def __init__(self, linger: float, on_over: Callable[[str], None]) -> None:
        self._linger = linger
        self._on_over = on_over
        self._descriptor: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._owner = 0

    @property
    def is_owned(self) -> bool:
        """Whether the owner is not known to be dead."""
        return self._descriptor is not None

    @property
    def owner(self) -> int:
        """The owner's process id, where it is known."""
        return self._owner

    def watch_pipe(self, descriptor: int, owner: int) -> None:
        """Hold the lease while the other end of this pipe is open. Takes the descriptor over."""
        self._watch(descriptor, owner, self._pipe_readable)

    def take_over(self, pid: int, start: str, linger: float) -> None:
        """Hold the lease for another process of this host from now on.

        Raises `ClusterError` where it is not there, or while the former owner lives.
        """
        if self.is_owned and pid != self._owner:
            raise ClusterError(f"the cluster belongs to process {self._owner}, which is alive")
        if pid <= 1 or process_start(pid) != start or not hasattr(os, "pidfd_open"):
            raise ClusterError(f"process {pid} cannot be watched from here")
        if self.is_owned:
            return
        self._linger = linger
        self._watch(os.pidfd_open(pid), pid, self._owner_gone)

    def end(self) -> None:
        """Watch no longer. Idempotent."""
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self, descriptor: int, owner: int, on_readable: Callable[[], None]) -> None:
        self.end()
        self._descriptor = descriptor
        self._owner = owner
        asyncio.get_running_loop().add_reader(descriptor, on_readable)

    def _unwatch(self) -> None:
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _pipe_readable(self) -> None:
        assert self._descriptor is not None
        try:
            if os.read(self._descriptor, 4096):
                return  # nothing is ever said here after the specification
        except BlockingIOError:
            return
        self._owner_gone()

    def _owner_gone(self) -> None:
        self._unwatch()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._linger, self._on_over, f"its owner (process {self._owner}) is gone")
