"""What the owner does for a head that has died: its jobs are cancelled, its credentials removed, its record says so.

Jobs that find no head end by themselves, but one that waits in the queue would have to start first.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from hpccluster.errors import HpcClusterError
from hpccluster.head.backing import make_backend
from hpccluster.head.directory import ClusterDirectory, HeadRecord
from hpccluster.head.reaper import reap
from hpccluster.head.spec import HeadSpec
from hpccluster.ids import JobName
from hpccluster.runtime import sync


def put_in_order(spec: HeadSpec, record: HeadRecord, directory: Path, *, reason: str, timeout: float) -> frozenset[str]:
    """The jobs whose end could not be confirmed within ``timeout`` seconds. The process of ``record`` is known to be gone."""
    files = ClusterDirectory(directory, record, is_fresh=False)
    # Each job that the head wanted has a credential there.
    names = frozenset(JobName(path.stem) for path in files.job_files())
    left = names and sync.run(_reap(spec, names, timeout))
    files.remove_credentials()
    files.update(state="ended", ended=time.time(), reason=reason, unconfirmed=tuple(sorted(left)))
    return frozenset(left)


async def _reap(spec: HeadSpec, names: Collection[JobName], timeout: float) -> frozenset[JobName]:
    try:
        _, backend = make_backend(spec)
    except HpcClusterError:
        return frozenset(names)
    if backend.runs_here:
        return frozenset()  # they were processes of the head, and died with it
    try:
        return await reap(backend, names, duration=timeout, first_pause=0.5)
    finally:
        await backend.close()
