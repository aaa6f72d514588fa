"""`SSHCluster`: a cluster whose workers run on hosts that are reached by SSH."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from hpccluster.cluster.launch import START_TIMEOUT
from hpccluster.cluster.manager import ClusterManager

LAST_WORDS_TIME = 10.0
"""Seconds for the verdict on a job that has just ended."""


class SSHCluster(ClusterManager):
    """A cluster on hosts without a batch system. Every keyword may also come from the configuration; None: "not said".

        cluster = SSHCluster(["node1", "ana@node2:2222", {"host": "big", "processes": 4, "memory": "64GB"}])

    At the start there is one job on every host, unless ``n_workers``, ``scale`` or ``adapt`` says otherwise; it returns when
    the first worker has joined, and raises `JobDied` or `SubmitRefused` where none can: what is wrong with single hosts is
    told by notices and in ``cluster.jobs``. The options of a job are described by `hpccluster_ssh.options.SSHOptions`, what
    all clusters have by `hpccluster.config.schema.ClusterOptions`.
    """

    backend: ClassVar[str] = "ssh"

    def __init__(
        self,
        hosts: Sequence[str | Mapping[str, Any]] | None = None,
        n_workers: int | None = None,
        *,
        # the hosts, and the way to them
        connect_options: Mapping[str, Any] | None = None,
        runner: str | None = None,
        tunnel: bool | None = None,
        # a job, as far as its host says nothing else
        cores: int | None = None,
        memory: str | int | None = None,
        processes: int | None = None,
        gpus: int | None = None,
        walltime: str | float | None = None,
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
        try:
            if self.plan:
                # workers that cannot reach the head look for it as long as a head may take to start, and then say why
                self.wait_for_workers(1, timeout=start_timeout + LAST_WORDS_TIME)
        except BaseException:
            self.close()
            raise
