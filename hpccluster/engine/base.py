"""The engine seam: what runs tasks on the workers, as far as the fleet and the head need to know.

`FleetState` knows engines only through `WorkerJoined`, `WorkerLeft`, `Load` and `Engine.retire`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """A worker as the engine sees it."""

    name: str
    job: str
    """The name of the job that it was born in; empty for a worker started by hand."""
    address: str
    host: str
    pid: int
    threads: int
    memory: int
    """Its share of memory in bytes; 0 is unlimited."""
    executing: int = 0
    stored: int = 0
    """Bytes of results that it holds."""
    resident: int = 0
    """Bytes of resident memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much work there is."""

    queued: int = 0
    """Tasks that could run now but have no worker."""
    unfinished: int = 0
    """All tasks that are not at an end."""
    expected_seconds: float = 0.0
    """Expected run time of the queued and running tasks, where durations are known."""
    idle_workers: frozenset[str] = field(default_factory=frozenset)
    """Names of workers with nothing to run."""


@dataclass(frozen=True, slots=True)
class EngineEvents:
    """Callbacks by which an engine tells the fleet. Called on the loop; must not block."""

    worker_joined: Callable[[WorkerInfo], None]
    worker_left: Callable[[WorkerInfo, str], None]
    """The worker and why it left."""
    admits_job: Callable[[str], bool]
    """Whether the workers of the job of that name may join."""


class Engine(ABC):
    """Runs tasks on workers."""

    dashboard_link: str | None = None
    """Where its own dashboard is, once it has started; None where it has none."""

    @abstractmethod
    async def start(self, events: EngineEvents) -> str:
        """Start the scheduler side; returns its contact address."""

    @abstractmethod
    def worker_command(self, *, job: str, processes: int, threads: int, memory: int | None) -> Sequence[str]:
        """The argv (after the interpreter) that a job runs to start its workers. ``memory``: bytes of the whole job."""

    @abstractmethod
    def check_arguments(self, words: Sequence[str]) -> None:
        """Whether `worker_command` may be followed by these words of the user. Raises `ConfigError`."""

    @abstractmethod
    async def retire(self, jobs: Sequence[str]) -> None:
        """Let the workers of these jobs finish, hand over their results, and end. Returns when they are gone.

        After an error or cancellation some may be gone; none has been lost with data that others do not have.
        """

    def dismiss(self, reason: str) -> None:
        """Have all workers end at once, whatever they do; nothing is handed over, and nobody waits for it. May do nothing.

        Said when the cluster goes down, before its jobs are cancelled.
        """

    @abstractmethod
    def workers(self) -> list[WorkerInfo]:
        """The workers that are connected now."""

    def environment(self) -> Mapping[str, str]:
        """What a program beside the head needs in its environment to find the engine, once that has started."""
        return {}

    @abstractmethod
    def load(self) -> Load:
        """How much work there is now."""

    @abstractmethod
    async def stop(self, reason: str) -> None:
        """End all workers and the scheduler side. Idempotent, bounded."""
