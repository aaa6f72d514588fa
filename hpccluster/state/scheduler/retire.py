"""Sending workers home without losing anything.

A retiring worker gets no new tasks; those that have not started are taken back; those that run may end. Then every
result that only it holds is copied to another worker, or to the scheduler's own process where no other is left (if that
serves data: else the worker stays until another comes). When every copy has been answered for, what is left is looked
at again; when nothing is left, it is told to `Leave`.
"""

from __future__ import annotations

from hpccluster.protocol.messages import FetchData, Leave
from hpccluster.state.scheduler.actions import DropHeld, HoldData, WorkerRetired
from hpccluster.state.scheduler.core import Core
from hpccluster.state.scheduler.events import DataHeld
from hpccluster.state.scheduler.placement import describe, take_back
from hpccluster.state.scheduler.records import STORED, TaskRecord, WorkerRecord
from hpccluster.state.scheduler.transitions import add_holder, doubt


def retire(core: Core, worker: WorkerRecord) -> None:
    """Begin."""
    if worker.retiring:
        return
    worker.retiring = True
    core.retirees[worker.name] = worker
    core.open.pop(worker.name, None)
    tasks = list(worker.in_flight.values())
    if tasks:
        core.out.send(worker.name, take_back(tasks))


def advance(core: Core) -> None:
    """Go on with every retiring worker as far as possible."""
    for worker in list(core.retirees.values()):
        if not worker.leaving and not worker.in_flight and not worker.handover and not _expects_data(core, worker):
            _hand_over(core, worker)


def _expects_data(core: Core, worker: WorkerRecord) -> bool:
    """Whether a client may be pushing data to the worker."""
    return any(placement.worker is worker for placement in core.placing.values())


def _hand_over(core: Core, worker: WorkerRecord) -> None:
    only_here = [
        task
        for task in sorted(worker.holds, key=lambda record: record.id)
        if not any(holder is core.holder or not holder.retiring for holder in task.holders or ())
    ]
    if not only_here:
        worker.leaving = True
        core.out.send(worker.name, Leave("retired"))
        core.out.actions.append(WorkerRetired(worker.name))
        return
    targets = [w for w in core.workers.values() if not w.retiring]
    copies: dict[WorkerRecord, list[TaskRecord]] = {}
    for task in only_here:
        if targets:
            target = min(targets, key=lambda w: w.stored)
            target.stored += task.size
            worker.handover[task.id] = target
            copies.setdefault(target, []).append(task)
        elif core.holder.address:
            worker.handover[task.id] = None
            core.out.actions.append(HoldData(task.id, worker.name, worker.address))
    for target, tasks in copies.items():
        core.out.send(target.name, FetchData([describe(core, task) for task in tasks]))


def data_held(core: Core, event: DataHeld) -> None:
    """The scheduler's own process has a copy now, or could not get one."""
    task, worker = core.tasks.get(event.task), core.workers.get(event.worker)
    if event.succeeded:
        if task is not None and task.state is STORED:
            add_holder(task, core.holder)
        else:
            core.out.actions.append(DropHeld(event.task))
    elif task is not None and worker is not None and worker in (task.holders or ()):
        doubt(core, task, worker)
    if worker is not None:
        worker.handover.pop(event.task, None)
