"""A scheduler that says what a test tells it to, over a real listener; and a worker's peers that ask it for data."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from hpccluster.comm.authority import Authority
from hpccluster.comm.channel import Channel
from hpccluster.comm.connection_file import ConnectionFile, write_connection_file
from hpccluster.comm.listen import Listener, listen
from hpccluster.comm.tls import Security
from hpccluster.errors import CommError
from hpccluster.protocol import codec
from hpccluster.protocol.handshake import Identity
from hpccluster.protocol.messages import (
    PROTOCOL_VERSION,
    AddFunctions,
    Dependency,
    FunctionBody,
    Hello,
    Message,
    Purpose,
    Role,
    RunTask,
    RunTasks,
    TaskFailed,
    TasksDone,
    Welcome,
)
from hpccluster.protocol.payload import dump_arguments, dump_function, load_error, loads
from hpccluster.runtime.data import DataFetcher

CLUSTER = "c0ffee" * 5 + "00"
TIME = 20.0
"""Seconds after which a test has waited long enough."""

M = TypeVar("M", bound=Message)


class Peer:
    """A worker or nanny, seen from the scheduler."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.hello = channel.hello
        self.name = channel.welcome.name
        self.lost: asyncio.Future[CommError | None] = asyncio.get_running_loop().create_future()
        self._inbox: list[Message] = []
        self._news = asyncio.Event()
        self._functions: dict[bytes, int] = {}
        decoder: Any = codec.from_worker if self.hello.role is Role.WORKER else codec.from_nanny
        channel.start(decoder, self._received, self.lost.set_result, None)

    def _received(self, messages: list[Message]) -> None:
        self._inbox += messages
        self._news.set()

    def send(self, *messages: Message) -> None:
        self.channel.send(*messages)

    async def next(self, kind: type[M]) -> M:
        """The next message of that kind; what comes before it stays for later."""
        async with asyncio.timeout(TIME):
            while True:
                for index, message in enumerate(self._inbox):
                    if isinstance(message, kind):
                        del self._inbox[index]
                        return message
                self._news.clear()
                await self._news.wait()

    def heard(self, kind: type[Message]) -> bool:
        """Whether there is one that nobody has taken."""
        return any(isinstance(message, kind) for message in self._inbox)

    def run(
        self,
        task: int,
        function: Callable[..., Any],
        *args: Any,
        attempt: int = 1,
        inputs: tuple[Dependency, ...] = (),
    ) -> None:
        """Have it run ``function``, which is pickled by value if it is a local function."""
        key, body = dump_function(function)
        if key not in self._functions:
            self._functions[key] = len(self._functions) + 1
            self.send(AddFunctions([FunctionBody(self._functions[key], "f", body, [])]))
        packed, _ = dump_arguments(args, {})
        self.send(RunTasks([RunTask(task, attempt, self._functions[key], packed, list(inputs), 0)]))

    async def result(self, task: int) -> Any:
        """The task's value; None if it stays on the worker. Raises the task's error."""
        async with asyncio.timeout(TIME):
            while True:
                for message in self._inbox:
                    if isinstance(message, TaskFailed) and message.task == task:
                        raise load_error(message.error)
                    if isinstance(message, TasksDone) and task in message.tasks:
                        body = message.payloads[message.tasks.index(task)]
                        return None if body is None else loads(body)
                self._news.clear()
                await self._news.wait()


class ScriptedScheduler:
    """Listens, welcomes everybody, and keeps who has come."""

    def __init__(self, security: Security | None, refusal: CommError | None = None) -> None:
        self.security = security
        self.refusal = refusal
        self._joined: dict[Role, asyncio.Queue[Peer]] = {role: asyncio.Queue() for role in Role}
        self.peers: list[Peer] = []
        self._listener: Listener | None = None

    async def start(self, port: int = 0) -> None:
        self._listener = await listen(
            "127.0.0.1", port, self.security, admit=self._admit, on_control=self._on_control, cluster=CLUSTER
        )

    @property
    def address(self) -> str:
        assert self._listener is not None
        return self._listener.addresses[0]

    @property
    def port(self) -> int:
        assert self._listener is not None
        return self._listener.port

    def _admit(self, hello: Hello, _: Identity | None) -> Welcome | CommError:
        return self.refusal or Welcome(cluster=CLUSTER, name=hello.name, cluster_name="calm-otter")

    def _on_control(self, channel: Channel) -> None:
        peer = Peer(channel)
        self.peers.append(peer)
        self._joined[channel.hello.role].put_nowait(peer)

    async def worker(self) -> Peer:
        """The next worker that joins."""
        async with asyncio.timeout(TIME):
            return await self._joined[Role.WORKER].get()

    async def nanny(self) -> Peer:
        """The next nanny that joins."""
        async with asyncio.timeout(TIME):
            return await self._joined[Role.NANNY].get()

    async def stop_listening(self) -> None:
        if self._listener is not None:
            await self._listener.close()

    async def close(self) -> None:
        """Say goodbye to all."""
        for peer in self.peers:
            await peer.channel.close()
        await self.stop_listening()

    def fetcher(self, role: Role = Role.CLIENT, security: Security | None = None) -> DataFetcher:
        """A peer of the workers that wants data."""
        hello = Hello(protocol=PROTOCOL_VERSION, role=role, purpose=Purpose.DATA, cluster=CLUSTER, name="tester")
        return DataFetcher(hello, security)


@asynccontextmanager
async def plain_scheduler() -> AsyncIterator[ScriptedScheduler]:
    """One without TLS."""
    scheduler = ScriptedScheduler(None)
    await scheduler.start()
    try:
        yield scheduler
    finally:
        await scheduler.close()


class Credentials:
    """One cluster's authority, and its files for workers."""

    def __init__(self, directory: Path, cluster: str = CLUSTER) -> None:
        self.directory = directory
        self.cluster = cluster
        self._authority = Authority(cluster)
        self._numbers = itertools.count(1)

    def security(self, role: Role) -> Security:
        issued = self._authority.issue(role, "test")
        return Security.from_pem(
            ca=self._authority.ca_pem,
            certificate=issued.certificate_pem,
            key=issued.key_pem,
            role=role,
            cluster=self.cluster,
        )

    def connection_file(self, *addresses: str, role: Role = Role.WORKER) -> Path:
        """A new connection file."""
        issued = self._authority.issue(role, "test")
        now = datetime.now(UTC)
        path = self.directory / f"state-{next(self._numbers)}" / f"{role}.json"
        file = ConnectionFile(
            cluster=self.cluster,
            name="calm-otter",
            role=role,
            addresses=addresses,
            ca=self._authority.ca_pem,
            certificate=issued.certificate_pem,
            key=issued.key_pem,
            created=now,
            expires=now + timedelta(days=1),
        )
        write_connection_file(path, file)
        return path
