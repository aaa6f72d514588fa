"""The steps of a task's life. Each function leaves every invariant true."""

from __future__ import annotations

from collections.abc import Iterable

from hpccluster.protocol.messages import TaskErred, TaskErrorBody
from hpccluster.state.scheduler.actions import DropHeld
from hpccluster.state.scheduler.core import Core, task_error
from hpccluster.state.scheduler.records import (
    ERRED,
    FINISHED,
    FORGOTTEN,
    NO_TASKS,
    PLACING,
    READY,
    RELEASED,
    STORED,
    UNFINISHED,
    WAITING,
    ClientRecord,
    TaskRecord,
    WorkerRecord,
)

AVAILABLE = (FINISHED, STORED)

DOUBTS = 3
"""How many times the last copy of a result cannot be had before it counts as lost."""


# ------------------------------------------------------------------------------------------------------ towards a run


def begin(core: Core, task: TaskRecord, *, again: bool = False) -> None:
    """Start (or start again) the wait for the task's inputs; ready at once if all are there.

    The task is in no state that counts as unfinished when this is called. Inputs that were dropped are computed again,
    and theirs: without recursion, since such a chain may be long.
    """
    core.unfinished += 1
    task.state = WAITING
    begun = [task]
    for begins in begun:
        for needed in distinct(begins.dependencies):
            needed.consumers += 1
            if needed.state is RELEASED:
                core.unfinished += 1
                needed.state = WAITING
                needed.attempt += 1
                begun.append(needed)
    for begins in reversed(begun):  # each goes to the front: inputs come out before what needs them, the first first
        if begins.state is not WAITING:
            continue  # one that failed below has taken it along
        begins.waiting = 0
        for needed in distinct(begins.dependencies):
            if needed.state is ERRED:
                assert needed.error is not None
                fail(core, begins, needed.error)
                break
            if needed.state not in AVAILABLE:
                begins.waiting += 1
        else:
            if not begins.waiting:
                core.enqueue(begins, first=again or begins is not task)


def distinct(dependencies: tuple[TaskRecord, ...]) -> Iterable[TaskRecord]:
    """Each input once, in order."""
    return dependencies if len(dependencies) < 2 else dict.fromkeys(dependencies)


def unassign(core: Core, task: TaskRecord) -> None:
    """The worker has the task no longer."""
    worker = task.worker
    assert worker is not None
    task.worker = None
    del worker.in_flight[task.id]
    worker.occupancy = worker.occupancy - task.expected if worker.in_flight else 0.0
    if worker.used:
        assert task.group is not None
        for name, amount in task.group.options.resources.items():
            worker.used[name] -= amount
    if worker.alone and not worker.in_flight:
        worker.alone = False
    if not worker.retiring and not worker.alone:
        core.open[worker.name] = worker


def rerun(core: Core, task: TaskRecord) -> None:
    """An assigned task goes back: a new attempt, so that whatever still comes from the old one is dropped."""
    unassign(core, task)
    task.attempt += 1
    task.waiting = sum(needed.state not in AVAILABLE for needed in distinct(task.dependencies))
    if task.waiting:
        task.state = WAITING
    else:
        core.enqueue(task, first=True)


# ------------------------------------------------------------------------------------------------------ towards an end


def leave_unfinished(core: Core, task: TaskRecord) -> None:
    """Take the task out of whatever unfinished state it is in."""
    if task.worker is not None:
        unassign(core, task)
    elif task.state is READY:
        core.ready -= 1
    elif task.state is PLACING:
        placement = core.placing.pop(task.id)
        del placement.client.placing[placement.future]
    core.unfinished -= 1


def complete(core: Core, task: TaskRecord, *, payload: bytes | None, size: int, holder: WorkerRecord | None) -> None:
    """The task has a result: here (``payload``) or with ``holder``."""
    if task.worker is not None:  # the hot path
        unassign(core, task)
        core.unfinished -= 1
    else:
        leave_unfinished(core, task)
    task.size = size
    if payload is not None:
        task.state = FINISHED
        task.payload = payload
        task.arguments = b""  # it never runs again
    else:
        assert holder is not None
        task.state = STORED
        add_holder(task, holder)
    core.tell_finished(task)
    if task.dependencies:
        consumed(core, task, forget=payload is not None)
    if task.dependants:
        available(core, task)
    if not task.wanted and not task.consumers:
        release(core, task)


def add_holder(task: TaskRecord, holder: WorkerRecord) -> None:
    """``holder`` has the task's result."""
    if task.holders is None:
        task.holders = {}
    task.holders[holder] = None
    holder.holds.add(task)


def available(core: Core, task: TaskRecord) -> None:
    """The result of the task can be had: whoever waited for it may be ready."""
    for dependant in reversed(task.dependants or ()):  # each goes to the front: the oldest comes out first
        if dependant.state is WAITING:
            dependant.waiting -= 1
            if not dependant.waiting:
                core.enqueue(dependant, first=True)


def consumed(core: Core, task: TaskRecord, *, forget: bool) -> None:
    """The task needs its inputs no longer; with ``forget`` it will never need them again."""
    dependencies = task.dependencies
    for needed in distinct(dependencies):
        needed.consumers -= 1
    if forget:
        drop_dependencies(task)
    for needed in distinct(dependencies):
        if not needed.consumers and not needed.wanted:
            release(core, needed)


def drop_dependencies(task: TaskRecord) -> None:
    """Cut the task from its inputs."""
    for needed in distinct(task.dependencies):
        assert needed.dependants is not None
        needed.dependants.pop(task, None)
    task.dependencies = NO_TASKS


