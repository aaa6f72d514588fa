"""A small test language over the scheduler machine: clients, workers and nannies that speak, and what they are told.

    with SchedulerEnv() as env:
        alice, worker = env.client("alice"), env.worker("w1")
        alice.submit("a")
        worker.expect_run("a")
        worker.finish("a")
        alice.expect_results("a")

Tasks are named by labels, which travel as their arguments. Each message is encoded and decoded on its way, in and out;
the invariants are checked after each event; at the end, whatever a peer was told and the test did not expect is a
failure. See `hpccluster.testing.scheduler_peers` and `hpccluster.testing.scheduler_workers` for what the peers can say
and expect. Knows no sockets and no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from hpccluster.protocol import codec
from hpccluster.protocol.messages import PROTOCOL_VERSION, Hello, Message, Role, RunTasks
from hpccluster.state.scheduler import invariants
from hpccluster.state.scheduler.actions import Action, DropHeld, HoldData, WorkerRetired
from hpccluster.state.scheduler.events import (
    CLOCK,
    FLEET,
    SHELL,
    DataHeld,
    PeerJoined,
    PeerLeft,
    RetireWorkers,
    SchedulerEvent,
    Tick,
)
from hpccluster.state.scheduler.state import SchedulerState
from hpccluster.testing.scheduler_peers import ClientPeer, NannyPeer, Peer
from hpccluster.testing.scheduler_workers import WorkerPeer

HEAD = "tcp://head:1"
"""Where the scheduler's own process serves data, unless a test says otherwise."""


