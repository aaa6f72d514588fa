"""Which worker gets which ready task.

Every worker is kept supplied with about `WINDOW` seconds of work: enough that it never waits for the next message, and
little enough that work can still go to whoever is idle. A function that has never run counts as long, so that its first
tasks are spread one per thread; the window opens when its duration is known. Bytes take their time, too, which bounds
what is in flight to a worker. What waits behind something slow is taken back on the next tick (`rebalance`).

Suspects, tasks under which as many workers have died as may, run alone: an empty worker takes one and nothing else. Where
none is empty, one is emptied, so that suspects do not wait for ever in a busy cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush, heapreplace

from hpccluster.protocol.messages import ARGUMENT_LIMIT, Dependency, RunTask, TakeBack, TaskOptions
from hpccluster.state.scheduler.core import Core
from hpccluster.state.scheduler.records import ASSIGNED, READY, ReadyGroup, TaskRecord, WorkerRecord

WINDOW = 0.1
"""Seconds of work in flight per thread."""
MOST_IN_FLIGHT = 2000
"""Tasks in flight per worker, however short."""
BANDWIDTH = 500e6
"""Bytes per second that a transfer between workers is assumed to reach."""
TURN = 256
"""Tasks that one client gets placed before the next one's turn."""
DESCRIPTION = 64
"""Bytes that naming an input and its holders takes, about."""
STRETCH = 1e-3
"""Seconds of work that a worker is given at a stretch: so short that it makes no difference who gets it."""

_NO_DEPENDENCIES: list[Dependency] = []
_Heap = list[tuple[float, int, WorkerRecord]]


def load(core: Core, worker: WorkerRecord) -> float:
    """Expected seconds until a new task would start, per thread. A worker that makes no progress counts as loaded."""
    if worker.idle > 0:
        return worker.occupancy * 1e-3 / worker.threads
    return worker.occupancy / worker.threads + (core.now - worker.progress)


def has_room(core: Core, worker: WorkerRecord, expected: float) -> bool:
    """Whether the worker should be given a task of that expected duration now."""
    if worker.idle > 0:
        return not worker.alone
    return (
        len(worker.in_flight) < MOST_IN_FLIGHT
        and len(worker.unheard) < worker.threads
        and worker.occupancy + expected <= WINDOW * worker.threads
        and core.now - worker.progress < WINDOW
        and not worker.alone
    )


def place(core: Core) -> None:
    """Give ready tasks to workers with room: highest priority first, clients of one priority in turns."""
    if core.suspects:
        _place_suspects(core)
    if not core.ready:
        core.groups.clear()  # what they hold is ready no longer
        core.levels.clear()
        core.level_order.clear()
        return
    if not core.open:
        return
    heap: _Heap = [(load(core, w), number, w) for number, w in enumerate(core.open.values())]
    heapify(heap)
    passed: list[int] = []
    while heap and core.level_order:
        priority = core.level_order[0]
        active = sorted(
            _listed(core, priority), key=lambda group: group.client.served
        )  # served longest ago comes first
        if active:
            passed.append(priority)
        else:
            del core.levels[priority]
        heappop(core.level_order)
        while active and heap:
            active = [group for group in active if _place_some(core, group, heap)]
    for priority in passed:
        heappush(core.level_order, priority)


def _listed(core: Core, priority: int) -> list[ReadyGroup]:
    """The groups of that priority that have tasks; the others are listed no longer."""
    level = core.levels[priority]
    for key, group in list(level.items()):
        if not group.tasks or core.groups.get(key) is not group:
            del level[key]
            if core.groups.get(key) is group:
                del core.groups[key]
    return list(level.values())


def _place_suspects(core: Core) -> None:
    """Give each suspect a worker of its own, or begin to empty one for it."""
    for task, emptying in list(core.suspects.items()):
        if task.state is not READY:
            del core.suspects[task]
            continue
        assert task.group is not None
        options = task.group.options
        able = [w for w in allowed_workers(core, options) if not w.retiring and fits(w, options, empty=True)]
        empty = next((worker for worker in able if not worker.in_flight and worker.idle > 0), None)
        if empty is not None:
            del core.suspects[task]
            assign(core, [task], empty)
            _close(core, empty)
        elif emptying not in able or not emptying.alone:
            others = [worker for worker in able if not worker.alone]
            core.suspects[task] = chosen = min(others, key=lambda w: load(core, w), default=None)
            if chosen is not None:
                _close(core, chosen)
                core.out.send(chosen.name, take_back(list(chosen.in_flight.values())))


