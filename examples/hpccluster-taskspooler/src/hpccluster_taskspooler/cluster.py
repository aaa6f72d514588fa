"""`TaskSpoolerCluster`: a cluster whose workers run in jobs of task-spooler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from hpccluster.cluster.manager import START_TIMEOUT, ClusterManager


class TaskSpoolerCluster(ClusterManager):
    """A cluster on task-spooler. Every keyword may also come from the configuration; None stands for "not said".

        cluster = TaskSpoolerCluster(cores=2, socket="~/gpu-queue")
        cluster.scale(jobs=4)

    The options of a job are described by `hpccluster_taskspooler.options.TaskSpoolerOptions`.
    """

    backend: ClassVar[str] = "taskspooler"

    def __init__(
        self,
        *,
        cores: int | None = None,
        memory: str | int | None = None,
        processes: int | None = None,
        socket: str | Path | None = None,
        slots: int | None = None,
        walltime: str | float | None = None,
        gpus: int | None = None,
        python: str | Path | None = None,
        shebang: str | None = None,
        job_script_prologue: Sequence[str] | None = None,
        job_script_epilogue: Sequence[str] | None = None,
        env: Mapping[str, str | int | float] | None = None,
        worker_extra_args: Sequence[str] | None = None,
        interface: str | None = None,
        local_directory: str | Path | None = None,
        log_directory: str | Path | None = None,
        death_timeout: str | float | None = None,
        template: str | Path | None = None,
        n_workers: int | None = None,
        scale: Mapping[str, Any] | None = None,
        adapt: Mapping[str, Any] | None = None,
        name: str | None = None,
        host: str | None = None,
        contact_host: str | None = None,
        port: int | None = None,
        protocol: Literal["tls", "tcp"] | None = None,
        engine: Literal["native", "dask"] | None = None,
        state_directory: str | Path | None = None,
        linger: str | float | None = None,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        given = {key: value for key, value in locals().items() if key != "self"}
        ClusterManager.__init__(self, **given)
