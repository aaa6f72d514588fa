"""Bulk data over real sockets: whole, with back-pressure, and without stopping the loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from hpccluster.comm import data
from hpccluster.comm.authority import Authority
from hpccluster.comm.connect import connect_data
from hpccluster.comm.data import DataConnection
from hpccluster.comm.tls import Security
from hpccluster.errors import CommError, HandshakeFailed, LocalProtocolError, PeerLost, RemoteProtocolError
from hpccluster.protocol.framing import Kind, frame
from hpccluster.protocol.messages import DataAccepted, DataHeader, GetData, Purpose, PushData, Role
from support.comm_peers import CLUSTER, Station, hello, security, station

AUTHORITY = Authority(CLUSTER)
WORKER = security(AUTHORITY, Role.WORKER)
CLIENT = security(AUTHORITY, Role.CLIENT)

Pair = tuple[Security | None, Security | None]
Run = Callable[[Coroutine[Any, Any, None]], None]
both_transports = pytest.mark.parametrize("pair", [(WORKER, CLIENT), (None, None)], ids=["tls", "tcp"])
both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])

MIB = 1024 * 1024


async def open_connection(place: Station, credential: Security | None) -> tuple[DataConnection, DataConnection]:
    ours = await connect_data(place.address, hello(), credential)
    return ours, await place.data.get()


@both_loops
@both_transports
def test_frames_of_all_sizes_go_both_ways(pair: Pair, run: Run) -> None:
    chance = random.Random(1)
    sizes = [0, 1, 7, 65_535, 65_536, 65_537, 0, 262_144, 262_145, MIB - 1, MIB, 5 * MIB + 3, *[100] * 2000, 0]
    frames: list[bytes | memoryview] = [chance.randbytes(size) for size in sizes]

    async def check() -> None:
        async with station(pair[0]) as place:
            ours, theirs = await open_connection(place, pair[1])

            async def serve() -> None:
                message = await theirs.receive()
                assert isinstance(message, PushData)
                received = await theirs.receive_frames(message.frames)
                await theirs.send(DataAccepted(message.task, ""))
                request = await theirs.receive()
                assert request == GetData([9])
                await theirs.send(DataHeader(9, found=True, frames=[len(part) for part in received]))
                await theirs.send_frames(received)
                await theirs.close()

            async with asyncio.TaskGroup() as group:
                group.create_task(serve())
                await ours.send(PushData(9, sizes))
                await ours.send_frames(frames)
                assert await ours.receive() == DataAccepted(9, "")
                await ours.send(GetData([9]))
                header = await ours.receive()
                assert isinstance(header, DataHeader)
                received = await ours.receive_frames(header.frames, limit=sum(sizes))
                assert [bytes(part) for part in received] == frames
                assert not any(memoryview(part).readonly for part in received)
                with pytest.raises(PeerLost):
                    await ours.receive()
            assert not ours.is_open

    run(check())


@both_loops
@both_transports
def test_bulk_does_not_stop_the_loop_and_waits_for_its_reader(pair: Pair, run: Run) -> None:
    body = bytes(48 * MIB)

    async def check() -> None:
        async with station(pair[0]) as place:
            ours, theirs = await open_connection(place, pair[1])
            sending = asyncio.create_task(ours.send_frames([body]))
            while not (ours._congested and theirs._is_paused):
                await asyncio.sleep(0)
            assert not sending.done()  # nobody reads: it waits, and neither side has taken in more than a little
            assert ours._link._transport.get_write_buffer_size() < 3 * MIB
            assert len(theirs._frames) < MIB
            gaps = []

            async def watch() -> None:
                while not sending.done():
                    before = time.perf_counter()
                    await asyncio.sleep(0)
                    gaps.append(time.perf_counter() - before)

            async with asyncio.TaskGroup() as group:
                group.create_task(watch())
                received = await theirs.receive_frames([len(body)])
                await sending
            assert bytes(received[0]) == body
            assert sorted(gaps)[int(len(gaps) * 0.95)] < 0.05  # generous: the machine does other things, too
            ours.abort()

    run(check())


@both_transports
def test_a_claim_takes_no_memory_and_has_a_limit(pair: Pair) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            ours, theirs = await open_connection(place, pair[1])
            receiving = asyncio.create_task(theirs.receive_frames([2**40]))
            await ours.send_frames([bytes(1000)])
            ours.abort()
            with pytest.raises(CommError):
                await receiving
            for lengths, words in (([2**63], "limit is 100"), ([60, 60], "120 bytes"), ([-1], "-1 bytes")):
                ours, theirs = await open_connection(place, pair[1])
                with pytest.raises(RemoteProtocolError, match=words):
                    await theirs.receive_frames(lengths, limit=100)
                with pytest.raises(CommError):
                    await ours.receive()

    asyncio.run(check())


def test_an_absurd_claim_is_an_error_even_without_a_limit() -> None:
    async def check() -> None:
        async with station(None) as place:
            ours, theirs = await open_connection(place, None)
            with pytest.raises(RemoteProtocolError, match="no memory"):
                await theirs.receive_frames([2**62])
            ours.abort()

    asyncio.run(check())


@both_transports
def test_a_peer_that_goes_in_the_middle_is_lost(pair: Pair) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            ours, theirs = await open_connection(place, pair[1])
            receiving = asyncio.create_task(theirs.receive_frames([10 * MIB]))
            await ours.send_frames([bytes(MIB)])
            ours.abort()
            with pytest.raises(PeerLost, match=theirs.peer_address):
                await receiving
            with pytest.raises(CommError):
                await ours.send(GetData([1]))
            with pytest.raises(PeerLost):
                await theirs.send(GetData([1]))

    asyncio.run(check())


@both_transports
def test_a_sender_learns_that_its_reader_has_gone(pair: Pair) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            ours, theirs = await open_connection(place, pair[1])
            sending = asyncio.create_task(ours.send_frames([bytes(64 * MIB)]))
            await theirs.receive_frames([MIB])
            theirs.abort()
            with pytest.raises(PeerLost):
                await sending

    asyncio.run(check())


def test_a_peer_that_stops_in_the_middle_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "STALL_LIMIT", 0.1)

    async def check() -> None:
        async with station(None) as place:
            ours, theirs = await open_connection(place, None)
            await ours.send_frames([b"half"])
            with pytest.raises(PeerLost, match="stopped sending"):
                await theirs.receive_frames([8])
            ours.abort()

    asyncio.run(check())


def test_a_cancelled_transfer_ends_the_connection() -> None:
    async def check() -> None:
        async with station(None) as place:
            ours, theirs = await open_connection(place, None)
            receiving = asyncio.create_task(theirs.receive_frames([8]))
            sending = asyncio.create_task(ours.send_frames([bytes(64 * MIB)]))
            await receiving
            receiving = asyncio.create_task(theirs.receive_frames([64 * MIB]))
            await asyncio.sleep(0)
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving
            with pytest.raises(PeerLost):
                await sending
            assert not theirs.is_open

    asyncio.run(check())


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n", frame(Kind.DATA, b"\xc1"), frame(Kind.DATA, b"\x90"), frame(Kind.CONTROL, b"")]
)
@both_transports
def test_who_breaks_the_protocol_is_dropped(pair: Pair, sent: bytes) -> None:
    async def check() -> None:
        async with station(pair[0]) as place:
            ours, theirs = await open_connection(place, pair[1])
            ours._link.write(sent)
            with pytest.raises(RemoteProtocolError):
                await theirs.receive()
            with pytest.raises(PeerLost):
                await ours.receive()

    asyncio.run(check())


def test_two_receivers_at_once_are_our_own_error() -> None:
    async def check() -> None:
        async with station(None) as place:
            ours, theirs = await open_connection(place, None)
            first = asyncio.create_task(ours.receive())
            await asyncio.sleep(0)
            with pytest.raises(LocalProtocolError):
                await ours.receive()
            await theirs.send(GetData([1]))
            assert await first == GetData([1])
            ours.abort()

    asyncio.run(check())


@pytest.mark.parametrize("role", [Role.CLIENT, Role.WORKER, Role.SCHEDULER])
def test_clients_workers_and_heads_fetch_from_workers(role: Role) -> None:
    async def check() -> None:
        async with station(WORKER) as place:
            ours = await connect_data(place.address, hello(role), security(AUTHORITY, role))
            theirs = await place.data.get()
            assert (theirs.hello.role, theirs.hello.purpose) == (role, Purpose.DATA)
            await ours.send(GetData([1]))
            assert await theirs.receive() == GetData([1])
            await ours.close()
            with pytest.raises(PeerLost):
                await theirs.receive()

    asyncio.run(check())


def test_only_holders_of_data_may_listen_for_it() -> None:
    async def check() -> None:
        async with station(WORKER) as place:
            with pytest.raises(HandshakeFailed, match="a worker, not of a scheduler"):
                await connect_data(place.address, hello(), CLIENT, listener_roles=frozenset({Role.SCHEDULER}))

    asyncio.run(check())
