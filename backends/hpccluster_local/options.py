"""The options of the local backend."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hpccluster.backend.options import JobOptions
from hpccluster.resources import JobResources, machine_cores, machine_memory
from hpccluster.units import parse_bytes


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
        memory: int | str | None = self.memory
        if memory is None:
            memory = machine_memory() * min(cores, machine_cores()) // machine_cores()
        elif parse_bytes(memory) == 0:
            memory = None
        return JobOptions.resources(replace(self, cores=cores, memory=memory))
