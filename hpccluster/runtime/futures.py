"""Futures: the client's hold on results that are computed elsewhere.

A future is two objects: a `FutureRecord` that the client's connection keeps up to date, and the user's `Future`, whose
end (garbage collection) tells the cluster that the result is needed no longer. Results are unpickled when asked for.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from hpccluster.errors import ClusterClosed, HpcClusterError, TaskCancelled, from_name
from hpccluster.protocol import payload
from hpccluster.protocol.messages import TaskErrorBody
from hpccluster.runtime import sync

if TYPE_CHECKING:
    from hpccluster.runtime.client import Client

T = TypeVar("T")


class FutureState(IntEnum):
    """What the client knows of a future."""

    PENDING = 0
    FINISHED = 1
    """The pickled result is here."""
    STORED = 2
    """The result stays with a worker until it is asked for."""
    ERRED = 3
    CANCELLED = 4
    LOST = 5
    """The connection to the cluster ended before it was done."""


_WORDS = {
    FutureState.PENDING: "pending",
    FutureState.FINISHED: "finished",
    FutureState.STORED: "finished",
    FutureState.ERRED: "error",
    FutureState.CANCELLED: "cancelled",
    FutureState.LOST: "lost",
}


_watching = threading.Lock()


class FutureRecord:
    """What the client's connection notes on one future. Changed on the loop thread only."""

    __slots__ = ("id", "outcome", "state", "watchers")

    def __init__(self, number: int) -> None:
        self.id = number
        self.state = FutureState.PENDING
        self.outcome: Any = None
        """The payload, size, `TaskErrorBody`, or the exception of a lost connection."""
        self.watchers: list[Callable[[], object]] | None = None
        """Called on the loop thread when it is done; must not block or raise."""

    def settle(self, state: FutureState, outcome: Any) -> None:
        """It is done."""
        if self.state is not FutureState.PENDING:
            return
        self.outcome = outcome
        self.state = state
        watchers, self.watchers = self.watchers, None
        if watchers:
            for watcher in watchers:
                watcher()

    def watch(self, watcher: Callable[[], object]) -> Callable[[], object]:
        """Have ``watcher`` called once when it is done; at once if it is. May be called from any thread.

        Returns what `unwatch` takes.
        """
        if self.state is not FutureState.PENDING:
            watcher()
            return watcher
        once = _Once(watcher)
        with _watching:
            watchers = self.watchers
            if watchers is None:
                self.watchers = [once]
            else:
                watchers.append(once)
        if self.state is not FutureState.PENDING:  # it may have been settled before the watcher was in the list
            once()
        return once

    def unwatch(self, watcher: Callable[[], object]) -> None:
        """Forget a watcher: whoever waits again and again for one of many must not leave one behind each time."""
        with _watching:
            if self.watchers is not None:  # a list of its own: `settle` may be going through the old one
                self.watchers = [other for other in self.watchers if other is not watcher]

    def wait(self, timeout: float | None) -> bool:
        """Block until it is done; false after ``timeout`` seconds."""
        if self.state is not FutureState.PENDING:
            return True
        done = threading.Lock()
        done.acquire()
        watcher = self.watch(done.release)
        if done.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            return True
        self.unwatch(watcher)
        return False


class _Once:
    """Calls its target the first time only: a watcher may be found both by `settle` and by `watch`.

    It lets go of its target then: where `settle` was just over, it stays in a list, and would hold the future for ever.
    """

    __slots__ = ("_called", "_target")

    def __init__(self, target: Callable[[], object]) -> None:
        self._target: Callable[[], object] | None = target
        self._called = threading.Lock()

    def __call__(self) -> None:
        if self._called.acquire(blocking=False):
            target, self._target = self._target, None
            assert target is not None
            target()


