"""Messages <-> bytes, by msgspec: typed, so that what is decoded is also checked.

One frame of a control channel holds one msgpack array of messages: all that was said in one tick.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import msgspec

from hpccluster.errors import LocalProtocolError, RemoteProtocolError
from hpccluster.protocol.framing import Kind, header
from hpccluster.protocol.messages import (
    ClientToScheduler,
    DataMessage,
    Handshake,
    Message,
    NannyToScheduler,
    SchedulerToClient,
    SchedulerToNanny,
    SchedulerToWorker,
    WorkerToScheduler,
)

FLUSH_SIZE = 256 * 1024
"""A frame of control messages is closed when it reaches this many bytes: no peer's loop stalls on one frame."""

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()


class BatchDecoder(Generic[T]):
    """Decodes a frame into the list of messages that it holds, of the kinds that one side may send."""

    def __init__(self, union: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(list[union])

    def decode(self, frame: bytes | bytearray | memoryview) -> list[T]:
        """Raises `RemoteProtocolError` for anything that is not a batch of the allowed messages."""
        try:
            return self._decoder.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RemoteProtocolError(f"a frame that is not a batch of known messages: {error}") from error


from_client: BatchDecoder[ClientToScheduler] = BatchDecoder(ClientToScheduler)
from_worker: BatchDecoder[WorkerToScheduler] = BatchDecoder(WorkerToScheduler)
from_nanny: BatchDecoder[NannyToScheduler] = BatchDecoder(NannyToScheduler)
to_client: BatchDecoder[SchedulerToClient] = BatchDecoder(SchedulerToClient)
to_worker: BatchDecoder[SchedulerToWorker] = BatchDecoder(SchedulerToWorker)
to_nanny: BatchDecoder[SchedulerToNanny] = BatchDecoder(SchedulerToNanny)
handshake: BatchDecoder[Handshake] = BatchDecoder(Handshake)
data: BatchDecoder[DataMessage] = BatchDecoder(DataMessage)


def encode_batches(messages: Iterable[Message]) -> list[bytes]:
    """The messages as frame bodies, in order, each closed once it has reached `FLUSH_SIZE`."""
    bodies: list[bytes] = []
    parts: list[bytes] = []
    size = 0
    for message in messages:
        try:
            part = _encoder.encode(message)
        except (TypeError, ValueError, OverflowError) as error:
            raise LocalProtocolError(f"cannot encode {type(message).__name__}: {error}") from error
        parts.append(part)
        size += len(part)
        if size >= FLUSH_SIZE:
            bodies.append(_array_header(len(parts)) + b"".join(parts))
            parts, size = [], 0
    if parts:
        bodies.append(_array_header(len(parts)) + b"".join(parts))
    return bodies


def check_sendable(message: Message) -> None:
    """Raise `LocalProtocolError` where the message cannot go over a control channel, which would end with it."""
    (body,) = encode_batches([message])
    header(Kind.CONTROL, len(body))


def _array_header(length: int) -> bytes:
    """The msgpack header of an array (https://github.com/msgpack/msgpack/blob/master/spec.md#array-format-family)."""
    if length < 16:
        return bytes((0x90 | length,))
    if length < 1 << 16:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")