def _close(core: Core, worker: WorkerRecord) -> None:
    """Give the worker nothing more until it is empty."""
    worker.alone = True
    core.open.pop(worker.name, None)


def _place_some(core: Core, group: ReadyGroup, heap: _Heap) -> bool:
    """Place about `TURN` tasks of the group; false when no more can be placed now."""
    core.turn += 1
    left = TURN
    while left > 0:
        task = _first(group)
        if task is None:
            return False
        is_plain = not (group.constrained or task.dependencies)
        worker = _least_loaded(core, task, heap) if is_plain else _choose(core, task, heap)
        if worker is None:
            return False
        tasks = _stretch(group, worker, left) if is_plain else [group.tasks.popleft()]
        assign(core, tasks, worker)
        left -= len(tasks)
        group.client.served = core.turn
        if heap and heap[0][2] is worker:
            heapreplace(heap, (load(core, worker), heap[0][1], worker))
    return True


def _first(group: ReadyGroup) -> TaskRecord | None:
    """The first task of the group that is still ready; what stands before it is dropped."""
    tasks = group.tasks
    while tasks:
        if tasks[0].state is READY and tasks[0].group is group:
            return tasks[0]
        tasks.popleft()
    return None


def _stretch(group: ReadyGroup, worker: WorkerRecord, most: int) -> list[TaskRecord]:
    """Take out the first task, which is plain, and what is like it: as much as the worker is given at a stretch."""
    waiting = group.tasks
    first = waiting.popleft()
    function = first.function
    assert function is not None
    most = min(most, MOST_IN_FLIGHT - len(worker.in_flight))
    expected = function.expected
    left = min(STRETCH, WINDOW * worker.threads - worker.occupancy) - expected - len(first.arguments) / BANDWIDTH
    tasks = [first]
    while waiting and len(tasks) < most:
        task = waiting[0]
        left -= expected + len(task.arguments) / BANDWIDTH
        if left < 0 or task.function is not function or task.dependencies:
            break
        waiting.popleft()
        if task.state is READY and task.group is group:
            tasks.append(task)
    return tasks


def _least_loaded(core: Core, task: TaskRecord, heap: _Heap) -> WorkerRecord | None:
    """The first worker of the heap that has room; those that have none are taken out."""
    assert task.function is not None
    while heap:
        worker = heap[0][2]
        if has_room(core, worker, task.function.expected):
            return worker
        _drop_first(core, heap)
    return None


def _drop_first(core: Core, heap: _Heap) -> None:
    """The worker at the top has no room. It is looked at again when something of its changes."""
    worker = heap[0][2]
    last = heap.pop()
    if heap:
        heapreplace(heap, last)
    if worker.idle <= 0:
        core.open.pop(worker.name, None)


def _choose(core: Core, task: TaskRecord, heap: _Heap) -> WorkerRecord | None:
    """The worker on which the task would start first, its inputs' transfers included."""
    group = task.group
    assert group is not None
    assert task.function is not None
    expected = task.function.expected
    total, largest = 0, 0
    present: dict[WorkerRecord, int] = {}
    """Bytes of inputs that a worker has already."""
    for needed in task.dependencies:
        if needed.holders:
            total += needed.size
            largest = max(largest, needed.size)
            for holder in needed.holders:
                present[holder] = present.get(holder, 0) + needed.size
    candidates: list[WorkerRecord] = []
    if group.constrained:
        candidates = [w for w in allowed_workers(core, group.options) if not w.retiring and fits(w, group.options)]
    else:
        first = _least_loaded(core, task, heap)
        candidates = [w for w in present if not w.retiring and w is not core.holder]
        if first is not None and first not in present:
            candidates.append(first)
    best: WorkerRecord | None = None
    best_cost = 0.0
    for worker in candidates:
        waits = load(core, worker)
        if worker.alone or (
            not has_room(core, worker, expected) and (group.constrained or waits > largest / BANDWIDTH)
        ):
            continue
        cost = (total - present.get(worker, 0)) / BANDWIDTH + waits
        if best is None or cost < best_cost:
            best, best_cost = worker, cost
    return best


def is_named(worker: WorkerRecord, wishes: list[str]) -> bool:
    """Whether the wishes name the worker (by name, address, host or job), or nobody."""
    return not wishes or any(wish in (worker.name, worker.address, worker.host, worker.job) for wish in wishes)


