"""Clients, workers and nannies that do anything in any order: the machine stays whole, and every task ends.

Messages cross (peers read late), are repeated, belong to old attempts, name what nobody gave out, and come from peers that
may not send them. At the end all that is on its way arrives, healthy workers do their work, and then each future that a
client still wants has exactly one outcome, every stored result is to be had, and nothing has leaked.

Set ``HPCCLUSTER_SEARCH=thorough`` for a longer search.
"""

from __future__ import annotations

import os
from typing import TypeAlias, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hpccluster.protocol.messages import (
    CancelFutures,
    DataPlaced,
    DataPlacement,
    DataStored,
    FetchesFailed,
    InputsMissing,
    LocateData,
    Message,
    PlaceData,
    PutData,
    ReleaseFutures,
    ReplicasAdded,
    RunTask,
    SubmitTasks,
    TaskErrorBody,
    TaskFailed,
    TaskOptions,
    TasksDone,
    TasksReturned,
    WorkerExited,
)
from hpccluster.state.scheduler.actions import HoldData
from hpccluster.testing.scheduler_env import HEAD, SchedulerEnv
from hpccluster.testing.scheduler_peers import ClientPeer, NannyPeer, Peer
from hpccluster.testing.scheduler_workers import WorkerPeer

T = TypeVar("T")

IS_THOROUGH = os.environ.get("HPCCLUSTER_SEARCH") == "thorough"

CLIENTS = ("alice", "bob", "carol")
WORKERS = ("w0", "w1", "w2", "w3")
CLIENT_ACTS = (
    "submit, submit, submit, put, place, place, release, release, release old, cancel, locate, locate, answer, push, push, "
    "cannot push, forget function"
).split(", ")
EVENTS = (
    "worker comes, worker dies, worker is killed, worker leaves, retire, retire all, client comes, client leaves, shell, "
    "shell fails, data arrives, data arrives, time, time, time, time"
).split(", ")
MOST_ROUNDS = 400

pick = st.integers(0, 10**6)
"""Chooses one of whatever there is."""
number = st.integers(0, 40) | st.sampled_from([-1, -(2**63), 2**63, 2**64 - 1])
numbers = st.lists(number, max_size=3)
duration = st.sampled_from([0.0, 0.001, 0.03, 1.0, -1.0, float("nan"), float("inf")])
options = st.builds(
    TaskOptions,
    priority=st.sampled_from([0, 0, 0, 1, -1, 10**9]),
    retries=st.sampled_from([0, 0, 1]),
    workers=st.sampled_from([[], [], [], ["w0"], ["host"], ["w1", "tcp://w2:1"]]),
    allow_other_workers=st.booleans(),
    resources=st.sampled_from([{}, {}, {}, {"gpu": 1.0}, {"gpu": 0.3}]),
)
Submission: TypeAlias = tuple[list[list[int]], list[str], TaskOptions]
submission = st.tuples(
    st.lists(st.lists(pick, max_size=3), min_size=1, max_size=8),
    st.lists(st.sampled_from(["", "", "", "k", "l"]), max_size=8),
    options,
)
"""Tasks: the inputs of each, some keys, options for all."""
hows = st.lists(st.sampled_from(["store", "store", "finish", ""]), min_size=4, max_size=4)
"""What each worker does with all its tasks."""
address = st.sampled_from(["", "nowhere", HEAD, *(f"tcp://{name}:1" for name in WORKERS)])


def one_of(things: list[T], at: int) -> T:
    return things[at % len(things)]


def nonsense_of_clients(some: list[int], one: int, addresses: list[str], how: TaskOptions) -> list[Message]:
    return [
        ReleaseFutures(some),
        CancelFutures(some),
        LocateData(one, addresses),
        DataPlaced(one, "".join(addresses[:1])),
        SubmitTasks(one, b"f", [b"x", b"y"], [some, some], ["", "k"], how),
        SubmitTasks(one, b"f", [b"x", b"y"], [some], [], how),
        PutData(one, [b"x"]),
        PlaceData(one, 5, ["w0"]),
    ]


