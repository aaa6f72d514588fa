"""What always holds between two calls of `handle`. Tests check it after each event; ``--validate`` at run time.

 1. A READY task has no missing input and no worker, and will be found: in a listed group, or among the suspects;
    ``ready`` counts these tasks.
 2. ``unfinished`` counts the tasks that are WAITING, READY, ASSIGNED or PLACING.
 3. An ASSIGNED task is in flight at exactly the worker that it names, and that worker is connected.
 4. A WAITING task misses exactly ``waiting`` inputs, and at least one.
 5. A FINISHED task has its payload and no dependencies; a STORED one has a holder that is connected (or the scheduler).
 6. Holders and what they hold mirror each other.
 7. Dependencies and dependants mirror each other.
 8. ``consumers`` counts the dependants that still have to run.
 9. The futures of clients and the ``wanted`` of tasks mirror each other; locators are among the wanted of unfinished tasks.
10. A task that nobody wants and nobody needs is gone, but for one that a stored result may need again.
11. A worker's occupancy is the sum of its tasks' expected seconds, its used resources that of its tasks'.
12. A worker with an idle thread is open, unless it retires or is kept alone; a connected client, worker or nanny only is.
13. No task that any worker may run is READY while an open worker has an idle thread.
14. The tasks that are PLACING are those with a `Placement`, which their client knows, too.
15. A key names a task of that key; a function is known while it has tasks or clients.
16. A handover is of something that the retiring worker holds, to somebody connected (or the scheduler).
"""

from __future__ import annotations

from collections import Counter

from hpccluster.state.scheduler.core import Core
from hpccluster.state.scheduler.records import (
    ASSIGNED,
    ERRED,
    FINISHED,
    FORGOTTEN,
    PLACING,
    READY,
    RELEASED,
    STORED,
    UNFINISHED,
    WAITING,
    ClientRecord,
    FunctionRecord,
    TaskRecord,
    WorkerRecord,
)
from hpccluster.state.scheduler.transitions import AVAILABLE, distinct


class InvariantBroken(AssertionError):
    """The state contradicts itself: a bug of the machine."""


def check(core: Core) -> None:
    """Raise `InvariantBroken`, naming the rule, if one does not hold."""
    tasks = core.tasks.values()
    _hold(2, core.unfinished == sum(task.state <= UNFINISHED for task in tasks), core.unfinished)
    _hold(1, core.ready == sum(task.state is READY for task in tasks), core.ready)
    listed = {task for group in core.groups.values() for task in group.tasks if task.group is group}
    for key, group in core.groups.items():
        _hold(1, core.levels[key[0]].get(key) is group, key)
    _hold(1, sorted(core.level_order) == sorted(core.levels), core.level_order)
    for task in tasks:
        _check_state(core, task)
        _check_links(core, task)
        if task.state is READY:
            _hold(1, task in listed or task in core.suspects, task)
    for worker in core.workers.values():
        _check_worker(core, worker)
    for task in core.holder.holds:
        _hold(6, task.holders is not None and core.holder in task.holders, task)
    for client in core.clients.values():
        _check_client(core, client)
    _check_supply(core)
    _check_functions(core)


def _hold(rule: int, holds: bool, what: object) -> None:
    if not holds:
        raise InvariantBroken(f"rule {rule} is broken: {what}")


def _check_state(core: Core, task: TaskRecord) -> None:
    state = task.state
    _hold(3, (state is ASSIGNED) == (task.worker is not None), task)
    if state is READY:
        _hold(1, all(needed.state in AVAILABLE for needed in task.dependencies), task)
    elif state is ASSIGNED:
        assert task.worker is not None
        _hold(3, core.workers.get(task.worker.name) is task.worker and task.id in task.worker.in_flight, task)
    elif state is WAITING:
        missing = sum(needed.state not in AVAILABLE for needed in distinct(task.dependencies))
        _hold(4, missing == task.waiting > 0, (task, missing, task.waiting))
    elif state is FINISHED:
        _hold(5, task.payload is not None and not task.dependencies, task)
    elif state is STORED:
        _hold(5, bool(task.holders), task)
    elif state is ERRED:
        _hold(5, task.error is not None and not task.dependencies, task)
    elif state is RELEASED:
        _hold(10, task.function is not None and bool(task.dependants), task)
    _hold(14, (state is PLACING) == (task.id in core.placing), task)
    for holder in task.holders or ():
        _hold(6, task in holder.holds and state is STORED, (task, holder))
        _hold(5, holder is core.holder or core.workers.get(holder.name) is holder, (task, holder))


