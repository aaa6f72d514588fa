"""The asyncio shell round `FleetState`: performs what the machine asks, tells it what came of it, decides nothing.

Every task is owned by one `Crew`, from `Fleet.start` to `Fleet.close`. Whoever waits for something waits
for the next change of the machine and looks again; nothing here sleeps and polls, except the poller at the batch system.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import assert_never

from hpccluster.backend.base import Backend
from hpccluster.engine.base import Engine, EngineEvents, WorkerInfo
from hpccluster.errors import ClusterClosed, ClusterError, HpcClusterError, JobUnknown
from hpccluster.fleet import answers
from hpccluster.fleet.asking import ask, explain
from hpccluster.fleet.crew import Crew
from hpccluster.fleet.diagnose import diagnose
from hpccluster.fleet.performer import Performer
from hpccluster.fleet.poller import Pace, Poller
from hpccluster.fleet.sizes import jobs_for, make_plan
from hpccluster.fleet.timekeeper import Timekeeper
from hpccluster.fleet.troubles import Changes, Troubles
from hpccluster.fleet.values import CloseReport, FleetSettings, JobRow, Plan
from hpccluster.fleet.views import make_row, start_timeout
from hpccluster.ids import JobId, JobName
from hpccluster.job import JobSpec, JobState
from hpccluster.resources import JobResources
from hpccluster.state.fleet import actions, events
from hpccluster.state.fleet.adaptive import AdaptLimits, AdaptSettings, limits_in_jobs
from hpccluster.state.fleet.brake import Trouble
from hpccluster.state.fleet.events import Source
from hpccluster.state.fleet.invariants import violations
from hpccluster.state.fleet.policy import FleetPolicy
from hpccluster.state.fleet.records import JobRecord, Phase
from hpccluster.state.fleet.state import FleetState

_CLOSE_GRACE = 5.0
_LAST_WORDS = 3
"""Running jobs without workers whose last words are quoted by a `StartTimeout`."""


def _jitter(seconds: float) -> float:
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - nobody is to guess anything from it


class Fleet:
    """All jobs of one cluster.

    ``make_spec`` describes the job of a name; ``make_credential`` gives what the backend hands to that job, where the
    backend does so. ``on_notice`` is told what people should know, with a level (info, warning, error). ``events`` is for
    `Engine.start`; the engine must have been started before jobs are asked for.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        engine: Engine,
        cluster_name: str,
        make_spec: Callable[[JobName], JobSpec],
        resources: JobResources,
        settings: FleetSettings | None = None,
        on_notice: Callable[[str, str], None] | None = None,
        make_credential: Callable[[JobName], bytes | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[float], float] = _jitter,
        first_number: int | None = None,
        validate: bool = False,
    ) -> None:
        self.events = EngineEvents(self._worker_joined, self._worker_left, self.admits)
        self._backend = backend
        self._engine = engine
        self._resources = resources
        self._settings = settings = settings or FleetSettings()
        self._on_notice = on_notice or (lambda *_: None)
        self._deaths: dict[tuple[str, ...], int] = {}
        """How many jobs have ended in each way that was told."""
        self._clock = clock
        self._validate = validate
        policy = FleetPolicy(
            cluster=cluster_name,
            processes=resources.processes,
            cores=resources.cores,
            # A cluster's name can be used again: chance keeps the names of its jobs apart from those of its namesakes.
            first_number=secrets.randbelow(0x8000) if first_number is None else first_number,
            concurrent_submissions=settings.concurrent_submissions,
            blames_hosts=backend.places_jobs,
            idle_timeout=settings.idle_timeout,
            silence=settings.silence,
        )
        self._state = FleetState(policy)
        self._performer = Performer(
            backend, engine, make_spec=make_spec, make_credential=make_credential, settings=settings
        )
        self._poller = Poller(
            backend,
            pace=Pace(
                first=settings.poll_first,
                interval=backend.poll_interval if settings.poll_interval is None else settings.poll_interval,
                slowest=backend.poll_slowest if settings.poll_slowest is None else settings.poll_slowest,
                rare=settings.poll_rare,
            ),
            watch=lambda: self._state.watch(clock()),
            tell=lambda heard: self._handle(Source.BACKEND, heard),
            clock=clock,
            spread=spread,
            timeout=settings.command_timeout,
        )
        self._connected: dict[str, str] = {}
        """The address of each worker that is connected, also of those that were started by hand."""
        self._troubles = Troubles()
        self._changes = Changes()
        self._timekeeper = Timekeeper(self._state, self._tick, clock)
        self._crew = Crew(self._ended)

    # -------------------------------------------------------------------------------------------------------- lifetime

    async def start(self) -> None:
        """Begin. Submits nothing by itself."""
        if self._crew.has_started:
            raise ClusterError("this fleet has been started before")
        await self._crew.start()
        self._crew.run(self._poller.run())
        self._crew.run(self._timekeeper.run())

    def _ended(self, error: BaseException | None) -> None:
        if error is not None:
            self._on_notice("error", f"the fleet has failed, no jobs are submitted or watched any more: {error!r}")
        self._changes.announce()

    async def close(self, timeout: float = 30.0) -> CloseReport:
        """End all jobs and verify it; nothing is handed over. Idempotent; takes ``timeout`` and a little at most.

        *Afterwards* nothing is submitted or polled any more, and the report names every job that is not known to be gone.
        *After cancellation* the jobs are being cancelled all the same; call it again for the report.
        """
        if not self._crew.has_started:
            return CloseReport()
        if not self._is_ended:
            self._handle(Source.USER, [events.Close(self._clock() + timeout)])
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout + _CLOSE_GRACE):
                    await self._changes.wait_until(lambda: self._is_ended)
        await self._crew.stop()
        if self._state.finished is None:
            return await self._last_resort(timeout)
        found = self._state.finished
        return CloseReport(cancelled=found.cancelled, unconfirmed=found.unconfirmed, problem=found.problem)

    @property
    def _is_ended(self) -> bool:
        return self._state.finished is not None or not self._crew.is_at_work

    async def _last_resort(self, timeout: float) -> CloseReport:
        """The shell itself has failed, by a bug of ours: cancel what we know of, so that no job is left behind."""
        records = self._state.book.open_jobs()
        gone: frozenset[JobId] = frozenset()
        if ids := frozenset(record.id for record in records if record.id is not None):
            with suppress(HpcClusterError):
                cancelled = await ask(
                    lambda: self._backend.cancel(ids), doing="cancel jobs", timeout=timeout, check=answers.report
                )
                gone = cancelled.gone
        return CloseReport(
            cancelled=tuple(record.name for record in records if record.id in gone),
            unconfirmed=tuple(record.name for record in records if record.id not in gone),
        )

    def _check_open(self) -> None:
        if not self._crew.has_started:
            raise ClusterError("the fleet has not been started")
        if self._state.is_closing:
            raise ClusterClosed("the cluster is closed, or being closed")
        if not self._crew.is_at_work:
            raise ClusterError("the fleet has failed; the head's log says why")

    # ---------------------------------------------------------------------------------------------------------- wishes

    async def scale(
        self,
        *,
        workers: int | None = None,
        jobs: int | None = None,
        cores: int | None = None,
        memory: int | str | None = None,
    ) -> Plan:
        """Have as many whole jobs as make up that many workers, jobs, cores or that much memory; exactly one is given.

        *Success*: every job that was missing has been accepted by the batch system, is in doubt (a notice has said so), or
        is held back by its limits (the plan says so). Jobs that were too many have handed over their results and are
        verified to be gone; where that takes longer than `FleetSettings.leave_patience` it goes on by itself.
        *`SubmitRefused`* (or another error that proves that there is no job): raised at once; the jobs that exist stay,
        nothing more is tried. *After cancellation* the new size is pursued all the same.
        """
        count = jobs_for(self._resources, workers=workers, jobs=jobs, cores=cores, memory=memory)
        left_before = self._leaving()
        await self._wish(events.ScaleTo(count))
        leave = self._leaving() - left_before
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.leave_patience):
                await self._changes.wait_until(lambda: not leave & self._leaving() or self._is_ended)
        return self.current_plan()

    def _leaving(self) -> set[JobName]:
        return {record.name for record in self._state.jobs.values() if record.is_leaving}

    async def adapt(self, settings: AdaptSettings | None) -> AdaptLimits | None:
        """Follow the load between these limits from now on; None keeps the jobs that there are. What they come to, in whole jobs.

        *Success*: the jobs of the minimum have been accepted. *`SubmitRefused`*: one was not; adapting goes on, and tries
        again after a pause. *`ConfigError`*: the limits make no sense; nothing has changed.
        """
        limits = None if settings is None else limits_in_jobs(settings, self._resources)
        await self._wish(events.Adapt(limits))
        return limits

    async def _wish(self, wish: events.ScaleTo | events.Adapt) -> None:
        self._check_open()
        self._backend.forgive()
        before = self._troubles.refusals
        self._handle(Source.USER, [wish])
        await self._changes.wait_until(
            lambda: (
                self._troubles.refusals > before or self._state.is_settled or self._state.is_closing or self._is_ended
            )
        )
        if self._troubles.refusals > before and self._troubles.last_refusal is not None:
            raise self._troubles.last_refusal
        self._check_open()

    async def wait_for_workers(self, n: int, timeout: float | None = None) -> None:
        """Return when ``n`` workers are connected.

        Raises `JobDied` when a job ended before its workers joined and there is no sign that the next one fares better (no
        worker has joined since, or the fleet has paused after several), `SubmitRefused` when it has paused since its jobs
        are refused, `StartTimeout` with a list of who waits and why.
        """
        self._check_open()
        if self._state.released and n > len(self._connected):
            self._handle(Source.USER, [events.ScaleTo(self._state.target)])  # idle jobs were let go: have them again
        told, begun = self._troubles.told, self._clock()

        def is_over() -> bool:
            return (
                len(self._connected) >= n
                or self._trouble(n, told) is not None
                or self._state.is_closing
                or self._is_ended
            )

        try:
            async with asyncio.timeout(timeout):
                await self._changes.wait_until(is_over)
        except TimeoutError:
            raise await self._start_timeout(n, self._clock() - begun) from None
        if len(self._connected) >= n:
            return
        if (trouble := self._trouble(n, told)) is not None:
            self._troubles.settle()
            raise trouble
        self._check_open()

    def _trouble(self, n: int, told: int) -> HpcClusterError | None:
        """Why nobody should wait any longer for ``n`` workers, given what the caller has been told of."""
        troubles, brake = self._troubles, self._state.brake
        if self._backend.places_jobs:
            return self._host_trouble(n, told)
        if brake.trouble is Trouble.REFUSED:
            return troubles.last_refusal if self.requested < n else None
        is_paused = brake.is_probing and brake.trouble not in (Trouble.LIMIT, Trouble.UNCLEAR)
        return troubles.last_death if is_paused or troubles.alarms > told else None

    def _host_trouble(self, n: int, told: int) -> HpcClusterError | None:
        """The same where a death says something about one host only: it matters if the jobs that are left are too few."""
        if self._workers_of(self._state.book.counted()) >= n:
            return None
        if self._state.is_examining:
            return None  # there will be more to say in a moment
        if self._troubles.alarms > told:
            return self._troubles.last_death
        return self._troubles.last_hold if self._state.brake.trouble is Trouble.LIMIT else None

    async def _start_timeout(self, n: int, seconds: float) -> HpcClusterError:
        rows = [row for row in self.jobs() if row.phase != Phase.OVER and row.workers < row.expected_workers]
        running = [row for row in rows if row.phase == Phase.RUNNING and not row.workers][:_LAST_WORDS]
        logs = await self._performer.logs.read_all(self._readable(running), self._settings.log_lines)
        last_words = {name: lines[-1] for name, text in logs.items() if (lines := text.strip().splitlines())}
        hints = [f"planned workers: {self.plan}; scale() asks for more"] if self.plan < n else []
        if self._state.brake.trouble in (Trouble.LIMIT, Trouble.UNCLEAR):
            held = self.current_plan().held
            which = {0: "new jobs are", 1: "1 job is"}.get(held, f"{held} jobs are")
            hints.append(f"{which} held back: {self._state.brake.cause}")
        have = len(self._connected)
        return start_timeout(n, have, seconds=seconds, rows=rows, last_words=last_words, hints=hints)

    # ------------------------------------------------------------------------------------------------------- questions

    def current_plan(self) -> Plan:
        """What there is to be now."""
        held = max(0, self._state.goal - len(self._state.book.counted()))
        return make_plan(self._resources, jobs=self._state.goal, held=held)

    @property
    def plan(self) -> int:
        """How many workers there are to be."""
        counted = self._state.book.counted()
        missing = max(0, self._state.goal - len(counted))
        return self._workers_of(counted[: self._state.goal]) + missing * self._resources.processes

    @property
    def requested(self) -> int:
        """How many workers the jobs have that the batch system has accepted, or may have."""
        accepted = [record for record in self._state.book.counted() if record.phase is not Phase.SUBMITTING]
        return self._workers_of(accepted)

    def _workers_of(self, records: Sequence[JobRecord]) -> int:
        return sum(record.expected_workers(self._resources.processes) for record in records)

    @property
    def observed(self) -> int:
        """How many workers of our jobs are connected."""
        return sum(len(record.workers) for record in self._state.jobs.values())

    def admits(self, job: str) -> bool:
        """Whether workers of the job of this name may join: not those of one that is in doubt, or to be gone."""
        return self._state.admits(job)

    def jobs(self) -> list[JobRow]:
        """The jobs of this fleet that exist or have existed, oldest first."""
        now = self._clock()
        return [
            make_row(record, now=now, processes=self._resources.processes, explain=partial(explain, self._backend))
            for record in self._state.jobs.values()
            if record.phase is not Phase.OVER or record.id is not None
        ]

    async def logs(self, job: str | None = None, tail: int | None = None) -> dict[str, str]:
        """What each job has written, by its name; ``job`` (a name or id) asks for one. Where there is nothing yet it says why.

        Raises `JobUnknown` for a job that we do not know.
        """
        rows = [row for row in self.jobs() if job is None or job in (row.name, row.id)]
        if not rows and job is not None:
            known = ", ".join(row.id or row.name for row in self.jobs()) or "none"
            raise JobUnknown(f"no job {job!r} in this cluster; there are: {known}", code="HPC-JOB-UNKNOWN")
        texts = await self._performer.logs.read_all(self._readable(rows), tail)
        # a backend that chooses the host itself names it before the job runs
        waits = [row for row in rows if not row.node or row.state == JobState.PENDING]
        waiting = {row.name: f"[{row.state}: {row.reason or 'no reason given'}]" for row in waits}
        return {row.name: texts.get(row.name, "") or waiting.get(row.name, "") for row in rows}

    def _readable(self, rows: Sequence[JobRow]) -> list[tuple[str, JobId, str]]:
        return [(row.name, JobId(row.id), self._performer.log_path(JobName(row.name))) for row in rows if row.id]

    # ---------------------------------------------------------------------------------------------- round the machine

    def _handle(self, source: Source, messages: Sequence[events.FleetEvent]) -> None:
        out = self._state.handle(source, messages, self._clock())
        if self._validate and (broken := violations(self._state)):
            raise AssertionError(f"after {messages}: {broken}")
        for action in out.actions:
            self._perform(action)
        self._changes.announce()
        self._timekeeper.rearm()

    def _perform(self, action: actions.FleetAction) -> None:
        match action:
            case actions.Report():
                # what a batch system said may name its code already
                text = action.text if action.code in action.text else f"{action.text} ({action.code})"
                self._on_notice(action.level, text)
            case actions.JobFailed():
                self._job_failed(action)
            case actions.PollSoon():
                self._poller.wake()
            case actions.Finished():
                pass  # `close` reads it from the machine
            case _ if not self._crew.is_at_work:
                pass  # before the start there are no jobs; after the end the report has told what is left
            case actions.Submit():
                self._crew.run(self._submit(action.name))
            case actions.Cancel():
                self._crew.run(self._cancel(action.ids))
            case actions.Retire():
                self._crew.run(self._retire(action.jobs))
            case actions.FetchLog():
                self._crew.run(self._fetch_log(action.name, action.id))
            case _:
                assert_never(action)

    async def _submit(self, name: JobName) -> None:
        event, refusal = await self._performer.submit(name)
        if refusal is not None and not self._state.jobs[name].unwanted:
            self._troubles.refused(refusal, held=isinstance(event, events.SubmitRefused) and event.limit)
        self._handle(Source.BACKEND, [event])

    async def _cancel(self, ids: Sequence[JobId]) -> None:
        self._handle(Source.BACKEND, [await self._performer.cancel(ids)])

    async def _retire(self, jobs: Sequence[JobName]) -> None:
        self._handle(Source.ENGINE, [await self._performer.retire(jobs)])

    async def _fetch_log(self, name: JobName, job: JobId) -> None:
        self._handle(Source.BACKEND, [await self._performer.fetch_log(name, job)])

    def _job_failed(self, failed: actions.JobFailed) -> None:
        error = diagnose(self._performer.dead_job(failed), lines=self._settings.log_lines)
        self._troubles.died(error, alarm=failed.alarm)
        details = error.details
        kind = (error.code, *(str(details.get(key)) for key in ("state", "reason", "exit_code", "hint")))
        count = self._deaths[kind] = self._deaths.get(kind, 0) + 1
        level = "error" if failed.alarm else "warning"
        if count == 1:
            self._on_notice(level, str(error))
            return
        # What a hundred jobs die of is told once; then how many they are, whenever they have become twice as many.
        text = f"{count} jobs have ended so by now; the last: {str(error).splitlines()[0]}"
        self._on_notice(level if count & (count - 1) == 0 else "info", text)

    def _worker_joined(self, worker: WorkerInfo) -> None:
        self._connected[worker.name] = worker.address
        if worker.job:
            self._troubles.settle()
        self._handle(Source.ENGINE, [events.WorkerJoined(worker.name, JobName(worker.job))])

    def _worker_left(self, worker: WorkerInfo, cause: str) -> None:
        # A restarted worker has the same name: that the one before it has left must not count for the new one.
        if self._connected.get(worker.name) == worker.address:
            del self._connected[worker.name]
            self._handle(Source.ENGINE, [events.WorkerLeft(worker.name, JobName(worker.job), cause)])

    def _tick(self) -> None:
        load = self._engine.load()
        seen = events.Load(load.queued, load.unfinished, load.expected_seconds, load.idle_workers)
        self._handle(Source.CLOCK, [seen, events.Tick()])
        self._performer.forget_all_but(self._state.jobs)