def nonsense_of_workers(tasks: list[int], attempts: list[int], one: int, addresses: list[str]) -> list[Message]:
    task, attempt = (tasks or [0])[0], (attempts or [0])[0]
    return [
        TasksReturned(tasks, attempts),
        TaskFailed(task, attempt, TaskErrorBody("", "E", "nonsense", "", b""), 0.0, True),
        ReplicasAdded(tasks),
        FetchesFailed(tasks, addresses),
        InputsMissing(task, attempt, tasks, addresses),
        DataStored(task, one),
    ]


def nonsense_of_nannies(pairs: list[tuple[int, int]]) -> Message:
    return WorkerExited(
        worker="w0",
        exit_code=1,
        signal=None,
        peak_memory=-1,
        running=pairs,
        log_tail="",
        expected=False,
        restarting=True,
    )


def believe(worker: WorkerPeer, message: Message) -> None:
    """What the worker says of tasks that it has is so in its own books."""
    ended: list[tuple[int, int]] = []
    if isinstance(message, TasksDone):
        columns = zip(message.tasks, message.attempts, message.payloads, message.sizes, message.durations, strict=False)
        ended = [(task, attempt) for task, attempt, *_ in columns]
    elif isinstance(message, TasksReturned):
        ended = list(zip(message.tasks, message.attempts, strict=False))
    elif isinstance(message, TaskFailed | InputsMissing):
        ended = [(message.task, message.attempt)]
    for task, attempt in ended:
        if task in worker.runs and worker.runs[task].attempt == attempt:
            del worker.runs[task]


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.env = SchedulerEnv(allowed_deaths=1, latency=True)
        self.labels = 0
        self.wanted: dict[ClientPeer, set[str]] = {}
        self.said: list[tuple[str, Message]] = []
        """What workers have said or could have said, to be said again."""
        self.pushed: list[tuple[WorkerPeer, int]] = []
        """Data that clients have pushed to workers that have not said so yet."""
        self.runs: list[RunTask] = []
        """What has ever been handed out."""
        self.may_lie = False
        self.honest = True
        """No worker has claimed anything that is not so."""

    # ---------------------------------------------------------------------------------------------------------- helpers

    @property
    def clients(self) -> list[ClientPeer]:
        return list(self.env.clients.values())

    @property
    def workers(self) -> list[WorkerPeer]:
        return list(self.env.workers.values())

    @property
    def nanny(self) -> NannyPeer:
        return self.env.nannies.get("nanny") or self.env.nanny()

    def new_labels(self, count: int) -> list[str]:
        self.labels += count
        return [f"t{at}" for at in range(self.labels - count, self.labels)]

    def inputs(self, client: ClientPeer, picks: list[int]) -> list[str]:
        return [one_of(list(client.futures), at) for at in picks] if client.futures else []

    # ---------------------------------------------------------------------------------------------------------- clients

    @initialize(
        has_latency=st.booleans(), may_lie=st.booleans(), graph=st.lists(submission, min_size=4, max_size=6), hows=hows
    )
    def begin(self, has_latency: bool, may_lie: bool, graph: list[Submission], hows: list[str]) -> None:
        self.env.latency = has_latency
        self.may_lie = may_lie
        self.worker_comes("w0", 1)
        self.worker_comes("w1", 2)
        for at, tasks in enumerate(graph):
            if at % 2 == 0:
                self.client_comes(CLIENTS[at // 2])
            self.submit(self.clients[-1], tasks)
            self.bring_data(self.clients[-1], [])
            self.clients[-1].answer()
            if at > 1:
                self.workers_work(hows)

    @rule(
        at=pick,
        tasks=submission,
        which=st.lists(pick, min_size=1, max_size=6),
        act=st.sampled_from(CLIENT_ACTS),
        workers=st.sampled_from([[], [], ["w1"], ["host"]]),
    )
    @precondition(lambda self: self.clients)
    def client_acts(self, at: int, tasks: Submission, which: list[int], act: str, workers: list[str]) -> None:
        client = one_of(self.clients, at)
        known = self.inputs(client, which)
        match act:
            case "submit":
                self.submit(client, tasks)
            case "put":
                client.put(*self.new_labels(1))
            case "place":
                self.bring_data(client, workers)
            case "release":
                client.release(*known)
                self.wanted[client].difference_update(known)
            case "release old":
                old = list(client.futures)[: len(client.futures) // 2]
                client.release(*old)
                self.wanted[client].difference_update(old)
            case "cancel":
                client.cancel(*known[:1])
                self.wanted[client].difference_update(known[:1])
            case "forget function":
                client.forget_function("fg"[at % 2])
            case "locate":
                failed = [one_of(self.workers, at) for at in which[1:3] if self.workers]
                for label in known[:1]:
                    client.locate(label, failed=failed)
            case "answer":
                client.answer()
            case _:
                client.read_all()
                for message in client.take(DataPlacement):
                    worker = next((w for w in self.workers if w.address == message.address), None)
                    if worker is not None and act == "push":
                        self.pushed.append((worker, message.task))
                        client.say(DataPlaced(message.future, message.address))
                    else:
                        client.say(DataPlaced(message.future, ""))

    def submit(self, client: ClientPeer, tasks: Submission) -> None:
        needs, keys, how = tasks
        labels = self.new_labels(len(needs))
        client.submit(
            *labels,
            function="fg"[len(needs) % 2],
            needs={label: self.inputs(client, picks) for label, picks in zip(labels, needs, strict=True)},
            keys=dict(zip(labels, keys, strict=False)),
            priority=how.priority,
            retries=how.retries,
            workers=how.workers,
            allow_other_workers=how.allow_other_workers,
            resources=how.resources,
        )
        self.wanted[client].update(labels)

    def bring_data(self, client: ClientPeer, workers: list[str]) -> None:
        (label,) = self.new_labels(1)
        client.place(label, workers=workers)
        self.wanted[client].add(label)

    # ---------------------------------------------------------------------------------------------------------- workers

    @rule(
        at=pick,
        which=pick,
        act=st.sampled_from(
            ["read", "finish", "store", "start", "fail", "fail for good", "return", "linger", "linger no more"]
        ),
    )
    @precondition(lambda self: self.workers)
    def worker_acts(self, at: int, which: int, act: str) -> None:
        worker = one_of(self.workers, at)
        if act == "read" and worker.mailbox:
            worker.read()
            return
        worker.read_all()
        if act.startswith("linger"):
            worker.linger() if act == "linger" else worker.end_lingering()
            return
        if not worker.runs:
            return
        run = one_of(list(worker.runs.values()), which)
        self.runs.append(run)
        self.said += [
            (worker.name, TasksDone([run.task], [run.attempt], [b"r"], [1], [0.001])),
            (worker.name, TasksDone([run.task], [run.attempt], [None], [1], [0.001])),
            (worker.name, TasksReturned([run.task], [run.attempt])),
            (worker.name, InputsMissing(run.task, run.attempt, [], [])),
        ]
        match act:
            case "start":
                worker.start(run)
            case "fail" | "fail for good":
                worker.fail(run, retriable=act == "fail")
            case "return":
                worker.give_back(run)
            case _:
                worker.work(run, stored=act == "store")

    @rule(hows=hows)
    def workers_work(self, hows: list[str]) -> None:
        for worker, act in zip(self.workers, hows, strict=False):
            worker.answer()
            if act and self.env.workers.get(worker.name) is worker:
                worker.work(stored=act == "store")

    # -------------------------------------------------------------------------------------------------------- the world

    @rule(
        at=pick,
        act=st.sampled_from(EVENTS),
    )
    def something_happens(self, at: int, act: str) -> None:
        worker = one_of(self.workers, at) if self.workers else None
        if act == "worker comes":
            self.worker_comes(one_of(list(WORKERS), at), 1 + at % 3)
        elif act.startswith("time"):
            self.env.pass_time(one_of([0.0, 0.01, 0.2, 5.0], at))
            if at % 3:
                self.env.tick()
        elif act == "client comes":
            self.client_comes(one_of(list(CLIENTS), at))
        elif act == "client leaves":
            if len(self.clients) > 1:
                client = one_of(self.clients, at)
                del self.wanted[client]
                client.leave()
        elif act == "data arrives":
            self.data_arrives()
        elif act.startswith("shell"):
            self.shell_holds(act == "shell")
        elif act == "retire all":
            self.env.retire(*self.workers)
        elif worker is not None:
            if act == "retire":
                self.env.retire(worker)
            elif act == "worker leaves":
                worker.leaving()
            elif act == "worker dies":
                worker.leave()
            else:
                self.worker_is_killed(worker, runs=1 + at % 3, is_known_first=at % 5 == 0)

    def client_comes(self, name: str) -> None:
        if name in self.env.clients:
            del self.wanted[self.env.clients[name]]
        self.wanted[self.env.client(name)] = set()

    def worker_comes(self, name: str, threads: int) -> None:
        self.env.worker(name, threads=threads, host="host" if name == "w3" else "", resources={"gpu": 1.0})

    def worker_is_killed(self, worker: WorkerPeer, *, runs: int, is_known_first: bool) -> None:
        """Its nanny says what it ran, and starts another."""
        running = list(worker.runs.values())[:runs]
        if is_known_first:
            self.nanny.testify(worker, *running)
            worker.leave()
        else:
            worker.leave()
            self.nanny.testify(worker, *running)
        self.worker_comes(worker.name, runs)

    def data_arrives(self) -> None:
        """Workers that are still there say that they have what clients have pushed to them."""
        pushed, self.pushed = self.pushed, []
        for worker, task in pushed:
            if self.env.workers.get(worker.name) is worker:
                worker.data.add(task)
                worker.say(DataStored(task, 1))

    def shell_holds(self, can: bool) -> None:
        actions, self.env.actions = self.env.actions, []
        for action in actions:
            if isinstance(action, HoldData):
                holder = self.env.workers.get(action.worker)
                is_there = holder is not None and holder.address == action.address and action.task in holder.data
                self.env.answer_hold(action, succeeded=can and is_there)

    # ----------------------------------------------------------------------------------------------- what is not proper

    @rule(at=pick, who=pick, is_own=st.booleans())
    @precondition(lambda self: self.said and self.env.peers())
    def said_again(self, at: int, who: int, is_own: bool) -> None:
        """Once more, by the same peer or by any other; it is known to be untrue only of a worker that has the task."""
        source, message = one_of(self.said[-8:], at)
        self.lie(source if is_own else one_of(self.env.peers(), who).name, message)

    @rule(at=pick, which=pick, data=st.data())
    @precondition(lambda self: self.may_lie)
    def somebody_talks_nonsense(self, at: int, which: int, data: st.DataObject) -> None:
        talker = one_of([self.nanny, *self.env.peers()], at)
        some, others, one = data.draw(numbers), data.draw(numbers), data.draw(number)
        addresses = data.draw(st.lists(address, max_size=3))
        if isinstance(talker, ClientPeer):
            messages = nonsense_of_clients(some, one, addresses, data.draw(options))
        else:
            if self.runs and which % 2:  # nonsense about real ones
                run = one_of(self.runs, which)
                some, others = [run.task, *some], [run.attempt, *others]
            if isinstance(talker, WorkerPeer):
                payloads = data.draw(st.lists(st.none() | st.just(b"nonsense"), max_size=4))
                durations = data.draw(st.lists(duration, max_size=4))
                done = TasksDone(some, others, payloads, [1] * len(some), durations)
                messages = [done, *nonsense_of_workers(some, others, one, addresses)]
            else:
                messages = [nonsense_of_nannies(list(zip(some, others, strict=False)))]
        self.lie(talker.name, one_of(messages, which // 2))

    def lie(self, source: str, message: Message) -> None:
        """Say what may not be so; the peer's own books follow, as if it believed it."""
        for peer in self.env.peers():
            if peer.name == source and not self.is_old(peer, message):
                peer.has_lied = True
                if isinstance(peer, WorkerPeer):
                    self.honest = False
                    believe(peer, message)
        self.env.handle(source, [message])  # type: ignore[list-item]

    def is_old(self, peer: Peer, message: Message) -> bool:
        """Whether the message is on an attempt that the peer has not, or not any more: no harm may come of it."""
        record = self.env.state.workers.get(peer.name)
        match message:
            case TasksDone([task], [attempt]) | TasksReturned([task], [attempt]) | InputsMissing(task, attempt):
                running = record.in_flight.get(task) if record else None
                is_claim = isinstance(message, TasksDone) and message.payloads == [None]
                return not is_claim and (running is None or running.attempt != attempt)
            case _:
                return False

    # ------------------------------------------------------------------------------------------------------- what holds

    @invariant()
    def books_agree(self) -> None:
        """What honest workers have is what the scheduler thinks that they have, unless something is on its way."""
        if self.honest and not self.env.latency:
            for worker in self.workers:
                record = self.env.state.workers[worker.name]
                assert worker.runs.keys() == record.in_flight.keys(), worker
                assert worker.data == {task.id for task in record.holds}, worker

    # ---------------------------------------------------------------------------------------------------------- the end

    def teardown(self) -> None:
        self.settle()
        assert self.env.state.unfinished == 0, [task for task in self.env.state.tasks.values() if task.state <= 3]
        for client, labels in self.wanted.items():
            if client.has_lied:
                continue  # it may have let go of anything
            missing = {label for label in labels if client.futures[label] not in client.outcomes}
            assert not missing, f"{client} has no outcome of {missing}"
            for label in labels:
                if client.outcomes[client.futures[label]] == "stored":
                    self.fetch(client, label)
        for client in self.clients:
            client.leave()
        self.settle()
        self.env.expect_no_records()
        assert not self.env.held
        if self.honest:
            for worker in self.workers:
                assert not worker.data, f"{worker} was never told to free {worker.data}"

    def settle(self) -> None:
        """Everything on its way arrives, and all are healthy, until there is nothing left to do."""
        for _ in range(MOST_ROUNDS):
            for name in WORKERS:
                if name not in self.env.workers:
                    self.worker_comes(name, 2)
            self.shell_holds(True)
            self.data_arrives()
            for client in self.clients:
                client.answer()
            for worker in self.workers:
                worker.answer()
                if self.env.workers.get(worker.name) is worker:
                    worker.work(stored=False)
            for peer in self.env.peers():
                peer.read_all()
            self.env.tick(0.1)
            is_quiet = not self.env.actions and not any(self.has_work(peer) for peer in self.env.peers())
            if is_quiet and len(self.workers) == len(WORKERS):
                return
        raise AssertionError(f"no end: {[(peer, peer.inbox, peer.mailbox) for peer in self.env.peers()]}")

    @staticmethod
    def has_work(peer: Peer) -> bool:
        return bool(peer.mailbox or peer.inbox or (isinstance(peer, WorkerPeer) and peer.runs))

    def fetch(self, client: ClientPeer, label: str) -> None:
        """The result can be had, if need be by saying that it cannot."""
        failed: list[WorkerPeer] = []
        for _ in range(10):
            client.locate(label, failed=failed)
            self.settle()
            future = client.futures[label]
            if client.outcomes[future] != "stored":
                return
            found = client.locations.pop(future)
            holders = [worker for worker in self.workers if worker.address in found.addresses]
            if any(found.task in worker.data for worker in holders):
                return
            if HEAD in found.addresses and found.task in self.env.held:
                return
            failed = holders
        raise AssertionError(f"{client} cannot get {label}")


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=3_000 if IS_THOROUGH else 100,
    stateful_step_count=80 if IS_THOROUGH else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
