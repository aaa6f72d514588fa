"""The synchronous side of `Control`: connects when it is first used, from whatever thread.

Must not know what the operations mean, but for the wait with progress.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hpccluster.cluster.control import Control, OnNotice
from hpccluster.cluster.views import Jobs, format_waiting
from hpccluster.errors import PeerLost
from hpccluster.runtime import sync

T = TypeVar("T")

PROGRESS_DELAY = 0.3
PROGRESS_INTERVAL = 1.0


class Remote:
    """Questions to one head from any thread."""

    def __init__(self, file: Path, on_notice: OnNotice | None = None) -> None:
        self._file = file
        self._on_notice = on_notice
        self._control: Control | None = None
        self._connecting = asyncio.Lock()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run this on the loop thread and wait for it."""
        return sync.run(work)

    def ask(self, operation: str, *, wait: float | None = None, **arguments: Any) -> Any:
        """The head's answer, within ``wait`` seconds. Raises the error that it answers with, or a `CommError`."""
        return self.run(self._ask(operation, wait, arguments))

    async def request(self, operation: str, **arguments: Any) -> Any:
        """The same on the loop thread."""
        return await (await self._connected()).request(operation, **arguments)

    def close(self) -> None:
        """Idempotent, bounded."""
        self.run(self._close())

    async def _ask(self, operation: str, wait: float | None, arguments: dict[str, Any]) -> Any:
        try:
            async with asyncio.timeout(wait):
                return await self.request(operation, **arguments)
        except TimeoutError:
            raise PeerLost(f"the head did not answer within {wait:g} s") from None

    async def _connected(self) -> Control:
        async with self._connecting:
            if self._control is None or not self._control.is_connected:
                self._control = await Control.connect(self._file, on_notice=self._on_notice)
            return self._control

    async def _close(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            await control.close()


async def wait_with_progress(remote: Remote, n: int | None, timeout: float | None) -> None:
    """Wait for workers; say on a terminal, after a moment, what the wait is for."""
    waiting = asyncio.ensure_future(remote.request("wait_for_workers", n=n, timeout=timeout))
    shown = False
    pause = PROGRESS_DELAY
    try:
        while not (await asyncio.wait({waiting}, timeout=pause if _is_on_terminal() else None))[0]:
            info, jobs = await asyncio.gather(remote.request("info"), remote.request("jobs"))
            line = format_waiting(info["workers"], info["expected_workers"] if n is None else n, Jobs.from_plain(jobs))
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
            shown, pause = True, PROGRESS_INTERVAL
        await waiting
    finally:
        waiting.cancel()
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _is_on_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, the program has closed it, or has put something else there
        return False
