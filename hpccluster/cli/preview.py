"""The job script of a description, without a head: nothing is started, contacted or written."""

from __future__ import annotations

from hpccluster.config import ResolvedCluster

EXAMPLE_NAME = "example"
"""The name in the script of a cluster that has none yet."""


def preview_script(resolved: ResolvedCluster) -> str:
    """What would be submitted for the first job. Raises `ConfigError`."""
    from hpccluster.backend.jobs import job_comment, log_directory, make_job_spec
    from hpccluster.backend.options import build_options
    from hpccluster.backend.registry import get_plugin, make_backend
    from hpccluster.cluster.describe import parent_directory
    from hpccluster.fleet.asking import render
    from hpccluster.head.directory import job_file
    from hpccluster.head.engines import NATIVE, make_engine
    from hpccluster.ids import make_job_name
    from hpccluster.runtime.scheduler import Scheduler

    name = resolved.settings.get("name") or EXAMPLE_NAME
    directory = parent_directory(resolved.settings.get("state_directory")) / name
    plugin = get_plugin(resolved.backend)
    options = build_options(plugin.options_type, resolved.options)
    resources = options.resources()
    identity = "0" * 32
    scheduler = Scheduler(cluster=identity, cluster_name=name, security=None)
    backend = make_backend(plugin, options)
    is_shared = backend.credential_way == "shared"
    engine = make_engine(
        resolved.settings.get("engine", NATIVE),
        scheduler,
        connection_file=(lambda job: str(job_file(directory, job))) if is_shared else None,
    )
    job = make_job_name(name, 0)
    arguments = engine.worker_command(
        job=job, processes=resources.processes, threads=resources.threads, memory=resources.memory
    )
    spec = make_job_spec(
        options,
        name=job,
        cluster=name,
        arguments=tuple(arguments),
        logs=log_directory(options, str(directory)),
        comment=job_comment(identity),
    )
    return render(backend, spec)
