"""The worker machine: which task runs when, what is fetched first, and what stays here.

Rules
1. Everything that can change this state lives in this folder; the only way in is `WorkerState.handle`.
2. No I/O, clock, randomness, settings lookup, logging. ``now`` is an argument. That a task is *running* is not known
   here: the executor's threads take tasks on their own, and `Withdraw` asks whether they have.
3. Nothing that the scheduler, a peer or a user's task does makes `handle` raise.
4. A task is known by (task, attempt). To cancel a task, or to give it back, is to forget its attempt: whatever still
   comes for it (a result, a failure, a withdrawal) is dropped by that rule alone, without a state for it.
5. Data is known by its task's number, whichever attempt made it. It stays until the scheduler frees it *and* no task of
   this worker needs it any longer.
6. `invariants.py` numbers what always holds.

The way of a task: accepted -> (waiting for inputs) -> handed to the executor -> reported. With its inputs in the message
or already here, a task goes to the executor in the same call in which it came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hpccluster.protocol.messages import (
    AddFunctions,
    CancelTasks,
    DataStored,
    DropFunctions,
    FetchData,
    FreeData,
    Leave,
    Leaving,
    ReplicasAdded,
    RunTask,
    RunTasks,
    StillRunning,
    TakeBack,
    TaskFailed,
    TasksDone,
)
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
from hpccluster.state.worker.core import WorkerCore
from hpccluster.state.worker.events import (
    DataArrived,
    DataPushed,
    FetchFailed,
    LeaveWish,
    Source,
    Tick,
    Withdrawn,
    WorkerMessage,
)
from hpccluster.state.worker.records import WaitingRecord

_Handlers = dict[type, Callable[[Any], None]]


class WorkerState(WorkerCore):
    """The state of one worker under one scheduler. A worker that registers anew starts a new one.

    ``address`` is where the worker listens for data connections: it never asks itself. The attributes are for the
    invariants and tests to read; nothing outside of this folder changes them.
    """

    def __init__(self, address: str = "") -> None:
        super().__init__(address)
        self._handlers: dict[Source, _Handlers] = {
            Source.SCHEDULER: {
                RunTasks: self._run_tasks,
                AddFunctions: self._pass_on,
                DropFunctions: self._pass_on,
                TakeBack: self._take_back,
                CancelTasks: self._cancel_tasks,
                FreeData: self._free_data,
                FetchData: self._fetch_data,
                Leave: self._leave,
            },
            Source.EXECUTOR: {
                TasksDone: self._tasks_done,
                TaskFailed: self._task_failed,
                Withdrawn: self._withdrawn,
            },
            Source.FETCHER: {DataArrived: self._data_arrived, FetchFailed: self._fetch_failed},
            Source.CLIENT: {DataPushed: self._data_pushed},
            Source.SHELL: {LeaveWish: self._leave_wish, Tick: self._tick},
        }

    def handle(self, source: Source, messages: Sequence[WorkerMessage], now: float) -> Outbox:
        """Take in what ``source`` said, in order; returns what is to be done and said. Never raises."""
        self._out = out = Outbox()
        handlers = self._handlers[source]
        for message in messages:
            handler = handlers.get(type(message))
            if handler is not None and not self.ended:
                handler(message)
        if self._to_fetch and not self.ended:
            out.actions += [Fetch(address, tasks) for address, tasks in self._to_fetch.items()]
            self._to_fetch = {}
        if self.deadline is not None and now >= self.deadline and not self.ended:
            self._end("its time to hand over was up")
        return out

    # ------------------------------------------------------------------------------------------------------- tasks

    def _pass_on(self, message: AddFunctions | DropFunctions) -> None:
        self._out.actions.append(message)

    def _run_tasks(self, message: RunTasks) -> None:
        if self.leaving:
            fresh = [run for run in message.tasks if run.task not in self.assigned or self._is_newer(run)]
            self._give_back([(run.task, run.attempt) for run in fresh])
            return
        assigned = self.assigned
        ready: list[RunTask] = []
        for run in message.tasks:
            task = run.task
            if task in assigned and not self._is_newer(run):
                continue
            assigned[task] = run.attempt
            if task in self.data:  # of an attempt that nobody counts on: its result would stay here unnoticed
                self._let_go(task)
            if not run.dependencies or self._has_inputs(run):
                ready.append(run)
        if ready:
            self._out.actions.append(Execute(ready))

    def _is_newer(self, run: RunTask) -> bool:
        """Whether ``run`` replaces the attempt that is here (which is forgotten then), rather than repeating it."""
        held = self.assigned[run.task]
        if run.attempt <= held:
            return False
        if run.task not in self.waiting:
            self._out.actions.append(Withdraw([run.task], [held]))
        self._forget(run.task)
        return True

    def _has_inputs(self, run: RunTask) -> bool:
        """Whether ``run`` can start at once. If not, it waits for fetches, or it has been given back."""
        needed = {item.task: item for item in run.dependencies if item.payload is None}
        if not needed:
            return True
        absent = [item for item in needed.values() if item.task not in self.data]
        lost = [pair for item in absent if not self._is_obtainable(item) for pair in self._own_failure(item)]
        if lost:
            del self.assigned[run.task]
            self._report_missing(run, lost)
            return False
        self.inputs[run.task] = tuple(needed)
        for task in needed:
            if (record := self.data.get(task)) is not None:
                record.users += 1
        if not absent:
            return True
        self.waiting[run.task] = WaitingRecord(run, {item.task for item in absent})
        for item in absent:
            self._begin_fetch(item).waiters.add(run.task)
        return False

    def _tasks_done(self, done: TasksDone) -> None:
        assigned = self.assigned
        live = True
        for task, attempt in zip(done.tasks, done.attempts, strict=False):
            if assigned.get(task) != attempt:
                live = False
                break
        if not live:
            done = self._drop_stale(done)
        if self.inputs:
            for task in done.tasks:
                self._forget(task)
        else:
            for task in done.tasks:
                assigned.pop(task, None)
        if None in done.payloads:
            self._keep_results(done)
        if done.tasks:
            self._out.messages.append(done)

    def _keep_results(self, done: TasksDone) -> None:
        rows = zip(done.tasks, done.attempts, done.payloads, done.sizes, strict=False)
        kept = [(task, attempt, size) for task, attempt, payload, size in rows if payload is None]
        self._out.actions.append(KeepResults([task for task, _, _ in kept], [attempt for _, attempt, _ in kept]))
        for task, _, size in kept:
            self._add_data(task, size)

    def _drop_stale(self, done: TasksDone) -> TasksDone:
        """``done`` without what was cancelled, given back or handed out anew."""
        live = TasksDone([], [], [], [], [])
        stale: list[tuple[int, int]] = []
        seen: set[int] = set()
        rows = zip(done.tasks, done.attempts, done.payloads, done.sizes, done.durations, strict=False)
        for task, attempt, payload, size, duration in rows:
            if self.assigned.get(task) == attempt and task not in seen:
                seen.add(task)
                live.tasks.append(task)
                live.attempts.append(attempt)
                live.payloads.append(payload)
                live.sizes.append(size)
                live.durations.append(duration)
                continue
            if payload is None:
                stale.append((task, attempt))
            self._end_unheard(task, attempt)
        if stale:
            self._out.actions.append(DiscardResults([task for task, _ in stale], [attempt for _, attempt in stale]))
        return live

    def _task_failed(self, failed: TaskFailed) -> None:
        if self.assigned.get(failed.task) == failed.attempt:
            self._forget(failed.task)
            self._out.messages.append(failed)
        else:
            self._end_unheard(failed.task, failed.attempt)

    def _end_unheard(self, task: int, attempt: int) -> None:
        """A cancelled task that ran on has ended: its thread is free."""
        if (task, attempt) in self.unheard:
            self.unheard.discard((task, attempt))
            self._give_back([(task, attempt)])

    def _take_back(self, message: TakeBack) -> None:
        returned: list[tuple[int, int]] = []
        queued: list[tuple[int, int]] = []
        for pair in self._live_pairs(message.tasks, message.attempts):
            if pair[0] in self.waiting:
                self._forget(pair[0])
                returned.append(pair)
            else:
                queued.append(pair)
        self._give_back(returned)
        self._withdraw(queued)

    def _cancel_tasks(self, message: CancelTasks) -> None:
        queued: list[tuple[int, int]] = []
        for pair in self._live_pairs(message.tasks, message.attempts):
            if pair[0] not in self.waiting:
                queued.append(pair)
            self._forget(pair[0])
        self._cancelling.update(queued)
        self._withdraw(queued)

    def _withdrawn(self, event: Withdrawn) -> None:
        if self._cancelling:
            started = sorted(self._cancelling.difference(zip(event.tasks, event.attempts, strict=False)))
            self._cancelling.clear()
            self.unheard.update(started)
            if started:
                self._out.messages.append(StillRunning([task for task, _ in started], [at for _, at in started]))
        pairs = [pair for pair in self._live_pairs(event.tasks, event.attempts) if pair[0] not in self.waiting]
        for task, _ in pairs:
            self._forget(task)
        self._give_back(pairs)

    # -------------------------------------------------------------------------------------------------------- data

    def _free_data(self, message: FreeData) -> None:
        for task in dict.fromkeys(message.tasks):
            if (fetch := self.fetches.get(task)) is not None:
                fetch.keep = False
                self._end_unwanted_fetch(task, fetch)
            if task in self.data:
                self._let_go(task)

    def _let_go(self, task: int) -> None:
        """Drop data, at once or when the last task here that needs it has ended."""
        record = self.data[task]
        record.unwanted = True
        if not record.users:
            self._drop([task])

    def _data_pushed(self, event: DataPushed) -> None:
        self._add_data(event.task, event.size)
        self._out.messages.append(DataStored(event.task, event.size))

    # ----------------------------------------------------------------------------------------------------- fetches

    def _fetch_data(self, message: FetchData) -> None:
        held: list[int] = []
        failed: list[tuple[int, str]] = []
        for item in message.dependencies:
            if (record := self.data.get(item.task)) is not None:
                record.unwanted = False
                held.append(item.task)
            elif self._is_obtainable(item):
                self._begin_fetch(item).keep = True
            else:
                failed += self._own_failure(item)
        if held:
            self._out.messages.append(ReplicasAdded(held))
        self._report_failed_fetches(failed)

    def _data_arrived(self, event: DataArrived) -> None:
        added: list[int] = []
        dropped: list[int] = []
        for task, size in zip(event.tasks, event.sizes, strict=False):
            if task in self.fetches:
                self._add_data(task, size)
                added.append(task)
            elif task not in self.data:
                dropped.append(task)
        if dropped:
            self._out.actions.append(DropData(dropped))
        if added:
            self._out.messages.append(ReplicasAdded(added))

    def _fetch_failed(self, event: FetchFailed) -> None:
        failed: list[tuple[int, str]] = []
        for task in event.tasks:
            fetch = self.fetches.get(task)
            if fetch is None or fetch.address != event.address:
                continue
            fetch.failed.append(event.address)
            if fetch.others:
                fetch.address = fetch.others.pop(0)
                self._to_fetch.setdefault(fetch.address, []).append(task)
                continue
            pairs = [(task, address) for address in fetch.failed]
            if fetch.keep:
                failed += pairs
                fetch.keep = False
            for waiter in sorted(fetch.waiters):
                self._report_missing(self.waiting[waiter].run, pairs)
                self._forget(waiter)
            self.fetches.pop(task, None)
        self._report_failed_fetches(failed)

    # ----------------------------------------------------------------------------------------------------- leaving

    def _leave_wish(self, event: LeaveWish) -> None:
        self.deadline = event.deadline if self.deadline is None else min(self.deadline, event.deadline)
        if self.leaving:
            return
        self.leaving = True
        self._out.messages.append(Leaving(event.reason))
        returned = [(task, waiting.run.attempt) for task, waiting in self.waiting.items()]
        for task, _ in returned:
            self._forget(task)
        self._give_back(returned)
        self._withdraw(list(self.assigned.items()))

    def _leave(self, message: Leave) -> None:
        self._end(message.reason)

    def _tick(self, _event: Tick) -> None:
        """Nothing of its own: `handle` looks at the deadline after each call."""

    def _end(self, reason: str) -> None:
        self.ended = True
        self.assigned.clear()
        self.waiting.clear()
        self.inputs.clear()
        self.fetches.clear()
        self._to_fetch.clear()
        self._out.actions.append(End(reason))
