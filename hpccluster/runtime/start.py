"""From settings to a nanny with its workers: what ``python -m hpccluster.runtime worker`` does after reading its arguments.

The order matters: the fork server is forked while this process has one thread and no loop.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import NoReturn

from hpccluster.comm.address import interface_address, parse_address
from hpccluster.comm.connection_file import read_connection_file
from hpccluster.comm.tls import Security
from hpccluster.errors import ConfigError, CredentialError, HpcClusterError
from hpccluster.protocol.messages import Role
from hpccluster.runtime.exits import EXIT_NO_HEAD, EXIT_WORKERS_DIED, exit_code
from hpccluster.runtime.forkserver import Become, ForkServer
from hpccluster.runtime.nanny import Nanny
from hpccluster.runtime.settings import WorkerSettings
from hpccluster.runtime.slots import SlotTable


def run_workers(settings: WorkerSettings) -> int:
    """Run a nanny and its workers (or one worker without a nanny) to their end; returns the process's exit code.

    Meant for a process that has nothing else to do. Errors are logged, not raised.
    """
    log_to_stderr()
    try:
        addresses, security = _credential(settings)
        host = interface_address(settings.interface) if settings.interface and not settings.host else settings.host
        parse_address(addresses[0])
        settings.make_local_directory()
    except HpcClusterError as error:
        logging.getLogger("hpccluster").error("hpccluster worker: %s", error)
        # A connection file that never came is a cluster that has been closed, or one that never was.
        return EXIT_NO_HEAD if error.code == "HPC-AUTH-NOFILE" else exit_code(error)
    name = settings.common_name()
    if not settings.nanny:
        _without_nanny(settings, security, name=name, addresses=addresses, host=host)
    table = SlotTable(settings.nworkers, settings.nthreads)

    def prepare() -> Become:
        from hpccluster.runtime.process import leave_process, run_worker  # imported by the fork server only

        def become(index: int, host: str, lifeline: int) -> NoReturn:
            code = run_worker(
                settings,
                security,
                name=f"{name}-{index}",
                addresses=addresses,
                host=host,
                slots=table.workers[index],
                lifeline=lifeline,
            )
            leave_process(code)

        return become

    forks = ForkServer.start(prepare)
    nanny = Nanny(settings, security, name=name, addresses=addresses, host=host, forks=forks, table=table)
    try:
        return asyncio.run(nanny.run())
    except KeyboardInterrupt:
        return EXIT_WORKERS_DIED


def log_to_stderr() -> None:
    """Time, and what happened: what a job's log shows of its workers. What tasks log comes with level and name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO)


class _Formatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S")
        self._of_others = logging.Formatter("%(asctime)s  %(levelname)s  %(name)s  %(message)s", self.datefmt)

    def format(self, record: logging.LogRecord) -> str:
        is_ours = record.name.partition(".")[0] == "hpccluster" and record.levelno <= logging.INFO
        return super().format(record) if is_ours else self._of_others.format(record)


def _credential(settings: WorkerSettings) -> tuple[tuple[str, ...], Security | None]:
    """Where to go and how to be let in. A file that is not there yet may still come (shared file systems are late)."""
    if settings.connection_file is not None:
        file = read_connection_file(settings.connection_file, Role.WORKER, wait=settings.death_timeout)
        if not file.addresses:
            raise CredentialError(f"the connection file {settings.connection_file} names no address")
        if file.engine != "native":
            raise ConfigError(
                f"cluster {file.name!r} runs the engine {file.engine}: its workers are dask's\n  fix: hpccluster scale {file.name} N"
            )
        return file.addresses, Security.from_connection_file(file)
    if not settings.addresses:
        raise ConfigError("workers need a connection file or an address")
    return settings.addresses, None


def _without_nanny(
    settings: WorkerSettings, security: Security | None, *, name: str, addresses: tuple[str, ...], host: str
) -> NoReturn:
    from hpccluster.runtime.process import leave_process, run_worker

    leave_process(run_worker(settings, security, name=f"{name}-0", addresses=addresses, host=host))
