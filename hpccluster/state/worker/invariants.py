"""What always holds of a `WorkerState`, numbered. Checked after each event in tests, and at run time with ``--validate``."""

from __future__ import annotations

from hpccluster.errors import LocalProtocolError
from hpccluster.state.worker.state import WorkerState


def check(state: WorkerState) -> None:
    """Raises `LocalProtocolError` naming the first invariant that does not hold: a bug of ours."""
    for broken in (_tasks(state), _fetches(state), _data(state), _end(state)):
        if broken:
            raise LocalProtocolError(f"worker state: {broken}")


def _tasks(state: WorkerState) -> str:
    for task, waiting in state.waiting.items():
        if state.assigned.get(task) != waiting.run.attempt:
            return f"W1 a waiting task is assigned, with the same attempt: task {task}"
        if not waiting.missing:
            return f"W2 a waiting task waits for something: task {task}"
        for item in waiting.missing:
            if item not in state.fetches or task not in state.fetches[item].waiters:
                return f"W3 what a task waits for is being fetched for it: task {task}, input {item}"
            if item not in state.inputs[task]:
                return f"W4 a task waits for its own inputs: task {task}, input {item}"
    for task, inputs in state.inputs.items():
        if task not in state.assigned:
            return f"W5 only assigned tasks have inputs: task {task}"
        missing = state.waiting[task].missing if task in state.waiting else set()
        for item in inputs:
            if item not in missing and item not in state.data:
                return f"W6 an input that is not waited for is here: task {task}, input {item}"
    return ""


def _fetches(state: WorkerState) -> str:
    for item, fetch in state.fetches.items():
        if not fetch.waiters and not fetch.keep:
            return f"W7 a fetch is for somebody: data {item}"
        for task in fetch.waiters:
            if task not in state.waiting or item not in state.waiting[task].missing:
                return f"W8 who waits for a fetch is a waiting task: data {item}, task {task}"
        if item in state.data:
            return f"W9 what is here is not fetched: data {item}"
        if fetch.address in fetch.others or fetch.address in fetch.failed or fetch.address == state.address:
            return (
                f"W10 the holder that is asked is no other's turn, has not failed, and is not this worker: data {item}"
            )
    return ""


def _data(state: WorkerState) -> str:
    users = dict.fromkeys(state.data, 0)
    for task, inputs in state.inputs.items():
        missing = state.waiting[task].missing if task in state.waiting else set()
        for item in inputs:
            if item not in missing:
                users[item] += 1
    for item, record in state.data.items():
        if record.users != users[item] and not state.ended:
            return f"W11 data counts its users: data {item} counts {record.users}, has {users[item]}"
        if record.unwanted and not record.users and not state.ended:
            return f"W12 freed data without users is gone: data {item}"
    if state.stored != sum(record.size for record in state.data.values()):
        return "W13 the stored bytes are the sum of the sizes"
    return ""


def _end(state: WorkerState) -> str:
    if state.ended and (state.assigned or state.waiting or state.fetches):
        return "W14 a worker that has ended has no tasks"
    return ""
