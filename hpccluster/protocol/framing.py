"""Bytes <-> frames. Pure: it knows neither what a body means nor where the bytes come from.

A frame is a header of eight bytes and a body:

    0x89 'h'   magic; the first byte is neither text nor the start of a TLS record
    version    of this layout; it has nothing to do with `PROTOCOL_VERSION`, which the handshake compares
    kind       what the body is: a `Kind`
    length     of the body, four bytes, big-endian

Rules:
1. What a peer claims costs it nothing and us nothing: buffers grow with the bytes received, never with a claimed length.
2. Garbage is refused at its first wrong byte, a length over the kind's limit as soon as it is there.
3. At each moment one kind of frame is allowed, and the caller says which.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

from hpccluster.errors import LocalProtocolError, RemoteProtocolError

Data = bytes | bytearray | memoryview

MAGIC = b"\x89h"
FRAMING_VERSION = 1


class Kind(IntEnum):
    """What a frame holds."""

    HANDSHAKE = 1
    """One message of the handshake."""
    CONTROL = 2
    """A batch of messages; an empty body is the goodbye of a peer that closes in good order."""
    DATA = 3
    """One message of a data connection; the raw bytes that it announces follow without frames."""


LIMITS = {Kind.HANDSHAKE: 16 * 1024, Kind.CONTROL: 64 * 1024 * 1024, Kind.DATA: 4 * 1024 * 1024}
"""The most bytes of a body, by kind."""

_HEADER = Struct(">4sI")
HEADER_SIZE = _HEADER.size
_PREFIX = {kind: MAGIC + bytes((FRAMING_VERSION, kind)) for kind in Kind}


def header(kind: Kind, length: int) -> bytes:
    """The header of a frame; raises `LocalProtocolError` if the body would be over the kind's limit."""
    if length > LIMITS[kind]:
        raise LocalProtocolError(
            f"a {kind.name.lower()} frame of {length:,} bytes is over the limit of {LIMITS[kind]:,}: "
            "large data travels over data connections"
        )
    return _HEADER.pack(_PREFIX[kind], length)


def frame(kind: Kind, body: bytes) -> bytes:
    """A whole frame."""
    return header(kind, len(body)) + body


class FrameBuffer:
    """Received bytes that are not yet whole frames.

    After a `RemoteProtocolError` the buffer is of no further use: the peer is to be dropped.
    """

    __slots__ = ("_needed", "_pending")

    def __init__(self) -> None:
        self._pending = bytearray()
        self._needed = 0
        """As many bytes the pending ones must be before it is worth looking at them again."""

    def __len__(self) -> int:
        return len(self._pending)

    def feed(self, data: Data) -> None:
        """Keep a copy of these bytes for a later `take`, `take_raw` or `split`."""
        self._pending += data

    def split(self, data: Data, kind: Kind) -> list[memoryview]:
        """The bodies of all frames that are whole with ``data``; the rest is kept.

        Nothing is copied that need not be: the views are valid as long as ``data`` is.
        """
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return []
            view, self._pending = memoryview(self._pending), bytearray()
        else:
            view = memoryview(data)
        self._needed = 0
        bodies: list[memoryview] = []
        position, end = 0, len(view)
        while position < end:
            length = _body_length(view[position : position + HEADER_SIZE], kind)
            if length is None:
                break
            start = position + HEADER_SIZE
            stop = start + length
            if stop > end:
                self._needed = HEADER_SIZE + length
                break
            bodies.append(view[start:stop])
            position = stop
        if position < end:
            self._pending += view[position:]
        return bodies

    def take(self, kind: Kind) -> bytes | None:
        """The body of the next frame, or None while it is not whole."""
        if not self._pending or len(self._pending) < self._needed:
            return None
        length = _body_length(self._pending[:HEADER_SIZE], kind)
        if length is None:
            return None
        stop = HEADER_SIZE + length
        if len(self._pending) < stop:
            self._needed = stop
            return None
        self._needed = 0
        body = bytes(memoryview(self._pending)[HEADER_SIZE:stop])
        del self._pending[:stop]
        return body

    def take_raw(self, size: int) -> bytearray:
        """At most ``size`` of the bytes that are there, as they are."""
        self._needed = 0
        if size >= len(self._pending):
            taken, self._pending = self._pending, bytearray()
            return taken
        taken = self._pending[:size]
        del self._pending[:size]
        return taken


def _body_length(head: Data, kind: Kind) -> int | None:
    """What a header, or the beginning of one, says; None while it is not whole but right so far."""
    if len(head) < HEADER_SIZE:
        if _PREFIX[kind].startswith(bytes(head[:4])):
            return None
        raise _refusal(bytes(head), kind)
    prefix, length = _HEADER.unpack(head)
    if prefix != _PREFIX[kind]:
        raise _refusal(prefix, kind)
    if length > LIMITS[kind]:
        raise RemoteProtocolError(
            f"the peer announced a {kind.name.lower()} frame of {length:,} bytes; the limit is {LIMITS[kind]:,}"
        )
    assert isinstance(length, int)
    return length


def _refusal(prefix: bytes, kind: Kind) -> RemoteProtocolError:
    wanted = f"expected a {kind.name.lower()} frame"
    if not prefix.startswith(MAGIC[: len(prefix)]):
        return RemoteProtocolError(f"{wanted}, but the bytes {prefix!r} do not begin one of ours")
    if len(prefix) > len(MAGIC) and prefix[2] != FRAMING_VERSION:
        return RemoteProtocolError(f"{wanted} of layout {FRAMING_VERSION}, not of layout {prefix[2]}")
    return RemoteProtocolError(f"{wanted}, not one of kind {prefix[-1]}")
