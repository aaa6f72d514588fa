"""One control connection to a head, for questions and orders: what a manager and the command line speak through.

It is a client that never submits a task. Must not know what the operations mean.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable
from pathlib import Path

from hpccluster import errors
from hpccluster.comm.channel import Channel
from hpccluster.comm.connect import connect
from hpccluster.comm.connection_file import read_connection_file
from hpccluster.comm.tls import Security
from hpccluster.errors import CommError, PeerLost
from hpccluster.protocol.codec import to_client
from hpccluster.protocol.messages import (
    PROTOCOL_VERSION,
    Failure,
    Hello,
    Notice,
    Reply,
    Request,
    Role,
    SchedulerToClient,
    Value,
)

OnNotice = Callable[[str, str], None]

HOLD = 0.3
"""Seconds that a notice is kept while something is asked: where the answer is an error with the same words, the notice is
not shown."""


class Control:
    """Questions to one head, and its answers. Lives on one event loop."""

    def __init__(self, channel: Channel, on_notice: OnNotice | None) -> None:
        self._channel = channel
        self._on_notice = on_notice
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Value]] = {}
        self._lost: CommError | None = None
        self._held: list[Notice] = []
        self._raised = ""
        channel.start(to_client, self._on_messages, self._on_lost)

    @classmethod
    async def connect(cls, file: Path, *, on_notice: OnNotice | None = None, timeout: float = 10.0) -> Control:
        """Connect with the credentials of this connection file. Raises what `comm.channel.connect` raises."""
        content = read_connection_file(file, Role.CLIENT)
        security = Security.from_connection_file(content) if content.certificate else None
        hello = Hello(
            protocol=PROTOCOL_VERSION,
            role=Role.CLIENT,
            cluster=content.cluster,
            name=f"manager-{os.getpid()}",
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        return cls(await connect(content.addresses, hello, security, timeout=timeout), on_notice)

    @property
    def is_connected(self) -> bool:
        return self._lost is None

    async def request(self, operation: str, **arguments: Value) -> Value:
        """The head's answer. Raises the error that it answers with, or `PeerLost`."""
        if self._lost is not None:
            raise self._lost
        number = next(self._numbers)
        future: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._channel.send(Request(number, operation, arguments))
        try:
            return await future
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """Bounded, idempotent."""
        self._show_held()
        await self._channel.close()

    def _on_messages(self, messages: list[SchedulerToClient]) -> None:
        for message in messages:
            if isinstance(message, Reply):
                if (future := self._waiting.get(message.id)) and not future.done():
                    future.set_result(message.result)
            elif isinstance(message, Failure):
                if (future := self._waiting.get(message.id)) and not future.done():
                    error = errors.from_name(message.error, message.message, message.code, message.details)
                    self._raised = error.message
                    future.set_exception(error)
            elif isinstance(message, Notice):
                self._held.append(message)
                if self._waiting:
                    asyncio.get_running_loop().call_later(HOLD, self._show_held)
                else:
                    self._show_held()

    def _show_held(self) -> None:
        held, self._held = self._held, []
        for notice in held:
            if self._on_notice is not None and notice.text != self._raised:
                self._on_notice(notice.level, notice.text)

    def _on_lost(self, error: CommError | None) -> None:
        self._lost = error or PeerLost("the head has closed the connection")
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._lost)
