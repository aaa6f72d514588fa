"""How workers are to be started: the values behind ``hpccluster worker`` and ``python -m hpccluster.runtime worker``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from hpccluster.errors import ConfigError
from hpccluster.paths import expand_path

DEATH_TIMEOUT = 60.0
GRACE = 4.0
VALIDATE_VARIABLE = "HPCCLUSTER_VALIDATE"
"""Set to 1, it has heads and workers check the invariants of their machines after each step: slow, for tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What one nanny (or one worker without a nanny) must know."""

    connection_file: Path | None = None
    """All that is needed to join: addresses and credential. Else ``addresses``."""
    addresses: tuple[str, ...] = ()
    """Where the scheduler listens; ``tcp://`` for a plain cluster."""
    nworkers: int = 1
    """Worker processes."""
    nthreads: int = 1
    """Threads of each worker."""
    memory_limit: int = 0
    """Bytes that all workers may use together; 0 is unlimited."""
    name: str = ""
    """The workers' common name, ``<name>-<i>`` each; by default the job's, else one of this host and process."""
    job: str = ""
    """The job that this was born in."""
    death_timeout: float = DEATH_TIMEOUT
    """Seconds without a head, at the start or later, after which the workers end."""
    local_directory: Path | None = None
    """Where tasks find room for temporary files (``TMPDIR``)."""
    host: str = ""
    """The address of this host on which workers listen for each other; by default the one on the way to the head."""
    interface: str = ""
    """The network interface whose address is meant, in place of ``host``."""
    resources: dict[str, float] = field(default_factory=dict)
    grace: float = GRACE
    """Seconds for handing over after a signal: batch systems may kill 5 s after it."""
    nanny: bool = True
    """Whether a nanny watches the workers; without one there is one worker, in this process."""
    validate: bool = False
    """Check the worker machine's invariants after each step."""

    def make_local_directory(self) -> Path | None:
        """``local_directory``, with ``~`` and ``$VARS`` as they are on this host; it is there then. Raises `ConfigError`."""
        if self.local_directory is None:
            return None
        path = expand_path("local_directory", self.local_directory)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"local_directory={str(self.local_directory)!r} cannot be made here: {error}") from error
        return path

    @property
    def worker_memory(self) -> int:
        """Each worker's share in bytes; 0 is unlimited."""
        return self.memory_limit // self.nworkers

    def common_name(self) -> str:
        """The common part of the workers' names: what was asked for, the job's, or one that nobody else has."""
        return self.name or self.job or f"{os.uname().nodename.partition('.')[0]}-{os.getpid()}"
