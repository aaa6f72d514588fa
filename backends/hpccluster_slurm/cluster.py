"""`SLURMCluster`: a cluster whose workers run in jobs of Slurm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from hpccluster.cluster.manager import START_TIMEOUT, ClusterManager


class SLURMCluster(ClusterManager):
    """A cluster on Slurm. Every keyword may also come from the configuration; None stands for "not said".

        cluster = SLURMCluster(cores=8, memory="32GB", queue="short", walltime="01:00:00")
        cluster.scale(jobs=4)

    The options of a job are described by `hpccluster_slurm.options.SlurmOptions`, what all clusters have by
    `hpccluster.config.schema.ClusterOptions`.
    """

    backend: ClassVar[str] = "slurm"

    def __init__(
        self,
        *,
        # the job
        cores: int | None = None,
        memory: str | int | None = None,
        processes: int | None = None,
        gpus: int | None = None,
        queue: str | None = None,
        account: str | None = None,
        walltime: str | float | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        reservation: str | None = None,
        gres: str | None = None,
        exclude: str | None = None,
        requeue: bool | None = None,
        signal: str | None = None,
        job_cpu: int | None = None,
        job_memory: str | int | None = None,
        job_mem: str | int | None = None,
        memory_directive: Literal["--mem", "--mem-per-cpu", "--mem-per-gpu", "none"] | None = None,
        job_extra_directives: Sequence[str] | None = None,
        job_directives_skip: Sequence[str] | None = None,
        # the way to the batch system, if not here
        ssh: str | None = None,
        ssh_config: str | Path | None = None,
        runner: str | None = None,
        remote_directory: str | None = None,
        # its script and its workers
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
        # the cluster
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
