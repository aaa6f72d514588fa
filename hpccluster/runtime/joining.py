"""Looking for the scheduler until it is there, without a thousand workers coming at the same instant."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hpccluster.comm.connect import NOBODY_LISTENS
from hpccluster.errors import PeerLost

FIRST_RETRY = 0.05
MOST_RETRY = 2.0
"""Seconds between two tries, at first and at most."""
HEAD_GONE = 5.0
"""Seconds of nothing but refused connections after which a job's head counts as dead: it listens before it submits."""
CONNECT_TIME = 10.0
"""Seconds for one try."""

T = TypeVar("T")


def jitter(seconds: float) -> float:
    """About that time: what many processes do in the same rhythm is spread out."""
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311 - nothing secret


async def find_scheduler(join: Callable[[float], Awaitable[T]], *, timeout: float, gone_after: float = math.inf) -> T:
    """Call ``join`` (with the seconds it may take) until it succeeds; after ``timeout`` seconds raise its last `PeerLost`.

    It is raised after ``gone_after`` seconds already, where the scheduler's host has said all that time that nobody listens.
    Other errors are final: whoever is turned away once is turned away again.
    """
    loop = asyncio.get_running_loop()
    begun = refused_since = loop.time()
    deadline = begun + timeout
    delay = FIRST_RETRY
    while True:
        try:
            return await join(min(CONNECT_TIME, max(deadline - loop.time(), 0.1)))
        except PeerLost as error:
            now = loop.time()
            if not error.details.get(NOBODY_LISTENS):
                refused_since = now
            left = min(deadline, refused_since + gone_after) - now
            if left <= 0:
                looked = timeout if now >= deadline else round(now - begun)
                raise PeerLost(f"no head was found within {looked:g} s\n{error}", code=error.code) from error
        await asyncio.sleep(min(jitter(delay), left))
        delay = min(2 * delay, MOST_RETRY)
