"""The nanny: starts, watches and restarts the workers of one job, and testifies how they died.

It is a small process of its own, so that it lives, and tells that the node lives, whatever user code does to a worker.
It has its own connection to the scheduler.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hpccluster.comm.address import parse_address, route_towards
from hpccluster.comm.channel import Channel
from hpccluster.comm.connect import connect
from hpccluster.comm.tls import Security
from hpccluster.errors import CommError, CredentialError, HandshakeFailed, HpcClusterError
from hpccluster.protocol import codec
from hpccluster.protocol.messages import (
    PROTOCOL_VERSION,
    Hello,
    NannyHeartbeat,
    Role,
    SchedulerToNanny,
    StopWorkers,
    WorkerExited,
)
from hpccluster.runtime.exits import EXIT_NO_HEAD, EXIT_REFUSED, EXIT_WORKERS_DIED, exit_code
from hpccluster.runtime.forkserver import Exited, Forked, ForkServer
from hpccluster.runtime.joining import HEAD_GONE, find_scheduler, jitter
from hpccluster.runtime.memory import OutOfMemoryCount, look_at, resident_bytes
from hpccluster.runtime.relay import StderrRelay
from hpccluster.runtime.restarts import Restarts
from hpccluster.runtime.settings import WorkerSettings
from hpccluster.runtime.slots import SlotTable, WorkerPhase, WorkerSlots
from hpccluster.units import format_bytes

log = logging.getLogger("hpccluster.nanny")

HEARTBEAT = 5.0
FIRST_HEARTBEAT = 1.0
WATCH = 0.5
"""Seconds between two looks at the workers' memory and states."""
STOPPED_LIMIT = 8.0
"""Seconds that a worker may be stopped (SIGSTOP, not a debugger) while its nanny is not."""
STOP_TIME = 1.0
"""Seconds that workers get to end when they have nothing to hand over."""
SILENCE_LIMIT = 30.0
IMPATIENCE = 0.3
"""Seconds after which another Ctrl-C is one of its own."""
FAREWELL_TIME = 0.5
"""Seconds between the end of the workers' grace and their being killed."""


def say_stage(stage: str) -> None:
    """A line that tells how far the start has come: joined with the job's own when a start goes wrong."""
    print(f"hpccluster: stage {stage}", file=sys.stderr, flush=True)  # noqa: T201 - the log of the job


@dataclass(slots=True)
class _Seat:
    """One worker's place, whichever process has it."""

    index: int
    name: str
    slots: WorkerSlots
    restarts: Restarts = field(default_factory=Restarts)
    pid: int = 0
    """0 where no process has the place."""
    relay: StderrRelay | None = None
    started: float = 0.0
    stopped: float = 0.0
    """Seconds for which it has been stopped."""
    cause: str = ""
    """Why we have killed it."""
    is_over: bool = False
    """Nothing is started here any more."""
    code: int = 0
    """The exit code that the place ended with."""


