"""``python -m hpccluster.engine.dask_worker``: what a job runs for the engine `dask`. Not for people.

Dask's own nannies and workers, which join with the job's credential and answer to the same options, signals, stages and exit
codes as ours (`hpccluster.runtime`), so that a job that goes wrong is diagnosed in the same way.
"""

import sys

if __name__ == "__main__":
    print("hpccluster: stage python-ok", file=sys.stderr, flush=True)  # noqa: T201 - the log of the job

import asyncio
import logging
import os
import signal
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import dask.config
from distributed import Nanny, Worker
from distributed.comm import connect
from distributed.comm.core import FatalCommClosedError

from hpccluster.comm.address import bracketed, interface_address, parse_address, route_towards
from hpccluster.comm.connect import NOBODY_LISTENS
from hpccluster.comm.connection_file import ConnectionFile, read_connection_file
from hpccluster.engine.dask_arguments import parse_dask_arguments
from hpccluster.engine.dask_security import security_of
from hpccluster.errors import ConfigError, CredentialError, HpcClusterError, PeerLost
from hpccluster.protocol.messages import Role
from hpccluster.runtime.arguments import parse_arguments
from hpccluster.runtime.exits import EXIT_NO_HEAD, EXIT_WORKERS_DIED, exit_code
from hpccluster.runtime.joining import HEAD_GONE, find_scheduler
from hpccluster.runtime.nanny import say_stage
from hpccluster.runtime.settings import WorkerSettings
from hpccluster.runtime.start import log_to_stderr

log = logging.getLogger("hpccluster.worker")

TOLD_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LOOK_TIME = 2.0
"""Seconds for one try to reach dask's scheduler."""
LEAVE_TIME = 5.0
"""Seconds for one that has handed over."""
CLOSE_TIME = 1.0
"""Seconds for a worker to end that has nothing to hand over."""

_CONFIG: dict[str, Any] = {"scheduler-address": None, "distributed.worker.http.routes": []}
"""What dask's configuration must say in a job: where to go is known, and no pages are served to whoever comes by."""
_LOST = "connection-broken"
"""Part of the reason with which a dask worker ends when its scheduler is gone."""
_TURNED_AWAY = "response from register"
"""Part of its error when the scheduler did not let it in."""


