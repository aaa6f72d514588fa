"""The client: what a user's program talks to.

Blocking methods run on the process's one loop thread (`hpccluster.runtime.sync`). Everything that the user's threads say
goes through one ordered queue, so that what was submitted first arrives first and a future is never released before the
tasks that need it were sent; the loop thread merges what has gathered into few messages.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from hpccluster.comm.connect import connect
from hpccluster.comm.connection_file import ConnectionFile, find_connection_file, read_connection_file
from hpccluster.comm.tls import Security
from hpccluster.errors import ClusterClosed, ClusterNotFound, HpcClusterError, StartTimeout
from hpccluster.protocol import payload
from hpccluster.protocol.messages import (
    ARGUMENT_LIMIT,
    PROTOCOL_VERSION,
    CancelFutures,
    DefineFunction,
    Hello,
    Message,
    PutData,
    ReleaseFutures,
    Role,
    SubmitTasks,
    TaskOptions,
)
from hpccluster.runtime import sync
from hpccluster.runtime.functions import FunctionCache, PickledFunction
from hpccluster.runtime.futures import Future, FutureRecord, FutureState, settled
from hpccluster.runtime.link import ClientLink
from hpccluster.runtime.versions import versions

log = logging.getLogger("hpccluster.client")

CLUSTER_VARIABLE = "HPCCLUSTER_CLUSTER"
"""Names the connection file (or name, or address) of the cluster that `Client()` joins."""

TASKS_PER_MESSAGE = 1000
BYTES_PER_MESSAGE = 256 * 1024
_PLAIN = TaskOptions()
_SMALL = frozenset((int, float, bool, complex, type(None), Future))

EPOCH = datetime.fromtimestamp(0, UTC)
T = TypeVar("T")
_Entry = tuple[int, PickledFunction, bytes, list[int], str, TaskOptions]


class Client:
    """A connection to a cluster, to submit tasks and gather their results.

    ``target``: a cluster object, a cluster's name or address, or the path of a connection file. Without it,
    ``$HPCCLUSTER_CLUSTER`` says which (it is set inside ``hpccluster submit``); a cluster is never joined by guess.
    ``timeout``: seconds for connecting. Raises `ClusterNotFound`, `CredentialError`, `HandshakeFailed`, `PeerLost`.
    """

    def __init__(self, target: Any = None, *, name: str = "", timeout: float = 10.0) -> None:
        self._link: ClientLink | None = None
        self._released: deque[int] = deque()
        self._outgoing: deque[_Entry | Message] = deque()
        self._flush_scheduled = False
        self._numbers = itertools.count(1)
        self._records: dict[int, FutureRecord] = {}
        self._functions = FunctionCache()
        self._sent: set[bytes] = set()
        self._callbacks: ThreadPoolExecutor | None = None
        self._closed: HpcClusterError | None = None
        self._loop = sync.loop()
        file = _connection_of(target)
        self.address = file.addresses[0] if file.addresses else ""
        self.cluster_name = file.name
        sync.run(self._connect(file, name, timeout))

    async def _connect(self, file: ConnectionFile, name: str, timeout: float) -> None:
        security = Security.from_connection_file(file) if file.certificate else None
        hello = Hello(
            protocol=PROTOCOL_VERSION,
            role=Role.CLIENT,
            cluster=file.cluster,
            name=name,
            host=socket.gethostname(),
            pid=os.getpid(),
            versions=versions(),
            paths=_module_paths(),
        )
        channel = await connect(file.addresses, hello, security, timeout=timeout)
        self.name = channel.welcome.name
        self.cluster_name = channel.welcome.cluster_name or file.name
        me = weakref.ref(self)  # so that a client that nobody holds can go

        def lost(error: HpcClusterError) -> None:
            client = me()
            if client is not None:
                client._lost(error)

        def tidy() -> None:
            client = me()
            if client is not None:
                client._tidy()

        self._link = ClientLink(channel, hello, security, self._records, lost, tidy)

    # ------------------------------------------------------------------------------------------------------ tasks

    def submit(
        self,
        function: Callable[..., T],
        /,
        *args: Any,
        key: str | None = None,
        priority: int = 0,
        retries: int = 0,
        workers: str | Sequence[str] | None = None,
        allow_other_workers: bool = False,
        resources: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> Future[T]:
        """Run ``function(*args, **kwargs)`` somewhere in the cluster.

        Futures among the arguments, also inside containers, are replaced by their results; a function of ``__main__``, a
        notebook or the REPL works. ``priority``: higher runs earlier. ``retries``: further runs after an exception.
        ``workers``: names, addresses, hosts or jobs of the workers that may run it. ``key``: futures of one key share one
        task. Raises what pickling raises, and `ClusterClosed`.
        """
        pickled = self._functions.get(function)
        options = _options(priority, retries, workers, allow_other_workers, resources)
        body, needs, held = self._pickle(args, kwargs, None)
        number = next(self._numbers)
        record = self._records[number] = FutureRecord(number)
        self._say((number, pickled, body, needs, key or "", options))
        del held  # the inputs had to live until their consumer was said
        return Future(self, record, pickled.name)

    def map(
        self,
        function: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        key: str | None = None,
        priority: int = 0,
        retries: int = 0,
        workers: str | Sequence[str] | None = None,
        allow_other_workers: bool = False,
        resources: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> list[Future[T]]:
        """Run ``function`` for each element (or for each tuple of several iterables, as the built-in ``map`` does).

        The futures are in the order of the elements. ``key`` is a prefix here; the rest is as for `submit`.
        """
        if not iterables:
            raise TypeError("map() needs at least one iterable")
        pickled = self._functions.get(function)
        options = _options(priority, retries, workers, allow_other_workers, resources)
        futures: list[Future[T]] = []
        scattered: dict[int, Future[Any]] = {}
        records, name, say = self._records, pickled.name, self._say
        for position, args in enumerate(zip(*iterables, strict=False)):
            body, needs, held = self._pickle(args, kwargs, scattered)
            number = next(self._numbers)
            record = records[number] = FutureRecord(number)
            say((number, pickled, body, needs, f"{key}-{position}" if key else "", options))
            del held  # the inputs had to live until their consumer was said
            futures.append(Future(self, record, name))
        return futures

    def gather(self, futures: Any, errors: str = "raise", timeout: float | None = None) -> Any:
        """The results of futures, in the same structure: a future, or lists, tuples, sets and dicts of them.

        ``errors="skip"`` leaves failed ones out of lists. Raises the first error otherwise, and `TimeoutError`.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors={errors!r}: "raise" or "skip"')
        found: list[Future[Any]] = []
        _walk(futures, found)
        if errors == "skip":
            for future in found:
                future._record.wait(timeout)
            values = dict(self._values([f for f in found if f.status == "finished"], timeout))
        else:
            values = dict(self._values(found, timeout))
        return _replace(futures, values)

    def _values(self, futures: list[Future[Any]], timeout: float | None) -> Iterator[tuple[Future[Any], Any]]:
        stored: list[Future[Any]] = []
        self._check_may_block()
        for future in futures:
            if future._record.state is FutureState.PENDING and not future._record.wait(timeout):
                raise TimeoutError(f"{future.key} is not done after {timeout} s")
            if future._record.state is FutureState.STORED:
                stored.append(future)
            else:
                yield future, future.result()
        if stored:
            yield from zip(stored, self._fetch_blocking(stored, timeout), strict=True)

    def scatter(self, data: Any, *, workers: str | Sequence[str] | None = None, timeout: float | None = 60) -> Any:
        """Put data into the cluster: a list gives a list of futures, a dict a dict of them, anything else one future.

        Large data is pushed straight to a worker, small data stays with the scheduler. Waits up to ``timeout`` seconds
        for a worker to take it; raises `StartTimeout` after that.
        """
        wishes = [workers] if isinstance(workers, str) else list(workers or ())
        if isinstance(data, dict):
            return dict(zip(data, self._scatter(list(data.values()), wishes, timeout), strict=True))
        if isinstance(data, list | tuple | set | frozenset):
            return type(data)(self._scatter(list(data), wishes, timeout))
        return self._scatter([data], wishes, timeout)[0]

    def _scatter(self, values: list[Any], wishes: list[str], timeout: float | None) -> list[Future[Any]]:
        self._check_may_block()
        futures: list[Future[Any]] = []
        pushes = []
        for value in values:
            number = next(self._numbers)
            record = self._records[number] = FutureRecord(number)
            futures.append(Future(self, record, "data"))
            frames = payload.dump_frames(value)
            size = sum(map(len, frames))
            if size <= self._live().inline_limit:
                small = payload.dumps(value)
                self._say(PutData(number, [small]))
                record.settle(FutureState.FINISHED, small)
            else:
                pushes.append(self._live().push(record, frames, size, wishes))
        if pushes:
            try:
                sync.run(_all(pushes), timeout)
            except TimeoutError:
                raise StartTimeout(
                    f"no worker took {len(pushes)} pieces of data within {timeout} s: is there one (scale, wait_for_workers)?"
                ) from None
        return futures

    def cancel(self, futures: Future[Any] | Iterable[Future[Any]]) -> None:
        """Cancel tasks and all that needs them. What has not started never will; a running function goes on unheard."""
        chosen = [futures] if isinstance(futures, Future) else list(futures)
        self._say(CancelFutures([future._record.id for future in chosen]))
        for future in chosen:
            self._loop.call_soon_threadsafe(future._record.settle, FutureState.CANCELLED, None)

    # ---------------------------------------------------------------------------------------------------- the cluster

    def request(self, operation: str, /, timeout: float | None = None, **arguments: Any) -> Any:
        """Ask the head for ``operation``; its answer as plain values. Raises the head's error as itself."""
        return sync.run(self._live().request(operation, arguments), timeout)

    def wait_for_workers(self, n: int = 1, timeout: float | None = None) -> None:
        """Wait until at least ``n`` workers are there.

        Raises `StartTimeout` saying which jobs wait and why, `JobDied` with the log of a job that ended too early.
        """
        self.request("wait_for_workers", n=n, timeout=timeout)

    def scheduler_info(self) -> dict[str, Any]:
        """The cluster's ``name``, ``id``, ``address``, ``workers`` (by name) and counts of ``tasks``."""
        return self.request("scheduler_info")  # type: ignore[no-any-return]

    def nthreads(self) -> dict[str, int]:
        """Threads per worker."""
        return {name: worker["threads"] for name, worker in self.scheduler_info()["workers"].items()}

    def close(self) -> None:
        """Release everything and disconnect. Idempotent."""
        if self._closed is not None:
            return
        self._closed = ClusterClosed("the client is closed")
        link = self._link
        if link is not None and not sync.in_loop_thread():
            sync.run(self._close(link), 10)
        if self._callbacks is not None:
            self._callbacks.shutdown(wait=False)

    async def _close(self, link: ClientLink) -> None:
        self._flush()
        await link.close()
        self._settle_all(ClusterClosed("the client is closed"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_link", None) is not None and self._closed is None:
            self._link.abort()  # type: ignore[union-attr]

    def __repr__(self) -> str:
        state = "closed" if self._closed is not None else "connected"
        return f"<Client of {self.cluster_name!r} at {self.address}, {state}>"

    # ------------------------------------------------------------------------------------------------- the user's side

    def _live(self) -> ClientLink:
        if self._closed is not None:
            raise self._closed
        assert self._link is not None
        return self._link

    def _check_may_block(self) -> None:
        if sync.in_loop_thread():
            raise RuntimeError("a blocking call from hpccluster's own loop thread would wait for itself: await instead")

    def _pickle(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], scattered: dict[int, Future[Any]] | None
    ) -> tuple[bytes, list[int], list[Future[Any]]]:
        """Arguments as bytes, and the futures inside with their numbers; what is large becomes a future of its own."""
        if any(map(_is_large, args)) or (kwargs and any(map(_is_large, kwargs.values()))):
            args, kwargs = self._lighten(args, kwargs, _is_large, scattered)
        body, found = payload.dump_arguments(args, kwargs)
        if len(body) > ARGUMENT_LIMIT:
            args, kwargs = self._lighten(args, kwargs, _pickles_large, scattered)
            body, found = payload.dump_arguments(args, kwargs)
        if not found:
            return body, [], found
        for future in found:
            if future._client is not self:
                raise ValueError(f"{future!r} belongs to another client")
        return body, [future._record.id for future in found], found

    def _lighten(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        is_large: Callable[[Any], bool],
        scattered: dict[int, Future[Any]] | None,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        seen = {} if scattered is None else scattered

        def light(value: Any) -> Any:
            if not is_large(value):
                return value
            if id(value) not in seen:
                seen[id(value)] = self._scatter([value], [], 60)[0]
            return seen[id(value)]

        return tuple(map(light, args)), {name: light(value) for name, value in kwargs.items()}

    def _say(self, entry: _Entry | Message) -> None:
        if self._closed is not None:
            raise self._closed
        self._outgoing.append(entry)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon_threadsafe(self._flush)

    def _release(self, record: FutureRecord) -> None:
        self._released.append(record.id)
        self._loop.call_soon_threadsafe(self._tidy)

    def _call_back(self, callback: Callable[[Future[T]], object], future: Future[T]) -> None:
        if self._callbacks is None:
            self._callbacks = ThreadPoolExecutor(1, thread_name_prefix="hpccluster-callbacks")
        self._callbacks.submit(_logged, callback, future)

    def _fetch_blocking(self, futures: list[Future[Any]], timeout: float | None) -> list[Any]:
        self._check_may_block()
        link = self._live()
        outcomes = sync.run(_all([link.fetch(future._record) for future in futures]), timeout)
        for future, (error, _) in zip(futures, outcomes, strict=True):
            if error is not None:
                raise future._error() if future._record.state is not FutureState.STORED else error
        return [value for _, value in outcomes]

    async def _await(self, future: Future[T]) -> T:
        record = future._record
        await settled(record)
        if record.state is not FutureState.STORED:
            return future.result()
        outcome = asyncio.run_coroutine_threadsafe(self._live().fetch(record), self._loop)
        error, value = await asyncio.wrap_future(outcome)
        if error is not None:
            raise future._error() if record.state is not FutureState.STORED else error
        return value  # type: ignore[no-any-return]

    # ---------------------------------------------------------------------------------------------- the loop's thread

    def _flush(self) -> None:
        """Send what the user's threads have said, merged into few messages."""
        self._flush_scheduled = False
        link, outgoing = self._link, self._outgoing
        if link is None:
            return
        released = len(self._released)  # only those that were given up before what is sent now
        run = _Run()
        while outgoing:
            entry = outgoing.popleft()
            if isinstance(entry, tuple):
                if run.takes(entry):
                    run.add(entry)
                    continue
                self._send_run(link, run)
                run = _Run()
                run.add(entry)
            else:
                self._send_run(link, run)
                run = _Run()
                link.send(entry)
        self._send_run(link, run)
        self._send_released(link, released)

    def _send_run(self, link: ClientLink, run: _Run) -> None:
        if run.function is None:
            return
        function = run.function
        if function.id not in self._sent:
            self._sent.add(function.id)
            link.send(DefineFunction(function.id, function.name, function.body))
        link.send(run.message())

    def _tidy(self) -> None:
        """Tell the cluster about futures that are gone. Called now and then by the link, too."""
        released = len(self._released)  # counted first: what was said before is in the queue by now
        if self._link is not None and released and not self._outgoing:
            self._send_released(self._link, released)

    def _send_released(self, link: ClientLink, count: int) -> None:
        if not count:
            return
        numbers = [self._released.popleft() for _ in range(count)]
        for number in numbers:
            self._records.pop(number, None)
        link.send(ReleaseFutures(numbers))

    def _lost(self, error: HpcClusterError) -> None:
        """The connection is gone: nothing hangs."""
        if self._closed is None:
            self._closed = error
        self._settle_all(error)

    def _settle_all(self, error: HpcClusterError) -> None:
        for record in list(self._records.values()):
            if record.state is FutureState.STORED:
                record.state, record.outcome = FutureState.LOST, error
            else:
                record.settle(FutureState.LOST, error)


class _Run:
    """Tasks with consecutive numbers, one function and the same options, on their way into one `SubmitTasks`."""

    __slots__ = ("bodies", "first", "function", "keyed", "keys", "needing", "needs", "next", "options", "size")

    def __init__(self) -> None:
        self.function: PickledFunction | None = None
        self.first = self.next = self.size = 0
        self.bodies: list[bytes] = []
        self.needs: list[list[int]] = []
        self.keys: list[str] = []
        self.needing = self.keyed = False
        self.options = _PLAIN

    def takes(self, entry: _Entry) -> bool:
        return (
            entry[0] == self.next
            and self.function is not None
            and (entry[1] is self.function or entry[1].id == self.function.id)
            and (entry[5] is self.options or entry[5] == self.options)
            and len(self.bodies) < TASKS_PER_MESSAGE
            and self.size < BYTES_PER_MESSAGE
        )

    def add(self, entry: _Entry) -> None:
        number, function, body, needs, key, options = entry
        if self.function is None:
            self.function, self.first, self.options = function, number, options
        self.next = number + 1
        self.size += len(body)
        self.bodies.append(body)
        self.needs.append(needs)
        self.keys.append(key)
        self.needing = self.needing or bool(needs)
        self.keyed = self.keyed or bool(key)

    def message(self) -> SubmitTasks:
        assert self.function is not None
        needs = self.needs if self.needing else []
        keys = self.keys if self.keyed else []
        return SubmitTasks(self.first, self.function.id, self.bodies, needs, keys, self.options)


def _options(
    priority: int,
    retries: int,
    workers: str | Sequence[str] | None,
    allow_other_workers: bool,
    resources: Mapping[str, float] | None,
) -> TaskOptions:
    if not priority and not retries and not workers and not resources:
        return _PLAIN
    names = [workers] if isinstance(workers, str) else list(workers or ())
    needs = {name: float(amount) for name, amount in (resources or {}).items()}
    return TaskOptions(int(priority), int(retries), names, bool(allow_other_workers), needs)


def _is_large(value: Any) -> bool:
    """Whether a value is known to be large without pickling it."""
    if type(value) in _SMALL:
        return False
    if isinstance(value, bytes | bytearray | str):
        return len(value) > ARGUMENT_LIMIT
    size = getattr(value, "nbytes", 0)
    return isinstance(size, int) and size > ARGUMENT_LIMIT


def _pickles_large(value: Any) -> bool:
    if isinstance(value, Future):
        return False
    return len(payload.dump_arguments((value,), {})[0]) > ARGUMENT_LIMIT // 2


async def _all(work: Sequence[Any]) -> list[Any]:
    return list(await asyncio.gather(*work))


def _logged(callback: Callable[[Any], object], future: Future[Any]) -> None:
    try:
        callback(future)
    except Exception:  # user code: as the standard library does, it is logged and the others go on
        log.exception("a callback of %r raised", future)


def _walk(item: Any, found: list[Future[Any]]) -> None:
    if isinstance(item, Future):
        found.append(item)
    elif isinstance(item, dict):
        for value in item.values():
            _walk(value, found)
    elif isinstance(item, list | tuple | set | frozenset):
        for value in item:
            _walk(value, found)
    elif isinstance(item, Iterator):
        raise TypeError("gather() takes lists, tuples, sets and dicts of futures; make a list of this iterator first")


def _replace(item: Any, values: Mapping[Future[Any], Any]) -> Any:
    if isinstance(item, Future):
        return values[item]
    if isinstance(item, dict):
        return {key: _replace(value, values) for key, value in item.items() if not _skipped(value, values)}
    if isinstance(item, list | tuple | set | frozenset):
        return type(item)(_replace(value, values) for value in item if not _skipped(value, values))
    return item


def _skipped(item: Any, values: Mapping[Future[Any], Any]) -> bool:
    return isinstance(item, Future) and item not in values


def _module_paths() -> list[str]:
    """Directories from which this program imports modules and that a worker's interpreter would not know."""
    standard = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    paths = [str(Path(path or ".").resolve()) for path in sys.path]
    return [path for path in dict.fromkeys(paths) if Path(path).is_dir() and not path.startswith(standard)]


def _connection_of(target: Any) -> ConnectionFile:
    """The connection file that a user's way of naming a cluster means."""
    where = getattr(target, "connection_file", target)
    if where is None:
        where = os.environ.get(CLUSTER_VARIABLE)
        if not where:
            raise ClusterNotFound(
                "Client() needs to know its cluster: Client(cluster), Client(name), or a program started by "
                "'hpccluster submit'\n  running clusters: hpccluster status     a new one here: LocalCluster()"
            )
    if isinstance(where, ConnectionFile):
        return where
    text = str(where)
    if text.startswith("tcp://"):  # plain on purpose: nothing to find
        return ConnectionFile(cluster="", name="", role=Role.CLIENT, addresses=(text,), created=EPOCH, expires=EPOCH)
    return read_connection_file(find_connection_file(text, Role.CLIENT), Role.CLIENT)
