"""Bulk data over a connection of its own: messages, and the raw bytes that they announce.

Raw bytes travel without frames, in chunks that never stop the loop for long. The sender waits while too much of it is
on its way; the receiver stops reading what nobody has asked for, and its memory grows with what has come in, whatever
the peer has announced.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypeAlias

from hpccluster.comm.tls import CHUNK
from hpccluster.comm.transport import Link
from hpccluster.errors import CommError, LocalProtocolError, PeerLost, RemoteProtocolError
from hpccluster.protocol import codec
from hpccluster.protocol.framing import FrameBuffer, Kind, frame
from hpccluster.protocol.handshake import Identity
from hpccluster.protocol.messages import DataMessage, Hello, Welcome

STALL_LIMIT = 30.0
"""Seconds without a single byte, in the middle of raw data, after which the peer is given up."""
WAITING_LIMIT = CHUNK
"""Bytes that are taken in before anybody asks for them."""

CLOSE_TIME = 2.0
"""Seconds that `DataConnection.close` gives the peer to take what waits."""

Buffer: TypeAlias = bytearray | memoryview
"""Received bytes, writable. Large ones are a view of memory of their own."""

_SMALL = 64 * 1024
_LARGE = 1024 * 1024


class DataConnection:
    """One data connection whose handshake is done. Made by `connect_data` and `listen`.

    One coroutine sends and one receives at a time. A call that is cancelled or fails leaves the stream in the middle of
    something: the connection is aborted then.
    """

    def __init__(self, link: Link, frames: FrameBuffer, *, hello: Hello, welcome: Welcome) -> None:
        self.hello = hello
        self.welcome = welcome
        self.peer_address = link.peer
        self._link = link
        self._frames = frames
        self._loop = asyncio.get_running_loop()
        self._raw: list[Buffer] = []
        self._missing = 0
        """Bytes that the last of ``_raw`` still lacks."""
        self._lengths: list[int] = []
        """Of the raw frames that have not begun, the last one first."""
        self._progress = 0
        self._is_paused = False
        self._congested = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._error: CommError | None = None

    def __repr__(self) -> str:
        return f"<DataConnection {self.hello.role} {self.peer_address} {'open' if self.is_open else 'closed'}>"

    @property
    def is_open(self) -> bool:
        """It can still be used, as far as this side knows."""
        return self._error is None and not self._link.is_closing

    async def send(self, message: DataMessage) -> None:
        """Raises `PeerLost`."""
        body = codec.encode_batches([message])[0]
        await self._write(frame(Kind.DATA, body))

    async def receive(self) -> DataMessage:
        """The next message; raises `PeerLost`, also where the peer has closed the connection."""
        while True:
            try:
                body = self._frames.take(Kind.DATA)
                if body is not None:
                    messages = codec.data.decode(body)
                    if len(messages) != 1:
                        raise RemoteProtocolError(f"{len(messages)} data messages in one frame")
                    return messages[0]
            except CommError as error:
                self._link.fail(error)
                raise
            await self._wait_for_bytes()

    async def send_frames(self, frames: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send raw bytes; the message before has told the peer their lengths. Raises `PeerLost`."""
        try:
            for chunk in _chunks(frames):
                await self._write(chunk)
        except asyncio.CancelledError:
            self.abort()
            raise

    async def receive_frames(self, lengths: Sequence[int], limit: int | None = None) -> list[Buffer]:
        """Raw bytes, one buffer per length.

        Raises `RemoteProtocolError` if they would be more than ``limit`` bytes in all, before anything is received;
        `PeerLost` if the peer goes, or sends nothing for `STALL_LIMIT` seconds.
        """
        if any(length < 0 for length in lengths) or (limit is not None and sum(lengths) > limit):
            error = RemoteProtocolError(f"{self.peer_address} announced {sum(lengths):,} bytes; the limit is {limit}")
            self._link.fail(error)
            raise error
        if self._is_filling:
            raise LocalProtocolError("another call receives frames on this data connection")
        self._raw, self._lengths = [], list(reversed(lengths))
        try:
            self._absorb(memoryview(self._frames.take_raw(sum(lengths))))
            while self._is_filling:
                seen = self._progress
                await self._wait_for_bytes(STALL_LIMIT)
                if self._is_filling and self._progress == seen and self._error is None:
                    raise PeerLost(f"{self.peer_address} stopped sending data", code="HPC-NET-SILENT")
        except (asyncio.CancelledError, CommError):
            self._missing, self._lengths = 0, []
            self.abort()
            raise
        raw, self._raw = self._raw, []
        return raw

    async def close(self) -> None:
        """Send what waits, then end; bounded."""
        self._link.close(timeout=CLOSE_TIME)
        await self._link.wait_lost()

    def abort(self) -> None:
        """End now."""
        self._link.abort()

    # ------------------------------------------------------------------------------------------ called by the link

    def secured(self, identity: Identity | None) -> None:
        raise LocalProtocolError("the handshake was over")

    def not_tls(self, data: bytes) -> None:
        raise LocalProtocolError("the handshake was over")

    def received(self, data: memoryview) -> None:
        if self._is_filling:
            data = self._absorb(data)
            if self._is_filling:
                return
        if data:
            self._frames.feed(data)
            if len(self._frames) > WAITING_LIMIT and not self._is_paused:
                self._is_paused = True
                self._link.pause_reading()
        _wake(self._reader)

    def set_congested(self, congested: bool) -> None:
        self._congested = congested
        if not congested:
            _wake(self._writer)

    def lost(self, error: CommError | None) -> None:
        self._error = error or PeerLost(f"the data connection with {self.peer_address} is closed")
        _wake(self._reader)
        _wake(self._writer)

    # ------------------------------------------------------------------------------------------------------- inside

    @property
    def _is_filling(self) -> bool:
        return self._missing > 0 or bool(self._lengths)

    def _absorb(self, data: memoryview) -> memoryview:
        """Put raw bytes where they belong; gives back those that come after them."""
        while True:
            while not self._missing:
                if not self._lengths:
                    return data
                self._missing = self._lengths.pop()
                self._raw.append(_memory(self._missing))
            if not data:
                return data
            piece = data[: self._missing]
            target = self._raw[-1]
            start = len(target) - self._missing
            target[start : start + len(piece)] = piece
            self._missing -= len(piece)
            self._progress += len(piece)
            data = data[len(piece) :]

    async def _wait_for_bytes(self, timeout: float | None = None) -> None:
        """Until more has come in, or ``timeout`` seconds are over; raises the error that has ended the connection."""
        if self._error is not None:
            raise self._error
        if self._link.is_closing:
            raise PeerLost(f"the data connection with {self.peer_address} is closed")
        if self._reader is not None:
            raise LocalProtocolError("another call receives on this data connection")
        if self._is_paused:
            self._is_paused = False
            self._link.resume_reading()
        self._reader = self._loop.create_future()
        try:
            await asyncio.wait((self._reader,), timeout=timeout)
        finally:
            self._reader = None

    async def _write(self, data: bytes | memoryview) -> None:
        if self._error is not None:
            raise self._error
        self._link.write(data)
        if self._congested:
            if self._writer is not None:
                raise LocalProtocolError("another call sends on this data connection")
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None
            if self._error is not None:
                raise self._error
        else:
            await asyncio.sleep(0)  # others get their turn between two chunks