class Nanny:
    """The nanny of ``settings.nworkers`` workers, in a running loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        security: Security | None,
        *,
        name: str,
        addresses: Sequence[str],
        host: str,
        forks: ForkServer,
        table: SlotTable,
    ) -> None:
        self._settings = settings
        self._security = security
        self._name = name
        self._addresses = list(addresses)
        self._forks = forks
        self._seats = [_Seat(i, f"{name}-{i}", slots) for i, slots in enumerate(table.workers)]
        self._host = host
        self._channel: Channel | None = None
        self._unsent: list[WorkerExited] = []
        self._is_stopping = False
        self._stopped_at = 0.0
        self._code: int | None = None
        self._out_of_memory = OutOfMemoryCount()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Until all workers have ended for good; returns this process's exit code."""
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._told_to_end, number.name)
        joining = self._loop.create_task(self._join())
        over = self._loop.create_task(self._over.wait())
        await asyncio.wait((joining, over), return_when=asyncio.FIRST_COMPLETED)
        try:
            if not joining.done():
                return 0  # told to end before it had begun
            joining.result()
            self._say("net-ok", "auth-ok")
            self._start_workers()
            await over
        except HpcClusterError as error:
            if isinstance(error, CredentialError | HandshakeFailed):
                self._say("net-ok")
            log.error("hpccluster worker: %s", error)
            return exit_code(error)
        finally:
            joining.cancel()
            over.cancel()
            await self._end()
        return self._exit_code()

    def _say(self, *stages: str) -> None:
        """Stages are for the diagnosis of jobs: a person who starts workers by hand sees what happens."""
        if self._settings.job:
            for stage in stages:
                say_stage(stage)

    def _start_workers(self) -> None:
        if not self._host:
            self._host = route_towards(parse_address(self._addresses[0]).host)
        self._loop.add_reader(self._forks.fileno(), self._hear_forks)
        for seat in self._seats:
            self._fork(seat, incarnation=0)
        self._loop.call_later(jitter(FIRST_HEARTBEAT), self._heartbeat)
        self._loop.call_later(WATCH, self._watch)

    async def _end(self) -> None:
        with suppress(ValueError):
            self._loop.remove_reader(self._forks.fileno())
        self._forks.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for seat in self._seats:
            if seat.relay is not None:
                self._loop.remove_reader(seat.relay.fileno())
                seat.relay.close()
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    def _exit_code(self) -> int:
        if self._code is not None:
            return self._code
        codes = [seat.code for seat in self._seats]
        for code in (EXIT_REFUSED, EXIT_NO_HEAD):
            if code in codes:
                return code
        return max(codes)

    # ----------------------------------------------------------------------------------------------- the scheduler

    async def _join(self) -> None:
        hello = Hello(protocol=PROTOCOL_VERSION, role=Role.NANNY, name=self._name, job=self._settings.job)
        channel = await find_scheduler(
            lambda time: connect(self._addresses, hello, self._security, timeout=time),
            timeout=self._settings.death_timeout,
            gone_after=HEAD_GONE if self._settings.job else math.inf,
        )
        self._channel = channel
        channel.start(codec.to_nanny, self._received, self._lost, SILENCE_LIMIT)
        channel.send(*self._unsent)
        self._unsent.clear()

    def _received(self, messages: list[SchedulerToNanny]) -> None:
        for message in messages:
            if isinstance(message, StopWorkers):
                log.info("nanny %s  stops its workers: %s", self._name, message.reason)
                self._stop(hand_over=False)

    def _lost(self, error: CommError | None) -> None:
        self._channel = None
        if self._over.is_set() or self._is_stopping:
            return
        if error is None:
            self._stop(hand_over=False)
        else:
            self._start(self._rejoin())

    async def _rejoin(self) -> None:
        try:
            await self._join()
        except HpcClusterError as error:
            log.error("nanny %s  %s", self._name, error)
            self._code = exit_code(error)
            self._stop(hand_over=False)

    def _testify(self, message: WorkerExited) -> None:
        if self._channel is not None:
            self._channel.send(message)
        else:
            self._unsent.append(message)

    def _heartbeat(self) -> None:
        self._loop.call_later(jitter(HEARTBEAT), self._heartbeat)
        living = [seat for seat in self._seats if seat.pid]
        if self._channel is not None:
            memory = sum(resident_bytes(seat.pid) for seat in living)
            self._channel.send(NannyHeartbeat([seat.name for seat in living], memory))

    # ------------------------------------------------------------------------------------------------- the workers

    def _fork(self, seat: _Seat, incarnation: int) -> None:
        if self._is_stopping:
            self._close_seat(seat, 0)
            return
        seat.slots.reset(incarnation)
        seat.cause = ""
        seat.stopped = 0.0
        seat.started = self._loop.time()
        relay = seat.relay = StderrRelay(self._forks.fork(seat.index, self._host))
        self._loop.add_reader(relay.fileno(), self._hear_stderr, relay)

    def _hear_stderr(self, relay: StderrRelay) -> None:
        if not relay.pump():
            self._loop.remove_reader(relay.fileno())

    def _hear_forks(self) -> None:
        reports = self._forks.reports()
        for report in reports or ():
            seat = self._seats[report.index]
            if isinstance(report, Exited):
                self._exited(seat, report)
            elif isinstance(report, Forked) and report.pid:
                seat.pid = report.pid
                if self._is_stopping:
                    self._forks.signal(seat.index, signal.SIGTERM)
            else:
                log.error("nanny %s  cannot start worker %s: %s", self._name, seat.name, report.error)
                self._died(seat, Exited(seat.index, 0, None, None, 0))
        if reports is None:
            self._loop.remove_reader(self._forks.fileno())
            self._lost_forks()

    def _lost_forks(self) -> None:
        """Its workers have died with it, and no other can be started."""
        if self._is_stopping:
            self._over.set()
            return
        log.error("nanny %s  its fork server has died, and the workers with it", self._name)
        self._is_stopping = True
        for seat in self._seats:
            if seat.relay is not None:
                seat.cause = "its fork server was killed"
                lost = Exited(seat.index, seat.pid, None, int(signal.SIGKILL), 0)
                self._take_note(seat, lost, expected=False, restarting=False)
        self._code = EXIT_WORKERS_DIED
        self._over.set()

    def _exited(self, seat: _Seat, report: Exited) -> None:
        # A task may end its worker with any code: what it means is told by the phase, which only the worker's shell sets.
        by_itself = seat.slots.phase is not WorkerPhase.REGISTERED
        expected = self._is_stopping or (by_itself and report.exit_code == 0)
        if expected or (by_itself and report.exit_code in (EXIT_NO_HEAD, EXIT_REFUSED)):
            self._take_note(seat, report, expected=expected, restarting=False)
            self._close_seat(seat, 0 if expected else report.exit_code or 0)
        else:
            self._died(seat, report)

    def _died(self, seat: _Seat, report: Exited) -> None:
        registered = seat.slots.phase is not WorkerPhase.STARTING
        delay = seat.restarts.delay(registered=registered, lifetime=self._loop.time() - seat.started)
        if not seat.cause and report.signal == signal.SIGKILL and self._out_of_memory.has_grown():
            seat.cause = "killed by the kernel: out of memory (the limit of its cgroup)"
        how = _describe_end(report)
        then = "its nanny starts another" if delay is not None else f"{seat.restarts.early} early deaths: given up"
        log.warning("worker %s  died: %s; %s", seat.name, f"{how}, {seat.cause}" if seat.cause else how, then)
        self._take_note(seat, report, expected=False, restarting=delay is not None)
        if delay is None:
            self._close_seat(seat, EXIT_WORKERS_DIED)
        else:
            self._loop.call_later(delay, self._fork, seat, seat.slots.incarnation + 1)

    def _take_note(self, seat: _Seat, report: Exited, *, expected: bool, restarting: bool) -> None:
        """The place is free; the scheduler hears how that came."""
        tail = ""
        if seat.relay is not None:
            self._loop.remove_reader(seat.relay.fileno())
            seat.relay.close()
            tail = seat.relay.tail
            seat.relay = None
        if seat.cause:
            tail += f"{seat.cause}\n"
        seat.pid = 0
        self._testify(
            WorkerExited(
                worker=seat.name,
                exit_code=report.exit_code,
                signal=report.signal,
                peak_memory=report.peak_memory,
                running=seat.slots.running(),
                log_tail=tail,
                expected=expected,
                restarting=restarting,
            )
        )

    def _close_seat(self, seat: _Seat, code: int) -> None:
        seat.is_over = True
        seat.code = code
        if all(other.is_over for other in self._seats):
            self._over.set()

    # ------------------------------------------------------------------------------------------------ memory, the end

    def _watch(self) -> None:
        """A worker that is stopped holds its tasks for ever; one that grows would end the whole job."""
        self._loop.call_later(WATCH, self._watch)
        looks = [(*look_at(seat.pid), seat) for seat in self._seats if seat.pid]
        for state, _, seat in looks:
            seat.stopped = seat.stopped + WATCH if state == "T" else 0.0
            if seat.stopped >= STOPPED_LIMIT:
                self._kill_for(seat, f"killed by its nanny: it had been stopped (SIGSTOP) for {STOPPED_LIMIT:g} s")
        limit = self._settings.memory_limit
        used = sum(size for _, size, _ in looks)
        if limit and used > limit and not any(seat.cause for _, _, seat in looks):
            # The batch system would kill the whole job: the largest worker goes before that.
            _, size, seat = max(looks, key=lambda look: look[1])
            whole = f"the job's workers used {format_bytes(used)} of {format_bytes(limit)}"
            self._kill_for(seat, f"killed by its nanny: out of memory, {whole}, this one {format_bytes(size)}")

    def _kill_for(self, seat: _Seat, cause: str) -> None:
        if not seat.cause:
            seat.cause = cause
            self._forks.signal(seat.index, signal.SIGKILL)

    def _told_to_end(self, name: str) -> None:
        if self._is_stopping:
            # A second Ctrl-C is impatience; any other signal may just come twice, from a job script and its system.
            if name == "SIGINT" and self._loop.time() - self._stopped_at > IMPATIENCE:
                self._kill()
            return
        log.info("nanny %s  got %s: its workers hand over and end", self._name, name)
        self._stop(hand_over=True)

    def _stop(self, *, hand_over: bool) -> None:
        """End all workers; with ``hand_over`` each tells the scheduler first and waits for its leave. Bounded."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._stopped_at = self._loop.time()
        for seat in self._seats:
            if seat.pid:
                if not hand_over:
                    seat.slots.phase = WorkerPhase.DISMISSED
                self._forks.signal(seat.index, signal.SIGTERM)
            elif seat.relay is None:
                self._close_seat(seat, 0)
        if not self._seats[0].started:
            self._over.set()  # nothing was started yet
        self._loop.call_later(self._settings.grace + FAREWELL_TIME if hand_over else STOP_TIME, self._kill)

    def _kill(self) -> None:
        for seat in self._seats:
            if not seat.is_over:
                self._forks.signal(seat.index, signal.SIGKILL)
        self._loop.call_later(STOP_TIME, self._over.set)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _describe_end(report: Exited) -> str:
    if report.signal is not None:
        with suppress(ValueError):
            return f"signal {report.signal} ({signal.Signals(report.signal).name})"
        return f"signal {report.signal}"
    return "it could not be started" if report.exit_code is None else f"exit code {report.exit_code}"
