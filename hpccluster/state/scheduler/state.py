"""The scheduler machine.

Rules:
1. Everything that can change this state lives in this folder; the only way in is `SchedulerState.handle`.
2. No I/O, clock, randomness, settings lookup, logging. ``now`` and policy are arguments; ties break by age.
3. Nothing that a peer sends makes `handle` raise: it becomes an action. An exception out of `handle` is our bug.
4. Each task carries an attempt number: what arrives for an old attempt is dropped by rule, not by extra states.
5. What we decided counts at once; what we observe only corrects it.
6. `invariants` numbers what always holds.

Who does what: `from_clients` and `from_workers` take messages apart, `transitions` moves tasks through their states,
`placement` chooses workers, `retire` sends them home. User payloads are opaque bytes throughout.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpccluster.protocol.messages import (
    CancelFutures,
    DataPlaced,
    DataStored,
    DefineFunction,
    FetchesFailed,
    ForgetFunctions,
    Heartbeat,
    InputsMissing,
    Leaving,
    LocateData,
    PlaceData,
    PutData,
    ReleaseFutures,
    ReplicasAdded,
    Role,
    StillRunning,
    SubmitTasks,
    TaskFailed,
    TasksDone,
    TasksReturned,
    WorkerExited,
)
from hpccluster.state.scheduler import from_clients, from_workers, retire
from hpccluster.state.scheduler.actions import Outbox
from hpccluster.state.scheduler.core import Core
from hpccluster.state.scheduler.events import DataHeld, PeerJoined, PeerLeft, RetireWorkers, SchedulerEvent, Tick
from hpccluster.state.scheduler.placement import place, rebalance
from hpccluster.state.scheduler.records import ClientRecord, WorkerRecord
from hpccluster.state.scheduler.warn import warn_of_impossible

FROM_CLIENT: dict[type, Any] = {
    DefineFunction: from_clients.define,
    ForgetFunctions: from_clients.forget_functions,
    SubmitTasks: from_clients.submit,
    PutData: from_clients.put,
    PlaceData: from_clients.place_data,
    DataPlaced: from_clients.data_placed,
    ReleaseFutures: from_clients.release_futures,
    CancelFutures: from_clients.cancel_futures,
    LocateData: from_clients.locate,
}


def _heartbeat(_: Core, worker: WorkerRecord, message: Heartbeat) -> None:
    worker.executing = message.executing
    worker.stored = message.stored
    worker.resident = message.memory


def _leaving(core: Core, worker: WorkerRecord, _: Leaving) -> None:
    retire.retire(core, worker)


FROM_WORKER: dict[type, Any] = {
    TasksDone: from_workers.tasks_done,
    TaskFailed: from_workers.task_failed,
    TasksReturned: from_workers.tasks_returned,
    StillRunning: from_workers.still_running,
    InputsMissing: from_workers.inputs_missing,
    FetchesFailed: from_workers.fetches_failed,
    ReplicasAdded: from_workers.replicas_added,
    DataStored: from_workers.data_stored,
    Heartbeat: _heartbeat,
    Leaving: _leaving,
}


class SchedulerState(Core):
    """Which task runs where.

    ``allowed_deaths``: how many workers may die under a task before it fails for it. ``address``: where the scheduler's
    own process serves data that it relays or holds; empty where it does not.
    """

    def __init__(self, *, allowed_deaths: int = 3, address: str = "") -> None:
        super().__init__(allowed_deaths=allowed_deaths, address=address)

    def handle(self, source: str, messages: Iterable[SchedulerEvent], now: float) -> Outbox:
        """Take in what ``source`` (a peer's name, or the clock, fleet, shell) says at ``now`` (monotonic seconds)."""
        self.now = now
        for message in messages:
            client = self.clients.get(source)
            if client is not None:
                handler = FROM_CLIENT.get(type(message))
                if handler is not None:
                    handler(self, client, message)
                    continue
            else:
                worker = self.workers.get(source)
                handler = FROM_WORKER.get(type(message))
                if worker is not None and handler is not None:
                    handler(self, worker, message)
                    continue
            self._other(source, message)
        place(self)
        if self.retirees:
            retire.advance(self)
        return self.take_outbox()

    def _other(self, source: str, message: SchedulerEvent) -> None:
        """Everything that is not for a known client or worker; what nobody may say is dropped."""
        if isinstance(message, Tick):
            rebalance(self)
            warn_of_impossible(self)
        elif isinstance(message, PeerJoined):
            self._joined(source, message)
        elif isinstance(message, PeerLeft):
            self._left(source)
        elif isinstance(message, RetireWorkers):
            for name in message.names:
                worker = self.workers.get(name)
                if worker is not None:
                    retire.retire(self, worker)
        elif isinstance(message, DataHeld):
            retire.data_held(self, message)
        elif isinstance(message, WorkerExited) and source in self.nannies:
            from_workers.worker_exited(self, message)

    def _joined(self, source: str, message: PeerJoined) -> None:
        hello = message.hello
        self._left(source)  # the same name again: a new incarnation
        if hello.role is Role.CLIENT:
            self.clients[source] = ClientRecord(source, hello.paths)
        elif hello.role is Role.WORKER:
            from_workers.worker_joined(self, source, hello)
        elif hello.role is Role.NANNY:
            self.nannies.add(source)

    def _left(self, source: str) -> None:
        client = self.clients.pop(source, None)
        if client is not None:
            from_clients.client_left(self, client)
        worker = self.workers.get(source)
        if worker is not None:
            from_workers.worker_left(self, worker)
        self.nannies.discard(source)
