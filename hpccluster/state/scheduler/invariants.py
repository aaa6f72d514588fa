"""What always holds between two calls of `handle`. Tests check it after each event; ``--validate`` at run time.

 1. A READY task has a group, no missing input, and no worker; ``ready`` counts these tasks.
 2. ``unfinished`` counts the tasks that are WAITING, READY, ASSIGNED or PLACING.
 3. An ASSIGNED task is in flight at exactly the worker that it names, and that worker is connected.
 4. A WAITING task misses exactly ``waiting`` inputs, and at least one.
 5. A FINISHED task has its payload and no dependencies; a STORED one has a holder that is connected (or the scheduler).
 6. Holders and what they hold mirror each other.
 7. Dependencies and dependants mirror each other.
 8. ``consumers`` counts the dependants that still have to run.
 9. The futures of clients and the ``wanted`` of tasks mirror each other.
10. A task that nobody wants and nobody needs is gone, but for one that a stored result may need again.
11. A worker's occupancy is the sum of its tasks' expected seconds; nothing is in flight means zero.
12. A retiring worker is not open.
"""

from __future__ import annotations

from hpccluster.state.scheduler.core import Core
from hpccluster.state.scheduler.records import UNFINISHED, TaskRecord, TaskState
from hpccluster.state.scheduler.transitions import AVAILABLE, distinct


class InvariantBroken(AssertionError):
    """The state contradicts itself: a bug of the machine."""


def check(core: Core) -> None:
    """Raise `InvariantBroken`, naming the rule, if one does not hold."""
    tasks = core.tasks.values()
    _hold(2, core.unfinished == sum(task.state <= UNFINISHED for task in tasks), core.unfinished)
    _hold(1, core.ready == sum(task.state is TaskState.READY for task in tasks), core.ready)
    for task in tasks:
        _check_state(core, task)
        _check_links(core, task)
    for worker in core.workers.values():
        for task in worker.in_flight.values():
            _hold(3, task.worker is worker and task.state is TaskState.ASSIGNED, (worker, task))
        expected = sum(task.expected for task in worker.in_flight.values())
        _hold(11, abs(worker.occupancy - expected) < 1e-6 * (1 + expected), (worker, worker.occupancy, expected))
        _hold(12, not (worker.retiring and worker.name in core.open), worker)
        for task in worker.holds:
            _hold(6, task.holders is not None and worker in task.holders, (worker, task))
    for client in core.clients.values():
        for future, task in client.futures.items():
            _hold(9, (client, future) in task.wanted and core.tasks.get(task.id) is task, (client, future, task))


def _hold(rule: int, holds: bool, what: object) -> None:
    if not holds:
        raise InvariantBroken(f"rule {rule} is broken: {what}")


def _check_state(core: Core, task: TaskRecord) -> None:
    state = task.state
    _hold(3, (state is TaskState.ASSIGNED) == (task.worker is not None), task)
    if state is TaskState.READY:
        _hold(1, task.group is not None and task in task.group.tasks and task.group in core.groups.values(), task)
        _hold(1, all(needed.state in AVAILABLE for needed in task.dependencies), task)
    elif state is TaskState.ASSIGNED:
        assert task.worker is not None
        _hold(3, core.workers.get(task.worker.name) is task.worker and task.id in task.worker.in_flight, task)
    elif state is TaskState.WAITING:
        missing = sum(needed.state not in AVAILABLE for needed in distinct(task.dependencies))
        _hold(4, missing == task.waiting > 0, (task, missing, task.waiting))
    elif state is TaskState.FINISHED:
        _hold(5, task.payload is not None and not task.dependencies, task)
    elif state is TaskState.STORED:
        _hold(5, bool(task.holders), task)
    elif state is TaskState.ERRED:
        _hold(5, task.error is not None, task)
    for holder in task.holders or ():
        _hold(6, task in holder.holds and state is TaskState.STORED, (task, holder))
        _hold(5, holder is core.holder or core.workers.get(holder.name) is holder, (task, holder))


def _check_links(core: Core, task: TaskRecord) -> None:
    for needed in task.dependencies:
        _hold(7, needed.dependants is not None and task in needed.dependants, (task, needed))
        _hold(7, needed.state is not TaskState.FORGOTTEN, (task, needed))
    for dependant in task.dependants or ():
        _hold(7, task in dependant.dependencies, (task, dependant))
    consumers = sum(dependant.state <= UNFINISHED for dependant in task.dependants or ())
    _hold(8, task.consumers == consumers, (task, task.consumers, consumers))
    for client, future in task.wanted:
        _hold(9, core.clients.get(client.name) is client and client.futures.get(future) is task, (task, client, future))
    _hold(10, bool(task.wanted or task.consumers or task.dependants), task)
