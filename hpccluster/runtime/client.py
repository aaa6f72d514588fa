"""The client: what a user's program talks to.

Blocking methods run on the process's one loop thread (`hpccluster.runtime.sync`). Everything that the user's threads say
goes through one ordered queue, so that what was submitted first arrives first and a future is never released before the
tasks that need it were sent; the loop thread merges what has gathered into few messages.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Never, NoReturn, Self, TypeVar

from hpccluster.comm.connect import connect
from hpccluster.comm.connection_file import ConnectionFile
from hpccluster.comm.tls import Security
from hpccluster.errors import ClusterClosed, HpcClusterError, StartTimeout
from hpccluster.protocol import payload
from hpccluster.protocol.messages import (
    ARGUMENT_LIMIT,
    INLINE_LIMIT,
    PROTOCOL_VERSION,
    CancelFutures,
    Hello,
    Message,
    PutData,
    Role,
)
from hpccluster.runtime import forks, sync
from hpccluster.runtime.data import THREAD_SIZE, frames_size
from hpccluster.runtime.delivery import Parcel
from hpccluster.runtime.functions import FunctionCache
from hpccluster.runtime.futures import Future, FutureRecord, FutureState, settled
from hpccluster.runtime.link import ClientLink
from hpccluster.runtime.outgoing import Outgoing, TaskEntry, make_key, make_options
from hpccluster.runtime.structure import find_futures, is_large, is_steady, lighten, rebuild, replace_futures
from hpccluster.runtime.target import connection_of, module_paths
from hpccluster.units import format_bytes

log = logging.getLogger("hpccluster.client")

T = TypeVar("T")

BODY_LIMIT = 32 * 1024 * 1024
"""Bytes of a task's pickled arguments, without what is large enough to be data of its own."""


