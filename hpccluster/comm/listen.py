"""The side that listens: who comes in, and how many may be at the door at once.

Until a peer is welcome it costs little: what it sends is kept as it is until its first TLS record (or its hello) is
whole, then it waits for one of a limited number of places, and TLS begins for one peer a tick. Everyone has a deadline.
Whoever is turned away is told why, where that can be said, and the cause is logged once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from hpccluster.comm import tcp
from hpccluster.comm.address import Address, Scheme, candidate_hosts, is_wildcard, primary_address
from hpccluster.comm.channel import Channel
from hpccluster.comm.data import DataConnection
from hpccluster.comm.tls import Security
from hpccluster.comm.transport import Link
from hpccluster.errors import CommError, HandshakeFailed, HpcClusterError, PeerLost, RemoteProtocolError
from hpccluster.protocol import handshake
from hpccluster.protocol.framing import MAGIC, FrameBuffer, Kind
from hpccluster.protocol.handshake import Identity
from hpccluster.protocol.messages import Hello, Purpose, Welcome

logger = logging.getLogger(__name__)

Admit = Callable[[Hello, Identity | None], Welcome | HpcClusterError]
"""What a peer says, and what its certificate proves (None on plain tcp)."""

HANDSHAKE_TIME = 10.0
"""Seconds from the connection to a whole first record, and again from TLS's beginning to a welcome."""
PATIENCE = 3
"""Who waits for a place may do so for this many times `HANDSHAKE_TIME`: its own side has given up by then."""
PLACES = 256
"""TLS handshakes at once."""
PLACES_PER_HOST = 32
"""Of these for one host. Tunnels and login nodes share an address, so that those above it wait and are not refused."""
DOOR_LIMIT = 4096
"""Connections before their welcome; above that the oldest that has no place is dropped."""

FIRST_BYTES = 64 * 1024
"""A peer that sends more than this in one go before it has proven anything is none of ours."""

_TLS_HANDSHAKE = 22
_TLS_HEADER = 5
_TLS_RECORD_LIMIT = 16 * 1024 + 256
_LOGGED_LIMIT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """What one listener goes by."""

    security: Security | None
    cluster: str
    admit: Admit
    on_control: Callable[[Channel], None]
    on_data: Callable[[DataConnection], None] | None
    handshake_time: float


