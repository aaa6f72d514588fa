"""Results that stay with workers: where they lie, how they are served, fetched and pushed.

Bytes are bytes here: a holder pickles when it is asked, whoever uses a result unpickles it, and a process that only
relays (the head) never does either.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from hpccluster.comm.connect import connect_data
from hpccluster.comm.data import DataConnection
from hpccluster.comm.tls import Security
from hpccluster.errors import CommError, HandshakeFailed, PeerLost, RemoteProtocolError, ResultLost
from hpccluster.protocol.messages import DataAccepted, DataHeader, GetData, Hello, PushData, Role
from hpccluster.protocol.payload import dump_frames, dump_loss, load_frames
from hpccluster.runtime.results import array_size

Frame: TypeAlias = bytes | bytearray | memoryview
Frames: TypeAlias = Sequence[Frame]

CONNECT_TIME = 5.0
"""Seconds for a connection to a holder; then the next one, or the head that relays, is asked."""
UNREACHABLE_TIME = 30.0
"""Seconds for which an address that could not be reached is not tried again."""
ANSWER_TIME = 120.0
"""Seconds in which a holder must begin to answer: it may have to pickle something huge first."""
THREAD_SIZE = 1024 * 1024
"""Values over this many bytes are (un)pickled in a thread, so that a loop goes on."""
TASKS_PER_REQUEST = 10_000
"""More are asked for one request after the other: a request is one small frame."""
CONNECTIONS = 16
"""Transfers at once, over all peers."""
CONNECTIONS_PER_PEER = 2
IDLE_CONNECTIONS = 32
"""Unused connections that are kept for the next transfer."""

_PUSHERS = frozenset({Role.CLIENT, Role.SCHEDULER})


def frames_size(frames: Frames) -> int:
    """Bytes of all frames."""
    return sum(memoryview(frame).nbytes for frame in frames)


class _Entry:
    __slots__ = ("frames", "size", "value")

    def __init__(self, value: Any, frames: Frames | None, size: int) -> None:
        self.value = value
        self.frames = frames
        """As they came, until the value is first asked for."""
        self.size = size


class DataStore:
    """Results by task number. It changes in the loop's thread only; `value` may be called from any."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}

    def __contains__(self, task: int) -> bool:
        return task in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, task: int, value: Any, size: int) -> None:
        """Keep a value that was made here."""
        self._entries[task] = _Entry(value, None, size)

    def put_frames(self, task: int, frames: Frames) -> int:
        """Keep data that came over a connection; returns its size. It is unpickled when somebody needs the value."""
        size = frames_size(frames)
        self._entries[task] = _Entry(None, frames, size)
        return size

    def drop(self, tasks: Sequence[int]) -> None:
        """Forget these; what is not here is fine."""
        for task in tasks:
            self._entries.pop(task, None)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def value(self, task: int) -> Any:
        """The value itself, not a copy. Raises whatever its unpickling raises, `ResultLost` if it is not here."""
        entry = self._entries.get(task)
        if entry is None:
            raise ResultLost(f"the result of task {task} is not here")
        frames = entry.frames
        if frames is None:
            return entry.value
        # Two threads may do this at once: each gets a value of its own then, the later one stays.
        entry.value = value = load_frames(frames)
        entry.frames = None
        return value

    async def frames(self, task: int) -> Frames | None:
        """The data as frames to send; None if it is not here. Raises whatever its pickling raises."""
        entry = self._entries.get(task)
        if entry is None:
            return None
        if entry.frames is not None:
            return entry.frames
        if entry.size <= THREAD_SIZE or type(entry.value) in (bytes, bytearray) or array_size(entry.value):
            return dump_frames(entry.value)  # nothing is copied
        return await asyncio.to_thread(dump_frames, entry.value)


async def serve_data(
    connection: DataConnection, store: DataStore, on_push: Callable[[int, int], None] | None = None
) -> None:
    """Answer one peer until it goes. ``on_push`` hears (task, size) of data that a client has put into ``store``.

    Errors of the connection end it and are not raised: the peer sees them on its side.
    """
    may_push = on_push is not None and connection.hello.role in _PUSHERS
    try:
        while True:
            match await connection.receive():
                case GetData(tasks):
                    for task in tasks:
                        await _send(connection, store, task)
                case PushData(task, lengths) if may_push:
                    assert on_push is not None
                    size = store.put_frames(task, await connection.receive_frames(lengths))
                    on_push(task, size)
                    await connection.send(DataAccepted(task, ""))
                case PushData(task):
                    await connection.send(DataAccepted(task, f"a {connection.hello.role} may not push data here"))
                    return
                case other:
                    raise RemoteProtocolError(f"a {type(other).__name__} is no request")
    except CommError:
        pass
    finally:
        connection.abort() if not connection.is_open else await connection.close()


async def _send(connection: DataConnection, store: DataStore, task: int) -> None:
    try:
        frames = await store.frames(task)
    except Exception as error:  # noqa: BLE001 - user code: pickling runs whatever the value's class says
        frames = dump_loss(f"the result of task {task} cannot be pickled any more: {type(error).__name__}: {error}")
    if frames is None:
        await connection.send(DataHeader(task, False, []))
        return
    await connection.send(DataHeader(task, True, [memoryview(frame).nbytes for frame in frames]))
    await connection.send_frames(frames)


