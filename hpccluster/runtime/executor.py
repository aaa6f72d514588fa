"""Runs tasks in threads. Knows nothing of connections, the scheduler or the loop's other work.

Tasks come in batches and wait in a heap by priority; a thread claims a task by `dict.pop`, and so does whoever takes it
back: exactly one of them gets it. What has finished goes into a deque; one `call_soon_threadsafe` a burst fetches it.

A thread that runs a task writes (task, attempt) into its slot first: if the worker dies, its nanny reads it there.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pickle import loads
from queue import SimpleQueue
from time import perf_counter
from typing import Any, NoReturn, TypeAlias

from hpccluster.protocol.messages import FunctionBody, RunTask, TaskErrorBody, TaskFailed, TasksDone
from hpccluster.protocol.payload import dump_error, load_arguments
from hpccluster.runtime.data import DataStore
from hpccluster.runtime.results import dump_result
from hpccluster.runtime.slots import WorkerSlots

Kept: TypeAlias = dict[tuple[int, int], tuple[Any, int]]
"""Results that stay on this worker, by (task, attempt): each with its size."""
Deliver: TypeAlias = Callable[[list[TasksDone | TaskFailed], Kept], None]

PORTION = 1 << 20
"""Results in one message: another is begun when they reach this many bytes, so that frames stay small."""

_Row: TypeAlias = tuple[int, int, bytes | None, int, float, Any]


class Executor:
    """``threads`` threads that run tasks. Belongs to the loop in which it is made; only `_work` runs elsewhere."""

    def __init__(self, slots: WorkerSlots, store: DataStore, deliver: Deliver) -> None:
        self._slots = slots.tasks
        for index in range(len(self._slots)):
            self._slots[index] = 0  # an earlier executor's tasks are none of ours
        self._store = store
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._bodies: dict[int, FunctionBody] = {}
        self._functions: dict[int, Callable[..., Any]] = {}
        self._order: list[tuple[int, int, int]] = []
        """A heap of (priority, age, task); what is not in ``_queued`` any longer is skipped."""
        self._queued: dict[int, RunTask] = {}
        self._age = 0
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._done: deque[_Row] = deque()
        self._failed: deque[TaskFailed] = deque()
        self._is_drain_due = False
        self._stopped = False
        self._is_fork = False
        _tell_of_forks(weakref.ref(self))
        self._threads = [
            # Daemons: a task that never ends must not hold the process's exit.
            threading.Thread(target=self._work, args=(index,), name=f"hpccluster-task-{index}", daemon=True)
            for index in range(slots.threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def executing(self) -> int:
        """How many tasks run now."""
        return sum(1 for word in self._slots[::2] if word > 0)

    def add_functions(self, functions: Sequence[FunctionBody]) -> None:
        """Functions that later tasks name. They are unpickled by the first task that needs them."""
        for function in functions:
            self._bodies[function.function] = function
            sys.path.extend(path for path in function.paths if path not in sys.path)

    def drop_functions(self, numbers: Sequence[int]) -> None:
        """No later task names these. One that was cancelled and still finds its thread fails unheard."""
        for number in numbers:
            self._bodies.pop(number, None)
            self._functions.pop(number, None)

    def execute(self, tasks: Sequence[RunTask]) -> None:
        """Run these when their turn comes; no other attempt of them is queued."""
        queued, order, age = self._queued, self._order, self._age
        for age, run in enumerate(tasks, self._age):
            queued[run.task] = run
            heapq.heappush(order, (run.priority, age, run.task))
        self._age = age + 1
        for _ in range(min(len(tasks), len(self._threads))):
            self._wake.put(None)

    def withdraw(self, tasks: Sequence[int], attempts: Sequence[int]) -> list[tuple[int, int]]:
        """Take these back; returns those that had not started, and never will."""
        taken: list[tuple[int, int]] = []
        for task, attempt in zip(tasks, attempts, strict=True):
            run = self._queued.get(task)
            if run is not None and run.attempt == attempt and self._queued.pop(task, None) is not None:
                taken.append((task, attempt))
        return taken

    def stop(self) -> None:
        """Start nothing more, report nothing more. Tasks that run go on to their end, unheard."""
        self._stopped = True
        self._queued.clear()
        self._done.clear()
        self._failed.clear()
        for _ in self._threads:
            self._wake.put(None)

    # ------------------------------------------------------------------------------------------- in the task threads

    def _work(self, index: int) -> None:
        slots, order, queued, done = self._slots, self._order, self._queued, self._done
        heappop, at = heapq.heappop, 2 * index
        while True:
            self._wake.get()
            ended = perf_counter()
            while not self._stopped:
                try:
                    _, _, task = heappop(order)
                except IndexError:
                    break
                run = queued.pop(task, None)
                if run is None:  # taken back
                    continue
                started = ended
                slots[at + 1] = run.attempt
                slots[at] = task + 1
                try:
                    outcome = self._run(run)
                except BaseException as error:  # noqa: BLE001 - an exception so odd that it cannot be looked at
                    outcome = _indescribable(run, error)
                if self._is_fork:
                    os._exit(0)  # the task has forked, and this is its child: the parent reports
                ended = perf_counter()
                if self._stopped:
                    break
                if type(outcome) is tuple:
                    payload, size, value = outcome
                    done.append((task, run.attempt, payload, size, ended - started, value))
                else:
                    outcome.duration = ended - started
                    self._failed.append(outcome)
                del outcome
                if not self._is_drain_due:
                    self._is_drain_due = True
                    self._drain_soon()
            if self._stopped:
                return
            slots[at] = -abs(slots[at])

    def _run(self, run: RunTask) -> Any:
        """Run one task to its outcome: (payload, size, value) or a `TaskFailed`.

        The broad handlers are the point: whatever user code raises, also `SystemExit` and `KeyboardInterrupt`, is the
        task's outcome and not the thread's end.
        """
        try:
            function = self._functions.get(run.function) or self._load_function(run.function)
            if run.dependencies:
                args, kwargs = load_arguments(run.arguments, self._load_inputs(run))
            else:
                args, kwargs = loads(run.arguments)
        except BaseException as error:  # noqa: BLE001
            error.add_note(f"while unpickling the function or the arguments of {self._name(run)} on the worker")
            return self._failure(run, error, retriable=False)
        try:
            value = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001
            return self._failure(run, error, retriable=True)
        try:
            return dump_result(value)
        except BaseException as error:  # noqa: BLE001
            text = f"the result of {self._name(run)}, a {type(value).__name__}, cannot be pickled: {error}"
            wrapped = TypeError(text)
            wrapped.__cause__ = error
            return self._failure(run, wrapped, retriable=False)

    def _load_function(self, number: int) -> Callable[..., Any]:
        body = self._bodies.get(number)
        if body is None:
            raise LookupError(f"the scheduler has not sent function {number}")
        function: Callable[..., Any] = loads(body.body)
        self._functions[number] = function
        return function

    def _load_inputs(self, run: RunTask) -> list[Any]:
        inputs: list[Any] = []
        for item in run.dependencies:
            try:
                inputs.append(loads(item.payload) if item.payload is not None else self._store.value(item.task))
            except BaseException as error:
                error.add_note(f"while unpickling the result of task {item.task}, an input of {self._name(run)}")
                raise
        return inputs

    def _name(self, run: RunTask) -> str:
        body = self._bodies.get(run.function)
        return f"{body.name}()" if body is not None else f"function {run.function}"

    def _failure(self, run: RunTask, error: BaseException, *, retriable: bool) -> TaskFailed:
        if self._is_fork:
            _leave_fork(error)
        body = dump_error(error, skip=1)
        _forget_frames(error)
        return TaskFailed(run.task, run.attempt, body, 0.0, retriable)

    def _drain_soon(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            self._stopped = True  # the loop is closed: nobody listens any longer

    # ---------------------------------------------------------------------------------------------------- in the loop

    def _drain(self) -> None:
        """Hand on what has finished: successes as columns."""
        self._is_drain_due = False
        events: list[TasksDone | TaskFailed] = []
        kept: Kept = {}
        done = self._done
        left = len(done)
        while left:
            rows: list[_Row] = []
            size = 0
            while left and size < PORTION:
                left -= 1
                rows.append(done.popleft())
                size += len(rows[-1][2] or b"")
            tasks, attempts, payloads, sizes, durations, _ = map(list, zip(*rows, strict=True))
            if None in payloads:
                kept |= {(task, attempt): (value, size) for task, attempt, body, size, _, value in rows if body is None}
            events.append(TasksDone(tasks, attempts, payloads, sizes, durations))
        while self._failed:
            events.append(self._failed.popleft())
        if events and not self._stopped:
            self._deliver(events, kept)


def _tell_of_forks(executor: weakref.ref[Executor]) -> None:
    """Asking for the process's id after each task would cost a tenth of the time that a small task takes."""

    def mark() -> None:
        if (living := executor()) is not None:
            living._is_fork = True

    os.register_at_fork(after_in_child=mark)


def _leave_fork(error: BaseException) -> NoReturn:
    """A child that the task has forked ends of this: as a program does, not as a task. Its parent may look at the code."""
    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1)
    code = error.code
    os._exit(code & 0xFF if isinstance(code, int) else int(code is not None))


def _forget_frames(error: BaseException) -> None:
    """An error's frames hold the task's arguments and results, and may form cycles with it."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        link = todo.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            link.__traceback__ = None
            todo += (link.__cause__, link.__context__)


def _indescribable(run: RunTask, error: BaseException) -> TaskFailed:
    name = type(error.__context__ or error).__name__  # looking at the first has raised the second
    body = TaskErrorBody("", name, "an exception of which nothing can be said", f"{name}\n", b"")
    return TaskFailed(run.task, run.attempt, body, 0.0, retriable=False)
