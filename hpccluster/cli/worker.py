"""Workers by hand: what `hpccluster worker` runs. The same as in a job, told on the command line where to go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpccluster.cli.running import find_live
from hpccluster.comm.connection_file import find_connection_file, read_connection_file
from hpccluster.errors import ClusterNotFound, ConfigError, CredentialError, PeerLost
from hpccluster.head.directory import RECORD
from hpccluster.protocol.messages import Role
from hpccluster.resources import machine_cores
from hpccluster.runtime.exits import EXIT_NO_HEAD, EXIT_REFUSED
from hpccluster.runtime.settings import DEATH_TIMEOUT, WorkerSettings
from hpccluster.units import parse_bytes, parse_duration

_EXIT_CODES = {EXIT_NO_HEAD: PeerLost.exit_code, EXIT_REFUSED: CredentialError.exit_code}
"""What jobs are told by the codes on the left, people are told by those on the right, as by every verb."""


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


def run_workers_here(options: WorkerOptions) -> int:
    """Run workers to their end; the exit code.

    Raises `ConfigError`, `ClusterNotFound` or `CredentialError` before anything is started.
    """
    from hpccluster.runtime.start import run_workers

    code = run_workers(make_settings(options))
    return _EXIT_CODES.get(code, code)


def make_settings(options: WorkerOptions) -> WorkerSettings:
    """The settings that are meant. The credential has been looked at, so that what is wrong with it is said at once."""
    path, addresses = _scheduler(options)
    if options.no_nanny and options.nworkers != 1:
        raise ConfigError("--no-nanny is for one worker")
    # --memory-limit is that of a worker here, that of all of them there
    limit = options.memory_limit
    memory = 0 if limit is None else int(_parsed("--memory-limit", parse_bytes, limit)) * options.nworkers
    patience = options.death_timeout
    timeout = DEATH_TIMEOUT if patience is None else _parsed("--death-timeout", parse_duration, patience)
    return WorkerSettings(
        connection_file=path,
        addresses=addresses,
        nworkers=options.nworkers,
        nthreads=options.nthreads or max(1, machine_cores() // options.nworkers),
        memory_limit=memory,
        name=options.name or "",
        death_timeout=timeout,
        local_directory=options.local_directory,
        interface=options.interface or "",
        host=options.host or "",
        nanny=not options.no_nanny,
    )


def _parsed(option: str, parse: Callable[[str | float], float], value: str) -> float:
    try:
        return parse(value)
    except ValueError as error:
        raise ConfigError(f"{option} {value}: {error}") from error


def _scheduler(options: WorkerOptions) -> tuple[Path | None, tuple[str, ...]]:
    """The connection file, or for a cluster without protection its addresses."""
    where = options.where
    if options.plain:
        if where is None or not where.startswith("tcp://"):
            raise ConfigError("--plain goes with an address: hpccluster worker tcp://HOST:PORT --plain")
        return None, (where,)
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
    if options.connection_file is None and (path.parent / RECORD).exists():
        find_live(path.parent.name)  # a scheduler that is gone is not waited for
    return path, ()
