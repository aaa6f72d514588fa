"""Control channels over real sockets: batches, order, goodbyes, losses and silence."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from hpccluster.comm.authority import Authority
from hpccluster.comm.channel import Channel
from hpccluster.comm.connect import connect
from hpccluster.comm.tls import Security
from hpccluster.errors import ClusterClosed, HandshakeFailed, LocalProtocolError, PeerLost, RemoteProtocolError
from hpccluster.protocol import codec
from hpccluster.protocol.framing import Kind, frame, header
from hpccluster.protocol.messages import (
    DefineFunction,
    FreeData,
    Hello,
    Notice,
    Ping,
    ReleaseFutures,
    Reply,
    Request,
    Role,
    Welcome,
)
from support.comm_peers import CLUSTER, Ears, Station, hello, security, station

AUTHORITY = Authority(CLUSTER)
HEAD = security(AUTHORITY, Role.SCHEDULER)
CLIENT = security(AUTHORITY, Role.CLIENT)
WORKER = security(AUTHORITY, Role.WORKER)

Pair = tuple[Security | None, Security | None]
Run = Callable[[Coroutine[Any, Any, None]], None]
both_transports = pytest.mark.parametrize("pair", [(HEAD, CLIENT), (None, None)], ids=["tls", "tcp"])
both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


async def open_channel(place: Station, credential: Security | None, **more: Any) -> tuple[Channel, Channel, Ears]:
    """Ours, the listener's, and our ears, which listen."""
    channel = await connect(place.address, hello(**more), credential)
    ears = Ears()
    ears.start(channel)
    return channel, await place.channels.get(), ears


@both_loops
@both_transports
def test_messages_go_both_ways_in_order(pair: Pair, run: Run) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            ours, theirs, ears = await open_channel(place, pair[1], name="notebook")
            assert theirs.hello.name == "notebook"
            assert theirs.hello.cluster == ("" if pair[1] is None else CLUSTER)
            assert theirs.hello.pid
            assert ours.welcome.name == "peer-1"
            assert ours.welcome.versions["python"]
            for number in range(1000):
                ours.send(Request(number, "echo", {"text": "é" * (number % 50)}))
            heard: list[Any] = []
            while len(heard) < 1000:
                heard += await place.batches.get()
            assert [message.id for message in heard] == list(range(1000))
            theirs.send(*[Reply(message.id, message.arguments) for message in heard])
            heard = []
            while len(heard) < 1000:
                heard += await ears.batches.get()
            assert heard[999] == Reply(999, {"text": "é" * 49})
            await ours.close()

    run(check())


@both_transports
def test_what_is_said_in_one_tick_arrives_as_one_batch(pair: Pair) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            ours, _, _ = await open_channel(place, pair[1])
            ours.send(ReleaseFutures([1]), ReleaseFutures([2]))
            ours.send(ReleaseFutures([3]))
            assert await place.batches.get() == [ReleaseFutures([1]), ReleaseFutures([2]), ReleaseFutures([3])]
            await ours.close()

    asyncio.run(check())


@both_transports
def test_what_was_said_before_start_waits_for_it(pair: Pair) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            place.starts = False
            ours, theirs, _ = await open_channel(place, pair[1])
            big = DefineFunction(b"id", "f", bytes(1_000_000))
            ours.send(*[big] * 5)
            ours.send(ReleaseFutures([7]))
            closing = asyncio.create_task(ours.close())
            while not theirs._link._is_paused:  # it has taken in what it may; the rest is held back
                await asyncio.sleep(0)
            place.start(theirs)
            heard: list[Any] = []
            while len(heard) < 6:
                heard += await place.batches.get()
            assert heard == [*[big] * 5, ReleaseFutures([7])]
            assert await place.lost.get() is None
            await closing

    asyncio.run(check())


@both_loops
@both_transports
def test_a_close_delivers_what_was_said_and_both_sides_end_without_error(pair: Pair, run: Run) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            ours, theirs, ears = await open_channel(place, pair[1])
            ours.send(DefineFunction(b"id", "f", bytes(3_000_000)))
            theirs.send(*[Notice("info", "x" * 1000)] * 100)  # crosses the goodbye and may be lost
            await ours.close()
            assert len(await place.batches.get()) == 1
            assert await place.lost.get() is None
            assert await ears.lost.get() is None
            ours.send(ReleaseFutures([1]))  # after the end: nothing happens
            await ours.close()
            ours.abort()
            await theirs.close()
            await asyncio.sleep(0)
            assert place.lost.empty()
            assert ears.lost.empty()

    run(check())


@both_transports
def test_a_peer_that_vanishes_is_lost(pair: Pair) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            ours, theirs, ears = await open_channel(place, pair[1])
            ours.abort()
            error = await place.lost.get()
            assert isinstance(error, PeerLost)
            assert theirs.peer_address in str(error)
            assert await ears.lost.get() is None

    asyncio.run(check())


