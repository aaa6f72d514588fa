"""The settings of the fleet machine: arguments, never looked up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPolicy:
    """What the machine must know about its cluster, and its numbers. Times are seconds."""

    cluster: str
    processes: int
    """Workers per job."""
    cores: int
    """Cores per job."""
    first_number: int = 0
    """Number of the first job's name. A cluster's name may be used again, so the shell picks one at random."""
    concurrent_submissions: int = 4
    blames_hosts: bool = False
    """A job that was of no use says something about its host, which the backend lets rest: no pause of the pool."""
    idle_timeout: float | None = 1800.0
    """Under `scale`: jobs whose workers have been idle this long, with no work left, hand over and go."""
    brief_life: float = 30.0
    """A job that fails sooner than this after its first worker joined was of no use."""
    cancel_again: float = 5.0
    """From an unverified cancel to the next one; grows up to twelve times."""
    tombstones: float = 600.0
    """Ended jobs are looked at this long: a batch system that was restored from a backup brings them back."""
    kept_records: int = 500
    """Records of ended jobs that are kept beyond that."""
    waiting_notice: float = 60.0
    """A job that has waited this long is mentioned once."""
    retire_again: float = 60.0
    silence: float = 120.0
    """A running job that all its workers have left for this long is lost, whatever the batch system says: workers that are
    alive have joined again by then, or have ended. More than a worker's ``death_timeout``, and the time to notice."""
