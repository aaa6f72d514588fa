"""What the machine does with the messages of clients."""

from __future__ import annotations

import math

from hpccluster.protocol.messages import (
    CancelFutures,
    DataPlaced,
    DataPlacement,
    DefineFunction,
    ForgetFunctions,
    LocateData,
    PlaceData,
    PutData,
    ReleaseFutures,
    SubmitTasks,
    TaskErred,
    TasksCancelled,
)
from hpccluster.state.scheduler.core import Core, task_error
from hpccluster.state.scheduler.placement import is_named
from hpccluster.state.scheduler.records import (
    ERRED,
    FINISHED,
    PLACING,
    READY,
    RELEASED,
    UNFINISHED,
    ClientRecord,
    FunctionRecord,
    Placement,
    TaskRecord,
)
from hpccluster.state.scheduler.transitions import (
    AVAILABLE,
    begin,
    cancel,
    doubt,
    fail,
    release,
)

MANY = 1 << 44
"""More tasks than any scheduler numbers: the step between two priorities in a task's order."""
HIGHEST_PRIORITY = 1 << 18
"""Priorities beyond it count as it, so that a task's order is a number that can be sent."""
LAST_FUTURE = 1 << 63
"""Futures are numbered below it."""


def define(core: Core, client: ClientRecord, message: DefineFunction) -> None:
    """A function that the client's tasks will name."""
    function = core.functions.get(message.id)
    if function is None:
        function = FunctionRecord(core.next_function, message.id, message.name, message.body, client.paths)
        core.next_function += 1
        core.functions[message.id] = function
    function.clients.add(client)
    client.functions.add(function)


def forget_functions(core: Core, client: ClientRecord, message: ForgetFunctions) -> None:
    """The client's own functions, of which there may be as many as it makes lambdas, need not be kept for it."""
    for digest in message.functions:
        function = core.functions.get(digest)
        if function is not None and function in client.functions:
            client.functions.discard(function)
            _unname(core, client, function)


def _unname(core: Core, client: ClientRecord, function: FunctionRecord) -> None:
    function.clients.discard(client)
    if not function.tasks and not function.clients:
        core.drop_function(function)


def submit(core: Core, client: ClientRecord, message: SubmitTasks) -> None:
    """New tasks of one function. Futures that are known already were said twice; they stay as they are."""
    if not 0 <= message.first <= LAST_FUTURE - len(message.arguments):
        return
    futures = range(message.first, message.first + len(message.arguments))
    function = core.functions.get(message.function)
    if function is None or not _is_sound(message):
        wrong = "name a function that was never sent" if function is None else "are malformed"
        new = [future for future in futures if future not in client.futures]
        core.out.send(client.name, TaskErred(new, task_error("RemoteProtocolError", f"the tasks {wrong}")))
        return
    options = message.options
    retries = options.retries
    group = core.group_of(client, options)
    known = client.futures
    order = -max(-HIGHEST_PRIORITY, min(options.priority, HIGHEST_PRIORITY)) * MANY
    if not message.dependencies and not message.keys and known.keys().isdisjoint(futures):
        number = core.next_task
        for future, arguments in zip(futures, message.arguments, strict=True):
            task = TaskRecord(number, function, arguments, group, order + number, retries)
            task.wanted.append((client, future))
            task.state = READY
            core.tasks[number] = task
            known[future] = task
            group.tasks.append(task)
            number += 1
        count = number - core.next_task
        core.next_task = number
        function.tasks += count
        core.ready += count
        core.unfinished += count
        return
    for index, future in enumerate(futures):
        if future in known:
            continue
        key = message.keys[index] if message.keys else ""
        shared = core.keys.get(key) if key else None
        if shared is not None:
            _share(core, client, future, shared)
            continue
        number = core.next_task
        task = TaskRecord(number, function, message.arguments[index], group, order + number, retries)
        core.next_task += 1
        function.tasks += 1
        task.key = key
        task.wanted.append((client, future))
        core.tasks[task.id] = task
        if key:
            core.keys[key] = task
        _submit_one(core, client, future, task, message.dependencies[index] if message.dependencies else [])


def _is_sound(message: SubmitTasks) -> bool:
    """Whether the columns belong together, and the resources are amounts."""
    count = len(message.arguments)
    return (
        len(message.dependencies) in (0, count)
        and len(message.keys) in (0, count)
        and all(0 <= amount < math.inf for amount in message.options.resources.values())
    )


def _submit_one(core: Core, client: ClientRecord, future: int, task: TaskRecord, needs: list[int]) -> None:
    inputs = [client.futures.get(number) for number in needs]
    client.futures[future] = task  # only now: it cannot be its own input
    found = tuple(record for record in inputs if record is not None)
    if len(found) < len(inputs):
        core.unfinished += 1
        fail(core, task, task_error("DependencyFailed", "an input of the task was cancelled or released"))
        return
    task.dependencies = found
    for needed in found:
        if needed.dependants is None:
            needed.dependants = {}
        needed.dependants[task] = None
    begin(core, task)


def _share(core: Core, client: ClientRecord, future: int, task: TaskRecord) -> None:
    """One more future for a task that exists."""
    client.futures[future] = task
    task.wanted.append((client, future))
    if task.state is RELEASED:
        task.attempt += 1
        begin(core, task, again=True)
    elif task.state in AVAILABLE:
        core.tell_result(client, future, task)
    elif task.state is ERRED:
        assert task.error is not None
        core.out.send(client.name, TaskErred([future], task.error))


