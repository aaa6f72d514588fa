"""The shell of the scheduler machine: connections in, messages and actions out. It decides nothing.

It never unpickles: what clients and workers send each other is opaque bytes here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from hpccluster.comm.channel import Channel
from hpccluster.comm.connect import connect_data
from hpccluster.comm.data import Buffer, DataConnection
from hpccluster.comm.listen import Listener, listen
from hpccluster.comm.tls import Security
from hpccluster.errors import BackendError, CommError, HpcClusterError, StartTimeout
from hpccluster.protocol import codec
from hpccluster.protocol.handshake import Identity
from hpccluster.protocol.messages import (
    PROTOCOL_VERSION,
    DataHeader,
    Failure,
    GetData,
    Hello,
    Notice,
    Purpose,
    Reply,
    Request,
    Role,
    StopWorkers,
    Value,
    Welcome,
)
from hpccluster.state.scheduler import invariants
from hpccluster.state.scheduler.actions import DropHeld, HoldData, Outbox, WorkerRetired
from hpccluster.state.scheduler.events import CLOCK, FLEET, SHELL, DataHeld, PeerJoined, PeerLeft, RetireWorkers, Tick
from hpccluster.state.scheduler.records import TaskState, WorkerRecord
from hpccluster.state.scheduler.state import SchedulerState

log = logging.getLogger("hpccluster.scheduler")

TICK = 0.05
"""Seconds between ticks of the machine's clock while tasks are unfinished."""
NANNY_SILENCE = 30.0
"""Seconds without a word of a nanny after which its node counts as lost."""
Operation = Callable[[dict[str, Value]], Awaitable[Value]]

WorkerChange = Callable[[WorkerRecord, str | None], None]
"""A worker has joined (None), or left for that reason."""


