"""Tasks that wait for what no worker has: said once, so that nobody waits without knowing for what."""

from __future__ import annotations

from hpccluster.protocol.messages import Notice, TaskOptions
from hpccluster.state.scheduler.core import Core
from hpccluster.state.scheduler.placement import allowed_workers
from hpccluster.state.scheduler.records import TaskState

PATIENCE = 15.0
"""Seconds that a fitting worker has to come before a client is told."""


def warn_of_impossible(core: Core) -> None:
    """Tell clients of ready tasks that no worker, however idle, could run."""
    waiting = {}
    for key, group in core.groups.items():
        if not (group.constrained and group.tasks and core.workers) or any(_could_ever(core, group.options)):
            continue
        since, told = core.impossible.get(key, (core.now, False))
        if not told and core.now - since >= PATIENCE:
            count = sum(task.state is TaskState.READY for task in group.tasks)
            text = (
                f"{count} task{'s wait' if count != 1 else ' waits'} for what no worker has: {_wanted(group.options)}"
            )
            here = ", ".join(sorted(core.workers)[:5]) or "none"
            core.out.send(group.client.name, Notice("warning", f"{text} (workers: {here})"))
            told = True
        waiting[key] = (since, told)
    core.impossible = waiting


def _could_ever(core: Core, options: TaskOptions) -> list[bool]:
    return [
        all(worker.resources.get(name, 0) >= amount for name, amount in options.resources.items())
        for worker in allowed_workers(core, options)
    ]


def _wanted(options: TaskOptions) -> str:
    wishes = [f"resources {name}={amount:g}" for name, amount in options.resources.items()]
    if options.workers:
        wishes.append(f"workers={options.workers}")
    return ", ".join(wishes)
