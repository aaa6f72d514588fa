"""The bytes of one connection, plain or through TLS. Knows no frames and no messages.

A `Link` sits between the loop's transport and a `Consumer`. TLS is a layer of bytes in here (never the loop's ``ssl=``,
which hides from both sides why a handshake failed): the loop receives into one buffer that all connections of the thread
share, the layer decrypts into another, and the consumer looks at that before it returns. A connection at rest costs no
buffer of its own.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress
from typing import Protocol, cast

from hpccluster.comm import tcp
from hpccluster.comm.tls import CHUNK, Security, TlsLayer
from hpccluster.comm.tls_errors import explain
from hpccluster.errors import CommError, PeerLost
from hpccluster.protocol.handshake import Identity

HIGH_WATER = 1024 * 1024
"""Bytes waiting to be sent above which the peer counts as congested."""
DRAIN_TIME = 0.5
"""Seconds that a refused peer gets to read why."""

_TLS_CONTENT_TYPES = range(20, 24)


class Consumer(Protocol):
    """What stands on a link. A `CommError` that it raises on received data drops the peer."""

    def secured(self, identity: Identity | None) -> None:
        """TLS: the peer has shown a valid certificate, of somebody (None: it does not say of whom)."""

    def not_tls(self, data: bytes) -> None:
        """We began with TLS, and the peer answered something else. The link is plain from here on."""

    def received(self, data: memoryview) -> None:
        """Plain bytes; ``data`` is valid until this returns."""

    def set_congested(self, congested: bool) -> None:
        """What waits to be sent has gone over `HIGH_WATER`, or is well below again."""

    def lost(self, error: CommError | None) -> None:
        """The end, exactly once: the cause, or None where this side has closed the link in good order."""


class _Buffers(threading.local):
    """Where the connections of one thread receive; they do so strictly one after the other."""

    def __init__(self) -> None:
        self.wire = memoryview(bytearray(CHUNK))
        self.plain = memoryview(bytearray(CHUNK + 64 * 1024))


_buffers = _Buffers()


class Link(asyncio.BufferedProtocol):
    """One connection. Made by `connect` and `listen`; ``consumer`` may be replaced at any time."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.peer = "?"
        """The peer as ``host:port``, or as the address we called it by."""
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._wire = _buffers.wire
        self._plain = _buffers.plain
        self._tls: TlsLayer | None = None
        self._security: Security | None = None
        self._listening = False
        self._reason: CommError | None = None
        self._closing = False
        self._ended: asyncio.Future[None] | None = None
        self._is_lost = False
        self._is_paused = False
        self._deadline: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------------ called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        with suppress(OSError):  # the peer may be gone already
            tcp.configure(transport.get_extra_info("socket"))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._wire

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing or self._reason is not None:
            return  # we only wait for the peer to close
        if nbytes == CHUNK and not self._is_paused:
            # There is more where this came from. libuv would go on for up to 8 MiB before anybody else had a turn.
            self._transport.pause_reading()
            self._loop.call_soon(self._read_on)
        self._take_in(self._wire[:nbytes])

    def eof_received(self) -> bool:
        return False  # the transport closes itself

    def pause_writing(self) -> None:
        self.consumer.set_congested(True)

    def resume_writing(self) -> None:
        self.consumer.set_congested(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._deadline is not None:
            self._deadline.cancel()
        reason = self._reason
        if reason is None and not self._closing:
            cause = tcp.describe(exc) if isinstance(exc, OSError) else "it ended without saying goodbye"
            reason = PeerLost(f"lost the connection with {self.peer}: {cause}", code="HPC-NET-LOST")
            reason.__cause__ = exc
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        self.consumer.lost(reason)

    # ------------------------------------------------------------------------------------------ for the consumer

    @property
    def is_closing(self) -> bool:
        """Nothing that is written any more will arrive."""
        return self._closing or self._is_lost or self._reason is not None

    def start_tls(self, security: Security, *, listening: bool, received: bytes = b"") -> None:
        """From here on everything goes through TLS; ``received`` is what the peer has already sent of it."""
        self._security = security
        self._listening = listening
        self._tls = TlsLayer(security, listening=listening)
        if listening:
            self._take_in(memoryview(received))
        else:
            self._tls.handshake()
            self._transport.write(self._tls.outgoing())

    def write(self, data: bytes | memoryview) -> None:
        """Send; does nothing once the link is closing."""
        if self.is_closing:
            return
        if self._tls is None:
            self._transport.write(data)
        elif len(data) <= CHUNK:
            self._transport.write(self._tls.encrypt(data))
        else:
            view = memoryview(data)
            for start in range(0, len(view), CHUNK):
                self._transport.write(self._tls.encrypt(view[start : start + CHUNK]))

    def pause_reading(self) -> None:
        """The consumer cannot take more."""
        self._is_paused = True
        if not self._is_lost:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """It can again."""
        self._is_paused = False
        self._read_on()

    def fail(self, error: CommError) -> None:
        """Drop the peer; the consumer learns ``error`` as the cause. A TLS alert still goes out."""
        if self.is_closing:
            return
        self._reason = error
        if self._tls is not None and not self._tls.done:
            self._finish(self._tls.outgoing())
        else:
            self._transport.abort()

    def refuse(self, last_words: bytes, error: CommError) -> None:
        """Turn the peer away, with words that it will get to read."""
        if self._tls is not None and not self._tls.done:
            self.fail(error)  # there is no way yet to say more than an alert
        elif not self.is_closing:
            self.write(last_words)
            self._reason = error
            self._finish(b"")

    def close(self, last_words: bytes = b"", *, timeout: float = DRAIN_TIME) -> None:
        """Send what waits, and these words, and end in good order; at the latest after ``timeout`` seconds."""
        if not self.is_closing:
            self.write(last_words)
            self._closing = True
            self._finish(b"", timeout)

    def abort(self) -> None:
        """End now; what waits to be sent is thrown away."""
        if self._reason is None:
            self._closing = True
        if not self._is_lost:
            self._transport.abort()

    async def wait_lost(self) -> None:
        """Until the connection has ended."""
        if not self._is_lost:
            if self._ended is None:
                self._ended = self._loop.create_future()
            await asyncio.shield(self._ended)

    # ------------------------------------------------------------------------------------------------------- inside

    def _finish(self, data: bytes, timeout: float = DRAIN_TIME) -> None:
        """Close our direction only: closing with unread bytes would make the kernel throw away our last words."""
        if self._transport.is_closing():
            return
        if data:
            self._transport.write(data)
        try:
            self._transport.write_eof()
        except OSError:  # the peer was faster, and the loop has not heard yet
            self._transport.abort()
            return
        self.resume_reading()
        self._deadline = self._loop.call_later(timeout, self._transport.abort)

    def _read_on(self) -> None:
        if not self._is_lost and not self._is_paused:
            self._transport.resume_reading()

    def _take_in(self, data: memoryview) -> None:
        try:
            if self._tls is None:
                self.consumer.received(data)
            else:
                self._through_tls(data)
        except ssl.SSLError as error:
            assert self._security is not None
            self.fail(explain(error, security=self._security, listening=self._listening, peer=self.peer))
        except CommError as error:
            self.fail(error)

    def _through_tls(self, data: memoryview) -> None:
        tls = self._tls
        assert tls is not None
        if not tls.done:
            if not tls.started and data[0] not in _TLS_CONTENT_TYPES:
                self._tls = None
                self.consumer.not_tls(bytes(data))
                return
            tls.feed(data)
            done = tls.handshake()
            if outgoing := tls.outgoing():
                self._transport.write(outgoing)
            if not done:
                return
            self.consumer.secured(tls.identity)
            if self.is_closing:
                return
        else:
            tls.feed(data)
        plain = self._plain
        while size := tls.read_into(plain):
            self.consumer.received(plain[:size])
            if self.is_closing:
                return
