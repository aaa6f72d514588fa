"""The shell of the worker machine: connections, threads and signals in, messages and actions out. It decides nothing.

It also runs inside a loop that belongs to somebody else (a cluster within the calling process): nothing here touches
signals, the process's exit or the event loop's policy; `hpccluster.runtime.process` does.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from hpccluster.comm.address import parse_address, route_towards
from hpccluster.comm.channel import Channel
from hpccluster.comm.connect import connect
from hpccluster.comm.data import DataConnection
from hpccluster.comm.listen import Listener, listen
from hpccluster.comm.tls import Security
from hpccluster.errors import CommError, HandshakeFailed, HpcClusterError
from hpccluster.protocol import codec
from hpccluster.protocol.handshake import Identity
from hpccluster.protocol.messages import (
    PROTOCOL_VERSION,
    AddFunctions,
    DropFunctions,
    Heartbeat,
    Hello,
    Role,
    SchedulerToWorker,
    TaskFailed,
    TasksDone,
    Welcome,
)
from hpccluster.runtime.data import DataFetcher, DataStore, Frames, serve_data
from hpccluster.runtime.executor import Executor, Kept
from hpccluster.runtime.joining import HEAD_GONE, find_scheduler, jitter
from hpccluster.runtime.memory import resident_bytes
from hpccluster.runtime.settings import WorkerSettings
from hpccluster.runtime.slots import WorkerPhase, WorkerSlots, private_slots
from hpccluster.state.worker.actions import (
    DiscardResults,
    DropData,
    End,
    Execute,
    Fetch,
    KeepResults,
    Outbox,
    Withdraw,
)
from hpccluster.state.worker.events import DataArrived, DataPushed, FetchFailed, LeaveWish, Source, Tick, Withdrawn
from hpccluster.state.worker.invariants import check
from hpccluster.state.worker.state import WorkerState
from hpccluster.units import format_bytes

log = logging.getLogger("hpccluster.worker")

HEARTBEAT = 5.0
"""Seconds between two heartbeats."""
SILENCE_LIMIT = 30.0
"""Seconds without a word from the scheduler after which it counts as lost."""
ROUNDING = 0.01
"""Seconds: a loop counts in milliseconds, and sums of times are rounded, so that a timer may come a hair before a deadline."""

_DATA_ROLES = frozenset({Role.WORKER, Role.CLIENT, Role.SCHEDULER})


class Worker:
    """One worker: joins the scheduler, runs tasks, keeps and serves their results.

    ``slots`` is memory shared with the nanny. After `start` the worker is registered; `ended` is awaited for its end.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        security: Security | None,
        *,
        name: str,
        addresses: Sequence[str] = (),
        slots: WorkerSlots | None = None,
    ) -> None:
        self.settings = settings
        self.name = name
        """Our wish, and after `start` what the scheduler calls us."""
        self.store = DataStore()
        self._security = security
        self._addresses = list(addresses or settings.addresses)
        self._slots = slots or private_slots(settings.nthreads)
        self._cluster = ""
        self._listener: Listener | None = None
        self._channel: Channel | None = None
        self._fetcher: DataFetcher
        self._state: WorkerState
        self._executor: Executor | None = None
        self._kept: Kept = {}
        self._work: set[asyncio.Task[None]] = set()
        self._serving: set[DataConnection] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._rejoining: asyncio.Task[None] | None = None
        self._cpu = (0.0, 0.0)
        self._reason = ""

    # ------------------------------------------------------------------------------------------------ from outside

    async def start(self) -> None:
        """Listen and register. Raises `PeerLost` where no scheduler is found within the death timeout.

        `HandshakeFailed` and `CredentialError`: turned away; another try would end the same. After an error nothing is
        left open.
        """
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        try:
            self._listener = await self._listen()
            await self._register()
        except BaseException:
            await self.close()
            raise
        self._cpu = (time.perf_counter(), time.process_time())
        self._call_later(jitter(HEARTBEAT), self._beat)

    async def ended(self) -> str:
        """Wait for the end, and return its reason. Raises `PeerLost` where the scheduler was lost for good.

        `CredentialError` or `HandshakeFailed`: it was lost, and did not take this worker back. Other errors are our bugs.
        """
        return await asyncio.shield(self._ended)

    def leave(self, reason: str, *, at_once: bool = False) -> None:
        """Hand over and end, within the settings' ``grace``. What was not handed over in that time is lost.

        Asking again changes nothing (a batch system may signal a job's every process, and its nanny, too), but
        ``at_once`` hands nothing over.
        """
        if at_once or self._channel is None or self._slots.phase is WorkerPhase.DISMISSED:
            self._end(reason)
            return
        if self._slots.phase is WorkerPhase.ENDING:
            return
        self._slots.phase = WorkerPhase.ENDING
        self._reason = reason
        self._feed(Source.SHELL, [LeaveWish(reason, self._now() + self.settings.grace)])
        self._call_later(self.settings.grace + ROUNDING, lambda: self._feed(Source.SHELL, [Tick()]))

    async def close(self) -> None:
        """End now. Idempotent. Tasks that run are not waited for; the scheduler hears that this worker left."""
        self._end("closed")
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._rejoining is not None:
            await _finish({self._rejoining})
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        await self._end_life()
        if self._listener is not None:
            await self._listener.close()
        for connection in list(self._serving):
            connection.abort()
        await _finish(self._work)
        self.store.clear()

    # -------------------------------------------------------------------------------------------------- registration

    async def _listen(self) -> Listener:
        host = self.settings.host or route_towards(parse_address(self._addresses[0]).host)
        return await listen(host, 0, self._security, admit=self._admit, on_control=Channel.abort, on_data=self._serve)

    async def _register(self) -> None:
        """Begin a new life under the scheduler: nothing of an earlier one goes on in it."""
        assert self._listener is not None
        hello = Hello(
            protocol=PROTOCOL_VERSION,
            role=Role.WORKER,
            name=self.name,
            address=self._listener.addresses[0],
            threads=self._slots.threads,
            memory=self.settings.worker_memory,
            job=self.settings.job,
            incarnation=self._slots.incarnation,
            resources=self.settings.resources,
        )
        channel = await find_scheduler(
            lambda time: connect(self._addresses, hello, self._security, timeout=time),
            timeout=self.settings.death_timeout,
            gone_after=HEAD_GONE if self.settings.job else math.inf,
        )
        self._cluster = channel.welcome.cluster
        self._fetcher = DataFetcher(
            msgspec.structs.replace(hello, cluster=self._cluster), self._security, self._addresses
        )
        self._state = WorkerState(hello.address)
        self._executor = Executor(self._slots, self.store, self._finished)
        self._channel = channel
        self._slots.phase = WorkerPhase.REGISTERED
        channel.start(codec.to_worker, self._received, self._lost, SILENCE_LIMIT)
        share = f"{self._slots.threads} threads" if self._slots.threads > 1 else "1 thread"
        if self.settings.worker_memory:
            share += f", {format_bytes(self.settings.worker_memory)}"
        self.name = channel.welcome.name
        log.info("worker %s  %s  registered with %s  (%s)", self.name, hello.address, channel.peer_address, share)

    async def _end_life(self) -> None:
        """Forget all tasks and data: after a lost scheduler they belong to nobody."""
        if self._executor is None:
            return
        self._executor.stop()
        self._executor = None
        self._kept.clear()
        await _finish(self._work)
        await self._fetcher.close()
        self.store.clear()

    def _lost(self, error: CommError | None) -> None:
        if self._ended.done() or self._channel is None:
            return
        self._channel = None
        if error is None:
            self._end("the cluster has closed")
        elif self._slots.phase is not WorkerPhase.REGISTERED:
            self._end(self._reason)
        else:
            log.warning("worker %s  lost its scheduler: %s", self.name, error)
            self._rejoining = asyncio.get_running_loop().create_task(self._rejoin())

    async def _rejoin(self) -> None:
        await self._end_life()
        self._slots.incarnation += 1
        try:
            await self._register()
        except HpcClusterError as error:
            self._fail(error)

    # ------------------------------------------------------------------------------------------- what comes, what goes

    def _received(self, messages: list[SchedulerToWorker]) -> None:
        self._feed(Source.SCHEDULER, messages)

    def _finished(self, events: list[TasksDone | TaskFailed], kept: Kept) -> None:
        if kept:
            self._kept.update(kept)
        self._feed(Source.EXECUTOR, events)

    def _feed(self, source: Source, messages: Sequence[Any]) -> None:
        """Tell the machine, and do what it asks for."""
        try:
            self._step(source, messages)
        except Exception as error:
            log.exception("worker %s  a bug of ours, please report it", self.name)
            self._fail(error)

    def _step(self, source: Source, messages: Sequence[Any]) -> None:
        if self._executor is None or self._ended.done():
            return
        out = self._state.handle(source, messages, self._now())
        if self.settings.validate:
            check(self._state)
        withdrawn = self._perform(out, self._executor)
        if out.messages and self._channel is not None:
            self._channel.send(*out.messages)
        if withdrawn is not None:
            self._step(Source.EXECUTOR, [withdrawn])

    def _perform(self, out: Outbox, executor: Executor) -> Withdrawn | None:
        """Do the actions, in order; returns what the executor had not started of what it was asked to give back."""
        withdrawn: Withdrawn | None = None
        for action in out.actions:
            match action:
                case Execute(tasks):
                    executor.execute(tasks)
                case AddFunctions(functions):
                    executor.add_functions(functions)
                case DropFunctions(functions):
                    executor.drop_functions(functions)
                case Withdraw(tasks, attempts):
                    withdrawn = withdrawn or Withdrawn([], [])
                    for task, attempt in executor.withdraw(tasks, attempts):
                        withdrawn.tasks.append(task)
                        withdrawn.attempts.append(attempt)
                case Fetch(address, tasks):
                    self._start(self._fetch(address, tasks))
                case KeepResults(tasks, attempts):
                    for pair in zip(tasks, attempts, strict=True):
                        self.store.put(pair[0], *self._kept.pop(pair))
                case DiscardResults(tasks, attempts):
                    for pair in zip(tasks, attempts, strict=True):
                        self._kept.pop(pair, None)
                case DropData(tasks):
                    self.store.drop(tasks)
                case End(reason):
                    self._end(reason)
        return withdrawn

    async def _fetch(self, address: str, tasks: Sequence[int]) -> None:
        missing = dict.fromkeys(tasks)

        def receive(task: int, frames: Frames | None) -> None:
            if frames is not None:
                del missing[task]
                self._feed(Source.FETCHER, [DataArrived([task], [self.store.put_frames(task, frames)])])

        try:
            await self._fetcher.fetch_each(address, tasks, receive)
        except HpcClusterError as error:
            log.debug("worker %s  cannot fetch from %s: %s", self.name, address, error)
        if missing:
            self._feed(Source.FETCHER, [FetchFailed(address, list(missing))])

    def _admit(self, hello: Hello, _: Identity | None) -> Welcome | CommError:
        if hello.role not in _DATA_ROLES:
            return HandshakeFailed(f"a {hello.role} has no business with a worker")
        return Welcome(cluster=self._cluster or hello.cluster, name=hello.name)

    def _serve(self, connection: DataConnection) -> None:
        async def serve() -> None:
            self._serving.add(connection)
            try:
                await serve_data(connection, self.store, self._pushed)
            finally:
                self._serving.discard(connection)

        self._start(serve())

    def _pushed(self, task: int, size: int) -> None:
        self._feed(Source.CLIENT, [DataPushed(task, size)])

    def _beat(self) -> None:
        self._call_later(HEARTBEAT, self._beat)
        wall, cpu = time.perf_counter(), time.process_time()
        share = (cpu - self._cpu[1]) / max(wall - self._cpu[0], 1e-3) * 100
        self._cpu = (wall, cpu)
        if self._channel is not None and self._executor is not None:
            self._channel.send(Heartbeat(resident_bytes(), share, self._executor.executing, self._state.stored))

    # ------------------------------------------------------------------------------------------------------- inside

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _end(self, reason: str) -> None:
        self._slots.phase = max(self._slots.phase, WorkerPhase.ENDING)
        if not self._ended.done():
            self._ended.set_result(reason)

    def _fail(self, error: Exception) -> None:
        self._slots.phase = max(self._slots.phase, WorkerPhase.ENDING)
        if not self._ended.done():
            self._ended.set_exception(error)

    def _start(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _call_later(self, delay: float, callback: Callable[[], None]) -> None:
        now = self._now()
        self._timers = [timer for timer in self._timers if not timer.cancelled() and timer.when() > now]
        self._timers.append(asyncio.get_running_loop().call_later(delay, callback))


async def _finish(work: set[asyncio.Task[None]]) -> None:
    for task in list(work):
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*work, return_exceptions=True)