def fail(core: Core, task: TaskRecord, error: TaskErrorBody) -> None:
    """The task has failed for good, and with it all that needs its result."""
    told: dict[str, list[int]] = {}
    failing = [task]
    while failing:
        failed = failing.pop()
        if failed.state > UNFINISHED:
            continue
        if failed.worker is not None and failed is not task:
            core.tell_to_cancel(failed.worker, failed.id, failed.attempt)
        leave_unfinished(core, failed)
        failed.state = ERRED
        failed.error = error
        failed.arguments = b""
        failed.locators = None
        for client, future in failed.wanted:
            told.setdefault(client.name, []).append(future)
        failing.extend(d for d in failed.dependants or () if d.state <= UNFINISHED)
        if failed.dependencies:
            consumed(core, failed, forget=True)
        if not failed.wanted and not failed.consumers:
            release(core, failed)
    for name, futures in told.items():
        core.out.send(name, TaskErred(futures, error))


def cancel(core: Core, client: ClientRecord, task: TaskRecord) -> list[int]:
    """End the client's futures of an unfinished task and of all that needs it; returns them.

    What another client wants, or needs for what it wants, goes on.
    """
    ends = {task: None}
    growing = [task]
    for current in growing:
        for dependant in current.dependants or ():
            if dependant.state <= UNFINISHED and dependant not in ends:
                ends[dependant] = None
                growing.append(dependant)
    ended: list[int] = []
    for current in growing:
        mine = [future for owner, future in current.wanted if owner is client]
        for future in mine:
            del client.futures[future]
        ended += mine
        current.wanted = [pair for pair in current.wanted if pair[0] is not client]
        if current.locators:
            current.locators = [pair for pair in current.locators if pair[0] is not client] or None
    for current in reversed(growing):
        release(core, current)
    return ended


def withdraw(core: Core, task: TaskRecord) -> None:
    """An unfinished task is not to run; its worker is told."""
    if task.worker is not None:
        core.tell_to_cancel(task.worker, task.id, task.attempt)
    leave_unfinished(core, task)
    task.attempt += 1


# ---------------------------------------------------------------------------------------------------- nobody needs it


def release(core: Core, task: TaskRecord) -> None:
    """Nobody wants the task's result now: drop it, and what it alone kept alive."""
    releasing = [task]
    while releasing:
        current = releasing.pop()
        if current.wanted or current.consumers or current.state is FORGOTTEN:
            continue
        if current.state <= UNFINISHED:
            withdraw(core, current)
            for needed in distinct(current.dependencies):
                needed.consumers -= 1
        elif current.dependants and (current.function is None or current.state is not STORED):
            continue  # a stored result may need it again; it is small, or cannot be computed again, or released already
        if current.holders:
            drop_data(core, current)
        dependencies = current.dependencies
        if current.dependants:
            current.state = RELEASED
        else:
            forget(core, current)
        if dependencies:
            releasing += [needed for needed in distinct(dependencies) if not needed.consumers and not needed.wanted]


def drop_data(core: Core, task: TaskRecord) -> None:
    """Free the stored data of the task everywhere."""
    for holder in task.holders or ():
        _drop_copy(core, task, holder)
    task.holders = None


def _drop_copy(core: Core, task: TaskRecord, holder: WorkerRecord) -> None:
    """``holder`` is to forget its copy, if it is still there."""
    holder.holds.discard(task)
    holder.handover.pop(task.id, None)
    holder.doubts.pop(task.id, None)
    if holder is core.holder:
        core.out.actions.append(DropHeld(task.id))
    elif core.workers.get(holder.name) is holder:
        core.tell_to_free(holder, task.id)


def forget(core: Core, task: TaskRecord) -> None:
    """The record is at its end."""
    if task.dependencies:
        drop_dependencies(task)
    task.state = FORGOTTEN
    task.payload = None
    task.arguments = b""
    del core.tasks[task.id]
    if task.key and core.keys.get(task.key) is task:
        del core.keys[task.key]
    function = task.function
    if function is not None:
        function.tasks -= 1
        if not function.tasks and not function.clients:
            core.drop_function(function)


def doubt(core: Core, task: TaskRecord, holder: WorkerRecord) -> None:
    """Somebody could not get the task's data from ``holder``, which is connected.

    That may be the network's fault, or a moment's: the last copy is given up at the third time only. What is said at one
    time, by several tasks that waited for the same fetch, counts once.
    """
    times, last = holder.doubts.get(task.id, (0, -1.0))
    if task.holders is not None and len(task.holders) == 1:
        if last < core.now:
            times += 1
        if times < DOUBTS:
            holder.doubts[task.id] = times, core.now
            return
    lose_data(core, task, holder)


def lose_data(core: Core, task: TaskRecord, holder: WorkerRecord) -> None:
    """``holder`` has the task's data no longer. With the last holder gone, it is computed again if somebody needs it."""
    assert task.holders is not None
    del task.holders[holder]
    _drop_copy(core, task, holder)
    if task.holders:
        return
    task.holders = None
    if task.function is not None and not task.wanted and not task.consumers:
        release(core, task)
        return
    for dependant in task.dependants or ():
        if dependant.state is READY:
            core.ready -= 1
            dependant.state = WAITING
            dependant.waiting = 1
        elif dependant.state is WAITING:
            dependant.waiting += 1
        # an assigned one comes back as `InputsMissing` if its worker cannot get the data any more
    if task.function is None:  # nobody can compute it again; stored results that would need it are told when they do
        core.unfinished += 1
        task.state = WAITING
        is_there = core.workers.get(holder.name) is holder
        why = f"its only copy was on worker {holder.name}, which {'cannot give it' if is_there else 'is gone'}"
        fail(core, task, task_error("ResultLost", why, worker=holder.name))
        return
    task.attempt += 1
    begin(core, task, again=True)
