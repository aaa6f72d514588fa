"""Goes on cancelling what a teardown could not confirm, after everybody who waited has been told.

A frozen controller may take a cancel minutes later, or bring a job back. Must not know the state of the fleet: it looks for the names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from functools import partial

from hpccluster.backend.base import Backend
from hpccluster.errors import HpcClusterError
from hpccluster.fleet import answers
from hpccluster.fleet.asking import ask
from hpccluster.ids import JobName

_log = logging.getLogger(__name__)

DURATION = 600.0
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 20.0
ASK_TIMEOUT = 60.0
LOOKS = 2
"""Successful looks in a row that must not find a name before its job counts as gone."""


async def reap(
    backend: Backend, names: Collection[JobName], *, duration: float = DURATION, first_pause: float = FIRST_PAUSE
) -> frozenset[JobName]:
    """Look for these jobs and cancel them, until they are gone or ``duration`` seconds are over; those that are left."""
    left = dict.fromkeys(names, 0)
    pause = first_pause
    try:
        async with asyncio.timeout(duration):
            while left:
                try:
                    names_left = tuple(left)
                    found = await ask(
                        partial(backend.find, names_left),
                        doing="look for jobs",
                        timeout=ASK_TIMEOUT,
                        check=answers.found(names_left),
                    )
                    if found:
                        ids = tuple(found.values())
                        await ask(
                            partial(backend.cancel, ids), doing="cancel jobs", timeout=ASK_TIMEOUT, check=answers.report
                        )
                except HpcClusterError as error:
                    _log.info("not yet: %s", error)
                else:
                    left = {name: 0 if name in found else looks + 1 for name, looks in left.items()}
                    left = {name: looks for name, looks in left.items() if looks < LOOKS}
                if left:
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, LONGEST_PAUSE)
    except TimeoutError:
        _log.warning("the end of these jobs was never confirmed: %s", ", ".join(sorted(left)))
    return frozenset(left)
