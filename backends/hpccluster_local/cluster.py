"""`LocalCluster`: a cluster of processes of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from hpccluster.backend.options import check_memory
from hpccluster.cluster.manager import START_TIMEOUT, ClusterManager
from hpccluster.errors import ConfigError
from hpccluster.resources import default_processes, machine_cores, machine_memory

_OWN = ("self", "n_workers", "threads_per_worker", "processes", "memory_limit")
"""What `LocalCluster` says in its own words, to be translated."""


class LocalCluster(ClusterManager):
    """A cluster on this machine, by default as large as the machine. Each worker is a job of its own.

        cluster = LocalCluster(n_workers=2, threads_per_worker=2)

    It returns when its first workers have joined, and raises `JobDied` where they cannot.

    ``memory_limit`` is a worker's: "auto" is its share of the machine's memory, 0 or None no limit.
    ``processes=False``: head and workers run inside this process, tasks in threads, for tests and for looking into
    ``cluster.scheduler``. The other options are
    described by `hpccluster_local.options.LocalOptions` and `hpccluster.config.schema.ClusterOptions`.
    """

    backend: ClassVar[str] = "local"

    def __init__(
        self,
        n_workers: int | None = None,
        threads_per_worker: int | None = None,
        processes: bool = True,
        memory_limit: str | int | None = "auto",
        name: str | None = None,
        *,
        scale: Mapping[str, Any] | None = None,
        adapt: Mapping[str, Any] | None = None,
        python: str | Path | None = None,
        job_script_prologue: Sequence[str] | None = None,
        job_script_epilogue: Sequence[str] | None = None,
        env: Mapping[str, str | int | float] | None = None,
        worker_extra_args: Sequence[str] | None = None,
        interface: str | None = None,
        local_directory: str | Path | None = None,
        log_directory: str | Path | None = None,
        death_timeout: str | float | None = None,
        template: str | Path | None = None,
        host: str | None = None,
        contact_host: str | None = None,
        port: int | None = None,
        protocol: Literal["tls", "tcp"] | None = None,
        engine: Literal["native", "dask"] | None = None,
        state_directory: str | Path | None = None,
        linger: str | float | None = None,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        given = {key: value for key, value in locals().items() if key not in _OWN}
        workers, threads = _share(n_workers, threads_per_worker)
        if memory_limit != "auto":
            check_memory("memory_limit", memory_limit)
        has_size = n_workers is None and (scale is not None or adapt is not None)
        ClusterManager.__init__(
            self,
            n_workers=None if has_size else workers,
            cores=threads,
            processes=1,
            memory=_memory(workers, threads) if memory_limit == "auto" else memory_limit or 0,
            inside=not processes,
            **given,
        )
        try:
            # here they are there in an instant, or something is wrong with them: both are known before this returns
            self.wait_for_workers(timeout=start_timeout)
        except BaseException:
            self.close()
            raise


def _memory(workers: int, threads: int) -> int | None:
    """A worker's share in bytes, where there are more threads than cores; None: by its share of the cores."""
    return machine_memory() // workers if workers * threads > machine_cores() else None


def _share(workers: int | None, threads: int | None) -> tuple[int, int]:
    """Workers and threads of each: what is not said is chosen so that the machine is full."""
    for name, value in (("n_workers", workers), ("threads_per_worker", threads)):
        least = 1 if name == "threads_per_worker" else 0
        if value is not None and (type(value) is not int or value < least):
            raise ConfigError(f"LocalCluster: {name}={value!r}: a whole number is needed, at least {least}")
    cores = machine_cores()
    if workers is None:
        workers = default_processes(cores) if threads is None else max(1, cores // max(1, threads))
    if threads is None:
        threads = max(1, cores // max(1, workers))
    return workers, threads
