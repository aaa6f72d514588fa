"""Every message that crosses a connection, and every message that a machine takes in or puts out.

Structs are array-like and told apart by their integer tag; a tag is never used again for another message. Those of the
hot path carry columns: a thousand submitted tasks are one `SubmitTasks`. User payloads (function bodies, arguments,
results, exceptions) are opaque bytes here and in the scheduler.

Numbers: *futures* are numbered by their client (`int`, per client), *tasks* by the scheduler. Each hand-out of a task
has an *attempt* number; what arrives for an old attempt is dropped.

Tags: 1-19 handshake and general, 20-39 client to scheduler, 40-59 scheduler to client, 60-79 scheduler to worker,
80-99 worker to scheduler, 100-109 nanny, 110-119 data connections.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeAlias

from msgspec import Struct

PROTOCOL_VERSION = 1

INLINE_LIMIT = 64 * 1024
"""Results up to this many bytes ride in the completion message and stay with the scheduler."""

ARGUMENT_LIMIT = 1024 * 1024
"""Arguments over this many bytes become data references."""

Value: TypeAlias = Any
"""A plain value: null, number, text, list, or dict with text keys."""


class Role(StrEnum):
    """Who a peer is. It is proven by its certificate where the transport is TLS."""

    SCHEDULER = "scheduler"
    WORKER = "worker"
    NANNY = "nanny"
    CLIENT = "client"


class Purpose(StrEnum):
    """What a connection is for."""

    CONTROL = "control"
    DATA = "data"


class Message(Struct, array_like=True, gc=False):
    """Base of all messages."""


# ---------------------------------------------------------------------------------------------- handshake and general


class Hello(Message, tag=1, kw_only=True):
    """The first frame of a connection, from the side that connects."""

    protocol: int
    role: Role
    purpose: Purpose = Purpose.CONTROL
    cluster: str = ""
    """The cluster's id, where the peer knows it."""
    name: str = ""
    """A worker's or nanny's name; a client's wish."""
    host: str = ""
    pid: int = 0
    versions: dict[str, str] = {}
    address: str = ""
    """Where a worker listens for other workers and clients."""
    threads: int = 0
    memory: int = 0
    """A worker's share of memory in bytes; 0 is unlimited."""
    job: str = ""
    """The name of the job that the worker or nanny was born in."""
    incarnation: int = 0
    paths: list[str] = []
    """A client's module search path beyond the standard one; workers add it."""
    resources: dict[str, float] = {}


class Welcome(Message, tag=2, kw_only=True):
    """The answer to `Hello`: from here on the peer counts as connected."""

    cluster: str
    name: str
    """The name under which the peer is known."""
    cluster_name: str = ""
    versions: dict[str, str] = {}


class Refused(Message, tag=3):
    """The other answer to `Hello`: why not."""

    error: str
    """The class name of an `hpccluster.errors` error."""
    reason: str


class Ping(Message, tag=4):
    """Sent when nothing else was sent for a while; proves that the link and the peer's loop live."""


class Request(Message, tag=5):
    """A question or order that gets exactly one `Reply` or `Failure`. For everything that is not per task."""

    id: int
    operation: str
    arguments: dict[str, Value]


class Reply(Message, tag=6):
    """The answer to a `Request`."""

    id: int
    result: Value


class Failure(Message, tag=7):
    """The error that answers a `Request`: rebuilt by `hpccluster.errors.from_name`."""

    id: int
    error: str
    message: str
    code: str
    details: dict[str, str | int | float | bool | None]


class Notice(Message, tag=8):
    """Something a client should show to its user: ``level`` is ``info``, ``warning`` or ``error``."""

    level: str
    text: str


# ------------------------------------------------------------------------------------------------ client to scheduler


class TaskOptions(Message):
    """How tasks are to be run: shared by all tasks of one `SubmitTasks`."""

    priority: int = 0
    """Higher runs earlier."""
    retries: int = 0
    """How often the task runs again after an exception of its own."""
    workers: list[str] = []
    """Names or addresses of the workers that may run it; empty for any."""
    allow_other_workers: bool = False
    resources: dict[str, float] = {}


class DefineFunction(Message, tag=20):
    """A function's pickled body, sent once by each client; ``id`` is its content hash."""

    id: bytes
    name: str
    body: bytes


class ForgetFunctions(Message, tag=28):
    """The client will not name these functions again, unless it defines them anew."""

    functions: list[bytes]


