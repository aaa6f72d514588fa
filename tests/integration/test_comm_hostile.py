"""Strangers at the door: slow ones, many, and those that send nonsense. Honest clients come in and work all the while."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hpccluster.comm import listen as door
from hpccluster.comm.authority import Authority
from hpccluster.comm.connect import connect
from hpccluster.comm.tls import Security
from hpccluster.errors import PeerLost, RemoteProtocolError
from hpccluster.protocol import codec, handshake
from hpccluster.protocol.framing import Kind, frame, header
from hpccluster.protocol.messages import Hello, Request, Role
from support.comm_peers import CLUSTER, Ears, Station, hello, security, station, stranger_context

AUTHORITY = Authority(CLUSTER)
HEAD = security(AUTHORITY, Role.SCHEDULER)
CLIENT = security(AUTHORITY, Role.CLIENT)

Pair = tuple[Security | None, Security | None]
both_transports = pytest.mark.parametrize("pair", [(HEAD, CLIENT), (None, None)], ids=["tls", "tcp"])
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def quiet_station(credential: Security | None, **more: Any) -> AsyncIterator[Station]:
    """A station in whose loop nothing may go unhandled."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with station(credential, **more) as place:
        yield place
    assert complaints == []


async def stranger(place: Station, data: bytes = b"") -> Stream:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    if data:
        writer.write(data)
    return reader, writer


async def turned_away(stream: Stream) -> bytes:
    """What it gets to read until the listener closes."""
    reader, writer = stream
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def client_hello() -> bytes:
    """The first flight of an honest TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    stranded = stranger_context().wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        stranded.do_handshake()
    return outgoing.read()


async def works(place: Station, credential: Security | None) -> None:
    """An honest client comes in, is heard, and leaves."""
    channel = await connect(place.address, hello(), credential)
    ears = Ears()
    ears.start(channel)
    channel.send(Request(1, "echo", {}))
    assert await place.batches.get() == [Request(1, "echo", {})]
    await channel.close()
    assert await place.lost.get() is None


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


@both_transports
def test_slow_strangers_are_sent_away_in_time(pair: Pair) -> None:
    async def check() -> None:
        async with quiet_station(pair[0], handshake_time=0.3) as place:
            start = client_hello() if pair[0] else handshake.encode(hello())
            streams = [await stranger(place, start[: index % 6]) for index in range(60)]
            await until(lambda: place.listener.arrivals == 60)

            async def drip(writer: asyncio.StreamWriter) -> None:
                for byte in start:
                    writer.write(bytes((byte,)))
                    await asyncio.sleep(0.05)

            dripping = [asyncio.create_task(drip(writer)) for _, writer in streams[::6]]
            await works(place, pair[1])
            async with asyncio.timeout(3):
                await asyncio.gather(*map(turned_away, streams))
                await until(lambda: place.listener.arrivals == 0)
            for task in dripping:
                task.cancel()
            await asyncio.gather(*dripping, return_exceptions=True)
            assert len(place.hellos) == 1

    asyncio.run(check())


def test_one_host_holds_only_its_places_and_the_rest_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "PLACES_PER_HOST", 3)

    async def check() -> None:
        async with quiet_station(HEAD, handshake_time=0.4) as place:
            streams = [await stranger(place, client_hello()) for _ in range(8)]
            listener = place.listener
            await until(lambda: sum(map(len, listener._waiting.values())) == 5)
            assert listener._places["127.0.0.1"] == 3
            honest = asyncio.create_task(works(place, CLIENT))
            async with asyncio.timeout(5):
                await asyncio.gather(*map(turned_away, streams))
                await honest
            await until(lambda: listener.arrivals == 0)
            assert not listener._waiting
            assert not listener._places

    asyncio.run(check())


def test_a_thousand_idle_connections_do_not_keep_an_honest_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "DOOR_LIMIT", 50)

    async def check() -> None:
        async with quiet_station(HEAD) as place:
            streams = [await stranger(place) for _ in range(150)]
            await until(lambda: place.listener.arrivals <= 50)
            await works(place, CLIENT)
            for _, writer in streams:
                writer.close()
            await until(lambda: place.listener.arrivals == 0)

    asyncio.run(check())


def mutations(seed: int, good: bytes, count: int) -> list[bytes]:
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 5)):
            place = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[place] ^= 1 << chance.randrange(8)
                case 1:
                    data[place] = chance.randrange(256)
                case 2:
                    del data[place : place + chance.randrange(1, 9)]
                case _:
                    data[place:place] = chance.randbytes(chance.randrange(1, 9))
            if not data:
                data = bytearray(b"\0")
        made.append(bytes(data))
    return made


@both_transports
def test_mutated_first_words_are_survived_while_honest_clients_work(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)  # warnings are counted elsewhere; an error would be our own fault

    async def check() -> None:
        async with quiet_station(pair[0], handshake_time=0.5) as place:
            first = client_hello() if pair[0] else handshake.encode(hello())
            batches = mutations(20261124, first, 300) + [random.Random(n).randbytes(200) for n in range(20)]
            for start in range(0, len(batches), 40):
                streams = [await stranger(place, data) for data in batches[start : start + 40]]
                for _, writer in streams:
                    writer.write_eof()
                async with asyncio.timeout(5):
                    await asyncio.gather(works_in_spite(place, pair[1]), *map(turned_away, streams))

    asyncio.run(check())
    assert caplog.records == []


async def works_in_spite(place: Station, credential: Security | None) -> None:
    """Like `works`, where mutated hellos may be good ones and leave channels of their own."""
    channel = await connect(place.address, hello(name="honest"), credential)
    channel.send(Request(1, "echo", {}))
    while await place.batches.get() != [Request(1, "echo", {})]:
        pass
    await channel.close()


@both_transports
@pytest.mark.parametrize("claim", [16 * 1024 + 1, 2**31, 2**32 - 1])
def test_a_claim_at_the_door_costs_nothing(pair: Pair, claim: int) -> None:
    """The claim stands in the hello's frame: before TLS it is not even looked at, after it nothing is kept for it."""

    async def check() -> None:
        async with quiet_station(pair[0]) as place:
            await works(place, pair[1])
            data = header(Kind.HANDSHAKE, 0)[:4] + claim.to_bytes(4, "big") + bytes(1000)
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            streams = [await stranger(place, data) for _ in range(20)]
            answers = await asyncio.gather(*map(turned_away, streams))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert all(b"HandshakeFailed" in answer or b"RemoteProtocolError" in answer for answer in answers)
            assert peak - before < 20 * 150_000  # the strangers' own streams are in it
            await until(lambda: place.listener.arrivals == 0)

    asyncio.run(check())