class SchedulerEnv:
    """A scheduler machine and its peers.

    With ``latency``, what a peer is told stays in its mailbox until it is read (`Peer.read`): for tests that let
    messages cross. Without, it is read at once.
    """

    def __init__(self, *, allowed_deaths: int = 3, address: str = HEAD, latency: bool = False) -> None:
        self.state = SchedulerState(allowed_deaths=allowed_deaths, address=address)
        self.now = 100.0
        self.latency = latency
        self.validate = True
        """Check the invariants after each event. Takes as long as there are tasks."""
        self.clients: dict[str, ClientPeer] = {}
        self.workers: dict[str, WorkerPeer] = {}
        self.nannies: dict[str, NannyPeer] = {}
        self.actions: list[Action] = []
        """Actions that no expectation has taken."""
        self.held: set[int] = set()
        """Data that the scheduler's own process holds."""
        self.labels: dict[int, str] = {}
        """Of tasks, as far as a peer has got to know them."""
        self.attempts: dict[int, int] = {}
        """The last attempt of each task that was handed out."""

    # ------------------------------------------------------------------------------------------------------- the peers

    def client(self, name: str = "client") -> ClientPeer:
        """A client joins."""
        client = self.clients[name] = ClientPeer(self, name)
        self._join(name, Hello(protocol=PROTOCOL_VERSION, role=Role.CLIENT, name=name))
        return client

    def worker(
        self,
        name: str = "w1",
        *,
        threads: int = 1,
        host: str = "",
        job: str = "",
        address: str = "",
        resources: dict[str, float] | None = None,
    ) -> WorkerPeer:
        """A worker joins; one of the same name is thereby gone."""
        worker = WorkerPeer(self, name, address or f"tcp://{name}:1")
        self.workers[name] = worker
        hello = Hello(
            protocol=PROTOCOL_VERSION,
            role=Role.WORKER,
            name=name,
            host=host,
            job=job,
            threads=threads,
            address=worker.address,
            resources=resources or {},
        )
        self._join(name, hello)
        return worker

    def nanny(self, name: str = "nanny") -> NannyPeer:
        """A nanny joins."""
        nanny = self.nannies[name] = NannyPeer(self, name)
        self._join(name, Hello(protocol=PROTOCOL_VERSION, role=Role.NANNY, name=name))
        return nanny

    def _join(self, name: str, hello: Hello) -> None:
        (decoded,) = codec.handshake.decode(codec.encode_batches([hello])[0])
        assert isinstance(decoded, Hello)
        self.handle(name, [PeerJoined(decoded)])

    def leave(self, name: str) -> None:
        """The peer's connection ends."""
        for peers in (self.clients, self.workers, self.nannies):
            peers.pop(name, None)
        self.handle(name, [PeerLeft("the test says so")])

    # ----------------------------------------------------------------------------------------------- what else happens

    def pass_time(self, seconds: float) -> None:
        """Let time pass; the machine learns of it by the next event."""
        self.now += seconds

    def tick(self, seconds: float = 0.0) -> None:
        """Let time pass, and the clock say so."""
        self.now += seconds
        self.handle(CLOCK, [Tick()])

    def retire(self, *workers: WorkerPeer) -> None:
        """The fleet wants these workers to go."""
        self.handle(FLEET, [RetireWorkers([worker.name for worker in workers])])

    def hold(self, label: str, worker: WorkerPeer, *, succeeded: bool = True) -> None:
        """The shell answers a `HoldData`."""
        self.answer_hold(HoldData(self.id_of(label), worker.name, worker.address), succeeded=succeeded)

    def answer_hold(self, action: HoldData, *, succeeded: bool) -> None:
        """The shell has fetched that data, or has failed to."""
        if succeeded:
            self.held.add(action.task)
        self.handle(SHELL, [DataHeld(action.task, action.worker, succeeded)])

    # ------------------------------------------------------------------------------------------------ what is expected

    def expect_retired(self, *workers: WorkerPeer) -> None:
        """Exactly these workers have been sent home."""
        taken = [action.worker for action in self.actions if isinstance(action, WorkerRetired)]
        self.actions = [action for action in self.actions if not isinstance(action, WorkerRetired)]
        assert taken == [worker.name for worker in workers], f"retired are {taken}"

    def expect_hold(self, *labels: str) -> None:
        """Exactly these data are to be held by the scheduler's own process."""
        taken = [self.label_of(action.task) for action in self.actions if isinstance(action, HoldData)]
        self.actions = [action for action in self.actions if not isinstance(action, HoldData)]
        assert taken == list(labels), f"to be held are {taken}"

    def expect_drop(self, *labels: str) -> None:
        """Exactly these held data are to be dropped."""
        taken = [self.label_of(action.task) for action in self.actions if isinstance(action, DropHeld)]
        self.actions = [action for action in self.actions if not isinstance(action, DropHeld)]
        assert taken == list(labels), f"to be dropped are {taken}"

    def expect_nothing(self) -> None:
        """Nobody has been told anything that the test did not expect."""
        left: list[str] = [
            f"{peer.name}: {message}" for peer in self.peers() for message in (*peer.mailbox, *peer.inbox)
        ]
        left += [str(action) for action in self.actions]
        assert not left, "not expected:\n  " + "\n  ".join(left)

    def expect_no_records(self) -> None:
        """The machine remembers no task, function or group: nothing has leaked."""
        state = self.state
        kept = [*state.tasks.values(), *state.keys, *state.functions, *state.groups, *state.placing, *state.suspects]
        kept += [(worker, worker.in_flight, worker.holds) for worker in state.workers.values() if worker.in_flight]
        kept += [(worker, worker.holds) for worker in (*state.workers.values(), state.holder) if worker.holds]
        assert not kept, f"leaked: {kept}"
        assert (state.ready, state.unfinished) == (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.expect_nothing()

    # --------------------------------------------------------------------------------------------------------- the way

    def peers(self) -> list[Peer]:
        """All that are connected."""
        return [*self.clients.values(), *self.workers.values(), *self.nannies.values()]

    def id_of(self, label: str) -> int:
        """The newest task of that label that any peer knows."""
        return max(task for task, known in self.labels.items() if known == label)

    def label_of(self, task: int) -> str:
        """The label of a task, or its number where nobody has got to know it."""
        return self.labels.get(task, str(task))

    def handle(self, source: str, events: Sequence[SchedulerEvent]) -> None:
        """One step of the machine, with what it asks for delivered."""
        self.now += 1e-6  # no two steps happen at the same time
        outbox = self.state.handle(source, events, self.now)
        if self.validate:
            invariants.check(self.state)
        for action in outbox.actions:
            if isinstance(action, DropHeld):
                assert action.task in self.held, f"asked to drop what is not held: {action}"
                self.held.discard(action.task)
            self.actions.append(action)
        by_name = {peer.name: peer for peer in self.peers()}
        for name, messages in outbox.sends.items():
            assert name in by_name, f"a message to {name}, who is not connected: {messages}"
            peer = by_name[name]
            for frame in codec.encode_batches(messages):
                received = peer.decode(frame)
                self._check_attempts(received)
                peer.mailbox += received
            if not self.latency:
                peer.read_all()

    def _check_attempts(self, messages: Sequence[Message]) -> None:
        for message in messages:
            for run in message.tasks if isinstance(message, RunTasks) else ():
                assert run.attempt > self.attempts.get(run.task, -1), f"handed out twice: {run}"
                self.attempts[run.task] = run.attempt

    def say(self, source: str, messages: Sequence[Message]) -> None:
        """A peer's messages, by way of bytes."""
        for frame in codec.encode_batches(messages):
            if source in self.clients:
                self.handle(source, codec.from_client.decode(frame))
            elif source in self.workers:
                self.handle(source, codec.from_worker.decode(frame))
            else:
                self.handle(source, codec.from_nanny.decode(frame))