class Listener:
    """A bound port. Made by `listen`."""

    def __init__(self, rules: _Rules) -> None:
        self.addresses: tuple[str, ...] = ()
        """Contact addresses, the best one first."""
        self.port = 0
        self._rules = rules
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server
        self._door: dict[_Arrival, None] = {}
        """Everyone who is not welcome yet, in order of arrival."""
        self._waiting: dict[str, deque[_Arrival]] = {}
        """Those who wait for a place, by host; the host whose turn it is comes first."""
        self._places: Counter[str] = Counter()
        self._pump_due = False
        self._is_closed = False
        self._logged: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"<Listener {' '.join(self.addresses)}>"

    @property
    def arrivals(self) -> int:
        """Connections that are not welcome yet."""
        return len(self._door)

    async def close(self) -> None:
        """Take no more connections and drop those at the door. Channels that are open stay so."""
        self._is_closed = True
        self._server.close()
        for arrival in list(self._door):
            arrival.link.abort()
        for arrival in list(self._door):
            await arrival.link.wait_lost()

    async def _open(self, host: str, port: int, contact_host: str | None) -> None:
        sock = tcp.bind(host, port)
        try:
            bound, self.port = sock.getsockname()[:2]
            scheme: Scheme = "tls" if self._rules.security else "tcp"
            hosts = candidate_hosts() if is_wildcard(bound) else [bound]
            if contact_host:
                # by our own address, too: whoever is near may not reach the one that is meant for others (a gateway's)
                hosts = [contact_host, primary_address() if is_wildcard(bound) else bound]
            self.addresses = tuple(str(Address(scheme, name, self.port)) for name in dict.fromkeys(hosts))
            self._server = await self._loop.create_server(self._arrive, sock=sock, backlog=tcp.BACKLOG)
        except BaseException:
            sock.close()
            raise

    # -------------------------------------------------------------------------------------------------- at the door

    def _arrive(self) -> Link:
        if len(self._door) >= DOOR_LIMIT:
            oldest = next((one for one in self._door if not (one.has_place or one.link.is_closing)), None)
            if oldest is not None:
                oldest.link.fail(PeerLost("too many connections at once", code="HPC-NET-CROWD"))
        arrival = _Arrival(self, self._rules)
        return arrival.link

    def _entered(self, arrival: _Arrival) -> None:
        self._door[arrival] = None
        if self._is_closed:  # accepted just before
            arrival.link.abort()

    def _left(self, arrival: _Arrival) -> None:
        """Welcome, or gone."""
        self._door.pop(arrival, None)
        if arrival.has_place:
            arrival.has_place = False
            self._places[arrival.host] -= 1
            if not self._places[arrival.host]:
                del self._places[arrival.host]
            self._pump_soon()
        elif arrival.host in self._waiting:
            queue = self._waiting[arrival.host]
            if arrival in queue:
                queue.remove(arrival)
            if not queue:
                del self._waiting[arrival.host]

    def _queue(self, arrival: _Arrival) -> None:
        self._waiting.setdefault(arrival.host, deque()).append(arrival)
        self._pump_soon()

    def _pump_soon(self) -> None:
        if self._waiting and not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Begin TLS with one who waits, hosts taking turns; the loop does other work before the next."""
        self._pump_due = False
        if self._places.total() >= PLACES:
            return
        host = next((name for name in self._waiting if self._places[name] < PLACES_PER_HOST), None)
        if host is None:
            return
        queue = self._waiting.pop(host)
        arrival = queue.popleft()
        if queue:
            self._waiting[host] = queue
        self._places[host] += 1
        arrival.has_place = True
        arrival.begin_tls()
        self._pump_soon()

    def _log(self, host: str, error: HpcClusterError) -> None:
        """Once for each cause and host: who hammers the port cannot fill the disk."""
        cause = (host, error.code or error.message)
        if cause not in self._logged and len(self._logged) < _LOGGED_LIMIT:
            self._logged.add(cause)
            logger.warning("turned away a connection from %s: %s (logged once)", host, error.message)


class _Arrival:
    """The consumer of a link until its peer is welcome."""

    def __init__(self, listener: Listener, rules: _Rules) -> None:
        self.host = "?"
        self.has_place = False
        self.link = _ArrivingLink(self)
        self._listener = listener
        self._rules = rules
        self._first = bytearray()
        self._has_record = False
        """The first TLS record is whole."""
        self._frames = FrameBuffer()
        self._identity: Identity | None = None
        self._timer: asyncio.TimerHandle | None = None

    def entered(self, peer: object) -> None:
        """The connection is there."""
        if isinstance(peer, tuple):
            self.host = str(peer[0])
            self.link.peer = f"{peer[0]}:{peer[1]}" if ":" not in self.host else f"[{peer[0]}]:{peer[1]}"
        self._listener._entered(self)
        self._set_deadline(self._rules.handshake_time)

    def begin_tls(self) -> None:
        """It has a place."""
        assert self._rules.security is not None
        self._set_deadline(self._rules.handshake_time)
        first, self._first = bytes(self._first), bytearray()
        self.link.resume_reading()
        self.link.start_tls(self._rules.security, listening=True, received=first)

    # ------------------------------------------------------------------------------------------ called by the link

    def secured(self, identity: Identity | None) -> None:
        if identity is None:
            self._refuse(HandshakeFailed("the certificate names no cluster and role", code="HPC-AUTH-ROLE"))
        self._identity = identity

    def not_tls(self, data: bytes) -> None:
        raise RemoteProtocolError("TLS turned into something else")

    def received(self, data: memoryview) -> None:
        if self._identity is None:
            if len(data) > FIRST_BYTES:
                raise RemoteProtocolError("it sent too much before it was asked", code="HPC-NET-STRANGER")
            if self._rules.security is not None:
                self._wait_for_record(data)
                return
            if not len(self._frames) and not self._begins_well(data):
                return
        self._frames.feed(data)
        try:
            body = self._frames.take(Kind.HANDSHAKE)
            if body is None:
                return
            hello = handshake.decode(body)
            if not isinstance(hello, Hello):
                raise RemoteProtocolError(f"its first word was {type(hello).__name__}, not a hello")
        except CommError as error:
            self._refuse(error)
            return
        self._decide(hello)

    def set_congested(self, congested: bool) -> None:
        """A welcome congests nothing."""

    def lost(self, error: CommError | None) -> None:
        self._cancel_deadline()
        self._listener._left(self)
        if error is not None and (not isinstance(error, PeerLost) or error.code == "HPC-NET-CROWD"):
            self._listener._log(self.host, error)

    # ------------------------------------------------------------------------------------------------------- inside

    def _begins_well(self, data: memoryview) -> bool:
        """Plain tcp: whether the first byte is one of ours."""
        if data[0] == MAGIC[0]:
            return True
        if data[0] != _TLS_HANDSHAKE:
            raise _stranger(data)
        self._refuse(HandshakeFailed("this listener speaks plain tcp, not tls", code="HPC-AUTH-TLS"))
        return False

    def _wait_for_record(self, data: memoryview) -> None:
        """TLS: keep what comes until the first record is whole; then wait for a place."""
        self._first += data
        if self._first[0] == MAGIC[0]:
            words = "this listener speaks tls: use its tls:// address and the cluster's connection file"
            self._refuse(HandshakeFailed(words, code="HPC-AUTH-TLS"))
            return
        if self._first[0] != _TLS_HANDSHAKE:
            raise _stranger(data)
        if len(self._first) < _TLS_HEADER:
            return
        length = int.from_bytes(self._first[3:5], "big")
        if self._first[1] != 3 or length > _TLS_RECORD_LIMIT:
            raise _stranger(data)
        if len(self._first) >= _TLS_HEADER + length and not self._has_record:
            self._has_record = True
            self.link.pause_reading()
            self._set_deadline(PATIENCE * self._rules.handshake_time)
            self._listener._queue(self)

    def _decide(self, hello: Hello) -> None:
        rules = self._rules
        versions = handshake.own_versions()
        error: HpcClusterError | None = handshake.check_hello(
            hello, cluster=rules.cluster, identity=self._identity, versions=versions
        )
        if error is None and hello.purpose is Purpose.DATA and rules.on_data is None:
            error = HandshakeFailed("no data connections here")
        if error is not None:
            self._refuse(error)
            return
        answer = rules.admit(hello, self._identity)
        if isinstance(answer, HpcClusterError):
            self._refuse(answer)
            return
        welcome = msgspec.structs.replace(answer, versions=versions | answer.versions)
        self.link.write(handshake.encode(welcome))
        self._cancel_deadline()
        self._listener._left(self)
        if hello.purpose is Purpose.CONTROL:
            channel = Channel(self.link, self._frames, hello=hello, welcome=welcome)
            self.link.consumer = channel
            rules.on_control(channel)
        elif rules.on_data is not None:
            connection = DataConnection(self.link, self._frames, hello=hello, welcome=welcome)
            self.link.consumer = connection
            rules.on_data(connection)

    def _refuse(self, error: HpcClusterError) -> None:
        self._cancel_deadline()
        self._listener._log(self.host, error)
        cause = error if isinstance(error, CommError) else HandshakeFailed(error.message, code=error.code)
        self.link.refuse(handshake.encode(handshake.refusal(error)), cause)

    def _set_deadline(self, limit: float) -> None:
        self._cancel_deadline()
        self._timer = asyncio.get_running_loop().call_later(limit, self._too_late, limit)

    def _cancel_deadline(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self, limit: float) -> None:
        self._refuse(HandshakeFailed(f"no whole hello within {limit:g} s", code="HPC-NET-SLOW"))


def _stranger(data: memoryview) -> RemoteProtocolError:
    return RemoteProtocolError(f"it sent {bytes(data[:16])!r}, which is not ours", code="HPC-NET-STRANGER")


class _ArrivingLink(Link):
    """Tells its arrival as soon as the connection is there."""

    def __init__(self, arrival: _Arrival) -> None:
        super().__init__(arrival)
        self._arrival: _Arrival | None = arrival

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        arrival, self._arrival = self._arrival, None
        assert arrival is not None
        arrival.entered(transport.get_extra_info("peername"))


async def listen(
    host: str,
    port: int,
    security: Security | None,
    *,
    admit: Admit,
    on_control: Callable[[Channel], None],
    on_data: Callable[[DataConnection], None] | None = None,
    contact_host: str | None = None,
    cluster: str = "",
    handshake_time: float = HANDSHAKE_TIME,
) -> Listener:
    """Listen on ``host`` (an address of this host; ``0.0.0.0`` for all) and ``port`` (0 for any).

    Each peer that has proven its role and fits our version is shown to ``admit``, which welcomes it or says why not; its
    channel is then given to ``on_control`` (or ``on_data``), which must `Channel.start` it. ``contact_host`` is what
    peers are told before ``host``. ``cluster`` is our id where there is no ``security`` to know it.
    """
    rules = _Rules(
        security=security,
        cluster=cluster or (security.cluster if security else ""),
        admit=admit,
        on_control=on_control,
        on_data=on_data,
        handshake_time=handshake_time,
    )
    if security is not None:
        security.context(listening=True)  # what is wrong with the credential is said before anything listens
    listener = Listener(rules)
    await listener._open(host, port, contact_host)
    return listener