@pytest.mark.parametrize(
    "said",
    [
        frame(Kind.HANDSHAKE, b"\xc1"),
        frame(Kind.HANDSHAKE, b"\xdd\xff\xff\xff\xff"),
        frame(Kind.HANDSHAKE, codec.encode_batches([Request(1, "close", {})])[0]),
        header(Kind.HANDSHAKE, 0)[:4] + b"\xff\xff\xff\xff",
        frame(Kind.CONTROL, codec.encode_batches([Request(1, "close", {})])[0]),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
@both_transports
def test_nothing_but_a_hello_is_a_first_word(pair: Pair, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from someone with a good certificate."""
    honest = handshake.encode
    monkeypatch.setattr(handshake, "encode", lambda message: said if isinstance(message, Hello) else honest(message))

    async def check() -> None:
        async with quiet_station(pair[0]) as place:
            with pytest.raises((RemoteProtocolError, PeerLost), match=r"turned us away|not a listener|ended"):
                await connect(place.address, hello(), pair[1])
            assert place.hellos == []
            assert place.batches.empty()

    asyncio.run(check())


def test_a_flood_before_any_proof_is_cut_off() -> None:
    async def check() -> None:
        async with quiet_station(HEAD) as place:
            stream = await stranger(place, b"\x16\x03\x01\x40\x00" + bytes(3_000_000))
            await turned_away(stream)
            await until(lambda: place.listener.arrivals == 0)

    asyncio.run(check())


@both_transports
def test_closing_the_listener_ends_those_at_the_door(pair: Pair) -> None:
    async def check() -> None:
        async with quiet_station(pair[0]) as place:
            streams = [await stranger(place, b"\x16\x03" if pair[0] else b"\x89h") for _ in range(5)]
            await until(lambda: place.listener.arrivals == 5)
            waiting: list[Awaitable[bytes]] = [turned_away(stream) for stream in streams]
            await place.listener.close()
            assert place.listener.arrivals == 0
            await asyncio.gather(*waiting)
            with pytest.raises(PeerLost):
                await connect(place.address, hello(), pair[1])

    asyncio.run(check())
