"""`Head`: scheduler, fleet and program of one cluster in one process, from the claim of its name to the verified end.

It puts the parts together and decides when the cluster is over; each part does its own work. Must not know any batch
system, nor unpickle anything. Whatever ends a cluster (an order, a signal, the owner's death, the program's end) leads to
the same teardown: end the program, cancel the jobs and verify, stop the engine, remove the credentials.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from hpccluster.backend.base import Backend
from hpccluster.backend.jobs import job_comment, log_directory, make_job_spec, make_log_directory
from hpccluster.backend.options import JobOptions
from hpccluster.comm.address import parse_address
from hpccluster.comm.connection_file import state_directory
from hpccluster.engine.base import Engine
from hpccluster.errors import ConfigError, HpcClusterError
from hpccluster.fleet.asking import render
from hpccluster.fleet.shell import Fleet
from hpccluster.fleet.values import CloseReport, FleetSettings
from hpccluster.head.backing import close
from hpccluster.head.credentials import Credentials
from hpccluster.head.directory import ClusterDirectory, ProgramRecord, make_record
from hpccluster.head.engines import control_port, make_engine
from hpccluster.head.lease import Lease
from hpccluster.head.listening import choose_hosts
from hpccluster.head.operations import Operations, parse_adapt
from hpccluster.head.program import Program
from hpccluster.head.reaper import reap
from hpccluster.head.spec import HeadReady, HeadSpec
from hpccluster.ids import JobName, make_job_name
from hpccluster.job import JobSpec
from hpccluster.runtime.scheduler import Scheduler
from hpccluster.runtime.settings import VALIDATE_VARIABLE
from hpccluster.units import parse_duration

_log = logging.getLogger(__name__)

NOTICE_TIME = 60.0
"""Seconds in which workers notice that they have lost the head, and end."""
PROGRAM_GRACE = 5.0
"""Seconds that a program has between SIGTERM and SIGKILL when its cluster is taken down."""
ANSWER_TIME = 1.0
"""Seconds that the last answers get before the connections end."""


class Head:
    """One cluster. `start`, then `serve` until it is over; after a failed `start`, nothing is left."""

    def __init__(self, spec: HeadSpec, options: JobOptions, backend: Backend) -> None:
        self.spec = spec
        self.id = uuid.uuid4().hex
        self.options = options
        self.backend = backend
        self.resources = options.resources()
        self.lease = Lease(spec.linger, self.request_end)
        self.directory: ClusterDirectory
        self.credentials: Credentials
        self.scheduler: Scheduler
        self.engine: Engine
        self.fleet: Fleet
        self.address = ""
        """Of the scheduler of the engine: that is the head's own where the engine is ours."""
        self.program: Program | None = None
        self.program_over = asyncio.Event()
        self._ending = asyncio.Event()
        self._reason = ""
        self._limit = spec.close_timeout
        self._report: asyncio.Future[CloseReport] = asyncio.get_running_loop().create_future()
        """What the teardown came to."""
        self._asked = 0
        """How many wait for the report, and are to have it before their connection ends."""
        self._answered = asyncio.Event()

    # ------------------------------------------------------------------------------------------------------- start

    def claim(self) -> ClusterDirectory:
        """Take the cluster's name. Raises `ClusterError` or `ConfigError`."""
        spec = self.spec
        record = make_record(spec.name, self.id, backend=spec.backend, detached=spec.detached, options=spec.options)
        self.directory = ClusterDirectory.claim(
            Path(self.spec.state_directory) if self.spec.state_directory else state_directory(), record
        )
        return self.directory

    async def start(self) -> HeadReady:
        """Serve, and have the first size accepted.

        *After an error or cancellation* nothing is left running, queued or on disk.
        """
        async with AsyncExitStack() as undo:
            undo.push(self._failed)
            plan = await self._start(undo)
            undo.pop_all()
        self.directory.update(state="running", address=self.address, program=self._program_record())
        _log.info("cluster %s (%s) serves at %s", self.spec.name, self.id, self.address)
        return HeadReady(
            name=self.spec.name,
            id=self.id,
            address=self.address,
            pid=os.getpid(),
            directory=str(self.directory.path),
            connection_file=str(self.directory.client_file),
            plan=msgspec.to_builtins(plan),
        )

    async def _start(self, undo: AsyncExitStack) -> Any:
        """What the first size comes to; ``undo`` has every step back."""
        make_log_directory(self.options)
        self._put_together()
        self._check_arguments()
        undo.push_async_callback(self.backend.close)
        undo.push_async_callback(self.scheduler.close, "the cluster could not start")
        await self.scheduler.start()
        undo.push_async_callback(self.engine.stop, "the cluster could not start")
        self.address = await self.engine.start(self.fleet.events)
        own = self.scheduler.addresses
        self.credentials.write_roles(
            own, engine=self.spec.engine, engine_addresses=() if self.address in own else (self.address,)
        )
        await self.fleet.start()
        undo.push_async_callback(self.fleet.close, self._limit)
        plan = None if self.spec.scale is None else await self.fleet.scale(**self.spec.scale.arguments())
        if self.spec.adapt is not None:
            await self.adapt(self.spec.adapt)
        if self.spec.program:
            self.program = await Program.start(
                self.spec.program,
                directory=self.spec.program_directory,
                environment=self.spec.program_environment,
                more=self.engine.environment(),
                connection_file=self.directory.client_file,
                log=self.directory.program_log,
            )
        return plan

    def _put_together(self) -> None:
        """Make the parts and have them know one another; nothing is started."""
        self.credentials = Credentials(self.id, self.directory, plain=self.spec.protocol == "tcp")
        listening, contact = choose_hosts(
            host=self.spec.host,
            interface=self.spec.interface,
            contact_host=self.spec.contact_host,
            runs_here=self.backend.runs_here,
            towards=self.backend.towards,
        )
        validate = os.environ.get(VALIDATE_VARIABLE) == "1"
        self.scheduler = Scheduler(
            cluster=self.id,
            cluster_name=self.spec.name,
            security=self.credentials.security,
            host=listening,
            port=control_port(self.spec.engine, self.spec.port),
            contact_host=contact,
            validate=validate,
        )
        is_shared = self.backend.credential_way == "shared"
        self.engine = make_engine(
            self.spec.engine,
            self.scheduler,
            connection_file=(lambda job: str(self.directory.job_file(job))) if is_shared else None,
            credential=lambda role: self.credentials.make(role, role.value),
            directory=self.directory.credentials,
            host=listening,
            port=self.spec.port,
            contact_host=contact,
            on_end=self.request_end,
        )
        self.fleet = Fleet(
            backend=self.backend,
            engine=self.engine,
            cluster_name=self.spec.name,
            make_spec=self.make_job,
            resources=self.resources,
            settings=self._fleet_settings(),
            on_notice=self._notice,
            make_credential=self._credential,
            validate=validate,
        )
        self.scheduler.route_to = self._route
        Operations(self).register(self.scheduler.add_operation)

    def _check_arguments(self) -> None:
        """What every job would end for, maybe after hours in a queue."""
        words = self.options.worker_extra_args
        try:
            self.engine.check_arguments(words)
        except ConfigError as error:
            raise ConfigError(
                f"worker_extra_args={list(words)}: {error}\n  those there are: python -m hpccluster.runtime worker --help"
            ) from None

    # -------------------------------------------------------------------------------------------------------- jobs

    def _fleet_settings(self) -> FleetSettings:
        settings = msgspec.convert(self.spec.fleet, FleetSettings)
        if self.options.death_timeout is None:
            return settings
        # workers may be without a head for that long: before, their job is not lost
        patience = parse_duration(self.options.death_timeout) + NOTICE_TIME
        return replace(settings, silence=max(settings.silence, patience))

    def make_job(self, name: JobName) -> JobSpec:
        """The specification of the job of that name."""
        resources = self.resources
        arguments = self.engine.worker_command(
            job=name, processes=resources.processes, threads=resources.threads, memory=resources.memory
        )
        return make_job_spec(
            self.options,
            name=name,
            cluster=self.spec.name,
            arguments=arguments,
            logs=log_directory(self.options, str(self.directory.path)),
            comment=job_comment(self.id),
        )

    def _credential(self, job: JobName) -> bytes | None:
        """Have the job's own credential made; its content, where the job cannot read the file."""
        self.credentials.remove_jobs(lambda other: not self.fleet.admits(other))
        path = self.credentials.write_job(job)
        return None if self.backend.credential_way == "shared" else path.read_bytes()

    async def _route(self, job: str, address: str) -> str:
        """The address by which a worker of that job can be reached from here."""
        known = parse_address(address)
        host, port = await self.backend.route(JobName(job), known.host, known.port)
        return str(replace(known, host=host, port=port))

    def job_script(self) -> str:
        """What is submitted for one job."""
        return render(self.backend, self.make_job(make_job_name(self.spec.name, 0)))

    async def adapt(self, wishes: dict[str, Any]) -> Any:
        """Let the size follow the work; the limits in whole jobs. Raises `ConfigError` for wishes that are none."""
        settings, places = parse_adapt(wishes), self.options.first_jobs()
        if settings.maximum_jobs is None and places is not None:
            settings = replace(settings, maximum_jobs=places)  # more would only be refused
        return msgspec.to_builtins(await self.fleet.adapt(settings))

    def _notice(self, level: str, text: str) -> None:
        _log.log({"error": logging.ERROR, "warning": logging.WARNING}.get(level, logging.INFO), "%s", text)
        self.scheduler.notify_clients(level, text)

    # --------------------------------------------------------------------------------------------------------- end

    def request_end(self, reason: str) -> None:
        """Have the cluster taken down, for the first reason that is given."""
        if not self._ending.is_set():
            _log.info("the cluster ends: %s", reason)
            self._reason = reason
            self._ending.set()

    async def end(self, reason: str, limit: float | None) -> CloseReport:
        """Have it taken down; what became of its jobs. Every caller gets the one report."""
        if limit is not None and not self._ending.is_set():
            self._limit = limit
        self._asked += 1
        try:
            self.request_end(reason)
            return await asyncio.shield(self._report)
        finally:
            # In the next turn of the loop: the caller's answer has been said by then.
            asyncio.get_running_loop().call_soon(self._answer_given)

    def _answer_given(self) -> None:
        self._asked -= 1
        if not self._asked:
            self._answered.set()

    async def serve(self) -> CloseReport:
        """Until somebody or something wants the end, and through it: what became of its jobs.

        *Afterwards* no process of ours is left, the credentials are gone, and the record tells how it ended.
        """
        async with asyncio.TaskGroup() as tasks:
            if self.program is not None:
                tasks.create_task(self._watch_program(self.program))
            await self._ending.wait()
            self._record(state="closing", reason=self._reason)
            if self.program is not None:
                await self.program.end(PROGRAM_GRACE)
        self.engine.dismiss(self._reason)
        report = await self.fleet.close(self._limit)
        self._report.set_result(report)
        if self._asked:
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_TIME):
                    await self._answered.wait()
        await self._finish(report)
        return report

    async def _watch_program(self, program: Program) -> None:
        code = await program.wait()
        killed = self._ending.is_set()
        former = self.directory.record.program
        assert former is not None
        record = replace(former, state="killed" if killed else "finished", ended=time.time(), exit_code=code)
        self._record(program=record)
        self.program_over.set()
        self.request_end(f"its program has ended with exit code {code}")

    def _record(self, **changes: object) -> None:
        """Change the record. That its disk is full is no reason to leave jobs behind."""
        try:
            self.directory.update(**changes)
        except OSError as error:
            _log.error("the record of this cluster in %s cannot be written: %s", self.directory.path, error)

    def _program_record(self) -> ProgramRecord | None:
        if self.program is None:
            return None
        return ProgramRecord(command=self.spec.program, state="running", started=time.time())

    async def _finish(self, report: CloseReport) -> None:
        """Everything but the jobs, which are gone or are known not to be."""
        self.lease.end()
        await self.engine.stop(self._reason)
        await self.scheduler.close(self._reason)
        self.directory.remove_credentials()
        left = tuple(report.unconfirmed)
        if left:
            self._record(unconfirmed=left)
            left = tuple(sorted(await reap(self.backend, [JobName(name) for name in left])))
        await close(self.backend)
        if self.backend.ends_with_head and not left and not self.spec.program and not self.spec.detached:
            self.directory.remove(reason=self._reason)
        else:
            self._record(state="ended", ended=time.time(), unconfirmed=left)

    def _failed(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """The last step back from a start that failed. A bug of ours leaves its traceback in the log."""
        self.lease.end()
        self.directory.remove_credentials()
        if isinstance(error, HpcClusterError):
            self.directory.remove(reason=str(error))
