"""What is done for a head that has died: its jobs are cancelled, its credentials removed, its record says so.

By its owner, by `hpccluster down`, or by `hpccluster cleanup`: all that is needed stands in the record. Jobs that find no
head end by themselves, but one that waits in the queue would have to start first.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from hpccluster.errors import HpcClusterError
from hpccluster.head.backing import opened
from hpccluster.head.directory import ClusterDirectory, HeadRecord
from hpccluster.head.reaper import reap
from hpccluster.ids import JobName
from hpccluster.runtime import sync

FIRST_PAUSE = 0.5
"""Seconds between the first two looks for jobs that are being cancelled, while somebody waits."""


def job_names(record: HeadRecord, directory: Path) -> frozenset[JobName]:
    """Jobs that the dead head of this record may have left: each that it wanted has a credential there."""
    files = ClusterDirectory(directory, record, is_fresh=False).job_files()
    return frozenset(JobName(name) for name in (*(path.stem for path in files), *record.unconfirmed))


def put_in_order(record: HeadRecord, directory: Path, *, reason: str, timeout: float) -> frozenset[JobName]:
    """The jobs whose end could not be confirmed within ``timeout`` seconds. The process of ``record`` is known to be gone."""
    files = ClusterDirectory(directory, record, is_fresh=False)
    names = job_names(record, directory)
    left = sync.run(_reap(record, names, timeout)) if names else names
    files.remove_credentials()
    program = record.program
    if program is not None and program.state == "running":
        program = replace(program, state="killed", ended=time.time())  # it does not outlive its head
    if record.state == "ended":  # and stays ended for the reason and at the time that it says
        files.update(unconfirmed=tuple(sorted(left)), program=program)
    else:
        now = time.time()
        files.update(state="ended", ended=now, reason=reason, unconfirmed=tuple(sorted(left)), program=program)
    return left


async def _reap(record: HeadRecord, names: Collection[JobName], timeout: float) -> frozenset[JobName]:
    try:
        async with opened(record) as backend:
            if backend.ends_with_head:
                return frozenset()
            return await reap(backend, names, duration=timeout, first_pause=FIRST_PAUSE)
    except HpcClusterError:  # it cannot be used here
        return frozenset(names)
