"""The options of the local backend."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from hpccluster.backend.options import JobOptions
from hpccluster.resources import JobResources


def machine_memory() -> int:
    """Bytes of physical memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions(JobOptions):
    """Options of clusters on this machine.

    A job without ``cores`` has one; without ``memory`` it has the machine's memory in proportion to its cores; ``memory=0``
    means no limit.
    """

    def required_options(self) -> tuple[str, ...]:
        return ()

    def resources(self) -> JobResources:
        cores = 1 if self.cores is None else self.cores
        if self.memory is None:
            share = machine_memory() * min(cores, machine_cores()) // machine_cores()
            return JobOptions.resources(replace(self, cores=cores, memory=share))
        return JobOptions.resources(replace(self, cores=cores))


def machine_cores() -> int:
    """Cores of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
