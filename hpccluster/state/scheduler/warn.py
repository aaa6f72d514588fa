"""Tasks that wait for what no worker has: said once, so that nobody waits without knowing for what."""

from __future__ import annotations

from hpccluster.protocol.messages import Notice, TaskOptions
from hpccluster.state.scheduler.core import Core
from hpccluster.state.scheduler.placement import allowed_workers
from hpccluster.state.scheduler.records import READY, ReadyGroup

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
            told = _warn(core, group)
        waiting[key] = (since, told)
    core.impossible = waiting


def _warn(core: Core, group: ReadyGroup) -> bool:
    tasks = [task for task in group.tasks if task.state is READY and task.group is group]
    if not tasks:
        return False
    text = (
        f"{len(tasks)} task{'s wait' if len(tasks) != 1 else ' waits'} for what no worker has: {_wanted(group.options)}"
    )
    here = ", ".join(sorted(core.workers)[:5])
    notice = Notice("warning", f"{text} (workers: {here})")
    waiting = [group.client, *(client for task in tasks for client, _ in task.wanted)]
    for client in dict.fromkeys(waiting):  # whoever submitted them may have left others waiting
        if core.clients.get(client.name) is client:
            core.out.send(client.name, notice)
    return True


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
