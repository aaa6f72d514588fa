"""What the machine does with the messages of workers and nannies, and with their coming and going."""

from __future__ import annotations

from hpccluster.protocol.messages import (
    DataStored,
    FetchesFailed,
    Hello,
    InputsMissing,
    ReplicasAdded,
    StillRunning,
    TaskFailed,
    TasksDone,
    TasksReturned,
    WorkerExited,
)
from hpccluster.state.scheduler.core import Core, task_error
from hpccluster.state.scheduler.from_clients import find_place, lose_placement
from hpccluster.state.scheduler.records import (
    PLACING,
    READY,
    STORED,
    UNFINISHED,
    FunctionRecord,
    TaskRecord,
    WorkerRecord,
)
from hpccluster.state.scheduler.transitions import (
    add_holder,
    complete,
    doubt,
    fail,
    lose_data,
    rerun,
)
from hpccluster.units import format_bytes


def worker_joined(core: Core, name: str, hello: Hello) -> None:
    """A worker is there."""
    worker = WorkerRecord(
        name,
        address=hello.address,
        threads=hello.threads,
        memory=hello.memory,
        job=hello.job,
        host=hello.host,
        pid=hello.pid,
    )
    worker.resources = dict(hello.resources)
    worker.progress = core.now
    core.workers[name] = worker
    core.open[name] = worker
    for placement in list(core.placing.values()):
        if placement.worker is None:
            find_place(core, placement)


def worker_left(core: Core, worker: WorkerRecord) -> None:
    """A worker is gone: what it had goes back, what only it held is computed again if somebody needs it.

    Nothing is blamed here: the nanny's testimony (`worker_exited`) names the tasks that were running.
    """
    del core.workers[worker.name]
    core.open.pop(worker.name, None)
    core.retirees.pop(worker.name, None)
    worker.retiring = True  # so that nothing puts it back among the open ones
    for task in reversed(list(worker.in_flight.values())):  # each goes to the front: the oldest comes out first
        rerun(core, task)
    for placement in list(core.placing.values()):
        if placement.worker is worker and placement.pushed:
            lose_placement(core, placement, f"its only copy was on worker {worker.name}, which is gone")
    for task in sorted(worker.holds, key=lambda record: -record.id):  # what is computed again goes to the front, too
        if task.state is STORED:  # one of the others may have taken it along
            lose_data(core, task, worker)
    for retiree in core.retirees.values():
        retiree.handover = {task: target for task, target in retiree.handover.items() if target is not worker}


def tasks_done(core: Core, worker: WorkerRecord, message: TasksDone) -> None:
    """Results, and what they teach about durations."""
    in_flight = worker.in_flight
    function: FunctionRecord | None = None
    total, count = 0.0, 0
    columns = zip(message.tasks, message.attempts, message.payloads, message.sizes, message.durations, strict=False)
    for number, attempt, payload, size, duration in columns:
        task = in_flight.get(number)
        if task is None or task.attempt != attempt:
            if payload is None:
                _extra_copy(core, worker, number)
            continue
        if task.function is not function:
            if function is not None:
                function.learn(total / count, count)
            function, total, count = task.function, 0.0, 0
        total += duration
        count += 1
        complete(core, task, payload=payload, size=size, holder=None if payload is not None else worker)
    if function is not None:
        function.learn(total / count, count)
    worker.progress = core.now


def task_failed(core: Core, worker: WorkerRecord, message: TaskFailed) -> None:
    """The user's function raised: once more if it may, else the error is the result."""
    task = worker.in_flight.get(message.task)
    worker.progress = core.now
    if task is None or task.attempt != message.attempt:
        return
    if message.retriable and task.retries > 0:
        task.retries -= 1
        rerun(core, task)
    else:
        fail(core, task, message.error)


def tasks_returned(core: Core, worker: WorkerRecord, message: TasksReturned) -> None:
    """Tasks that never started: anybody may have them. Or cancelled ones that ran on, and have ended: threads are free."""
    for number, attempt in reversed(list(zip(message.tasks, message.attempts, strict=False))):
        if (number, attempt) in worker.unheard:
            worker.unheard.discard((number, attempt))
            worker.progress = core.now
            if not worker.retiring and not worker.alone:
                core.open[worker.name] = worker
            continue
        task = worker.in_flight.get(number)
        if task is not None and task.attempt == attempt:
            rerun(core, task)


def still_running(_: Core, worker: WorkerRecord, message: StillRunning) -> None:
    """Cancelled tasks had started: what has been given to their threads since waits for them, or is taken back."""
    for pair in zip(message.tasks, message.attempts, strict=False):
        if len(worker.unheard) < worker.threads:  # more cannot run
            worker.unheard.add(pair)