@both_transports
def test_a_killed_process_is_told_from_one_that_says_goodbye(pair: Pair) -> None:
    """The kernel closes a dead process's socket in good order: only a goodbye says that it was meant."""

    async def check() -> None:
        async with station(pair[0]) as place:
            ours, _, _ = await open_channel(place, pair[1])
            ours._link._transport.write_eof()
            error = await place.lost.get()
            assert isinstance(error, PeerLost)
            assert "without saying goodbye" in str(error)

    asyncio.run(check())


@both_transports
def test_silence_is_a_loss_and_pings_prevent_it(pair: Pair) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            place.starts = False
            quiet = await connect(place.address, hello(), pair[1])  # never started: it sends no pings
            theirs = await place.channels.get()
            place.start(theirs, 0.3)
            lively = await connect(place.address, hello(), pair[1])
            ears = Ears()
            ears.start(lively, 0.3)
            other = await place.channels.get()
            other_lost: asyncio.Queue[Any] = asyncio.Queue()
            other.start(codec.from_client, place.batches.put_nowait, other_lost.put_nowait, 0.3)
            error = await place.lost.get()
            assert isinstance(error, PeerLost)
            assert error.code == "HPC-NET-SILENT"
            assert ears.lost.empty()
            assert other_lost.empty()
            assert place.batches.empty()  # pings are not handed on
            quiet.abort()
            await lively.close()

    asyncio.run(check())


@both_transports
def test_bytes_may_come_one_by_one(pair: Pair) -> None:
    """Through a relay that hands on single bytes, each in a tick of its own, for as long as the handshakes last."""

    async def check() -> None:
        async with station(pair[0]) as place:

            async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                while data := await reader.read(4096):
                    for byte in data:
                        writer.write(bytes((byte,)))
                        await asyncio.sleep(0)
                writer.close()

            async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                there = await asyncio.open_connection("127.0.0.1", place.port)
                await asyncio.gather(trickle(reader, there[1]), trickle(there[0], writer))

            async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                channel = await connect(place.address.replace(str(place.port), str(port)), hello(), pair[1])
                ears = Ears()
                ears.start(channel)
                channel.send(Request(1, "echo", {"text": "x" * 300}))
                assert await place.batches.get() == [Request(1, "echo", {"text": "x" * 300})]
                (await place.channels.get()).send(Reply(1, "y" * 300))
                assert await ears.batches.get() == [Reply(1, "y" * 300)]
                await channel.close()
                assert await place.lost.get() is None

    asyncio.run(check())


def test_a_ping_among_other_messages_is_not_handed_on() -> None:
    async def check() -> None:
        async with station(None) as place:
            ours, _, _ = await open_channel(place, None)
            ours.send(Ping(), ReleaseFutures([1]), Ping())
            assert await place.batches.get() == [ReleaseFutures([1])]
            await ours.close()

    asyncio.run(check())


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (frame(Kind.CONTROL, b"\xc1garbage"), "not a batch"),
        (frame(Kind.CONTROL, codec.encode_batches([FreeData([1])])[0]), "not a batch"),  # a scheduler's word
        (frame(Kind.DATA, b""), "not one of kind"),
        (b"GET / HTTP/1.1\r\n\r\n", "do not begin one of ours"),
        (header(Kind.CONTROL, 0)[:4] + b"\xff\xff\xff\xff", "the limit is"),
    ],
)
@both_transports
def test_who_breaks_the_protocol_is_dropped(pair: Pair, sent: bytes, words: str) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            ours, _, ears = await open_channel(place, pair[1])
            ours.send(ReleaseFutures([1]))
            assert await place.batches.get()
            ours._link.write(sent)
            error = await place.lost.get()
            assert isinstance(error, RemoteProtocolError)
            assert words in str(error)
            assert isinstance(await ears.lost.get(), PeerLost)
            assert place.batches.empty()

    asyncio.run(check())


def test_a_message_over_the_limit_is_our_own_error() -> None:
    async def check() -> None:
        async with station(None) as place:
            ours, _, ears = await open_channel(place, None)
            ours.send(DefineFunction(b"id", "f", bytes(65 * 1024 * 1024)))
            error = await ears.lost.get()
            assert isinstance(error, LocalProtocolError)
            assert "over the limit" in str(error)
            assert isinstance(await place.lost.get(), PeerLost)

    asyncio.run(check())


def test_a_peer_that_does_not_read_is_congested() -> None:
    async def check() -> None:
        async with station(None) as place:
            place.starts = False
            ours, theirs, _ = await open_channel(place, None)
            changes: asyncio.Queue[bool] = asyncio.Queue()
            theirs_out = await connect(place.address, hello(), None)
            theirs_out.start(codec.to_client, lambda _: None, lambda _: None, on_congested=changes.put_nowait)
            unread = await place.channels.get()
            while not theirs_out.congested:
                theirs_out.send(DefineFunction(b"id", "f", bytes(250_000)))
                await asyncio.sleep(0)
            assert await changes.get() is True
            place.start(unread)
            assert await changes.get() is False
            assert not theirs_out.congested
            for channel in (ours, theirs, theirs_out):
                channel.abort()

    asyncio.run(check())


def test_a_channel_is_started_once() -> None:
    async def check() -> None:
        async with station(None) as place:
            ours, _, ears = await open_channel(place, None)
            with pytest.raises(LocalProtocolError):
                ears.start(ours)
            await ours.close()

    asyncio.run(check())