class Scheduler:
    """The scheduler of one cluster.

    ``host``: the address to listen on; ``contact_host``: what peers are told, where it differs. ``security`` None is plain
    TCP: whoever reaches the port can run code as this user. ``validate``: check the invariants after each step.
    """

    def __init__(
        self,
        *,
        cluster: str,
        cluster_name: str,
        security: Security | None,
        host: str = "127.0.0.1",
        port: int = 0,
        contact_host: str | None = None,
        validate: bool = False,
    ) -> None:
        self.cluster = cluster
        self.cluster_name = cluster_name
        self.state = SchedulerState()
        self.addresses: tuple[str, ...] = ()
        self.on_worker: WorkerChange | None = None
        self.admits_job: Callable[[str], bool] | None = None
        """Whether workers that were born in the job of that name may join; without it, all may."""
        self.route_to: Callable[[str, str], Awaitable[str]] | None = None
        """The job of a worker and its address -> the address by which it can be reached from here, where that is another one."""
        self._security = security
        self._where = (host, port, contact_host)
        self._validate = validate
        self._listener: Listener | None = None
        self._channels: dict[str, Channel] = {}
        self._operations: dict[str, Operation] = {
            "scheduler_info": self._scheduler_info,
            "wait_for_workers": self._wait_for_workers,
        }
        self._work: set[asyncio.Task[None]] = set()
        self._ticking = False
        self._changed = asyncio.Event()
        self._held: dict[int, list[Buffer]] = {}
        self._clients = 0
        self._closing = False

    @property
    def address(self) -> str:
        """The first contact address."""
        return self.addresses[0]

    async def start(self) -> None:
        """Listen. Raises `CommError` where the port cannot be had."""
        host, port, contact = self._where
        self._listener = await listen(
            host,
            port,
            self._security,
            admit=self._admit,
            on_control=self._joined,
            on_data=self._serve_data,
            contact_host=contact,
        )
        self.addresses = self._listener.addresses
        self.state.holder.address = self.address

    def add_operation(self, name: str, operation: Operation) -> None:
        """Answer requests for ``name``; a later one of the same name takes its place."""
        self._operations[name] = operation

    def notify_clients(self, level: str, text: str) -> None:
        """Have every client process show ``text`` once; ``level``: ``info``, ``warning`` or ``error``."""
        told: set[tuple[str, int]] = set()
        for name in self.state.clients:
            channel = self._channels[name]
            process = (channel.hello.host, channel.hello.pid)
            if process not in told:
                told.add(process)
                channel.send(Notice(level, text))

    def retire(self, workers: list[str]) -> None:
        """Begin to send these workers home; `on_worker` tells when each is gone."""
        self._feed(FLEET, [RetireWorkers(workers)])

    def dismiss(self, reason: str) -> None:
        """Tell all nannies to end their workers at once."""
        for name in self.state.nannies:
            self._channels[name].send(StopWorkers(reason))

    async def close(self, reason: str = "the cluster has closed") -> None:
        """Send everybody home and stop listening. Idempotent, bounded."""
        if self._closing:
            return
        self._closing = True
        for name in self.state.nannies:
            self._channels[name].send(StopWorkers(reason))
        for channel in list(self._channels.values()):
            if channel.hello.role is not Role.NANNY:
                await channel.close()
        nannies = [channel.close() for channel in self._channels.values()]
        await asyncio.gather(*nannies)
        for task in list(self._work):
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        if self._listener is not None:
            await self._listener.close()

    # ------------------------------------------------------------------------------------------------------ peers

    def _admit(self, hello: Hello, identity: Identity | None) -> Welcome | CommError:
        """A name of its own for everybody who may join."""
        if self._closing:
            return CommError("the cluster is closing")
        if identity is not None and identity.token not in (identity.role, hello.job):
            return CommError(f"the credential is for the workers of job {identity.token} only")
        if hello.job and self.admits_job is not None and not self.admits_job(hello.job):
            return CommError(f"the job {hello.job} does not belong to this cluster, or no longer does")
        if hello.purpose is Purpose.DATA:
            name = hello.name
        elif hello.role is Role.CLIENT:
            self._clients += 1
            name = f"client:{hello.name or 'client'}-{self._clients}"
        elif hello.role is Role.NANNY:
            name = f"nanny:{hello.name}"
        else:
            name = hello.name or f"worker-{hello.host}-{hello.pid}"
            known = self.state.workers.get(name)
            if known is not None and (known.host, known.job) != (hello.host, hello.job):
                name = f"{name}-{hello.host}-{hello.pid}"  # two of one name, started by hand
        return Welcome(cluster=self.cluster, name=name, cluster_name=self.cluster_name)

    def _joined(self, channel: Channel) -> None:
        name, role = channel.welcome.name, channel.hello.role
        before = self._channels.pop(name, None)
        if before is not None:
            self._left(name, before, "replaced by a newer incarnation")
            before.abort()
        self._channels[name] = channel
        self._feed(name, [PeerJoined(channel.hello)])
        if role is Role.CLIENT:
            channel.start(codec.from_client, lambda m: self._from_client(name, m), self._lost(name, channel), None)
            return
        if role is Role.NANNY:
            channel.start(codec.from_nanny, lambda m: self._feed(name, m), self._lost(name, channel), NANNY_SILENCE)
            return
        worker = self.state.workers[name]
        log.info("worker %s joined from %s (%d threads)", name, channel.peer_address, worker.threads)
        # a worker whose user code holds the GIL is silent, not dead: its nanny and the kernel tell when it is gone
        channel.start(codec.from_worker, lambda m: self._feed(name, m), self._lost(name, channel), None)
        self._tell(worker, None)

    def _lost(self, name: str, channel: Channel) -> Callable[[CommError | None], None]:
        def lost(error: CommError | None) -> None:
            if self._channels.get(name) is channel:
                del self._channels[name]
                self._left(name, channel, str(error) if error is not None else "it has left")

        return lost

    def _left(self, name: str, channel: Channel, reason: str) -> None:
        worker = self.state.workers.get(name)
        self._feed(name, [PeerLeft(reason)])
        if worker is not None:
            log.info("worker %s left: %s", name, reason)
            self._tell(worker, reason)
        elif channel.hello.role is Role.NANNY and not self._closing:
            self._drop_workers_of(channel.hello, reason)

    def _drop_workers_of(self, hello: Hello, reason: str) -> None:
        """A nanny that is gone takes its workers along: they end with it, or its node is lost."""
        for worker in list(self.state.workers.values()):
            if worker.name.startswith(f"{hello.name}-") and worker.host == hello.host:
                channel = self._channels.get(worker.name)
                if channel is not None:
                    log.info("worker %s goes with its nanny: %s", worker.name, reason)
                    channel.abort()

    def _tell(self, worker: WorkerRecord, reason: str | None) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        if self.on_worker is not None:
            self.on_worker(worker, reason)

    # ---------------------------------------------------------------------------------------------------- the machine

    def _from_client(self, name: str, messages: list[Any]) -> None:
        if any(type(message) is Request for message in messages):
            for message in messages:
                if type(message) is Request:
                    self._start(self._answer(name, message))
            messages = [message for message in messages if type(message) is not Request]
        if messages:
            self._feed(name, messages)

    def _feed(self, source: str, messages: list[Any]) -> None:
        """The one way into the machine, and out of it."""
        now = asyncio.get_running_loop().time()
        outbox = self.state.handle(source, messages, now)
        if self._validate:
            invariants.check(self.state)
        channels = self._channels
        for peer, batch in outbox.sends.items():
            channel = channels.get(peer)
            if channel is not None:
                channel.send(*batch)
        if outbox.actions:
            self._perform(outbox)
        if self.state.unfinished and not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        if not self._closing:
            self._feed(CLOCK, [Tick()])

    def _perform(self, outbox: Outbox) -> None:
        for action in outbox.actions:
            if isinstance(action, HoldData):
                self._start(self._hold(action))
            elif isinstance(action, DropHeld):
                self._held.pop(action.task, None)
            elif isinstance(action, WorkerRetired):
                log.info("worker %s has handed everything over", action.worker)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of the scheduler failed", exc_info=task.exception())

    # ------------------------------------------------------------------------------------------------------ requests

    async def _answer(self, name: str, request: Request) -> None:
        channel = self._channels.get(name)
        if channel is None:
            return
        operation = self._operations.get(request.operation)
        try:
            if operation is None:
                known = ", ".join(sorted(self._operations))
                raise HpcClusterError(f"this cluster cannot answer {request.operation!r} (it knows {known})")
            reply = Reply(request.id, await operation(request.arguments))
            codec.check_sendable(reply)
        except HpcClusterError as error:
            channel.send(Failure(request.id, type(error).__name__, error.message, error.code, error.details))
        except Exception as error:  # the top of the shell: a bug of ours must not leave a client waiting
            log.exception("request %s failed", request.operation)
            text = f"internal error in {request.operation!r}: {type(error).__name__}: {error}"
            channel.send(Failure(request.id, "HpcClusterError", text, "", {}))
        else:
            channel.send(reply)

    async def _scheduler_info(self, _: dict[str, Value]) -> Value:
        state = self.state
        return {
            "name": self.cluster_name,
            "id": self.cluster,
            "address": self.address,
            "workers": {worker.name: describe(worker) for worker in state.workers.values()},
            "clients": len(state.clients),
            "tasks": {"unfinished": state.unfinished, "queued": state.ready, "known": len(state.tasks)},
        }

    async def _wait_for_workers(self, arguments: dict[str, Value]) -> Value:
        """For a scheduler that was started by hand: nobody knows of jobs here."""
        wanted, timeout = int(arguments.get("n", 1)), arguments.get("timeout")
        try:
            async with asyncio.timeout(timeout):
                while len(self.state.workers) < wanted:
                    await self._changed.wait()
        except TimeoutError:
            raise StartTimeout(
                f"{len(self.state.workers)} of {wanted} workers are there after {timeout} s; this scheduler was started "
                f"by hand: start more with 'hpccluster worker {self.cluster_name}'"
            ) from None
        return len(self.state.workers)

    # ---------------------------------------------------------------------------------------------------------- data

    def _serve_data(self, connection: DataConnection) -> None:
        self._start(self._relay(connection))

    async def _relay(self, connection: DataConnection) -> None:
        """Give out what is held here, and fetch for whoever cannot reach the holder itself."""
        try:
            while True:
                message = await connection.receive()
                if not isinstance(message, GetData):
                    break
                for task in message.tasks:
                    frames = self._held.get(task) or await self._fetch(task)
                    if frames is None:
                        await connection.send(DataHeader(task, False, []))
                    else:
                        await connection.send(DataHeader(task, True, [len(frame) for frame in frames]))
                        await connection.send_frames(frames)
        except CommError:
            pass  # the peer is gone, or went astray: its own side knows
        finally:
            connection.abort()

    async def _fetch(self, number: int) -> list[Buffer] | None:
        task = self.state.tasks.get(number)
        if task is not None and task.payload is not None:
            return [
                memoryview(task.payload)
            ]  # one of so many small inputs of a task that they did not fit into its message
        if task is None or task.state is not TaskState.STORED:
            return None
        for holder in list(task.holders or ()):
            frames = await self._fetch_from(holder.address, number, holder.job)
            if frames is not None:
                return frames
        return None

    async def _fetch_from(self, address: str, number: int, job: str) -> list[Buffer] | None:
        hello = Hello(
            protocol=PROTOCOL_VERSION,
            role=Role.SCHEDULER,
            purpose=Purpose.DATA,
            cluster=self.cluster,
        )
        try:
            if self.route_to is not None:
                address = await self.route_to(job, address)
            connection = await connect_data(address, hello, self._security)
            try:
                await connection.send(GetData([number]))
                header = await connection.receive()
                if isinstance(header, DataHeader) and header.found:
                    return await connection.receive_frames(header.frames)
            finally:
                connection.abort()
        except (CommError, BackendError) as error:
            log.debug("cannot fetch task %d from %s: %s", number, address, error)
        return None

    async def _hold(self, action: HoldData) -> None:
        worker = self.state.workers.get(action.worker)
        frames = await self._fetch_from(action.address, action.task, "" if worker is None else worker.job)
        if frames is not None:
            self._held[action.task] = frames
        self._feed(SHELL, [DataHeld(action.task, action.worker, frames is not None)])
        if action.task not in self.state.tasks:
            self._held.pop(action.task, None)


def describe(worker: WorkerRecord) -> dict[str, Value]:
    """A worker as plain values: sizes in bytes."""
    return {
        "name": worker.name,
        "address": worker.address,
        "host": worker.host,
        "pid": worker.pid,
        "job": worker.job,
        "threads": worker.threads,
        "memory_limit": worker.memory,
        "resident": worker.resident,
        "stored": worker.stored,
        "in_flight": len(worker.in_flight),
        "executing": worker.executing,
    }