def _check_links(core: Core, task: TaskRecord) -> None:
    for needed in task.dependencies:
        _hold(7, needed.dependants is not None and task in needed.dependants, (task, needed))
        _hold(7, needed.state is not FORGOTTEN, (task, needed))
    for dependant in task.dependants or ():
        _hold(7, task in dependant.dependencies, (task, dependant))
    consumers = sum(dependant.state <= UNFINISHED for dependant in task.dependants or ())
    _hold(8, task.consumers == consumers, (task, task.consumers, consumers))
    for client, future in task.wanted:
        _hold(9, core.clients.get(client.name) is client and client.futures.get(future) is task, (task, client, future))
    for pair in task.locators or ():
        _hold(9, pair in task.wanted and task.state <= UNFINISHED, (task, pair))
    _hold(10, bool(task.wanted or task.consumers or task.dependants), task)


def _check_worker(core: Core, worker: WorkerRecord) -> None:
    used: Counter[str] = Counter()
    for task in worker.in_flight.values():
        _hold(3, task.worker is worker and task.state is ASSIGNED, (worker, task))
        if task.group is not None:
            used.update(task.group.options.resources)
    expected = sum(task.expected for task in worker.in_flight.values())
    _hold(11, abs(worker.occupancy - expected) < 1e-6 * (1 + expected), (worker, worker.occupancy, expected))
    _hold(11, all(abs(worker.used.get(name, 0) - used[name]) < 1e-6 for name in {*worker.used, *used}), worker)
    _hold(12, not (worker.name in core.open and (worker.retiring or worker.alone)), worker)
    is_idle = worker.idle > 0
    _hold(12, len(worker.unheard) <= worker.threads, worker)
    _hold(12, worker.name in core.open or worker.retiring or worker.alone or not is_idle, worker)
    _hold(12, not worker.alone or bool(worker.in_flight), worker)
    _hold(12, worker.retiring == (worker.name in core.retirees), worker)
    for task in worker.holds:
        _hold(6, task.holders is not None and worker in task.holders, (worker, task))
    holds = {task.id for task in worker.holds}
    _hold(16, holds.issuperset(worker.handover) and holds.issuperset(worker.doubts), worker)
    for target in worker.handover.values():
        _hold(16, worker.retiring and (target is None or core.workers.get(target.name) is target), (worker, target))


def _check_client(core: Core, client: ClientRecord) -> None:
    for future, task in client.futures.items():
        _hold(9, (client, future) in task.wanted and core.tasks.get(task.id) is task, (client, future, task))
    for future, placement in client.placing.items():
        task = placement.task
        _hold(14, core.placing.get(task.id) is placement and placement.future == future, (client, future))
        _hold(14, placement.client is client and task.state is PLACING, (client, future))


def _check_supply(core: Core) -> None:
    for worker in core.open.values():
        _hold(12, core.workers.get(worker.name) is worker, worker)
        if worker.idle > 0:
            for group in core.groups.values():
                waits = [task for task in group.tasks if task.state is READY and task.group is group]
                _hold(13, group.constrained or not waits, (worker, waits))


def _check_functions(core: Core) -> None:
    tasks: Counter[FunctionRecord] = Counter(task.function for task in core.tasks.values() if task.function is not None)
    for function in {*core.functions.values(), *tasks}:
        _hold(15, function.tasks == tasks[function] and bool(function.tasks or function.clients), function.name)
        _hold(15, core.functions.get(function.id) is function, function.name)
    for key, task in core.keys.items():
        _hold(15, task.key == key and core.tasks.get(task.id) is task, task)
