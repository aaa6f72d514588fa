"""A client's connection: takes the scheduler's messages in, and moves data. Lives on the loop thread."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

from hpccluster import errors
from hpccluster.comm.channel import Channel
from hpccluster.comm.tls import Security
from hpccluster.errors import CommError, HpcClusterError, PeerLost
from hpccluster.protocol import codec
from hpccluster.protocol.messages import (
    INLINE_LIMIT,
    DataLocation,
    DataPlaced,
    DataPlacement,
    Failure,
    Hello,
    LocateData,
    Message,
    Notice,
    PlaceData,
    Reply,
    Request,
    TaskErred,
    TasksCancelled,
    TasksFinished,
    TasksStored,
)
from hpccluster.runtime.data import DataFetcher, Frames
from hpccluster.runtime.delivery import Deliveries, Parcel
from hpccluster.runtime.futures import FutureRecord, FutureState

log = logging.getLogger("hpccluster.client")

TIDY_INTERVAL = 0.1
"""Seconds between looks for futures that were garbage collected."""

UNREACHED_TRIES = 3
"""How often a result is asked for at addresses of which none answers, before that is the outcome."""
UNREACHED_PAUSE = 1.0
"""Seconds between two of these."""
PUSH_PAUSE = 0.2
"""Seconds after which a worker that did not take data is told of: if it has died, the scheduler knows it by then."""


class ClientLink:
    """The loop thread's half of a `Client`."""

    inline_limit = INLINE_LIMIT

    def __init__(
        self,
        channel: Channel,
        hello: Hello,
        security: Security | None,
        records: dict[int, FutureRecord],
        on_lost: Callable[[HpcClusterError], None],
        tidy: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._records = records
        self._on_lost = on_lost
        self._tidy = tidy
        self._loop = asyncio.get_running_loop()
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._locations: dict[int, asyncio.Future[DataLocation | None]] = {}
        self._placements: dict[int, asyncio.Future[DataPlacement | None]] = {}
        self._fetcher = DataFetcher(hello, security)
        self.deliveries = Deliveries(self)
        self._lost: HpcClusterError | None = None
        self.send: Callable[..., None] = channel.send
        channel.start(codec.to_client, self._received, self._channel_lost)
        self._timer = self._loop.call_later(TIDY_INTERVAL, self._tick)

    # ----------------------------------------------------------------------------------------------------- incoming

    def _received(self, messages: list[Any]) -> None:
        for message in messages:
            self._handlers[type(message)](self, message)

    def _finished(self, message: TasksFinished) -> None:
        records, finished = self._records, FutureState.FINISHED
        for number, result in zip(message.futures, message.payloads, strict=False):
            record = records.get(number)
            if record is not None:
                record.settle(finished, result)

    def _stored(self, message: TasksStored) -> None:
        for number, size in zip(message.futures, message.sizes, strict=False):
            record = self._records.get(number)
            if record is not None:
                record.settle(FutureState.STORED, size)

    def _erred(self, message: TaskErred) -> None:
        for number in message.futures:
            self._ended(number, FutureState.ERRED, message.error)

    def _cancelled(self, message: TasksCancelled) -> None:
        for number in message.futures:
            self._ended(number, FutureState.CANCELLED, None)

    def _ended(self, number: int, state: FutureState, outcome: Any) -> None:
        record = self._records.get(number)
        if record is not None:
            if record.state is FutureState.STORED:  # it was there, was lost, and cannot be had again
                record.state, record.outcome = state, outcome
            record.settle(state, outcome)
        location, placement = self._locations.pop(number, None), self._placements.pop(number, None)
        if location is not None and not location.done():
            location.set_result(None)
        if placement is not None and not placement.done():
            placement.set_result(None)

    def _location(self, message: DataLocation) -> None:
        location = self._locations.pop(message.future, None)
        if location is not None and not location.done():
            location.set_result(message)

    def _placement(self, message: DataPlacement) -> None:
        placement = self._placements.pop(message.future, None)
        if placement is not None and not placement.done():
            placement.set_result(message)

    def _reply(self, message: Reply) -> None:
        answer = self._requests.pop(message.id, None)
        if answer is not None and not answer.done():
            answer.set_result(message.result)

    def _failure(self, message: Failure) -> None:
        answer = self._requests.pop(message.id, None)
        if answer is not None and not answer.done():
            answer.set_exception(errors.from_name(message.error, message.message, message.code, message.details))

    def _notice(self, message: Notice) -> None:
        levels = {"error": logging.ERROR, "warning": logging.WARNING}
        log.log(levels.get(message.level, logging.INFO), "%s", message.text)

    _handlers: dict[type, Callable[[ClientLink, Any], None]] = {  # noqa: RUF012 - a constant table
        TasksFinished: _finished,
        TasksStored: _stored,
        TaskErred: _erred,
        TasksCancelled: _cancelled,
        DataLocation: _location,
        DataPlacement: _placement,
        Reply: _reply,
        Failure: _failure,
        Notice: _notice,
    }

    def _channel_lost(self, error: CommError | None) -> None:
        text = f"the connection to the cluster ended: {error}" if error else "the cluster has closed"
        self._lost = PeerLost(text) if error else errors.ClusterClosed(text)
        self._timer.cancel()
        waiting: list[asyncio.Future[Any]] = [
            *self._requests.values(),
            *self._locations.values(),
            *self._placements.values(),
        ]
        for answer in waiting:
            if not answer.done():
                answer.set_exception(self._lost)
        self._on_lost(self._lost)

    # ----------------------------------------------------------------------------------------------------- outgoing

    def _tick(self) -> None:
        self._tidy()
        if self._lost is None:
            self._timer = self._loop.call_later(TIDY_INTERVAL, self._tick)

    def _ask(self, table: dict[int, asyncio.Future[Any]], number: int, message: Message) -> asyncio.Future[Any]:
        if self._lost is not None:
            raise self._lost
        answer = table.get(number)
        if answer is None:
            answer = table[number] = self._loop.create_future()
            self.send(message)
        return answer

    async def request(self, operation: str, arguments: dict[str, Any]) -> Any:
        """One question to the head."""
        number = next(self._numbers)
        question = Request(number, operation, arguments)
        codec.check_sendable(question)
        try:
            return await self._ask(self._requests, number, question)
        finally:
            self._requests.pop(number, None)

    async def fetch(self, record: FutureRecord) -> tuple[HpcClusterError | None, Frames]:
        """A stored result as ``(None, frames)``; or ``(error, ())``, with the record's state telling why.

        Nothing is unpickled here: that runs code of the user's, which may raise anything and take its time.
        """
        failed: list[str] = []
        unreached = 0
        for _ in range(100):  # each turn follows a loss that the scheduler mends; no cluster loses as often
            try:
                location = await asyncio.shield(self._ask(self._locations, record.id, LocateData(record.id, failed)))
            except HpcClusterError as error:
                return error, ()
            if location is None:
                return PeerLost("the result is gone"), ()
            if location.payload is not None:
                return None, [location.payload]
            failed, answered, why = [], False, ""
            for address in location.addresses:
                try:
                    found = await self._fetcher.fetch(address, [location.task])
                except CommError as error:
                    log.debug("cannot fetch %s from %s: %s", record.id, address, error)
                    failed.append(address)
                    why = str(error)
                    continue
                if location.task in found:
                    return None, found[location.task]
                failed.append(address)
                answered = True
            if not answered:  # not even the head that relays: that is no news of the holders
                failed = []
                unreached += 1
                if unreached == UNREACHED_TRIES:
                    holders = ", ".join(location.addresses)
                    return PeerLost(f"the result is there, but none of {holders} can be reached from here: {why}"), ()
                await asyncio.sleep(UNREACHED_PAUSE)
        return PeerLost("the result was lost again and again"), ()

    async def push(self, record: FutureRecord, parcel: Parcel, workers: list[str]) -> bool:
        """Bring data to a worker that the scheduler names; false where no worker took it, and the record has the error."""
        message: Message = PlaceData(record.id, parcel.size, workers)
        while True:
            placement = await self._ask(self._placements, record.id, message)
            if placement is None:
                return False
            try:
                async with parcel.lock:
                    await self._fetcher.push(placement.address, placement.task, parcel.frames)
            except CommError as error:
                log.debug("cannot push %s to %s: %s", record.id, placement.address, error)
                await asyncio.sleep(PUSH_PAUSE)
                message = DataPlaced(record.id, "")
                continue
            record.settle(FutureState.STORED, parcel.size)
            self.send(DataPlaced(record.id, placement.address))
            return True

    async def close(self) -> None:
        """Say goodbye."""
        self._timer.cancel()
        self.deliveries.close()
        await self._fetcher.close()
        await self._channel.close()

    def abort(self) -> None:
        """Drop the connection at once; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._channel.abort)
