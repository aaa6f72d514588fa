"""The engine `dask`: dask's own scheduler, in the head's process, and dask's own workers, in the same jobs.

Only the modules ``hpccluster.engine.dask*`` import `distributed`, and only for clusters that asked for this engine. What dask's
configuration says of schedulers and workers holds here, too, but for what belongs to the cluster: where it listens, who
may join, and when it ends.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import dask.config
from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

from hpccluster.comm.address import Address, bracketed
from hpccluster.comm.connection_file import ConnectionFile, create_private, private_directory
from hpccluster.engine.base import Engine, EngineEvents, Load, WorkerInfo
from hpccluster.engine.dask_arguments import parse_dask_arguments
from hpccluster.engine.dask_dashboard import Dashboard
from hpccluster.engine.dask_security import security_of
from hpccluster.errors import CommError
from hpccluster.protocol.handshake import Identity, parse_identity
from hpccluster.protocol.messages import Role
from hpccluster.runtime.arguments import check_extra_arguments, make_arguments

log = logging.getLogger(__name__)

STOP_TIME = 5.0
"""Seconds for dask's scheduler to end."""
RETRY = (1.0, 30.0)
"""Seconds from the first try to move data away from workers that are to go to the next, and at most: each time twice as many."""
UNKNOWN_DURATION = 0.5
"""Seconds that a task is taken to last when no task of its kind has ended yet (dask's own guess)."""
SAMPLE = 100
"""Queued tasks whose durations stand for those of all."""

_OURS = {
    "scheduler-address": None,
    "distributed.scheduler.contact-address": None,
    "distributed.scheduler.idle-timeout": None,
}
"""What the configuration of dask must not say for us."""