def inputs_missing(core: Core, worker: WorkerRecord, message: InputsMissing) -> None:
    """A task could not start since its inputs were nowhere to be had."""
    task = worker.in_flight.get(message.task)
    worker.progress = core.now
    if task is not None and task.attempt == message.attempt:
        rerun(core, task)
    _not_there(core, message.missing, message.addresses)


def fetches_failed(core: Core, worker: WorkerRecord, message: FetchesFailed) -> None:
    """Copies that were asked of this worker could not be made."""
    _not_there(core, message.tasks, message.addresses)
    _handed_over(core, worker, message.tasks)


def _not_there(core: Core, tasks: list[int], addresses: list[str]) -> None:
    by_address = {holder.address: holder for holder in (core.holder, *core.workers.values())}
    for number, address in zip(tasks, addresses, strict=False):
        task, holder = core.tasks.get(number), by_address.get(address)
        if task is not None and holder is not None and task.holders and holder in task.holders:
            doubt(core, task, holder)


def _handed_over(core: Core, target: WorkerRecord, tasks: list[int]) -> None:
    """``target`` has copied these, or has failed to: a retiring worker that waits for it looks again at what it has."""
    for retiree in core.retirees.values():
        for number in tasks:
            if retiree.handover.get(number) is target:
                del retiree.handover[number]


def replicas_added(core: Core, worker: WorkerRecord, message: ReplicasAdded) -> None:
    """The worker holds these results, too."""
    for number in message.tasks:
        _extra_copy(core, worker, number)
    _handed_over(core, worker, message.tasks)


def _extra_copy(core: Core, worker: WorkerRecord, number: int) -> None:
    """The worker has a result that it was not asked to compute now: as good as any other copy, or useless."""
    task = core.tasks.get(number)
    if task is not None and task.state is STORED:
        add_holder(task, worker)
    elif number not in worker.in_flight:  # else it would free the new result, too
        core.tell_to_free(worker, number)


def data_stored(core: Core, worker: WorkerRecord, message: DataStored) -> None:
    """A client's data has arrived at the worker."""
    task = core.tasks.get(message.task)
    if task is not None and task.state is PLACING:
        complete(core, task, payload=None, size=message.size, holder=worker)
    else:
        _extra_copy(core, worker, message.task)


def worker_exited(core: Core, message: WorkerExited) -> None:
    """A nanny's testimony on a worker that crashed: what ran in it is suspect.

    What has been suspect too often runs alone from then on, and fails if its worker dies then, too: what merely ran
    beside the guilty one never fails for it.
    """
    if message.expected:
        return
    suspects = [
        (task, attempt)
        for number, attempt in message.running
        if (task := core.tasks.get(number)) is not None and task.function is not None and task.state <= UNFINISHED
    ]
    for task, attempt in suspects:
        if not task.blamed < attempt <= task.attempt:
            continue
        task.blamed = attempt
        task.deaths += 1
        if task.deaths > core.allowed_deaths and len(suspects) == 1:
            _too_deadly(core, task, message)
        elif task.state is READY and core.is_suspect(task) and task not in core.suspects:
            core.ready -= 1
            core.enqueue(task, first=True)


def last_words(log: str) -> list[str]:
    """The few lines of a dead worker's output that tell most.

    Of the dump of Python's faulthandler that is what happened and where, not the end: the frames below user code are ours.
    """
    lines = [line.rstrip() for line in log.strip().splitlines() if line.strip()]
    fatal = next((n for n, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    if fatal is None:
        return lines[-5:]
    thread = next((n for n, line in enumerate(lines) if n > fatal and line.startswith("Current thread")), fatal)
    return [lines[fatal], *(line.strip() for line in lines[thread + 1 : thread + 4])]


def _too_deadly(core: Core, task: TaskRecord, message: WorkerExited) -> None:
    how = f"signal {message.signal}" if message.signal else f"exit code {message.exit_code}"
    assert task.function is not None
    text = (
        f"{task.function.name} was running in {task.deaths} workers when they died; the last was {message.worker} "
        f"({how}, peak memory {format_bytes(message.peak_memory)})"
    )
    last = last_words(message.log_tail)
    if last:
        text += "\nits last output:\n" + "\n".join(f"  | {line}" for line in last)
    error = task_error(
        "WorkerDied",
        text,
        worker=message.worker,
        exit_code=message.exit_code,
        signal=message.signal,
        peak_memory=message.peak_memory,
        deaths=task.deaths,
    )
    if task.worker is not None:  # handed out again
        core.tell_to_cancel(task.worker, task.id, task.attempt)
    fail(core, task, error)
