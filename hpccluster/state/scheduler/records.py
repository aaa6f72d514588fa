"""The scheduler's notes on tasks, workers, clients and functions."""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Final, TypeAlias

from hpccluster.protocol.messages import TaskErrorBody, TaskOptions

UNKNOWN_DURATION = 0.5
"""Seconds assumed of a function that has never finished: long enough that no worker gets more than it can run at once."""

SHORTEST_DURATION = 25e-6
"""No task is taken for shorter than what handing it over costs."""

LONGEST_DURATION = 1e9
"""What a worker reports beyond that (or below zero, or as no number) teaches nothing."""


class TaskState(IntEnum):
    """Where a task is in its life. Compared with ``is`` and ``<`` on the hot path, hence integers."""

    WAITING = 0
    """For inputs that are not there yet."""
    READY = 1
    """It could run now."""
    ASSIGNED = 2
    """A worker has it, started or not."""
    PLACING = 3
    """Data on its way from a client to a worker."""
    FINISHED = 4
    """Its result is here."""
    STORED = 5
    """Its result is with the workers in ``holders``."""
    ERRED = 6
    RELEASED = 7
    """Its result was dropped, but somebody's stored result could need it again."""
    FORGOTTEN = 8


# Looking a member up in its enum costs 90 ns in Python 3.11, some of these several times per task.
WAITING: Final = TaskState.WAITING
READY: Final = TaskState.READY
ASSIGNED: Final = TaskState.ASSIGNED
PLACING: Final = TaskState.PLACING
FINISHED: Final = TaskState.FINISHED
STORED: Final = TaskState.STORED
ERRED: Final = TaskState.ERRED
RELEASED: Final = TaskState.RELEASED
FORGOTTEN: Final = TaskState.FORGOTTEN

UNFINISHED: Final = PLACING
"""States up to this one are not at an end."""
NO_TASKS: tuple[TaskRecord, ...] = ()


class FunctionRecord:
    """A function, by the hash of its pickled body."""

    __slots__ = ("body", "clients", "duration", "expected", "id", "name", "number", "paths", "tasks")

    def __init__(self, number: int, digest: bytes, name: str, body: bytes, paths: list[str]) -> None:
        self.number = number
        self.id = digest
        self.name = name
        self.body = body
        self.paths = paths
        self.duration = -1.0
        """Mean seconds, newest counted most; negative before the first run."""
        self.expected = UNKNOWN_DURATION
        """Seconds that a run is expected to take."""
        self.tasks = 0
        """Records that name it."""
        self.clients: set[ClientRecord] = set()

    def learn(self, mean: float, count: int) -> None:
        """``count`` runs took ``mean`` seconds each."""
        if not 0 <= mean < LONGEST_DURATION:
            return
        weight = 1.0 if self.duration < 0 else max(0.3, 1 - 0.9**count)
        self.duration = mean if self.duration < 0 else self.duration + weight * (mean - self.duration)
        self.expected = max(self.duration, SHORTEST_DURATION)


class TaskRecord:
    """One task. ``function`` is None for data that a client put or scattered: nobody can compute it again."""

    __slots__ = (
        "arguments",
        "attempt",
        "blamed",
        "consumers",
        "deaths",
        "dependants",
        "dependencies",
        "error",
        "expected",
        "function",
        "group",
        "holders",
        "id",
        "key",
        "locators",
        "order",
        "payload",
        "retries",
        "size",
        "state",
        "waiting",
        "wanted",
        "worker",
    )

    def __init__(
        self,
        number: int,
        function: FunctionRecord | None,
        arguments: bytes,
        group: ReadyGroup | None,
        order: int = 0,
        retries: int = 0,
    ) -> None:
        self.id = number
        self.function = function
        self.arguments = arguments
        self.group = group
        self.key = ""
        self.state: TaskState = WAITING
        self.attempt = 0
        self.order = order
        """The smaller, the earlier: by priority, then by age."""
        self.retries = retries
        self.deaths = 0
        self.blamed = -1
        """The last attempt that was blamed for its worker's death."""
        self.dependencies: tuple[TaskRecord, ...] = NO_TASKS
        """Inputs, in the order in which the arguments number them (one may occur twice)."""
        self.dependants: dict[TaskRecord, None] | None = None
        """Records that have this one among their dependencies, oldest first."""
        self.consumers = 0
        """Of these, how many still have to run."""
        self.waiting = 0
        """How many distinct inputs are not there yet."""
        self.wanted: list[tuple[ClientRecord, int]] = []
        """The futures of clients."""
        self.locators: list[tuple[ClientRecord, int]] | None = None
        """Futures whose client waits to be told where the result is."""
        self.worker: WorkerRecord | None = None
        self.expected = 0.0
        """What was added to its worker's ``occupancy``."""
        self.holders: dict[WorkerRecord, None] | None = None
        """Who has the result, oldest copy first."""
        self.payload: bytes | None = None
        self.size = 0
        self.error: TaskErrorBody | None = None

    def __repr__(self) -> str:
        return f"<task {self.id} {self.state.name}>"


