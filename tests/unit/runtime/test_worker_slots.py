"""Shared slots: what a nanny reads of a worker."""

from __future__ import annotations

import os

from hpccluster.runtime.slots import SlotTable, WorkerPhase, private_slots


def test_a_fresh_worker_runs_nothing() -> None:
    slots = private_slots(3)
    assert slots.running() == []
    assert slots.phase is WorkerPhase.STARTING
    assert slots.incarnation == 0


def test_running_tasks_are_named_and_else_those_that_ended_last() -> None:
    slots = private_slots(3)
    slots.tasks[0], slots.tasks[1] = 0 + 1, 5
    slots.tasks[4], slots.tasks[5] = -(41 + 1), 2
    assert slots.running() == [(0, 5)]
    slots.tasks[0] = -1
    assert slots.running() == [(0, 5), (41, 2)]


def test_workers_do_not_share_a_block() -> None:
    table = SlotTable(2, 2)
    first, second = table.workers
    first.phase, first.incarnation = WorkerPhase.ENDING, 7
    first.tasks[2], first.tasks[3] = 9 + 1, 1
    assert (second.phase, second.incarnation, second.running()) == (WorkerPhase.STARTING, 0, [])
    first.reset(8)
    assert (first.phase, first.incarnation, first.running()) == (WorkerPhase.STARTING, 8, [])


def test_what_a_forked_process_writes_is_seen() -> None:
    slots = SlotTable(1, 1).workers[0]
    child = os.fork()
    if child == 0:
        slots.tasks[1] = 3
        slots.tasks[0] = 42 + 1
        slots.phase = WorkerPhase.REGISTERED
        os._exit(0)
    os.waitpid(child, 0)
    assert slots.running() == [(42, 3)]
    assert slots.phase is WorkerPhase.REGISTERED
