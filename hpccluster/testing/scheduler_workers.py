"""The workers of `SchedulerEnv`. See `hpccluster.testing.scheduler_peers` for what all peers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpccluster.protocol import codec
from hpccluster.protocol.messages import (
    AddFunctions,
    CancelTasks,
    DataStored,
    Dependency,
    DropFunctions,
    FetchData,
    FetchesFailed,
    FreeData,
    Heartbeat,
    InputsMissing,
    Leave,
    Leaving,
    Message,
    ReplicasAdded,
    RunTask,
    RunTasks,
    StillRunning,
    TakeBack,
    TaskErrorBody,
    TaskFailed,
    TasksDone,
    TasksReturned,
)
from hpccluster.testing.scheduler_peers import STORED_SIZE, Peer, result_of

if TYPE_CHECKING:
    from hpccluster.testing.scheduler_env import SchedulerEnv


class WorkerPeer(Peer):
    """A worker. ``what`` it speaks of are labels, or the very `RunTask` where an old attempt is meant."""

    def __init__(self, env: SchedulerEnv, name: str, address: str) -> None:
        super().__init__(env, name, codec.to_worker)
        self.address = address
        self.functions: set[int] = set()
        self.runs: dict[int, RunTask] = {}
        """What it has been given and has not ended."""
        self.started: set[int] = set()
        self.unheard: list[tuple[int, int]] = []
        """Cancelled after they had started: they run on, unless a test says otherwise."""
        """Of these, what cannot be given back any more."""
        self.data: set[int] = set()
        """Results that it holds."""

    # ------------------------------------------------------------------------------------------------------------ says

    def _run(self, what: str | RunTask) -> RunTask:
        if isinstance(what, RunTask):
            return what
        return next(run for run in self.runs.values() if run.arguments == what.encode())

    def _end(self, what: Sequence[str | RunTask]) -> list[RunTask]:
        runs = [self._run(one) for one in what]
        for run in runs:
            if self.runs.get(run.task) == run:
                del self.runs[run.task]
                self.started.discard(run.task)
        return runs

    def start(self, *what: str | RunTask) -> None:
        """These run now: they are not given back."""
        self.started.update(self._run(one).task for one in what)

    def finish(self, *what: str | RunTask, duration: float = 0.001) -> None:
        """Tasks with small results have ended, in one message."""
        runs = self._end(what)
        payloads: list[bytes | None] = [result_of(run.arguments.decode()) for run in runs]
        sizes = [len(payload or b"") for payload in payloads]
        self._done(runs, payloads, sizes, duration)

    def store(self, *what: str | RunTask, size: int = STORED_SIZE, duration: float = 0.001) -> None:
        """Tasks have ended, their results stay here."""
        runs = self._end(what)
        self.data.update(run.task for run in runs)
        self._done(runs, [None] * len(runs), [size] * len(runs), duration)

    def _done(self, runs: list[RunTask], payloads: list[bytes | None], sizes: list[int], duration: float) -> None:
        durations = [duration] * len(runs)
        self.say(TasksDone([run.task for run in runs], [run.attempt for run in runs], payloads, sizes, durations))

    def fail(self, what: str | RunTask, *, retriable: bool = True) -> None:
        """The task has raised."""
        (run,) = self._end([what])
        error = TaskErrorBody("", "ValueError", "boom", "Traceback ...", b"pickled")
        self.say(TaskFailed(run.task, run.attempt, error, 0.001, retriable))

    def give_back(self, *what: str | RunTask) -> None:
        """These have not started, and go back."""
        runs = self._end(what)
        self.say(TasksReturned([run.task for run in runs], [run.attempt for run in runs]))

    def miss(self, what: str | RunTask, *inputs: str) -> None:
        """The task cannot start: no holder gives these inputs."""
        (run,) = self._end([what])
        missing = {self.env.id_of(label) for label in inputs}
        self._missing(run, [needed for needed in run.dependencies if needed.task in missing])

    def _missing(self, run: RunTask, inputs: Sequence[Dependency]) -> None:
        pairs = [(needed.task, address) for needed in inputs for address in needed.addresses]
        self.say(InputsMissing(run.task, run.attempt, [task for task, _ in pairs], [address for _, address in pairs]))

    def has(self, *labels: str) -> None:
        """It holds these results, too."""
        tasks = [self.env.id_of(label) for label in labels]
        self.data.update(tasks)
        self.say(ReplicasAdded(tasks))

    def cannot_fetch(self, label: str, *holders: WorkerPeer) -> None:
        """The copy could not be made from these."""
        self.say(FetchesFailed([self.env.id_of(label)] * len(holders), [holder.address for holder in holders]))

    def receive_data(self, label: str, *, size: int = STORED_SIZE) -> None:
        """A client's data has arrived."""
        task = self.env.id_of(label)
        self.data.add(task)
        self.say(DataStored(task, size))

    def heartbeat(self, *, stored: int = 0) -> None:
        """How it is."""
        self.say(Heartbeat(100_000_000, 10.0, len(self.started), stored))

    def linger(self) -> None:
        """What was cancelled after it had started still runs."""
        self.say(StillRunning([task for task, _ in self.unheard], [attempt for _, attempt in self.unheard]))

    def end_lingering(self) -> None:
        """It has ended."""
        ended, self.unheard = self.unheard, []
        self.say(TasksReturned([task for task, _ in ended], [attempt for _, attempt in ended]))

    def leaving(self) -> None:
        """It ends by itself."""
        self.say(Leaving("walltime"))

    # --------------------------------------------------------------------------------------------------------- expects

    def note(self, message: Message) -> Sequence[Message]:
        """Keep the books: functions, tasks and data."""
        if isinstance(message, AddFunctions):
            assert self.functions.isdisjoint(function.function for function in message.functions)
            self.functions.update(function.function for function in message.functions)
            return []
        if isinstance(message, DropFunctions):
            assert self.functions.issuperset(message.functions)
            self.functions.difference_update(message.functions)
            return []
        if isinstance(message, RunTasks):
            for run in message.tasks:
                assert run.function in self.functions, f"{self.name} was never given the function of {run}"
                assert run.task not in self.runs or self.has_lied, f"{self.name} has {run} already"
                self.runs[run.task] = run
                self.env.labels[run.task] = run.arguments.decode()
            return message.tasks
        if isinstance(message, CancelTasks):
            for task, attempt in zip(message.tasks, message.attempts, strict=True):
                if task in self.runs and self.runs[task].attempt == attempt:
                    del self.runs[task]
                    if task in self.started:
                        self.unheard.append((task, attempt))
                    self.started.discard(task)
        elif isinstance(message, FreeData):
            self.data.difference_update(message.tasks)
        return [message]

    def expect_run(self, *labels: str) -> list[RunTask]:
        """Exactly these tasks have been given to it, in this order."""
        runs = self.take(RunTask)
        found = [run.arguments.decode() for run in runs]
        assert found == list(labels), f"{self.name} was given {found}"
        return runs

    def expect_take_back(self, *labels: str) -> None:
        """Exactly these are to be given back."""
        self._expect(TakeBack, labels)

    def expect_cancel(self, *labels: str) -> None:
        """Exactly these are to be forgotten."""
        self._expect(CancelTasks, labels)

    def expect_free(self, *labels: str) -> None:
        """Exactly these results are to be dropped."""
        self._expect(FreeData, labels)

    def _expect(self, kind: type[TakeBack | CancelTasks | FreeData], labels: Sequence[str]) -> None:
        found = [self.env.label_of(task) for message in self.take(kind) for task in message.tasks]
        assert found == list(labels), f"{self.name}, {kind.__name__}: {found}"

    def expect_fetch(self, *labels: str) -> None:
        """Exactly these results are to be copied to it."""
        found = [self.env.label_of(one.task) for message in self.take(FetchData) for one in message.dependencies]
        assert found == list(labels), f"{self.name} is to fetch {found}"

    def expect_leave(self) -> None:
        """It is sent home."""
        assert len(self.take(Leave)) == 1, f"{self.name} is not sent home"

    # --------------------------------------------------------------------------------------------------------- answers

    def can_read(self, needed: Dependency) -> bool:
        """Whether that input is to be had."""
        return (
            needed.payload is not None
            or needed.task in self.data
            or any(
                worker.address in needed.addresses and needed.task in worker.data
                for worker in self.env.workers.values()
            )
            or (self.env.state.holder.address in needed.addresses and needed.task in self.env.held)
        )

    def work(self, *what: str | RunTask, stored: bool = False) -> None:
        """Run these now, one after the other, if their inputs are to be had."""
        for one in what or list(self.runs.values()):
            run = self._run(one)
            missing = [needed for needed in run.dependencies if not self.can_read(needed)]
            if missing:
                self._end([run])
                self._missing(run, missing)
            elif stored:
                self.store(run)
            else:
                self.finish(run)

    def answer(self) -> None:
        """Give back, copy, leave: whatever it has been asked for."""
        self.read_all()
        if self.unheard:
            self.end_lingering()
        inbox, self.inbox = self.inbox, []
        for message in inbox:
            if isinstance(message, TakeBack):
                self.give_back(
                    *[
                        self.runs[task]
                        for task, attempt in zip(message.tasks, message.attempts, strict=True)
                        if task in self.runs and task not in self.started and self.runs[task].attempt == attempt
                    ]
                )
            elif isinstance(message, FetchData):
                self._fetch(message)
            elif isinstance(message, Leave):
                self.leave()
                return

    def _fetch(self, message: FetchData) -> None:
        got = [needed.task for needed in message.dependencies if self.can_read(needed)]
        failed = [
            (one.task, address) for one in message.dependencies if one.task not in got for address in one.addresses
        ]
        self.data.update(got)
        self.say(ReplicasAdded(got), FetchesFailed([task for task, _ in failed], [address for _, address in failed]))
