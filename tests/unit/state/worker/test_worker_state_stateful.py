"""The worker machine under events in any order: each hand-out has exactly one outcome, and the store is as it says."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from hpccluster.protocol.messages import (
    CancelTasks,
    Dependency,
    FreeData,
    InputsMissing,
    Leave,
    RunTask,
    StillRunning,
    TakeBack,
    TaskFailed,
    TasksDone,
    TasksReturned,
)
from hpccluster.state.worker.actions import (
    DiscardResults,
    DropData,
    End,
    Execute,
    Fetch,
    KeepResults,
    Withdraw,
)
from hpccluster.state.worker.events import DataPushed, LeaveWish, Source, Tick, Withdrawn
from support.worker_env import ME, A, B, C, WorkerEnv, done_message, held, inline, task

Pair = tuple[int, int]
TASKS = st.integers(1, 6)
DEPENDENCIES = st.lists(
    st.one_of(
        st.builds(
            lambda number, holders: held(number, *holders),
            st.integers(1, 9),
            st.lists(st.sampled_from([A, B, C, ME]), max_size=3),
        ),
        st.builds(inline, st.integers(1, 9)),
    ),
    max_size=3,
)


class WorkerMachine(RuleBasedStateMachine):
    """Plays scheduler, executor, fetcher and client, and keeps the books that each of them would keep."""

    handed = Bundle("handed")

    def __init__(self) -> None:
        super().__init__()
        self.env = WorkerEnv()
        self.attempts = dict.fromkeys(range(1, 10), 0)
        self.queue: dict[int, RunTask] = {}
        self.running: list[RunTask] = []
        self.staged: set[Pair] = set()
        self.store: set[int] = set()
        self.fetching: list[tuple[str, int]] = []
        self.open: set[Pair] = set()
        """Handed out and owed an outcome."""
        self.unheard: set[Pair] = set()
        """Cancelled, still running, and owed the news of its end."""
        self.ended = False

    # ---------------------------------------------------------------------------------------------------- the shell

    def settle(self) -> None:
        """Perform all actions and read all messages; what the executor answers at once may ask for more."""
        while self.env.actions or self.env.messages:
            actions, messages = self.env.actions, self.env.messages
            self.env.skip()
            for action in actions:
                match action:
                    case Execute(tasks):
                        self.queue |= {run.task: run for run in tasks}
                    case Withdraw(tasks, attempts):
                        pairs = [
                            pair
                            for pair in zip(tasks, attempts, strict=True)
                            if pair[0] in self.queue and self.queue[pair[0]].attempt == pair[1]
                        ]
                        for number, _ in pairs:
                            del self.queue[number]
                        event = Withdrawn([number for number, _ in pairs], [attempt for _, attempt in pairs])
                        self.env.say(Source.EXECUTOR, event)
                    case Fetch(address, tasks):
                        assert address != ME
                        self.fetching += [(address, number) for number in tasks]
                    case KeepResults(tasks, attempts):
                        for pair in zip(tasks, attempts, strict=True):
                            self.staged.remove(pair)
                            self.store.add(pair[0])
                    case DiscardResults(tasks, attempts):
                        self.staged -= set(zip(tasks, attempts, strict=True))
                    case DropData(tasks):
                        self.store -= set(tasks)
                    case End():
                        self.ended = True
            for message in messages:
                match message:
                    case TasksDone(tasks, attempts) | TasksReturned(tasks, attempts):
                        for pair in zip(tasks, attempts, strict=True):
                            if pair in self.unheard:
                                self.unheard.remove(pair)
                            else:
                                self.close(pair)
                    case StillRunning(tasks, attempts):
                        self.unheard |= set(zip(tasks, attempts, strict=True))
                    case TaskFailed(number, attempt) | InputsMissing(number, attempt):
                        self.close((number, attempt))

    def close(self, pair: Pair) -> None:
        assert pair in self.open, f"an outcome that nobody waits for: {pair}"
        self.open.remove(pair)

    # ------------------------------------------------------------------------------------------------ the scheduler

    @rule(target=handed, numbers=st.lists(TASKS, min_size=1, max_size=4, unique=True), data=st.data())
    def hand_out(self, numbers: list[int], data: st.DataObject) -> object:
        runs = []
        for number in numbers:
            dependencies: list[Dependency] = data.draw(DEPENDENCIES)
            inputs = [item for item in dependencies if item.task != number]
            self.open.discard((number, self.attempts[number]))
            self.attempts[number] += 1
            runs.append(task(number, *inputs, attempt=self.attempts[number], priority=data.draw(st.integers(0, 3))))
        if not self.ended:
            self.open |= {(run.task, run.attempt) for run in runs}
        self.env.run(*runs)
        self.settle()
        return multiple(*runs)

    @rule(run=handed)
    def hand_out_again(self, run: RunTask) -> None:
        if (run.task, run.attempt) in self.open:
            self.env.run(run)
            self.settle()

    @rule(run=handed)
    def take_back(self, run: RunTask) -> None:
        self.env.scheduler(TakeBack([run.task], [run.attempt]))
        self.settle()

    @rule(run=handed)
    def cancel(self, run: RunTask) -> None:
        self.open.discard((run.task, run.attempt))
        self.env.scheduler(CancelTasks([run.task], [run.attempt]))
        self.settle()

    @rule(numbers=st.lists(st.integers(1, 9), max_size=4))
    def free(self, numbers: list[int]) -> None:
        self.env.scheduler(FreeData(numbers))
        self.settle()

    @rule(dependencies=DEPENDENCIES)
    def replicate(self, dependencies: list[Dependency]) -> None:
        self.env.replicate(*dependencies)
        self.settle()

    @precondition(lambda self: self.env.now > 1020)
    @rule()
    def leave(self) -> None:
        self.open.clear()
        self.env.scheduler(Leave("closing"))
        self.settle()
        assert self.ended

    # ------------------------------------------------------------------------ the executor, the fetcher, the others

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        run = self.queue.pop(data.draw(st.sampled_from(sorted(self.queue))))
        if not self.ended:
            absent = {item.task for item in run.dependencies if item.payload is None} - self.store
            assert not absent, f"started without its inputs {absent}"
        self.running.append(run)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), inlined=st.booleans(), fails=st.booleans())
    def finish(self, data: st.DataObject, inlined: bool, fails: bool) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.running), min_size=1, unique_by=id))
        self.running = [run for run in self.running if not any(run is other for other in chosen)]
        for run in chosen:
            if fails:
                self.env.fail(run.task, run.attempt)
            else:
                if not inlined:
                    self.staged.add((run.task, run.attempt))
                self.env.say(Source.EXECUTOR, done_message([run.task], attempt=run.attempt, inline=inlined))
        self.settle()

    @precondition(lambda self: self.fetching)
    @rule(data=st.data(), arrives=st.booleans(), repeat=st.booleans())
    def end_fetch(self, data: st.DataObject, arrives: bool, repeat: bool) -> None:
        address, number = self.fetching.pop(data.draw(st.integers(0, len(self.fetching) - 1)))
        for _ in range(1 + repeat):
            if arrives:
                if not self.ended:
                    self.store.add(number)
                self.env.arrive(number)
            else:
                self.env.refuse(address, number)
            self.settle()

    @rule(number=st.integers(7, 9))
    def push(self, number: int) -> None:
        if not self.ended:
            self.store.add(number)
            self.env.say(Source.CLIENT, DataPushed(number, 50_000))
            self.settle()

    @rule(run=consumes(handed))
    def late_withdrawal(self, run: RunTask) -> None:
        """An answer to an older `Withdraw` that only now comes through, of an attempt that is over."""
        if (run.task, run.attempt) not in self.open:
            self.env.say(Source.EXECUTOR, Withdrawn([run.task], [run.attempt]))
            self.settle()

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.env.now += seconds
        deadline = self.env.state.deadline
        if deadline is not None and self.env.now >= deadline:
            self.open.clear()
        self.env.say(Source.SHELL, Tick())
        self.settle()

    @precondition(lambda self: self.env.now > 1010)
    @rule()
    def wish_to_leave(self) -> None:
        self.env.say(Source.SHELL, LeaveWish("SIGTERM", self.env.now + 4))
        self.settle()

    # ---------------------------------------------------------------------------------------------------- the books

    @invariant()
    def store_is_as_the_machine_says(self) -> None:
        if not self.ended:
            assert self.store == set(self.env.state.data)

    @invariant()
    def cancelled_tasks_that_run_are_told_of(self) -> None:
        if not self.ended:
            assert self.unheard == self.env.state.unheard
            assert self.unheard <= {(run.task, run.attempt) for run in self.running}

    @invariant()
    def what_is_open_is_assigned(self) -> None:
        assert self.open == set(self.env.state.assigned.items())

    def teardown(self) -> None:
        """Everything that is under way comes to its end: then each hand-out has had its outcome."""
        while self.fetching and not self.ended:
            address, number = self.fetching.pop()
            self.env.refuse(address, number)
            self.settle()
        for run in [*self.running, *self.queue.values()]:
            self.env.fail(run.task, run.attempt)
        self.settle()
        assert not self.open
        assert self.ended or not self.staged


TestWorkerMachine = WorkerMachine.TestCase
TestWorkerMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