class _Peer:
    """The connections to one address."""

    __slots__ = ("idle", "places", "users")

    def __init__(self) -> None:
        self.idle: list[DataConnection] = []
        self.places = asyncio.Semaphore(CONNECTIONS_PER_PEER)
        self.users = 0


class DataFetcher:
    """Transfers to and from holders of data, over connections that are kept and shared.

    ``hello`` says who we are. ``heads``: addresses by which we reach the head, whatever others call it. Used by workers and
    clients.
    """

    def __init__(self, hello: Hello, security: Security | None, heads: Sequence[str] = ()) -> None:
        self._hello = hello
        self._heads = tuple(heads)
        self._security = security
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._peers: dict[str, _Peer] = {}
        self._unreachable: dict[str, tuple[float, PeerLost]] = {}
        """Until when an address is not tried again, and what became of the last try."""
        self._closed = False

    async def fetch(self, address: str, tasks: Sequence[int]) -> dict[int, Frames]:
        """The frames of those tasks that ``address`` has. Raises what `fetch_each` raises."""
        frames: dict[int, Frames] = {}

        def receive(task: int, found: Frames | None) -> None:
            if found is not None:
                frames[task] = found

        await self.fetch_each(address, tasks, receive)
        return frames

    async def fetch_each(
        self, address: str, tasks: Sequence[int], receive: Callable[[int, Frames | None], None]
    ) -> None:
        """Give each task's frames (None where ``address`` does not have them) to ``receive`` as they come.

        Raises `CommError` if the holder cannot be reached, or is lost on the way: what was given stays good.
        """
        async with self._connection(address) as connection:
            for start in range(0, len(tasks), TASKS_PER_REQUEST):
                asked = list(tasks[start : start + TASKS_PER_REQUEST])
                await connection.send(GetData(asked))
                for task in asked:
                    header = await self._answer(connection)
                    if not isinstance(header, DataHeader) or header.task != task:
                        raise self._odd(connection, header)
                    receive(task, await connection.receive_frames(header.frames) if header.found else None)

    async def push(self, address: str, task: int, frames: Frames) -> None:
        """Put data on a worker. Raises `CommError` if it is not stored there."""
        async with self._connection(address) as connection:
            await connection.send(PushData(task, [memoryview(frame).nbytes for frame in frames]))
            await connection.send_frames(frames)
            answer = await self._answer(connection)
            if not isinstance(answer, DataAccepted):
                raise self._odd(connection, answer)
            if answer.error:
                raise HandshakeFailed(f"{address} did not take the data: {answer.error}")

    async def close(self) -> None:
        """End all unused connections at once; transfers under way end with theirs."""
        self._closed = True
        for peer in self._peers.values():
            while peer.idle:
                peer.idle.pop().abort()
        self._peers.clear()

    # ------------------------------------------------------------------------------------------------------- inside

    async def _answer(self, connection: DataConnection) -> object:
        try:
            async with asyncio.timeout(ANSWER_TIME):
                return await connection.receive()
        except TimeoutError as error:
            connection.abort()
            raise PeerLost(f"{connection.peer_address} did not answer within {ANSWER_TIME:g} s") from error

    @staticmethod
    def _odd(connection: DataConnection, answer: object) -> RemoteProtocolError:
        connection.abort()
        return RemoteProtocolError(f"{connection.peer_address} answered with a {type(answer).__name__}")

    @asynccontextmanager
    async def _connection(self, address: str) -> AsyncIterator[DataConnection]:
        """A connection for one exchange. It is kept if that ends well, else aborted."""
        peer = self._peers.setdefault(address, _Peer())
        peer.users += 1
        try:
            async with peer.places, self._places:
                connection = await self._open(address, peer)
                try:
                    yield connection
                except BaseException:
                    connection.abort()
                    raise
                if connection.is_open and not self._closed:
                    peer.idle.append(connection)
                    self._trim()
                else:
                    connection.abort()
        finally:
            peer.users -= 1
            if not peer.users and not peer.idle:
                self._peers.pop(address, None)

    async def _open(self, address: str, peer: _Peer) -> DataConnection:
        while peer.idle:
            connection = peer.idle.pop()
            if connection.is_open:
                return connection
            connection.abort()
        now = asyncio.get_running_loop().time()
        if address in self._unreachable:
            until, error = self._unreachable[address]
            if now < until:
                raise PeerLost(str(error))
            del self._unreachable[address]
        try:
            where = self._heads if address in self._heads else address
            return await connect_data(where, self._hello, self._security, timeout=CONNECT_TIME)
        except PeerLost as error:
            self._unreachable[address] = (now + CONNECT_TIME + UNREACHABLE_TIME, error)
            raise

    def _trim(self) -> None:
        """Close the connections of the peers that were least recently added, where there are too many unused ones."""
        surplus = sum(len(peer.idle) for peer in self._peers.values()) - IDLE_CONNECTIONS
        for address in list(self._peers) if surplus > 0 else ():
            peer = self._peers[address]
            while peer.idle and surplus > 0:
                peer.idle.pop(0).abort()
                surplus -= 1
            if not peer.users and not peer.idle:
                del self._peers[address]