class DaskEngine(Engine):
    """Runs tasks with dask's scheduler.

    ``connection_file``: by the name of a job, the path of its workers' connection file, as the nodes see it; None where the
    job itself tells its workers. ``credential``: makes one for a role. ``directory``: where the credentials of a program are
    put. ``on_end`` is told why the scheduler has ended, where that was not `stop`.
    """

    def __init__(
        self,
        *,
        connection_file: Callable[[str], str] | None,
        credential: Callable[[Role], ConnectionFile] | None = None,
        directory: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        contact_host: str | None = None,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        self._connection_file = connection_file
        self._credential = credential
        self._directory = directory
        self._where = (host, port, contact_host)
        self._on_end = on_end
        self._is_stopping = False
        self._events: EngineEvents
        self._scheduler: Any = None
        self._workers: dict[str, WorkerInfo] = {}
        """By dask's name for a worker, its address: as they were when they joined."""
        self._jobs: dict[str, str] = {}
        """The jobs of workers that are just joining."""
        self._retiring: set[str] = set()
        """Jobs whose workers are to go."""

    async def start(self, events: EngineEvents) -> str:
        """*Success*: it listens. Raises `CommError` where the port cannot be had; nothing is left then."""
        assert self._credential is not None
        self._events = events
        host, port, contact = self._where
        file = self._credential(Role.SCHEDULER)
        dask.config.set(_OURS)
        _log_as_we_do()
        dashboard = Dashboard()
        with dask.config.set(dashboard.configuration):
            scheduler = Scheduler(
                host=bracketed(host),
                port=port,
                protocol="tls" if file.certificate else "tcp",
                security=security_of(file),
                plugins=[_Reporter(self)],
                **dashboard.arguments,
            )
        # The ways that dask leaves to turn somebody away.
        scheduler.handlers["register-worker"] = self._register
        scheduler.handle_comm = functools.partial(self._receive, scheduler.handle_comm)
        try:
            await scheduler
        except (OSError, RuntimeError) as error:
            await scheduler.close()
            why = error.__cause__ or error
            raise CommError(f"dask's scheduler cannot start on {host}, port {port}: {why}") from error
        self._scheduler = scheduler
        self.dashboard_link = dashboard.open(scheduler)
        self.address = str(Address("tls" if file.certificate else "tcp", contact or host, scheduler.port))
        self._write_credentials()
        return self.address

    def worker_command(self, *, job: str, processes: int, threads: int, memory: int | None) -> Sequence[str]:
        file = None if self._connection_file is None else self._connection_file(job)
        words = make_arguments(file, job=job, processes=processes, threads=threads, memory=memory)
        return ["-m", "hpccluster.engine.dask_worker", *words]

    def check_arguments(self, words: Sequence[str]) -> None:
        parse_dask_arguments(words, check_extra_arguments)

    # ------------------------------------------------------------------------------------------------------- workers

    def _receive(self, receive: Callable[[Any], Any], comm: Any) -> Any:
        """Nobody is listened to, as a worker or otherwise, who comes with the certificate of a job that is over."""
        identity = _identity(comm)
        if identity is not None and identity.token != identity.role and self._is_over(identity.token):
            log.info("a connection with the certificate of job %s, which is over, is ended", identity.token)
            comm.abort()
        return receive(comm)

    def _is_over(self, job: str) -> bool:
        """Whether nothing more is to come from that job: workers that are being retired still have things to say."""
        return not self._events.admits_job(job) and all(info.job != job for info in self._workers.values())

    async def _register(self, comm: Any, *, address: str, name: Any, **told: Any) -> None:
        """Let a worker in, or tell it why not."""
        job, refusal = self._job_of(comm, str(name))
        if refusal:
            log.warning("worker %s from %s is not admitted: %s", name, address, refusal)
            await comm.write({"status": "error", "message": refusal, "time": time.time()})
            return
        scheduler = self._scheduler
        if former := scheduler.aliases.get(name):
            # Its connection was lost, which we have not noticed yet.
            await scheduler.remove_worker(former, stimulus_id=f"replaced-{time.time()}", close=True)
        self._jobs[str(name)] = job
        await scheduler.add_worker(comm, address=address, name=name, **told)

    def _job_of(self, comm: Any, name: str) -> tuple[str, str]:
        """The job that a worker was born in (none, for one that was started by hand), and why it must not join."""
        if comm.extra_info.get("peercert") is None:  # a cluster without TLS: who joins is believed
            job = name.rpartition("-")[0]
            return (job, "") if self._events.admits_job(job) else ("", "")
        identity = _identity(comm)
        if identity is None or identity.role is not Role.WORKER:
            return "", "the credential is not one for workers"
        job = "" if identity.token == identity.role else identity.token
        if job and not self._events.admits_job(job):
            return "", f"the job {job} does not belong to this cluster, or no longer does"
        if job and not name.startswith(f"{job}-"):
            return "", f"the credential is for the workers of job {job} only"
        return job, ""

    def _joined(self, address: str) -> None:
        worker = self._scheduler.workers[address]
        info = self._workers[address] = _info(worker, self._jobs.pop(str(worker.name), ""))
        log.info("worker %s joined from %s (%d threads)", info.name, address, info.threads)
        self._events.worker_joined(info)

    def _left(self, address: str) -> None:
        if info := self._workers.pop(address, None):
            log.info("worker %s left", info.name)
            self._events.worker_left(info, "it has left")

    def _ended(self) -> None:
        if not self._is_stopping and self._on_end is not None:
            self._on_end("dask's scheduler was shut down")

    def workers(self) -> list[WorkerInfo]:
        known = self._scheduler.workers
        return [_info(known[address], info.job) for address, info in self._workers.items() if address in known]

    def load(self) -> Load:
        scheduler = self._scheduler
        workers = list(scheduler.workers.values())
        waiting = len(scheduler.queued) + len(scheduler.unrunnable)
        # Tasks that are on a worker already, but have no thread there.
        excess = sum(max(0, len(worker.processing) - worker.nthreads) for worker in workers)
        states = (group.states for group in scheduler.task_groups.values())
        unfinished = sum(state[name] for state in states for name in _UNFINISHED)
        return Load(
            queued=waiting + excess,
            unfinished=unfinished,
            expected_seconds=scheduler.total_occupancy + waiting * self._mean_duration(),
            idle_workers=self._idle(workers),
        )

    def _mean_duration(self) -> float:
        """Seconds that a queued task is likely to take."""
        scheduler = self._scheduler
        means = [task.prefix.duration_average for task in islice(chain(scheduler.queued, scheduler.unrunnable), SAMPLE)]
        return sum(mean if mean >= 0 else UNKNOWN_DURATION for mean in means) / max(1, len(means))

    @staticmethod
    def _idle(workers: Sequence[Any]) -> frozenset[str]:
        """Workers with nothing to run, and no actor, which cannot be moved.

        Where that is all of them, the one with most results stays: somebody must hold them.
        """
        idle = [worker for worker in workers if not worker.processing and not worker.actors]
        holders = [worker for worker in idle if worker.nbytes]
        if holders and len(idle) == len(workers):
            idle.remove(max(holders, key=lambda worker: worker.nbytes))
        return frozenset(str(worker.name) for worker in idle)

    # ------------------------------------------------------------------------------------------------------- the end

    async def retire(self, jobs: Sequence[str]) -> None:
        """As `Engine.retire`, but that dask runs again elsewhere what these workers have not finished.

        Where no worker is left to take their results, they go with them: dask computes them again when they are needed.
        """
        self._retiring |= set(jobs)
        try:
            delay, most = RETRY
            while addresses := [address for address, info in self._workers.items() if info.job in jobs]:
                if not await self._retire(addresses):
                    await asyncio.sleep(delay)
                    delay = min(2 * delay, most)
        finally:
            self._retiring -= set(jobs)

    async def _retire(self, addresses: Sequence[str]) -> bool:
        """Whether all are gone; else nobody has room for their results just now, or they have actors."""
        scheduler = self._scheduler
        try:
            await scheduler.retire_workers(workers=addresses, close_workers=True, remove=True)
        except (OSError, KeyError) as error:  # one of them has left meanwhile
            log.debug("retiring %s: %r", addresses, error)
        left = [address for address in addresses if address in self._workers]
        if not left:
            return True
        if any(info.job not in self._retiring for info in self._workers.values()):
            return False
        log.warning("results are lost: no worker is left to take over from %s", ", ".join(left))
        for address in left:
            await scheduler.remove_worker(address, stimulus_id=f"last-{time.time()}", close=True, expected=True)
        return True

    def dismiss(self, reason: str) -> None:
        if self._scheduler is not None:
            for address in list(self._scheduler.workers):
                self._scheduler.close_worker(address)

    async def stop(self, reason: str) -> None:
        if self._is_stopping or self._scheduler is None:
            return
        self._is_stopping = True
        try:
            async with asyncio.timeout(STOP_TIME):
                await self._scheduler.close(reason=reason)
        except TimeoutError:
            log.warning("dask's scheduler did not end within %g s", STOP_TIME)

    # --------------------------------------------------------------------------------------------------- for programs

    def environment(self) -> Mapping[str, str]:
        """With it, ``dask.distributed.Client()`` finds the cluster."""
        variables = {"DASK_SCHEDULER_ADDRESS": self.address}
        if self._directory is not None and self.address.startswith("tls://"):
            variables |= {
                "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
                "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(self._directory / CA_FILE),
                "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": str(self._directory / CLIENT_FILE),
            }
        return variables

    def _write_credentials(self) -> None:
        """A client's, as files of the form that dask's configuration takes."""
        assert self._credential is not None
        if self._directory is not None and self.address.startswith("tls://"):
            file = self._credential(Role.CLIENT)
            private_directory(self._directory)
            _write(self._directory / CA_FILE, file.ca)
            _write(self._directory / CLIENT_FILE, file.certificate + file.key)


CA_FILE = "dask-ca.pem"
CLIENT_FILE = "dask-client.pem"
"""Certificate and key of a client."""

_UNFINISHED = ("waiting", "queued", "no-worker", "processing")


class _Reporter(SchedulerPlugin):
    """Tells the engine who comes and goes."""

    name = "hpccluster"

    def __init__(self, engine: DaskEngine) -> None:
        self._engine = engine

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self._engine._joined(worker)

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        self._engine._left(worker)

    async def close(self) -> None:
        self._engine._ended()


def _identity(comm: Any) -> Identity | None:
    """What the certificate proves with which the peer has come."""
    certificate = comm.extra_info.get("peercert") or {}
    names = [parse_identity(text) for kind, text in certificate.get("subjectAltName", ()) if kind == "URI"]
    return names[0] if names else None


def _info(worker: Any, job: str) -> WorkerInfo:
    return WorkerInfo(
        name=str(worker.name),
        job=job,
        address=worker.address,
        host=worker.host,
        pid=worker.pid,
        threads=worker.nthreads,
        memory=worker.memory_limit,
        executing=len(worker.processing),
        stored=worker.nbytes,
        resident=int(worker.metrics.get("memory", 0)),
    )


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with create_private(path) as out:
        out.write(text.encode())


def _log_as_we_do() -> None:
    """Dask's lines go where the head's go, and look alike."""
    logger = logging.getLogger("distributed")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = True