def _memory(size: int) -> Buffer:
    """Room for ``size`` bytes. What is large takes no memory until it is filled, and is not filled with zeros first.

    With pages of 4 KiB the faults cost more than the copy itself (measured: 256 MiB in 0.16 s, in huge pages 0.03 s).
    """
    if size < _LARGE:
        return bytearray(size)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, ValueError) as error:
        raise RemoteProtocolError(
            f"the peer announced {size:,} bytes, for which there is no memory: {error}"
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _chunks(frames: Sequence[bytes | bytearray | memoryview]) -> Iterator[bytes | memoryview]:
    """The frames' bytes in pieces that are worth a system call and do not stop the loop: small ones are joined."""
    joined: list[bytes | memoryview] = []
    size = 0
    for whole in frames:
        view = memoryview(whole)
        if not view.nbytes:
            continue
        view = view.cast("B")
        if view.nbytes >= _SMALL and joined:
            yield b"".join(joined)
            joined, size = [], 0
        if view.nbytes >= _SMALL:
            for start in range(0, view.nbytes, CHUNK):
                yield view[start : start + CHUNK]
            continue
        joined.append(view)
        size += view.nbytes
        if size >= _SMALL:
            yield b"".join(joined)
            joined, size = [], 0
    if joined:
        yield b"".join(joined)
