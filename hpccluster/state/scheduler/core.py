"""The data of the scheduler machine, and the few steps that every part of it shares."""

from __future__ import annotations

from heapq import heappush

from hpccluster.protocol.messages import (
    AddFunctions,
    CancelTasks,
    DataLocation,
    DropFunctions,
    FreeData,
    FunctionBody,
    RunTask,
    RunTasks,
    TaskErrorBody,
    TaskOptions,
    TasksFinished,
    TasksStored,
)
from hpccluster.state.scheduler.actions import Outbox
from hpccluster.state.scheduler.records import (
    READY,
    ClientRecord,
    FunctionRecord,
    GroupKey,
    Placement,
    ReadyGroup,
    TaskRecord,
    WorkerRecord,
)

PORTION = 1 << 20
"""A message is ended, and another begun, when its user payloads reach this many bytes: frames stay small."""

HELD = "hold"
"""The name of the holder of last resort: the scheduler's own process."""


class Core:
    """All that the scheduler knows. Changed by the functions of this folder only."""

    def __init__(self, *, allowed_deaths: int, address: str) -> None:
        self.allowed_deaths = allowed_deaths
        self.tasks: dict[int, TaskRecord] = {}
        self.keys: dict[str, TaskRecord] = {}
        self.functions: dict[bytes, FunctionRecord] = {}
        self.clients: dict[str, ClientRecord] = {}
        self.workers: dict[str, WorkerRecord] = {}
        self.nannies: set[str] = set()
        self.groups: dict[GroupKey, ReadyGroup] = {}
        """Ready tasks. A group is listed while it has any; its tasks know it all their life."""
        self.levels: dict[int, dict[GroupKey, ReadyGroup]] = {}
        """The listed groups by priority (the smaller first), and groups that are listed no longer."""
        self.level_order: list[int] = []
        """A heap of the keys of ``levels``: there may be as many as there are tasks."""
        self.suspects: dict[TaskRecord, WorkerRecord | None] = {}
        """Ready tasks that are to run alone, and the worker that empties itself for each (see `placement`)."""
        self.ready = 0
        """How many tasks are READY."""
        self.unfinished = 0
        """How many are WAITING, READY, ASSIGNED or PLACING."""
        self.open: dict[str, WorkerRecord] = {}
        """Workers that can be given more."""
        self.retirees: dict[str, WorkerRecord] = {}
        """Workers on their way home."""
        self.placing: dict[int, Placement] = {}
        """Clients' data on its way, by task."""
        self.next_task = 1
        self.next_function = 1
        self.impossible: dict[GroupKey, tuple[float, bool]] = {}
        """Groups that no worker could run: since when, and whether their client was told."""
        self.turn = 0
        """Counts the turns of clients in having tasks placed."""
        self.now = 0.0
        self._open_outbox()
        self.holder = WorkerRecord(HELD, address=address, threads=1, memory=0, job="", host="", pid=0)
        """Stands for the scheduler's own process where it holds data of last resort."""

    # ------------------------------------------------------------------------------------------------ the outbox

    def _open_outbox(self) -> None:
        self.out = Outbox()
        self._finished: dict[str, TasksFinished] = {}
        self._stored: dict[str, TasksStored] = {}
        self._freed: dict[str, FreeData] = {}
        self._cancelled: dict[str, CancelTasks] = {}
        self._dropped: dict[str, DropFunctions] = {}
        self._runs: dict[str, list[RunTask]] = {}
        self._bodies: dict[str, list[FunctionBody]] = {}
        self._told_bytes = 0
        self._run_bytes = 0

    def tell_finished(self, task: TaskRecord) -> None:
        """Tell every client that wants it that the task's result is there."""
        for client, future in task.wanted:
            self.tell_result(client, future, task)
        if task.locators:
            for client, future in task.locators:
                self.tell_location(client, future, task)
            task.locators = None

    def tell_result(self, client: ClientRecord, future: int, task: TaskRecord) -> None:
        """Tell a client that the result is there.

        All results of one `handle` are one message, which stands where the first of them was told: no future's result
        comes after something that was said of it later.
        """
        if task.payload is not None:
            finished = self._finished.get(client.name)
            if finished is None:
                finished = self._finished[client.name] = TasksFinished([], [])
                self.out.send(client.name, finished)
            finished.futures.append(future)
            finished.payloads.append(task.payload)
            self._told_bytes += len(task.payload)
            if self._told_bytes > PORTION:
                self._told_bytes = 0
                self._finished.clear()
        else:
            stored = self._stored.get(client.name)
            if stored is None:
                stored = self._stored[client.name] = TasksStored([], [])
                self.out.send(client.name, stored)
            stored.futures.append(future)
            stored.sizes.append(task.size)

    def tell_location(self, client: ClientRecord, future: int, task: TaskRecord) -> None:
        """Tell a client where a result is."""
        self.out.send(client.name, DataLocation(future, task.id, task.size, self.addresses_of(task), task.payload))

    def addresses_of(self, task: TaskRecord) -> list[str]:
        """Where a stored result can be had: from its holders, and last from the scheduler's process.

        That one relays for whoever cannot reach a holder: a laptop, nodes that a firewall keeps apart.
        """
        addresses = [holder.address for holder in task.holders or () if holder is not self.holder]
        if task.holders and self.holder.address:
            addresses.append(self.holder.address)
        return addresses

    def tell_to_free(self, worker: WorkerRecord, number: int) -> None:
        """Tell a worker that nobody needs this result of its any longer."""
        freed = self._freed.get(worker.name)
        if freed is None:
            freed = self._freed[worker.name] = FreeData([])
            self.out.send(worker.name, freed)
        freed.tasks.append(number)

    def tell_to_cancel(self, worker: WorkerRecord, number: int, attempt: int) -> None:
        """Tell a worker to forget a task."""
        cancelled = self._cancelled.get(worker.name)
        if cancelled is None:
            cancelled = self._cancelled[worker.name] = CancelTasks([], [])
            self.out.send(worker.name, cancelled)
        cancelled.tasks.append(number)
        cancelled.attempts.append(attempt)

    def run(self, worker: WorkerRecord, runs: list[RunTask], function: FunctionRecord, size: int) -> None:
        """Put tasks of ``size`` bytes into the worker's next `RunTasks`, their function before it."""
        if function.number not in worker.function_numbers:
            worker.function_numbers.add(function.number)
            self._bodies.setdefault(worker.name, []).append(
                FunctionBody(function.number, function.name, function.body, function.paths)
            )
            size += len(function.body)
        box = self._runs.get(worker.name)
        if box is None:
            self._runs[worker.name] = runs
        else:
            box += runs
        self._run_bytes += size
        if self._run_bytes > PORTION:
            self._flush_runs()

    def drop_function(self, function: FunctionRecord) -> None:
        """Forget a function that no task and no client names, here and on the workers that have it."""
        if self.functions.get(function.id) is function:
            del self.functions[function.id]
        for worker in self.workers.values():
            if function.number in worker.function_numbers:
                worker.function_numbers.discard(function.number)
                dropped = self._dropped.get(worker.name)
                if dropped is None:
                    dropped = self._dropped[worker.name] = DropFunctions([])
                    self.out.send(worker.name, dropped)
                dropped.functions.append(function.number)

    def _flush_runs(self) -> None:
        for name, bodies in self._bodies.items():
            self.out.send(name, AddFunctions(bodies))
        for name, runs in self._runs.items():
            self.out.send(name, RunTasks(runs))
        self._bodies, self._runs, self._run_bytes = {}, {}, 0

    def take_outbox(self) -> Outbox:
        """What has gathered since the last time."""
        self._flush_runs()
        out = self.out
        self._open_outbox()
        return out

    # ----------------------------------------------------------------------------------------------- ready tasks

    def group_of(self, client: ClientRecord, options: TaskOptions) -> ReadyGroup:
        """The group of the client's tasks with these options."""
        constraints: object = None
        if options.workers or options.resources:
            resources = tuple(sorted(options.resources.items()))
            constraints = tuple(options.workers), options.allow_other_workers, resources
        key = (-options.priority, client, constraints)
        group = self.groups.get(key)
        if group is None:
            group = ReadyGroup(key, options)
            self._list(group)
        return group

    def _list(self, group: ReadyGroup) -> None:
        self.groups[group.key] = group
        priority = group.key[0]
        level = self.levels.get(priority)
        if level is None:
            level = self.levels[priority] = {}
            heappush(self.level_order, priority)
        level[group.key] = group

    def is_suspect(self, task: TaskRecord) -> bool:
        """Whether the next death of a worker under the task may be the last that is forgiven."""
        return 0 < task.deaths >= self.allowed_deaths

    def enqueue(self, task: TaskRecord, *, first: bool) -> None:
        """The task is ready: before (``first``) or behind its group's others.

        A task whose inputs are done, or that runs again, goes first: it frees memory, and it is older.
        """
        task.state = READY
        self.ready += 1
        group = task.group
        assert group is not None
        if self.is_suspect(task):
            task.group = ReadyGroup(group.key, group.options)  # one of its own: no old entry of a deque counts any more
            self.suspects[task] = None
            return
        listed = self.groups.get(group.key)
        if listed is None:  # it is not listed while it is empty
            self._list(group)
        else:
            task.group = group = listed
        if first:
            group.tasks.appendleft(task)
        else:
            group.tasks.append(task)


def task_error(kind: str, text: str, **details: str | float | bool | None) -> TaskErrorBody:
    """An error of ours about a task; ``kind`` is the name of a class of `hpccluster.errors`."""
    return TaskErrorBody(kind, kind, text, "", b"", details)
