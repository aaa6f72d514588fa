"""The Slurm backend: the commands of this host (or of the host that a runner reaches)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from hpccluster.backend.batch import QUERY_TIMEOUT, BatchBackend
from hpccluster.backend.refusal import refusal_of
from hpccluster.backend.runner import Runner
from hpccluster.errors import BackendError, SubmitRefused
from hpccluster.ids import JobId
from hpccluster.job import CancelReport, JobState, JobStatus
from hpccluster_slurm.dialect import SlurmDialect
from hpccluster_slurm.options import SlurmOptions

_PATIENCE = 3.0
"""Seconds for what is good to know: where slurmdbd hangs, sacct takes 40."""


class SlurmBackend(BatchBackend[SlurmOptions]):
    """Jobs in the queues of Slurm."""

    poll_interval = 15.0

    def __init__(self, options: SlurmOptions, runner: Runner | None = None) -> None:
        super().__init__(options, SlurmDialect(), runner)
        self._cancelled: set[JobId] = set()
        """Jobs whose end we have asked for."""

    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        """Who has cancelled a job is known to accounting only; it is asked where it was not us."""
        found = await super().poll(ids)
        strange = {
            job
            for job, status in found.items()
            if status.state is JobState.CANCELLED and not status.reason and job not in self._cancelled
        }
        if not strange or not self._has_history:
            return found
        told = await self._history(strange, _PATIENCE)
        return found | {job: replace(found[job], reason=status.reason) for job, status in told.items()}

    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        self._cancelled.update(ids)
        return await super().cancel(ids)

    async def refusal(self, error: BackendError) -> BackendError:
        """Adds the partitions to the refusal of one, with the nearest as a suggestion."""
        if not isinstance(error, SubmitRefused) or error.code != "HPC-SUBMIT-PARTITION":
            return error
        refusal = refusal_of(error)
        try:
            result = await self.runner.run(
                ("sinfo", "--noheader", "--format=%P"),
                environment=self.dialect.query_environment(),
                timeout=QUERY_TIMEOUT,
            )
        except BackendError:
            return error  # a help only: the refusal itself is what matters
        partitions = list(dict.fromkeys(result.stdout.split()))
        if refusal is None or result.returncode != 0 or not partitions:
            return error
        return refusal.with_choices("partitions", partitions).error()