class Client:
    """A connection to a cluster, to submit tasks and gather their results.

    ``target``: a cluster object, a cluster's name or address, or the path of a connection file. Without it,
    ``$HPCCLUSTER_CLUSTER`` says which (it is set inside ``hpccluster submit``); a cluster is never joined by guess.
    ``timeout``: seconds for connecting. Raises `ClusterNotFound`, `CredentialError`, `HandshakeFailed`, `PeerLost`.
    """

    def __init__(self, target: Any = None, *, name: str = "", timeout: float = 10.0, **unknown: Never) -> None:
        if unknown:
            said = ", ".join(f"{key}=..." for key in unknown)
            raise TypeError(
                f"Client() takes name= and timeout=, not {said}: it joins a cluster and starts none; "
                f"a new one on this machine: Client(LocalCluster({said}))"
            )
        self._link: ClientLink | None = None
        self._numbers = itertools.count(1)
        self._records: dict[int, FutureRecord] = {}
        self._functions = FunctionCache()
        self._callbacks: ThreadPoolExecutor | None = None
        self._closed: HpcClusterError | None = None
        self._loop = sync.loop()
        self._outgoing = Outgoing(self._loop, self._records)
        self._released = self._outgoing.released
        file = connection_of(target)
        self.address = file.addresses[0] if file.addresses else ""
        self.cluster_name = file.name
        sync.run(self._connect(file, name, timeout))
        forks.tell(self)

    async def _connect(self, file: ConnectionFile, name: str, timeout: float) -> None:
        security = Security.from_connection_file(file) if file.certificate else None
        hello = Hello(
            protocol=PROTOCOL_VERSION,
            role=Role.CLIENT,
            cluster=file.cluster,
            name=name,
            paths=module_paths(),
        )
        channel = await connect(file.addresses, hello, security, timeout=timeout)
        self.name = channel.welcome.name
        self.cluster_name = channel.welcome.cluster_name or file.name
        me = weakref.ref(self)  # so that a client that nobody holds can go

        def lost(error: HpcClusterError) -> None:
            client = me()
            if client is not None:
                client._lost(error)

        self._link = ClientLink(channel, hello, security, self._records, lost, self._outgoing.tidy)
        self._outgoing.send = channel.send

    # ------------------------------------------------------------------------------------------------------ tasks

    def submit(
        self,
        function: Callable[..., T],
        /,
        *args: Any,
        key: str | None = None,
        pure: bool = False,
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
        task; ``pure=True`` makes the key from function and arguments. Raises what pickling raises, and `ClusterClosed`.
        """
        pickled = self._functions.get(function)
        options = make_options(priority, retries, workers, allow_other_workers, resources)
        body, needs, held = self._pickle(args, kwargs, {}, {})
        shared = make_key(key, pickled, body, needs, self.name) if key or pure else ""
        number = next(self._numbers)
        record = self._records[number] = FutureRecord(number)
        self._say((number, pickled, body, needs, shared, options))
        del held  # the inputs had to live until their consumer was said
        return Future(self, record, pickled.name, shared)

    def map(
        self,
        function: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        key: str | Sequence[str] | None = None,
        pure: bool = False,
        priority: int = 0,
        retries: int = 0,
        workers: str | Sequence[str] | None = None,
        allow_other_workers: bool = False,
        resources: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> list[Future[T]]:
        """Run ``function`` for each element (or for each tuple of several iterables, as the built-in ``map`` does).

        The futures are in the order of the elements. ``key`` is a prefix here, or a list of keys; the rest is as for
        `submit`.
        """
        if not iterables:
            raise TypeError("map() needs at least one iterable")
        pickled = self._functions.get(function)
        options = make_options(priority, retries, workers, allow_other_workers, resources)
        futures: list[Future[T]] = []
        known: dict[int, Future[Any]] = {}
        steady = all(map(is_steady, iterables))
        records, name, say = self._records, pickled.name, self._say
        for position, args in enumerate(zip(*iterables, strict=False)):
            body, needs, held = self._pickle(args, kwargs, known if steady else {}, known)
            shared = ""
            if key or pure:
                own = _key_at(key, position)
                shared = make_key(own, pickled, body, needs, self.name)
            number = next(self._numbers)
            record = records[number] = FutureRecord(number)
            say((number, pickled, body, needs, shared, options))
            del held  # the inputs had to live until their consumer was said
            futures.append(Future(self, record, name, shared))
        return futures

    def gather(self, futures: Any, errors: str = "raise", timeout: float | None = None) -> Any:
        """The results of futures, in the same structure: a future, or lists, tuples, sets and dicts of them.

        ``errors="skip"`` leaves failed ones out of lists. Raises the first error otherwise, and `TimeoutError`.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors={errors!r}: "raise" or "skip"')
        found: list[Future[Any]] = []
        find_futures(futures, found)
        self._check_may_block()
        return replace_futures(futures, dict(self._values(found, timeout, skip=errors == "skip")))

    def _values(
        self, futures: list[Future[Any]], timeout: float | None, *, skip: bool
    ) -> Iterator[tuple[Future[Any], Any]]:
        deadline = sync.deadline_of(timeout)
        stored: list[Future[Any]] = []
        for future in futures:
            if future._record.state is FutureState.PENDING and not future._record.wait(sync.time_left(deadline)):
                raise TimeoutError(f"{future.key} is not done after {timeout} s")
            if future._record.state is FutureState.STORED:
                stored.append(future)
            elif not skip or future._record.state is FutureState.FINISHED:
                yield future, future.result()
        if stored:
            yield from zip(stored, self._fetch_blocking(stored, sync.time_left(deadline)), strict=True)

    def scatter(self, data: Any, *, workers: str | Sequence[str] | None = None, timeout: float | None = 60) -> Any:
        """Put data into the cluster: a list gives a list of futures, a dict a dict of them, anything else one future.

        Large data is pushed straight to a worker, small data stays with the scheduler. Waits up to ``timeout`` seconds
        for a worker to take it; raises `StartTimeout` after that.
        """
        wishes = [workers] if isinstance(workers, str) else list(workers or ())
        if isinstance(data, dict):
            return dict(zip(data, self._scatter(list(data.values()), wishes, timeout), strict=True))
        if isinstance(data, list | tuple | set | frozenset):
            return rebuild(data, self._scatter(list(data), wishes, timeout))
        return self._scatter([data], wishes, timeout)[0]

    def _scatter(self, values: list[Any], wishes: list[str], timeout: float | None) -> list[Future[Any]]:
        self._check_may_block()
        prepared = [self._prepare(value) for value in values]
        pushed = [(future, parcel) for future, parcel in prepared if parcel is not None]
        if pushed:
            link = self._live()
            pushes = [link.push(future._record, parcel, wishes) for future, parcel in pushed]
            try:
                taken = sync.run(_all(pushes), timeout)
            except TimeoutError:
                raise StartTimeout(
                    f"no worker took {len(pushed)} pieces of data within {timeout} s: is there one (scale, wait_for_workers)?"
                ) from None
            for (future, _), is_taken in zip(pushed, taken, strict=True):
                if not is_taken:  # there were workers, and none could be reached
                    raise future._error()
        return [future for future, _ in prepared]

    def _scatter_argument(self, value: Any) -> Future[Any]:
        """A large argument as data of its own. Where there is no worker yet, this does not wait for one."""
        self._check_may_block()
        future, parcel = self._prepare(value)
        if parcel is not None and not sync.run(self._live().deliveries.bring(future, parcel)):
            raise future._error()
        return future

    def _prepare(self, value: Any) -> tuple[Future[Any], Parcel | None]:
        """A future for data, and what has to be pushed to a worker: nothing, where it is small, and the scheduler has it."""
        number = next(self._numbers)
        record = self._records[number] = FutureRecord(number)
        future: Future[Any] = Future(self, record, "data")
        parcel = Parcel(payload.dump_frames(value))
        if parcel.size > self._live().inline_limit:
            return future, parcel
        small = payload.dumps(value)
        self._say(PutData(number, [small]))
        record.settle(FutureState.FINISHED, small)
        return future, None

    def cancel(self, futures: Future[Any] | Iterable[Future[Any]]) -> None:
        """Cancel tasks and all that needs them. What has not started never will; a running function goes on unheard."""
        chosen = [futures] if isinstance(futures, Future) else list(futures)
        self._check_own(chosen)
        self._say(CancelFutures([future._record.id for future in chosen]))
        for future in chosen:
            self._loop.call_soon_threadsafe(future._record.settle, FutureState.CANCELLED, None)

    # ---------------------------------------------------------------------------------------------------- the cluster

    def request(self, operation: str, /, timeout: float | None = None, **arguments: Any) -> Any:
        """Ask the head for ``operation``; its answer as plain values. Raises the head's error as itself."""
        return sync.run(self._live().request(operation, arguments), timeout)

    def wait_for_workers(self, n_workers: int = 1, timeout: float | None = None) -> None:
        """Wait until at least ``n_workers`` are there.

        Raises `StartTimeout` saying which jobs wait and why, `JobDied` with the log of a job that ended too early.
        """
        sync.run(self._live().request("wait_for_workers", {"n": n_workers, "timeout": timeout}))

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
        self._outgoing.flush()
        await link.close()
        self._settle_all(ClusterClosed("the client is closed"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        link = getattr(self, "_link", None)
        if link is not None and self._closed is None:
            link.abort()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be sent to a task, not even by a function that uses it; make one where it is needed: "
            f"Client({self.cluster_name!r})"
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed is not None else "connected"
        return f"<Client of {self.cluster_name!r} at {self.address}, {state}>"

    # ------------------------------------------------------------------------------------------------- the user's side

    def _live(self) -> ClientLink:
        if self._closed is not None:
            raise self._closed.with_traceback(None)  # it may have been raised before
        assert self._link is not None
        return self._link

    def _check_may_block(self) -> None:
        if sync.in_loop_thread():
            raise RuntimeError("a blocking call from hpccluster's own loop thread would wait for itself: await instead")

    def _pickle(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        known_args: dict[int, Future[Any]],
        known_kwargs: dict[int, Future[Any]],
    ) -> tuple[bytes, list[int], list[Future[Any]]]:
        """Arguments as bytes, and the futures inside with their numbers; what is large becomes a future of its own."""

        def light(limit: int | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return (
                tuple(lighten(value, limit, self._scatter_argument, known_args) for value in args),
                {name: lighten(value, limit, self._scatter_argument, known_kwargs) for name, value in kwargs.items()},
            )

        if any(map(is_large, args)) or (kwargs and any(map(is_large, kwargs.values()))):
            args, kwargs = light(None)
        body, found = payload.dump_arguments(args, kwargs)
        for limit in (ARGUMENT_LIMIT // 2, INLINE_LIMIT):  # the few largest, or many of some size
            if len(body) <= ARGUMENT_LIMIT:
                break
            args, kwargs = light(limit)
            body, found = payload.dump_arguments(args, kwargs)
        if len(body) > BODY_LIMIT:
            raise ValueError(
                f"the arguments of one task take {format_bytes(len(body))}, in pieces too small to be data of their own (the "
                f"limit is {format_bytes(BODY_LIMIT)}): give them as one list, or client.scatter() that and give its future"
            )
        if not found:
            return body, [], found
        self._check_own(found)
        return body, [future._record.id for future in found], found

    def _check_own(self, futures: Iterable[Future[Any]]) -> None:
        for future in futures:
            if future._client is not self:
                raise ValueError(f"{future!r} belongs to another client")

    def _say(self, entry: TaskEntry | Message) -> None:
        if self._closed is not None:
            raise self._closed.with_traceback(None)  # it may have been raised before
        self._outgoing.say(entry)

    def _release(self, record: FutureRecord) -> None:
        self._released.append(record.id)
        self._loop.call_soon_threadsafe(record.settle, FutureState.CANCELLED, None)  # whoever waits for it
        self._loop.call_soon_threadsafe(self._outgoing.tidy)

    def _call_back(self, callback: Callable[[Future[T]], object], future: Future[T]) -> None:
        if self._callbacks is None:
            self._callbacks = ThreadPoolExecutor(1, thread_name_prefix="hpccluster-callbacks")
        try:
            self._callbacks.submit(_logged, callback, future)
        except RuntimeError:  # the client is closed, or the program at its end, with threads that still wait for this
            threading.Thread(target=_logged, args=(callback, future), daemon=True).start()

    def _fetch_blocking(self, futures: list[Future[Any]], timeout: float | None) -> list[Any]:
        self._check_may_block()
        fetches = [future._client._live().fetch(future._record) for future in futures]  # numbers are each client's own
        outcomes = sync.run(_all(fetches), timeout)
        for future, (error, _) in zip(futures, outcomes, strict=True):
            if error is not None:
                raise future._error() if future._record.state is not FutureState.STORED else error
        return [future._load(frames) for future, (_, frames) in zip(futures, outcomes, strict=True)]

    async def _await(self, future: Future[T]) -> T:
        record = future._record
        await settled(record)
        if record.state is not FutureState.STORED:
            return future.result()
        outcome = asyncio.run_coroutine_threadsafe(self._live().fetch(record), self._loop)
        error, frames = await asyncio.wrap_future(outcome)
        if error is not None:
            raise future._error() if record.state is not FutureState.STORED else error
        if frames_size(frames) > THREAD_SIZE:
            return await asyncio.to_thread(future._load, frames)
        return future._load(frames)

    # ---------------------------------------------------------------------------------------------- the loop's thread

    def _lost(self, error: HpcClusterError) -> None:
        """The connection is gone: nothing hangs."""
        if self._closed is None:
            self._closed = error
        self._settle_all(error)

    def _settle_all(self, error: HpcClusterError, *, tell: bool = True) -> None:
        for record in list(self._records.values()):
            if record.state is FutureState.STORED or (record.state is FutureState.PENDING and not tell):
                record.state, record.outcome = FutureState.LOST, error
            else:
                record.settle(FutureState.LOST, error)

    def _forked(self) -> None:
        """This is a child of the client's process: the connection is the parent's, and so is whoever waits."""
        text = (
            f"this process was forked from the one whose client this is; make one here: Client({self.cluster_name!r})"
        )
        self._closed = ClusterClosed(text)
        self._settle_all(self._closed, tell=False)


def _key_at(key: str | Sequence[str] | None, position: int) -> str | None:
    """The key of the element at ``position`` of a `map`."""
    if not key:
        return None
    if isinstance(key, str):
        return f"{key}-{position}"
    if position >= len(key):
        raise ValueError(f"map() was given {len(key)} keys, and more elements than that")
    return key[position]


async def _all(work: Sequence[Any]) -> list[Any]:
    return list(await asyncio.gather(*work))


def _logged(callback: Callable[[Any], object], future: Future[Any]) -> None:
    try:
        callback(future)
    except Exception:  # user code: as the standard library does, it is logged and the others go on
        log.exception("a callback of %r raised", future)