def allowed_workers(core: Core, options: TaskOptions) -> list[WorkerRecord]:
    """The workers that the options name; all of them if none of these is there and others are allowed."""
    named = [worker for worker in core.workers.values() if is_named(worker, options.workers)]
    return list(core.workers.values()) if not named and options.allow_other_workers else named


def fits(worker: WorkerRecord, options: TaskOptions, *, empty: bool = False) -> bool:
    """Whether the worker has the resources free that the options ask for (or would have them if it were empty)."""
    return all(
        (0 if empty else worker.used.get(name, 0)) + amount
        <= worker.resources.get(name, 0) + 1e-9  # sums of fractions are not exact
        for name, amount in options.resources.items()
    )


def assign(core: Core, tasks: list[TaskRecord], worker: WorkerRecord) -> None:
    """Hand out tasks of one function and group."""
    function, group = tasks[0].function, tasks[0].group
    assert function is not None
    assert group is not None
    in_flight = worker.in_flight
    if not in_flight:
        worker.progress = core.now
    runs: list[RunTask] = []
    size, occupancy = 0, worker.occupancy
    for task in tasks:
        own_size = len(task.arguments)
        dependencies = _NO_DEPENDENCIES
        if task.dependencies:
            dependencies, inline = _describe_inputs(core, task.dependencies)
            own_size += inline + DESCRIPTION * len(dependencies)
        task.state = ASSIGNED
        task.worker = worker
        task.expected = expected = function.expected + own_size / BANDWIDTH
        occupancy += expected
        size += own_size
        in_flight[task.id] = task
        runs.append(RunTask(task.id, task.attempt, function.number, task.arguments, dependencies, task.order))
    worker.occupancy = occupancy
    core.ready -= len(tasks)
    for name, amount in group.options.resources.items():
        worker.used[name] = worker.used.get(name, 0) + amount * len(tasks)
    core.run(worker, runs, function, size)


def _describe_inputs(core: Core, tasks: Iterable[TaskRecord]) -> tuple[list[Dependency], int]:
    """The inputs of a task, and how many bytes of them ride along: what is too much for a message is fetched from here."""
    described: list[Dependency] = []
    inline = 0
    for needed in tasks:
        payload = needed.payload
        if payload is not None and core.holder.address and inline + len(payload) > ARGUMENT_LIMIT:
            described.append(Dependency(needed.id, None, needed.size, [core.holder.address]))
            continue
        if payload is not None:
            inline += len(payload)
        described.append(describe(core, needed))
    return described, inline


def describe(core: Core, task: TaskRecord) -> Dependency:
    """A task's result as an input of another: itself, or who has it."""
    if task.payload is not None:
        return Dependency(task.id, task.payload, task.size, [])
    return Dependency(task.id, None, task.size, core.addresses_of(task))


def take_back(tasks: list[TaskRecord]) -> TakeBack:
    """The message that asks for tasks back, unless they have started."""
    return TakeBack([task.id for task in tasks], [task.attempt for task in tasks])


def rebalance(core: Core) -> None:
    """Take back what waits behind something slow while others are idle. Each task is asked for once."""
    idle = [w for w in core.open.values() if w.idle > 0]
    if not idle:
        return
    free = sum(w.idle for w in idle)
    behind = [
        (worker.occupancy + core.now - worker.progress, worker)
        for worker in core.workers.values()
        if worker.in_flight
        and worker.idle < 0
        and (worker.occupancy > WINDOW / 2 or core.now - worker.progress > WINDOW / 2)
    ]
    for _, worker in sorted(behind, key=lambda pair: -pair[0]):
        tasks = list(worker.in_flight.values())
        asked = {task.id: task.attempt for task in tasks if worker.asked.get(task.id) == task.attempt}
        running = max(0, worker.threads - len(worker.unheard))  # at most
        surplus = len(tasks) - running - len(asked)
        is_stuck = core.now - worker.progress > WINDOW / 2
        count = surplus if is_stuck else min(surplus, max(free, surplus // 2))
        waiting = [task for task in tasks[running:] if task.id not in asked and _could_run(core, task, idle)]
        waiting = waiting[-count:] if count > 0 else []
        worker.asked = asked | {task.id: task.attempt for task in waiting}
        if waiting:
            core.out.send(worker.name, take_back(waiting))


def _could_run(core: Core, task: TaskRecord, workers: list[WorkerRecord]) -> bool:
    """Whether one of these workers could take the task now."""
    group = task.group
    if group is None or not group.constrained:
        return True
    allowed = allowed_workers(core, group.options)
    return any(worker in allowed and fits(worker, group.options) for worker in workers)