class SubmitTasks(Message, tag=21):
    """Tasks of one function with consecutive future numbers ``first, first + 1, ...``."""

    first: int
    function: bytes
    arguments: list[bytes]
    """Per task the pickled (args, kwargs)."""
    dependencies: list[list[int]]
    """Per task the futures (of this client) that its arguments hold, in the order in which they are numbered inside
    the arguments; an empty list where no task has any."""
    keys: list[str]
    """Per task a key that many futures may share, or an empty list."""
    options: TaskOptions


class PutData(Message, tag=22):
    """Small data (at most `INLINE_LIMIT` each) that the scheduler keeps: futures ``first, first + 1, ...``."""

    first: int
    payloads: list[bytes]


class PlaceData(Message, tag=23):
    """Large data is about to come as future ``future``: answered by `DataPlacement` as soon as there is a worker."""

    future: int
    size: int
    workers: list[str]


class DataPlaced(Message, tag=24):
    """The client has pushed the data of ``future`` to the worker at ``address``; an empty address: it failed."""

    future: int
    address: str


class ReleaseFutures(Message, tag=25):
    """The client holds no reference to these futures any longer."""

    futures: list[int]


class CancelFutures(Message, tag=26):
    """Cancel the tasks of these futures, unless another client's future shares them."""

    futures: list[int]


class LocateData(Message, tag=27):
    """Where is the result of ``future``? Answered by `DataLocation` once it is somewhere (or by its error).

    ``failed`` lists addresses from which it could not be had.
    """

    future: int
    failed: list[str]


# ------------------------------------------------------------------------------------------------ scheduler to client


class TaskErrorBody(Message):
    """An exception on its way to whoever waits for the task."""

    kind: str
    """Empty for the user's own exception; else the class name of a `TaskError`."""
    type_name: str
    text: str
    traceback: str
    payload: bytes
    """The pickled exception; empty where it could not be pickled, or where ``kind`` says it all."""
    details: dict[str, str | int | float | bool | None] = {}


class TasksFinished(Message, tag=40):
    """Results that ride along."""

    futures: list[int]
    payloads: list[bytes]


class TasksStored(Message, tag=41):
    """Results that stay with a worker: fetch by `LocateData`."""

    futures: list[int]
    sizes: list[int]


class TaskErred(Message, tag=42):
    """These futures' task failed."""

    futures: list[int]
    error: TaskErrorBody


class TasksCancelled(Message, tag=43):
    """These futures are cancelled."""

    futures: list[int]


class DataLocation(Message, tag=44):
    """Where the result of ``future`` is; ``payload`` in place of addresses if the scheduler has it itself."""

    future: int
    task: int
    size: int
    addresses: list[str]
    payload: bytes | None


class DataPlacement(Message, tag=45):
    """Push the data of ``future`` to the worker at ``address`` as task ``task``."""

    future: int
    task: int
    address: str


# ------------------------------------------------------------------------------------------------ scheduler to worker


class Dependency(Message):
    """An input of a task: its value, or who has it."""

    task: int
    payload: bytes | None
    size: int
    addresses: list[str]


class RunTask(Message):
    """One task for a worker."""

    task: int
    attempt: int
    function: int
    """The scheduler's number of the function (see `AddFunctions`)."""
    arguments: bytes
    dependencies: list[Dependency]
    priority: int
    """Smaller runs earlier: the scheduler's order, already computed."""


class FunctionBody(Message):
    """A function as a worker gets it, once."""

    function: int
    name: str
    body: bytes
    paths: list[str]


class AddFunctions(Message, tag=60):
    """Functions that later `RunTasks` name."""

    functions: list[FunctionBody]


class DropFunctions(Message, tag=67):
    """No later `RunTasks` names these."""

    functions: list[int]


class RunTasks(Message, tag=61):
    """Run these."""

    tasks: list[RunTask]


class TakeBack(Message, tag=62):
    """Give these back if they have not started: answered by `TasksReturned` (those that had started stay)."""

    tasks: list[int]
    attempts: list[int]


class FreeData(Message, tag=63):
    """Nobody needs these results any longer."""

    tasks: list[int]


class FetchData(Message, tag=64):
    """Get these from their holders and keep them: answered by `ReplicasAdded` or `FetchesFailed`."""

    dependencies: list[Dependency]


class CancelTasks(Message, tag=65):
    """Forget these: those that have not started never will, the result of the others is thrown away."""

    tasks: list[int]
    attempts: list[int]


class Leave(Message, tag=66):
    """Everything is handed over: end now, and tell your nanny not to start another."""

    reason: str


# ------------------------------------------------------------------------------------------------ worker to scheduler