class WorkerRecord:
    """One worker."""

    __slots__ = (
        "address",
        "alone",
        "asked",
        "doubts",
        "executing",
        "function_numbers",
        "handover",
        "holds",
        "host",
        "in_flight",
        "job",
        "leaving",
        "memory",
        "name",
        "occupancy",
        "pid",
        "progress",
        "resident",
        "resources",
        "retiring",
        "stored",
        "threads",
        "unheard",
        "used",
    )

    def __init__(self, name: str, *, address: str, threads: int, memory: int, job: str, host: str, pid: int) -> None:
        self.name = name
        self.address = address
        self.threads = max(1, threads)
        self.memory = memory
        self.job = job
        self.host = host
        self.pid = pid
        self.resources: dict[str, float] = {}
        self.used: dict[str, float] = {}
        self.in_flight: dict[int, TaskRecord] = {}
        """Tasks it has, oldest first."""
        self.occupancy = 0.0
        """Sum of their expected seconds."""
        self.unheard: set[tuple[int, int]] = set()
        """Cancelled tasks (and their attempts) that still run: a thread each."""
        self.progress = 0.0
        """When it last finished something, or was given something while it had nothing."""
        self.asked: dict[int, int] = {}
        """Tasks (and their attempts) that it was asked to give back because others are idle."""
        self.alone = False
        """It is given nothing more until it is empty: for a suspect, which runs alone."""
        self.holds: set[TaskRecord] = set()
        self.doubts: dict[int, tuple[int, float]] = {}
        """How often, and when last, somebody could not get a result of which it has the only copy."""
        self.function_numbers: set[int] = set()
        self.retiring = False
        self.leaving = False
        """`Leave` has been sent."""
        self.handover: dict[int, WorkerRecord | None] = {}
        """While retiring: tasks whose data is being copied, and to whom (None: to the scheduler itself)."""
        self.executing = 0
        self.stored = 0
        self.resident = 0

    @property
    def idle(self) -> int:
        """How many threads have nothing to do, as far as is known; negative where tasks wait."""
        return self.threads - len(self.in_flight) - len(self.unheard)

    def __repr__(self) -> str:
        return f"<worker {self.name}>"


class ClientRecord:
    """One client."""

    __slots__ = ("functions", "futures", "name", "paths", "placing", "served")

    def __init__(self, name: str, paths: list[str]) -> None:
        self.name = name
        self.paths = paths
        self.futures: dict[int, TaskRecord] = {}
        self.placing: dict[int, Placement] = {}
        """Data on its way from it."""
        self.functions: set[FunctionRecord] = set()
        self.served = 0
        """The turn in which it last had tasks placed."""

    def __repr__(self) -> str:
        return f"<client {self.name}>"


class Placement:
    """A client's data on its way to a worker. It lives as long as its task is PLACING, even if its future is released."""

    __slots__ = ("client", "future", "pushed", "task", "tried", "wishes", "worker")

    def __init__(self, task: TaskRecord, client: ClientRecord, future: int, wishes: list[str]) -> None:
        self.task = task
        self.client = client
        self.future = future
        self.wishes = wishes
        self.worker: WorkerRecord | None = None
        """Whom the client was told; None while there is nobody."""
        self.pushed = False
        """The client says that the worker has it; the worker has not said so yet."""
        self.tried: set[WorkerRecord] = set()
        """To these it could not be pushed."""


GroupKey: TypeAlias = tuple[int, ClientRecord, object]
"""(-priority, client, constraints)."""


class ReadyGroup:
    """Ready tasks of one client, priority and set of constraints: within it, any worker that fits one fits all."""

    __slots__ = ("client", "constrained", "key", "options", "tasks")

    def __init__(self, key: GroupKey, options: TaskOptions) -> None:
        self.key = key
        self.client = key[1]
        self.options = options
        self.constrained = bool(options.workers or options.resources)
        self.tasks: deque[TaskRecord] = deque()
        """May hold tasks that are ready no longer: whoever takes one out looks at its state."""