class Future(Generic[T]):
    """A result that is, or will be, somewhere in the cluster.

    It can be given as an argument (also inside lists, tuples, dicts and objects) to `Client.submit` and `Client.map`, and
    awaited in any event loop. When it is garbage collected and nothing else needs its task, the result is freed, and a
    task that has not run yet never will.
    """

    __slots__ = ("__weakref__", "_client", "_key", "_name", "_record")

    def __init__(self, client: Client, record: FutureRecord, name: str, key: str = "") -> None:
        self._client = client
        self._record = record
        self._name = name
        self._key = key

    @property
    def key(self) -> str:
        """The key that was given, or that ``pure`` made; else the function's name and the future's number."""
        return self._key or f"{self._name}-{self._record.id}"

    @property
    def status(self) -> str:
        """``pending``, ``finished``, ``error``, ``cancelled`` or ``lost`` (the connection to the cluster is gone)."""
        return _WORDS[self._record.state]

    def done(self) -> bool:
        """Whether there is an outcome: a result, an error, or a cancellation."""
        return self._record.state is not FutureState.PENDING

    def cancelled(self) -> bool:
        """Whether it has been cancelled."""
        return self._record.state is FutureState.CANCELLED

    def result(self, timeout: float | None = None) -> T:
        """The result, waited for up to ``timeout`` seconds.

        Raises the task's own exception with the remote traceback as its cause; `TaskCancelled`; `WorkerDied`;
        `TimeoutError`; `ClusterClosed` or `PeerLost` if the connection to the cluster is gone.
        """
        record = self._record
        if record.state is FutureState.PENDING:
            deadline = sync.deadline_of(timeout)
            self._client._check_may_block()
            if not record.wait(timeout):
                raise TimeoutError(f"{self.key} is not done after {timeout} s")
            timeout = sync.time_left(deadline)
        if record.state is FutureState.FINISHED:
            return self._load([record.outcome])
        if record.state is FutureState.STORED:
            return self._client._fetch_blocking([self], timeout)[0]  # type: ignore[no-any-return]
        raise self._error()

    def _load(self, frames: Sequence[bytes | bytearray | memoryview]) -> T:
        try:
            return payload.load_frames(frames)  # type: ignore[no-any-return]
        except Exception as error:
            error.add_note(f"while unpickling the result of {self.key}")
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The task's exception, or None if it has a result. Raises `TimeoutError`, `TaskCancelled`."""
        self._client._check_may_block()
        if not self._record.wait(timeout):
            raise TimeoutError(f"{self.key} is not done after {timeout} s")
        if self._record.state in (FutureState.FINISHED, FutureState.STORED):
            return None
        error = self._error()
        if isinstance(error, TaskCancelled):
            raise error
        return error

    def traceback(self, timeout: float | None = None) -> str | None:
        """The remote traceback as text, or None if there is a result (or none was kept)."""
        if not self._record.wait(timeout):
            raise TimeoutError(f"{self.key} is not done after {timeout} s")
        outcome = self._record.outcome
        return outcome.traceback or None if isinstance(outcome, TaskErrorBody) else None

    def _error(self) -> BaseException:
        state, outcome = self._record.state, self._record.outcome
        if state is FutureState.CANCELLED:
            return TaskCancelled(f"{self.key} was cancelled")
        if state is FutureState.LOST:
            text = f"{self.key} cannot be had: {outcome}"
            kind = type(outcome) if isinstance(outcome, HpcClusterError) else ClusterClosed
            return kind(text)
        assert isinstance(outcome, TaskErrorBody)
        return error_of(outcome, self.key)

    def cancel(self) -> bool:
        """Cancel the task and all that needs it. False if it was done already; a running function goes on unheard."""
        if self.done():
            return False
        self._client.cancel([self])
        return True

    def add_done_callback(self, callback: Callable[[Future[T]], object]) -> None:
        """Call ``callback(future)`` once it is done, in a thread of the client; its exceptions are logged."""
        self._record.watch(lambda: self._client._call_back(callback, self))

    def release(self) -> None:
        """Give the result up now, rather than when the future is garbage collected."""
        self._client._release(self._record)

    def __del__(self) -> None:
        client = getattr(self, "_client", None)
        if client is not None:
            client._released.append(self._record.id)  # only this: it may run in the middle of anything

    def __await__(self) -> Generator[Any, None, T]:
        return self._client._await(self).__await__()

    def __reduce__(self) -> tuple[Any, ...]:
        return payload.collect(self)

    def __repr__(self) -> str:
        return f"<Future {self.key} {self.status}>"