class TasksDone(Message, tag=80):
    """Finished tasks, as columns."""

    tasks: list[int]
    attempts: list[int]
    payloads: list[bytes | None]
    """The pickled result, or None where it stays on the worker."""
    sizes: list[int]
    durations: list[float]
    """Seconds of run time."""


class TaskFailed(Message, tag=81):
    """The user's function raised, or its inputs or result could not be (un)pickled."""

    task: int
    attempt: int
    error: TaskErrorBody
    duration: float
    retriable: bool
    """False where another run must fail the same way (it cannot be unpickled)."""


class TasksReturned(Message, tag=82):
    """Not started and given back; or cancelled and at an end at last (see `StillRunning`)."""

    tasks: list[int]
    attempts: list[int]


class ReplicasAdded(Message, tag=83):
    """This worker now holds these results, too."""

    tasks: list[int]


class FetchesFailed(Message, tag=84):
    """The data of ``tasks[i]`` could not be had from ``addresses[i]`` (one pair per failed holder)."""

    tasks: list[int]
    addresses: list[str]


class InputsMissing(Message, tag=85):
    """A task cannot start: no holder of these inputs could give them. The task is given back."""

    task: int
    attempt: int
    missing: list[int]
    addresses: list[str]


class DataStored(Message, tag=86):
    """A client has pushed this data to this worker."""

    task: int
    size: int


class Heartbeat(Message, tag=87):
    """How the worker is. Sent every few seconds."""

    memory: int
    """Resident bytes."""
    cpu: float
    """Percent of one core."""
    executing: int
    stored: int
    """Bytes of results held."""


class Leaving(Message, tag=88):
    """The worker ends by itself (signal, walltime): move its data, give it no more tasks. Answered by `Leave`."""

    reason: str


class StillRunning(Message, tag=89):
    """These were cancelled after they had started: each keeps a thread busy until `TasksReturned` tells its end."""

    tasks: list[int]
    attempts: list[int]


# ---------------------------------------------------------------------------------------------------- nanny, scheduler


class WorkerExited(Message, tag=100, kw_only=True):
    """The nanny's testimony on a worker process that has ended."""

    worker: str
    exit_code: int | None
    signal: int | None
    peak_memory: int
    """Bytes."""
    running: list[tuple[int, int]]
    """The (task, attempt) pairs that were running."""
    log_tail: str
    expected: bool
    """It was told to end."""
    restarting: bool


class StopWorkers(Message, tag=101):
    """End the workers of this nanny and the nanny itself."""

    reason: str


class NannyHeartbeat(Message, tag=102):
    """The nanny lives, and these of its workers do."""

    workers: list[str]
    memory: int


# ---------------------------------------------------------------------------------------------------- data connections


class GetData(Message, tag=110):
    """Send me these results, each as `DataHeader` and its frames."""

    tasks: list[int]


class PushData(Message, tag=111):
    """Here come the frames of this data; answered by `DataAccepted`."""

    task: int
    frames: list[int]


class DataHeader(Message, tag=112):
    """The frames of ``task`` follow as raw bytes: their lengths. ``found`` is false where it is not here."""

    task: int
    found: bool
    frames: list[int]


class DataAccepted(Message, tag=113):
    """The pushed data is stored."""

    task: int
    error: str


ClientToScheduler: TypeAlias = (
    DefineFunction
    | ForgetFunctions
    | SubmitTasks
    | PutData
    | PlaceData
    | DataPlaced
    | ReleaseFutures
    | CancelFutures
    | LocateData
    | Ping
    | Request
)
SchedulerToClient: TypeAlias = (
    TasksFinished
    | TasksStored
    | TaskErred
    | TasksCancelled
    | DataLocation
    | DataPlacement
    | Ping
    | Reply
    | Failure
    | Notice
)
SchedulerToWorker: TypeAlias = (
    AddFunctions | DropFunctions | RunTasks | TakeBack | FreeData | FetchData | CancelTasks | Leave | Ping
)
WorkerToScheduler: TypeAlias = (
    TasksDone
    | TaskFailed
    | TasksReturned
    | ReplicasAdded
    | FetchesFailed
    | InputsMissing
    | DataStored
    | Heartbeat
    | Leaving
    | StillRunning
    | Ping
)
SchedulerToNanny: TypeAlias = StopWorkers | Ping
NannyToScheduler: TypeAlias = WorkerExited | NannyHeartbeat | Ping
DataMessage: TypeAlias = GetData | PushData | DataHeader | DataAccepted
Handshake: TypeAlias = Hello | Welcome | Refused
