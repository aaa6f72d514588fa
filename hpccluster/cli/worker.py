"""Workers by hand: what `hpccluster worker` runs. The same process as in a job, told on the command line where to go."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from hpccluster.comm.connection_file import find_connection_file, read_connection_file
from hpccluster.errors import ClusterNotFound, ConfigError, CredentialError
from hpccluster.protocol.messages import Role
from hpccluster.units import parse_bytes, parse_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What the command line said; None for what it did not say."""

    where: str | None
    connection_file: Path | None
    plain: bool
    nworkers: int
    nthreads: int | None
    memory_limit: str | None
    name: str | None
    death_timeout: str | None
    local_directory: Path | None
    interface: str | None
    host: str | None
    no_nanny: bool


def become_worker(options: WorkerOptions) -> NoReturn:
    """Become the process that starts, watches and restarts the workers.

    Raises `ConfigError`, `ClusterNotFound` or `CredentialError` before anything is started.
    """
    arguments = worker_arguments(options)
    sys.stdout.flush()
    sys.stderr.flush()
    # In place of this process, so that it has loaded nothing that a job's would not have.
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - no shell is wanted


def worker_arguments(options: WorkerOptions) -> list[str]:
    """The interpreter's arguments. The credential has been looked at, so that what is wrong with it is said here."""
    arguments = ["-m", "hpccluster.runtime", "worker", *_scheduler(options)]
    try:
        # --memory-limit is that of a worker here, that of the whole job there
        memory = None if options.memory_limit is None else parse_bytes(options.memory_limit) * options.nworkers
        timeout = None if options.death_timeout is None else parse_duration(options.death_timeout)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    # Workers of two hosts must not have one name, whoever starts them.
    name = options.name or f"{socket.gethostname().partition('.')[0]}-{secrets.token_hex(2)}"
    for option, value in (
        ("--nworkers", options.nworkers),
        ("--nthreads", options.nthreads),
        ("--memory-limit", memory),
        ("--name", name),
        ("--death-timeout", timeout),
        ("--local-directory", options.local_directory),
        ("--interface", options.interface),
        ("--host", options.host),
    ):
        if value is not None:
            arguments += [option, str(value)]
    return [*arguments, "--no-nanny"] if options.no_nanny else arguments


def _scheduler(options: WorkerOptions) -> list[str]:
    where = options.where
    if options.plain:
        if where is None or not where.startswith("tcp://"):
            raise ConfigError("--plain goes with an address: hpccluster worker tcp://HOST:PORT --plain")
        return ["--address", where, "--plain"]
    if where is not None and "://" in where and not where.startswith(("tcp://", "tls://")):
        raise ConfigError(f"{where}: an address begins with tls:// (or tcp://, with --plain)")
    try:
        path = options.connection_file or find_connection_file(where or "", Role.WORKER)
    except (ClusterNotFound, CredentialError) as error:
        if where is not None and where.startswith("tcp://"):
            hint = "no connection file tells of it; if it is meant to be without protection, say so with --plain"
            raise CredentialError(f"{where}: {hint}") from error
        raise
    read_connection_file(path, Role.WORKER)
    return ["--connection-file", str(path.absolute())]