@both_transports
@pytest.mark.parametrize("role", [Role.WORKER, Role.NANNY])
def test_a_worker_credential_serves_its_nanny_too(pair: Pair, role: Role) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            channel = await connect(place.address, hello(role), pair[1] and WORKER)
            assert (await place.channels.get()).hello.role is role
            channel.abort()

    asyncio.run(check())


@both_transports
def test_who_is_refused_gets_the_error_and_the_reason(pair: Pair) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            place.answer = lambda hello: (
                ClusterClosed("calm-otter is going down", code="X")
                if hello.name
                else Welcome(cluster=CLUSTER, name="w")
            )
            with pytest.raises(ClusterClosed, match=r"turned us away: calm-otter is going down"):
                await connect(place.address, hello(name="late"), pair[1])
            place.answer = lambda hello: HandshakeFailed("job hpc-x-1 has ended")
            with pytest.raises(HandshakeFailed, match="job hpc-x-1 has ended"):
                await connect(place.address, hello(), pair[1])
            assert place.channels.empty()

    asyncio.run(check())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_addresses_are_tried_until_one_answers() -> None:
    async def check() -> None:
        async with station(HEAD) as place:
            addresses = [f"tls://127.0.0.1:{free_port()}", "tls://no-such-host.invalid:1", place.address]
            channel = await connect(addresses, hello(), CLIENT)
            assert channel.peer_address == place.address
            await channel.close()

    asyncio.run(check())


def test_nobody_there_lists_each_address_with_its_cause() -> None:
    async def check() -> None:
        ports = free_port(), free_port()
        addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
        with pytest.raises(PeerLost) as error:
            await connect(addresses, hello(), None)
        lines = str(error.value).splitlines()
        assert lines[0] == "cannot connect to the scheduler:"
        assert lines[1:] == [f"  {address}: Connection refused (ECONNREFUSED)" for address in addresses]
        with pytest.raises(PeerLost, match="no address"):
            await connect([], hello(), None)

    asyncio.run(check())


@pytest.mark.parametrize("credential", [CLIENT, None], ids=["tls", "tcp"])
def test_a_listener_that_says_nothing_is_given_up(credential: Security | None) -> None:
    async def check() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            address = f"{'tls' if credential else 'tcp'}://127.0.0.1:{mute.getsockname()[1]}"
            with pytest.raises(PeerLost, match=rf"{address}: connected, but no answer"):
                await connect(address, hello(), credential, timeout=0.2)

    asyncio.run(check())


def test_a_cancelled_connect_leaves_nothing_open() -> None:
    async def check() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            attempt = asyncio.create_task(connect(f"tls://127.0.0.1:{mute.getsockname()[1]}", hello(), CLIENT))
            peer, _ = await asyncio.to_thread(mute.accept)
            assert await asyncio.to_thread(peer.recv, 4096)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
            with peer:
                peer.settimeout(5)
                try:
                    while peer.recv(4096):
                        pass
                except ConnectionResetError:
                    pass

    asyncio.run(check())


@both_transports
def test_closing_a_listener_leaves_its_channels_open(pair: Pair) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            ours, theirs, ears = await open_channel(place, pair[1])
            await place.listener.close()
            with pytest.raises(PeerLost, match="ECONNREFUSED"):
                await connect(place.address, hello(), pair[1])
            theirs.send(Notice("info", "still here"))
            assert await ears.batches.get() == [Notice("info", "still here")]
            await ours.close()

    asyncio.run(check())


def test_a_port_in_use_is_named() -> None:
    async def check() -> None:
        async with station(None) as place:
            from hpccluster.comm.listen import listen

            with pytest.raises(PeerLost, match=rf"cannot listen on 127.0.0.1 port {place.port}: .*EADDRINUSE"):
                await listen(
                    "127.0.0.1",
                    place.port,
                    None,
                    admit=lambda *_: Welcome(cluster="", name=""),
                    on_control=lambda _: None,
                )

    asyncio.run(check())


def test_contact_addresses() -> None:
    async def check() -> None:
        async with station(None, cluster=CLUSTER, contact_host="login-2.invalid") as place:
            assert place.listener.addresses == (f"tcp://login-2.invalid:{place.port}", f"tcp://127.0.0.1:{place.port}")
            # who is near need not know the way that others have
            hello = Hello(protocol=1, role=Role.CLIENT, cluster=CLUSTER)
            await (await connect(place.listener.addresses, hello, None)).close()

    asyncio.run(check())


def test_hello_is_completed_but_not_overwritten() -> None:
    async def check() -> None:
        async with station(None, cluster=CLUSTER) as place:
            channel = await connect(
                place.address, Hello(protocol=1, role=Role.CLIENT, host="n017", pid=7, cluster=CLUSTER), None
            )
            heard = place.hellos[0]
            assert (heard.host, heard.pid, heard.cluster) == ("n017", 7, CLUSTER)
            assert heard.versions["hpccluster"]
            channel.abort()

    asyncio.run(check())