class JobWorker(Worker):
    """A dask worker that leaves it to its nanny what a signal to the whole job means."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        for number in TOLD_TO_END:
            # not ignored: what a task starts would inherit that
            signal.signal(number, lambda *_: None)
        super().__init__(*arguments, **keywords)

    async def close(self, **keywords: Any) -> Any:
        """What it is just running is not waited for: the result would reach nobody any more."""
        return await super().close(**keywords | {"executor_wait": False})


class JobNanny(Nanny):
    """A dask nanny that knows why its worker leaves, and ends with it."""

    farewell = ""
    _closing: asyncio.Task[Any] | None = None

    def close_gracefully(self, reason: str = "") -> None:
        self.farewell = reason
        super().close_gracefully(reason=reason)
        # By itself it would wait until the process is gone, and that for two seconds for a word from its nanny.
        self._closing = asyncio.get_running_loop().create_task(self.close(timeout=LEAVE_TIME, reason=reason))


class JobWorkers:
    """The workers of one job, in a running loop."""

    def __init__(self, settings: WorkerSettings, file: ConnectionFile, more: Mapping[str, Any]) -> None:
        """``more``: keywords of dask's nannies that the user has added."""
        self._settings = settings
        self._more = more
        self._address = file.engine_addresses[0]
        self._security = security_of(file)
        self._nannies: dict[int, JobNanny] = {}

    async def run(self) -> int:
        """Until all have ended; the exit code of this process."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[str] = loop.create_future()

        def tell(name: str) -> None:
            if not told.done():
                told.set_result(name)

        for number in TOLD_TO_END:
            loop.add_signal_handler(number, tell, number.name)
        serving = loop.create_task(self._serve())
        await asyncio.wait((serving, told), return_when=asyncio.FIRST_COMPLETED)
        if told.done():
            log.info("got %s: the workers hand over and end", told.result())
            await self._leave()
        serving.cancel()
        try:
            return await serving
        except asyncio.CancelledError:
            return 0
        except HpcClusterError as error:
            log.error("%s", error)
            return exit_code(error)
        finally:
            await self._close()

    async def _serve(self) -> int:
        await self._find()
        say_stage("net-ok")
        say_stage("auth-ok")
        return max(await asyncio.gather(*(self._keep(index) for index in range(self._settings.nworkers))))

    async def _keep(self, index: int) -> int:
        """One worker's place. One that has lost its connection, and not its head, comes back as a new one."""
        while True:
            nanny = self._nannies[index] = self._make(index)
            try:
                await nanny.start()
            except Exception as error:  # noqa: BLE001 - dask's, of whatever kind: the place is given up for it
                return _start_failed(nanny.name, error)
            await nanny.finished()
            if _LOST not in nanny.farewell:
                return 0
            log.warning("worker %s  its connection to %s was lost", nanny.name, self._address)
            await self._find()

    async def _find(self) -> None:
        """Raises `PeerLost` or `CredentialError`: then all are to end."""
        await find_scheduler(self._look, timeout=self._settings.death_timeout, gone_after=HEAD_GONE)

    async def _look(self, seconds: float) -> None:
        """Whether the scheduler is there and takes our credential. Raises `PeerLost` or `CredentialError`."""
        arguments = self._security.get_connection_args("worker")
        try:
            comm = await connect(self._address, timeout=min(seconds, LOOK_TIME), **arguments)
        except (OSError, TimeoutError) as error:
            causes = list(_causes(error))
            if any(isinstance(cause, FatalCommClosedError | ssl.SSLError) for cause in causes):
                say_stage("net-ok")
                raise CredentialError(f"{self._address}: the credential does not fit: {causes[-1]}") from error
            refused = any(isinstance(cause, ConnectionRefusedError) for cause in causes)
            # a try that was cut off ends with an error that says nothing
            why = "nobody listens there" if refused else [text for cause in causes if (text := str(cause))][-1]
            raise PeerLost(
                f"{self._address}: {why}", code="HPC-NET-UNREACHABLE", details={NOBODY_LISTENS: refused}
            ) from error
        await comm.close()

    def _make(self, index: int) -> JobNanny:
        settings = self._settings
        return JobNanny(
            self._address,
            name=f"{settings.common_name()}-{index}",
            nthreads=settings.nthreads,
            memory_limit=settings.worker_memory,
            local_directory=str(settings.make_local_directory() or _temporary_directory()),
            death_timeout=settings.death_timeout,
            security=self._security,
            validate=settings.validate,
            worker_class=JobWorker,
            dashboard=False,
            dashboard_address="127.0.0.1:0",
            host=bracketed(self._host()),
            **self._more,
        )

    def _host(self) -> str:
        """Where to listen for other workers; by default on the way to the scheduler, and never on all interfaces."""
        if self._settings.host:
            return self._settings.host
        if self._settings.interface:
            return interface_address(self._settings.interface)
        return route_towards(parse_address(self._address).host)

    async def _leave(self) -> None:
        """Have the scheduler move our results elsewhere; bounded by the grace of the job."""
        addresses = [nanny.worker_address for nanny in self._nannies.values() if nanny.worker_address]
        if not addresses:
            return
        with suppress(OSError, TimeoutError, RuntimeError):
            async with asyncio.timeout(self._settings.grace):
                scheduler = next(iter(self._nannies.values())).scheduler
                await scheduler.retire_workers(workers=addresses, close_workers=True, remove=True)
                await asyncio.gather(*(nanny.finished() for nanny in self._nannies.values()))

    async def _close(self) -> None:
        """End what is left, at once. What does not end in time ends with this process: its parent is all that it lives for."""
        closing = (nanny.close(timeout=CLOSE_TIME, reason="the job ends") for nanny in self._nannies.values())
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * CLOSE_TIME):
                await asyncio.gather(*closing, return_exceptions=True)


def _start_failed(name: object, error: Exception) -> int:
    """The exit code after a worker that could not start; its log has the details."""
    causes = list(_causes(error))
    log.error("worker %s  could not start: %s", name, causes[-1])
    if any(_TURNED_AWAY in str(cause) for cause in causes):
        return exit_code(CredentialError(""))
    return EXIT_NO_HEAD if any(isinstance(cause, TimeoutError) for cause in causes) else EXIT_WORKERS_DIED


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _temporary_directory() -> str:
    return str(dask.config.get("temporary-directory") or tempfile.gettempdir())


def _credential(settings: WorkerSettings) -> ConnectionFile:
    if settings.connection_file is None:
        raise ConfigError("the workers of dask need a connection file")
    file = read_connection_file(settings.connection_file, Role.WORKER, wait=settings.death_timeout)
    if not file.engine_addresses:
        raise CredentialError(
            f"the connection file {settings.connection_file} is not one of a cluster with engine=dask"
        )
    return file


def run_workers(settings: WorkerSettings, more: Mapping[str, Any]) -> int:
    """Run dask's workers to their end; the process's exit code. Errors are logged, not raised."""
    log_to_stderr()
    dask.config.set(_CONFIG)
    try:
        settings.make_local_directory()
        file = _credential(settings)
    except HpcClusterError as error:
        log.error("%s", error)
        # A connection file that never came is a cluster that has been closed, or one that never was.
        return EXIT_NO_HEAD if error.code == "HPC-AUTH-NOFILE" else exit_code(error)
    return asyncio.run(JobWorkers(settings, file, more).run())


def main() -> NoReturn:
    """Run, and exit with the code that `hpccluster.runtime.exits` explains."""
    say_stage("import-ok")
    try:
        more, settings = parse_dask_arguments(sys.argv[1:], lambda rest: parse_arguments(["worker", *rest]))
    except ConfigError as error:
        sys.exit(f"error: {error}")
    code = run_workers(settings, more)
    logging.shutdown()
    # Not by way of what multiprocessing does at the end: it waits for workers that do not hear its signal.
    os._exit(code)


if __name__ == "__main__":
    main()
