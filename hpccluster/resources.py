"""What one job is made of: cores, memory, and how they are shared by its workers."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from hpccluster.errors import ConfigError


def machine_cores() -> int:
    """Cores of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_memory() -> int:
    """Bytes of physical memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True, slots=True)
class JobResources:
    """The resources of one job. ``memory`` is in bytes and belongs to the whole job; ``None`` means unlimited."""

    cores: int
    memory: int | None
    processes: int
    """Worker processes per job."""
    gpus: int = 0
    whole_host: bool = False
    """A job has all cores of whichever host runs it: ``cores`` is the least that it can be."""

    @property
    def threads(self) -> int:
        """Threads of each worker."""
        return self.cores // self.processes

    @property
    def worker_memory(self) -> int | None:
        """A worker's share of the job's memory, in bytes."""
        return None if self.memory is None else self.memory // self.processes


def default_processes(cores: int) -> int:
    """Workers per job where nothing is said: ``cores`` up to 4, else the smallest factor that is at least its root."""
    if cores <= 4:
        return cores
    return min(n for n in range(math.isqrt(cores - 1) + 1, cores + 1) if cores % n == 0)


def make_resources(
    cores: int, memory: int | None, processes: int | None = None, gpus: int = 0, *, whole_host: bool = False
) -> JobResources:
    """Check and complete a job's resources.

    Raises `ConfigError` for values below one, and where ``cores`` cannot be shared evenly by ``processes``.
    """
    if cores < 1:
        raise ConfigError(f"cores={cores}: a job needs at least one core")
    workers = default_processes(cores) if processes is None else processes
    if workers < 1:
        raise ConfigError(f"processes={workers}: a job needs at least one worker")
    if cores % workers:
        even = [n for n in range(1, cores + 1) if cores % n == 0]
        raise ConfigError(
            f"cores={cores} cannot be shared evenly by processes={workers}: "
            f"choose processes from {', '.join(map(str, even))}"
        )
    if memory is not None and memory < 1:
        raise ConfigError(f"memory={memory}: a job needs some memory; leave it out for no limit")
    if gpus < 0:
        raise ConfigError(f"gpus={gpus}: not a number of GPUs")
    return JobResources(cores, memory, workers, gpus, whole_host)