def put(core: Core, client: ClientRecord, message: PutData) -> None:
    """Small data that the scheduler keeps itself."""
    if not 0 <= message.first <= LAST_FUTURE - len(message.payloads):
        return
    for future, payload in enumerate(message.payloads, start=message.first):
        if future in client.futures:
            continue
        task = _data_record(core, client, future)
        task.state = FINISHED
        task.payload = payload
        task.size = len(payload)


def _data_record(core: Core, client: ClientRecord, future: int) -> TaskRecord:
    task = TaskRecord(core.next_task, None, b"", None)
    core.next_task += 1
    core.tasks[task.id] = task
    task.wanted.append((client, future))
    client.futures[future] = task
    return task


def place_data(core: Core, client: ClientRecord, message: PlaceData) -> None:
    """Large data is about to come: say to which worker."""
    if message.future in client.futures:
        return
    task = _data_record(core, client, message.future)
    task.state = PLACING
    task.size = message.size
    core.unfinished += 1
    placement = Placement(task, client, message.future, message.workers)
    core.placing[task.id] = client.placing[message.future] = placement
    find_place(core, placement)


def find_place(core: Core, placement: Placement) -> None:
    """Name a worker for the data: of those allowed, the one that holds least. Where there is none yet, it waits."""
    allowed = [w for w in core.workers.values() if not w.retiring and is_named(w, placement.wishes)]
    untried = [w for w in allowed if w not in placement.tried]
    if untried:
        worker = min(untried, key=lambda w: w.stored)
        worker.stored += placement.task.size
        placement.worker = worker
        core.out.send(placement.client.name, DataPlacement(placement.future, placement.task.id, worker.address))
    elif allowed:
        names = ", ".join(worker.name for worker in allowed)
        lose_placement(core, placement, f"the client could not push the data to any worker ({names})")


def lose_placement(core: Core, placement: Placement, why: str) -> None:
    """The data will never arrive."""
    fail(core, placement.task, task_error("ResultLost", why))


def data_placed(core: Core, client: ClientRecord, message: DataPlaced) -> None:
    """The client has pushed its data, which counts once the worker says so, too; or it could not."""
    placement = client.placing.get(message.future)
    if placement is None or placement.worker is None:
        return
    worker = placement.worker
    if not message.address:
        placement.tried.add(worker)
        placement.worker = None
        find_place(core, placement)
    elif core.workers.get(worker.name) is worker:
        placement.pushed = True
    else:
        lose_placement(core, placement, f"its only copy was on worker {worker.name}, which is gone")


def release_futures(core: Core, client: ClientRecord, message: ReleaseFutures) -> None:
    """The client has dropped these futures."""
    for future in message.futures:
        task = client.futures.pop(future, None)
        if task is not None:
            unwant(core, client, future, task)


def unwant(core: Core, client: ClientRecord, future: int, task: TaskRecord) -> None:
    """One future less for the task."""
    wanted = task.wanted
    if len(wanted) == 1 and wanted[0][1] == future and wanted[0][0] is client:
        wanted.clear()
    else:
        task.wanted = [pair for pair in wanted if pair != (client, future)]
    if task.locators:
        task.locators = [pair for pair in task.locators if pair != (client, future)] or None
    if not task.wanted and not task.consumers:
        release(core, task)


def cancel_futures(core: Core, client: ClientRecord, message: CancelFutures) -> None:
    """Cancel tasks, unless other clients want them, too: then this client's futures end alone."""
    ended: list[int] = []
    for future in message.futures:
        task = client.futures.get(future)
        if task is None:
            continue
        if task.state <= UNFINISHED:
            ended += cancel(core, client, task)
        else:
            ended.append(future)
            del client.futures[future]
            unwant(core, client, future, task)
    if ended:
        core.out.send(client.name, TasksCancelled(ended))


def locate(core: Core, client: ClientRecord, message: LocateData) -> None:
    """Where is a result? At once if it is somewhere; else as soon as it is, or is known never to be."""
    task = client.futures.get(message.future)
    if task is None:
        core.out.send(client.name, TasksCancelled([message.future]))
        return
    if task.state is ERRED:
        assert task.error is not None
        core.out.send(client.name, TaskErred([message.future], task.error))
        return
    for holder in [h for h in task.holders or () if h.address in message.failed]:
        doubt(core, task, holder)
    if task.state in AVAILABLE:
        core.tell_location(client, message.future, task)
    elif task.state <= UNFINISHED:
        pair = (client, message.future)
        task.locators = task.locators or []
        if pair not in task.locators:
            task.locators.append(pair)
    # else its loss was an error, of which the client has just been told


def client_left(core: Core, client: ClientRecord) -> None:
    """Everything that only this client wanted goes."""
    futures = list(client.futures.items())
    client.futures.clear()
    for future, task in futures:
        unwant(core, client, future, task)
    for function in client.functions:
        _unname(core, client, function)
    for placement in list(client.placing.values()):  # another client's task needs it
        lose_placement(core, placement, f"client {client.name} left before it had handed the data over")
    for key in [key for key in core.groups if key[1] is client]:
        if not any(task.state is READY for task in core.groups[key].tasks):
            del core.groups[key]