class RemoteTraceback(Exception):
    """The traceback of the worker, as the cause of the exception that is raised here."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


def error_of(body: TaskErrorBody, key: str) -> BaseException:
    """The exception that a failed task raises here."""
    if body.kind:
        return from_name(body.kind, f"{key}: {body.text}", details=body.details)
    error = payload.load_error(body)
    if body.traceback:
        error.__cause__ = RemoteTraceback(body.traceback)
    return error


class DoneAndNotDone(NamedTuple):
    """What `wait` returns."""

    done: set[Future[Any]]
    not_done: set[Future[Any]]


def wait(
    futures: Future[Any] | Iterable[Future[Any]],
    timeout: float | None = None,
    return_when: Literal["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"] = "ALL_COMPLETED",
) -> DoneAndNotDone:
    """Wait until futures are done.

    Raises `TimeoutError` when ``timeout`` seconds were not enough, as dask's ``wait`` does.
    """
    if return_when not in ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"):
        raise ValueError(f'return_when={return_when!r}: "ALL_COMPLETED", "FIRST_COMPLETED" or "FIRST_EXCEPTION"')
    everything = [futures] if isinstance(futures, Future) else list(dict.fromkeys(futures))
    deadline = sync.deadline_of(timeout)
    settled: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
    watchers = [(future._record, future._record.watch(_Putter(settled, future))) for future in everything]
    left = len(watchers)
    try:
        while left:
            try:
                future = settled.get(timeout=sync.time_left(deadline))
            except queue.Empty:
                raise TimeoutError(f"{left} of {len(everything)} futures are not done after {timeout} s") from None
            left -= 1
            if return_when == "FIRST_COMPLETED":
                break
            if return_when == "FIRST_EXCEPTION" and future.status != "finished":
                break
    finally:
        for record, watcher in watchers if left else ():
            record.unwatch(watcher)
    done = {future for future in everything if future.done()}
    return DoneAndNotDone(done, set(everything) - done)


class _Putter:
    __slots__ = ("_future", "_queue")

    def __init__(self, target: queue.SimpleQueue[Future[Any]], future: Future[Any]) -> None:
        self._queue = target
        self._future = future

    def __call__(self) -> None:
        self._queue.put(self._future)


class as_completed(Iterator[Any]):  # noqa: N801 - the name that the standard library and dask use
    """Iterate over futures as they are done; more may be added on the way.

    ``with_results``: give ``(future, result)``, raising the error of a failed one unless ``raise_errors=False``, which
    gives the exception in place of the result. ``timeout`` bounds the whole iteration in seconds.
    """

    def __init__(
        self,
        futures: Iterable[Future[Any]] = (),
        *,
        with_results: bool = False,
        raise_errors: bool = True,
        timeout: float | None = None,
    ) -> None:
        self._settled: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._left = 0
        self._with_results = with_results
        self._raise_errors = raise_errors
        self._deadline = sync.deadline_of(timeout)
        self.update(futures)

    def add(self, future: Future[Any]) -> None:
        """One more."""
        self._left += 1
        future._record.watch(_Putter(self._settled, future))

    def update(self, futures: Iterable[Future[Any]]) -> None:
        """More of them."""
        for future in futures:
            self.add(future)

    def count(self) -> int:
        """How many are still to come."""
        return self._left

    def is_empty(self) -> bool:
        """Whether none is to come."""
        return not self._left

    def __iter__(self) -> as_completed:
        return self

    def __next__(self) -> Any:
        if not self._left:
            raise StopIteration
        try:
            future = self._settled.get(timeout=sync.time_left(self._deadline))
        except queue.Empty:
            raise TimeoutError(f"still not done when the time was up: {self._left}") from None
        self._left -= 1
        if not self._with_results:
            return future
        if self._raise_errors or future.status == "finished":
            return future, future.result()
        return future, future._error()

    def next_batch(self, block: bool = True) -> list[Any]:
        """All that are done now, at least one if ``block``."""
        batch = [next(self)] if block and self._left else []
        while self._left and not self._settled.empty():
            batch.append(next(self))
        return batch


async def settled(record: FutureRecord) -> None:
    """Wait, in any event loop, until the record is settled."""
    if record.state is not FutureState.PENDING:
        return
    home = asyncio.get_running_loop()
    event = asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # that loop has been closed since: nobody waits there any longer
            home.call_soon_threadsafe(event.set)

    watcher = record.watch(wake)
    try:
        await event.wait()
    finally:
        record.unwatch(watcher)
