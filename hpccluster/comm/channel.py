"""Messages over one control connection: batched, kept alive, and watched for silence.

Everything that is said in one tick of the loop leaves together; everything that arrives together is handed on as one list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from hpccluster.comm.transport import Link
from hpccluster.errors import CommError, LocalProtocolError, PeerLost
from hpccluster.protocol import codec
from hpccluster.protocol.codec import BatchDecoder
from hpccluster.protocol.framing import FrameBuffer, Kind, frame, header
from hpccluster.protocol.handshake import Identity
from hpccluster.protocol.messages import Hello, Message, Ping, Welcome

T = TypeVar("T")

PING_INTERVAL = 5.0
"""Seconds without a word of ours after which a `Ping` goes out."""
CLOSE_TIME = 2.0
"""Seconds that `Channel.close` gives the peer to take the last messages."""
WAITING_LIMIT = 256 * 1024
"""Bytes that are taken in before `Channel.start`; more wait with the peer."""

_PING = frame(Kind.CONTROL, codec.encode_batches([Ping()])[0])
_GOODBYE = frame(Kind.CONTROL, b"")


class Channel:
    """One control connection whose handshake is done. Made by `connect` and `listen`.

    Not thread-safe: it belongs to the loop in which it was made.
    """

    def __init__(self, link: Link, frames: FrameBuffer, *, hello: Hello, welcome: Welcome) -> None:
        self.hello = hello
        """What the side that connected said; its role is proven where the transport is TLS."""
        self.welcome = welcome
        self.peer_address = link.peer
        self.congested = False
        """So much waits to be sent that nothing should be added that can wait, too."""
        self._link = link
        self._frames = frames
        self._loop = asyncio.get_running_loop()
        self._outgoing: list[Message] = []
        self._flush_due = False
        self._has_sent = self._has_received = False
        self._decoder: BatchDecoder[Any] | None = None
        self._on_messages: Callable[[list[Any]], None]
        self._on_lost: Callable[[CommError | None], None]
        self._on_congested: Callable[[bool], None] | None = None
        self._silence_limit: float | None = None
        self._silent_since = self._last_tick = 0.0
        self._interval = PING_INTERVAL
        self._timer: asyncio.TimerHandle | None = None
        self._is_lost = False
        self._reason: CommError | None = None

    def __repr__(self) -> str:
        state = "lost" if self._is_lost else "open"
        return f"<Channel {self.hello.role} {self.welcome.name!r} {self.peer_address} {state}>"

    def send(self, *messages: Message) -> None:
        """Queue these; they leave in order, together with all that is said in this tick. Does nothing after a loss."""
        if self._is_lost:
            return
        self._outgoing += messages
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def start(
        self,
        decoder: BatchDecoder[T],
        on_messages: Callable[[list[T]], None],
        on_lost: Callable[[CommError | None], None],
        silence_limit: float | None = 30.0,
        *,
        on_congested: Callable[[bool], None] | None = None,
    ) -> None:
        """Hand on what arrives, from now on; what has arrived before comes in the next tick.

        ``on_lost`` is called exactly once, and nothing after it: with the cause, or None where either side closed the
        channel in good order. A peer that sends what ``decoder`` does not allow, or nothing for ``silence_limit``
        seconds (None: for ever), is dropped. `Ping` is never handed on. ``on_congested`` hears changes of `congested`.
        """
        if self._decoder is not None:
            raise LocalProtocolError("a channel is started once")
        self._decoder = decoder
        self._on_messages = on_messages
        self._on_lost = on_lost
        self._on_congested = on_congested
        self._silence_limit = silence_limit
        if silence_limit is not None:
            self._interval = min(PING_INTERVAL, silence_limit / 6)
        self._silent_since = self._last_tick = self._loop.time()
        self._loop.call_soon(self._catch_up)

    async def close(self) -> None:
        """Send what is queued and say goodbye; ends when the peer has taken it, at the latest after `CLOSE_TIME`."""
        if not self._is_lost:
            self._flush()
            self._link.close(_GOODBYE, timeout=CLOSE_TIME)
            await self._link.wait_lost()

    def abort(self) -> None:
        """End now; what is queued is thrown away."""
        self._link.abort()

    # ------------------------------------------------------------------------------------------ called by the link

    def secured(self, identity: Identity | None) -> None:
        raise LocalProtocolError("the handshake was over")

    def not_tls(self, data: bytes) -> None:
        raise LocalProtocolError("the handshake was over")

    def received(self, data: memoryview) -> None:
        self._has_received = True
        if self._timer is None:  # not started
            self._frames.feed(data)
            if len(self._frames) > WAITING_LIMIT:
                self._link.pause_reading()
            return
        self._take_in(data)

    def set_congested(self, congested: bool) -> None:
        self.congested = congested
        if self._on_congested is not None:
            self._on_congested(congested)

    def lost(self, error: CommError | None) -> None:
        self._is_lost = True
        self._reason = error
        self._outgoing.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._on_lost(error)

    # ------------------------------------------------------------------------------------------------------- inside

    def _take_in(self, data: memoryview | bytes) -> None:
        """If it is not what the peer may send, it is dropped, and nothing of ``data`` is handed on."""
        assert self._decoder is not None
        decode = self._decoder.decode
        messages: list[Any] = []
        goodbye = False
        try:
            for body in self._frames.split(data, Kind.CONTROL):
                if not body:
                    goodbye = True
                    break
                messages += decode(body)
        except CommError as error:
            self._link.fail(error)
            return
        if Ping in map(type, messages):
            messages = [message for message in messages if type(message) is not Ping]
        if messages:
            self._on_messages(messages)
        if goodbye:
            self._reason = None
            self._flush()
            self._link.close()

    def _flush(self) -> None:
        self._flush_due = False
        if not self._outgoing or self._is_lost:
            return
        messages, self._outgoing = self._outgoing, []
        self._has_sent = True
        try:
            for body in codec.encode_batches(messages):
                self._link.write(header(Kind.CONTROL, len(body)) + body)
        except LocalProtocolError as error:
            self._link.fail(error)

    def _catch_up(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._tick)
        was_full = len(self._frames) > WAITING_LIMIT
        if self._is_lost or not self._link.is_closing:
            self._take_in(b"")
        if was_full:
            self._link.resume_reading()
        if self._is_lost:
            self._timer.cancel()
            self._on_lost(self._reason)

    def _tick(self) -> None:
        now = self._loop.time()
        self._timer = self._loop.call_later(self._interval, self._tick)
        stalled = now - self._last_tick > 2 * self._interval
        self._last_tick = now
        if not self._has_sent and not self._link.is_closing:
            self._link.write(_PING)
        self._has_sent = False
        # A process that was itself suspended, or whose loop stood still, has no right to complain of its peer.
        if self._has_received or stalled:
            self._has_received = False
            self._silent_since = now
        elif self._silence_limit is not None and now - self._silent_since >= self._silence_limit:
            silence = now - self._silent_since
            self._link.fail(PeerLost(f"{self.peer_address} has been silent for {silence:.0f} s", code="HPC-NET-SILENT"))
