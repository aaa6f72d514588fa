"""From options to a job, whatever the backend: its command, its directory for output, its comment."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from hpccluster.backend.login import login_of
from hpccluster.backend.options import JobOptions, bad_value
from hpccluster.ids import JobName
from hpccluster.job import JobSpec
from hpccluster.paths import expand_path
from hpccluster.units import parse_duration


def job_comment(cluster_id: str) -> str:
    """The comment of all jobs of a cluster: names the head's host, and tells clusters of the same name apart."""
    return f"hpccluster {cluster_id[:12]} head {socket.gethostname()}"


def log_directory(options: JobOptions, default: str) -> str:
    """Where the output of jobs goes: the user's choice with ``~`` and ``$VARS`` expanded, or ``default``; absolute.

    Where the batch system is reached by SSH, it is a directory there. Raises `ConfigError` for a variable that is not set.
    """
    if (login := login_of(options)) is not None:
        return options.log_directory or login.directory
    chosen = options.log_directory
    return os.path.abspath(default) if chosen is None else str(expand_path("log_directory", chosen))  # noqa: PTH100


def make_log_directory(options: JobOptions) -> None:
    """Make the user's `log_directory` where it is missing: a batch system would start no job, and not even say why.

    On a login host it is made with the first job's credential. Raises `ConfigError`.
    """
    if options.log_directory is None or login_of(options) is not None:
        return
    path = log_directory(options, "")
    try:
        os.makedirs(path, exist_ok=True)  # noqa: PTH103
    except OSError as error:
        problem = f"it cannot be made: {error.strerror or error}"
    else:
        problem = "" if os.access(path, os.W_OK | os.X_OK) else "you may not write there"
    if problem:
        raise bad_value("log_directory", options.log_directory, problem)


def make_job_spec(
    options: JobOptions,
    *,
    name: JobName,
    cluster: str,
    arguments: Sequence[str],
    logs: str,
    comment: str = "",
    environment: Sequence[tuple[str, str]] = (),
    working_directory: str = "",
) -> JobSpec:
    """One job of these options. ``arguments``: the engine's worker command after the interpreter; ``logs``: a directory."""
    return JobSpec(
        name=name,
        cluster=cluster,
        command=job_command(options, tuple(arguments)),
        resources=options.resources(),
        walltime=options.walltime_seconds(),
        environment=(*environment, *((key, str(value)) for key, value in options.env.items())),
        log_path=str(Path(logs) / f"{name}.log"),
        working_directory=working_directory,
        comment=comment,
    )


def worker_arguments(options: JobOptions) -> tuple[str, ...]:
    """Arguments for the worker command that follow from the options (the names are those of dask's workers, too)."""
    arguments: list[str] = []
    if options.death_timeout is not None:
        arguments += ["--death-timeout", f"{parse_duration(options.death_timeout):g}"]
    if options.local_directory is not None:
        arguments += ["--local-directory", options.local_directory]
    if options.interface is not None:
        arguments += ["--interface", options.interface]
    return (*arguments, *options.worker_extra_args)


def job_command(options: JobOptions, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The argv that a job runs: the interpreter, the engine's ``arguments``, and what follows from the options."""
    python = [sys.executable] if options.python is None else shlex.split(options.python)
    return (*python, *arguments, *worker_arguments(options))
