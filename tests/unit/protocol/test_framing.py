"""Frames: whole ones come out as they went in, in whatever pieces; everything else is refused early and cheaply."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccluster.errors import LocalProtocolError, RemoteProtocolError
from hpccluster.protocol.framing import HEADER_SIZE, LIMITS, MAGIC, FrameBuffer, Kind, frame, header

bodies = st.lists(st.binary(max_size=300), max_size=8)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


@given(bodies, st.lists(st.integers(0, 5000), max_size=10))
def test_split_gives_the_frames_in_whatever_pieces_they_come(sent: list[bytes], places: list[int]) -> None:
    stream = b"".join(frame(Kind.CONTROL, body) for body in sent)
    buffer = FrameBuffer()
    received = [bytes(body) for piece in cut(stream, places) for body in buffer.split(piece, Kind.CONTROL)]
    assert received == sent
    assert len(buffer) == 0


@given(bodies, st.binary(max_size=50), st.lists(st.integers(0, 5000), max_size=10))
def test_take_gives_one_frame_at_a_time_and_leaves_the_rest(sent: list[bytes], rest: bytes, places: list[int]) -> None:
    stream = b"".join(frame(Kind.DATA, body) for body in sent)
    buffer = FrameBuffer()
    received: list[bytes] = []
    for piece in cut(stream, places):
        buffer.feed(piece)
        while len(received) < len(sent) and (body := buffer.take(Kind.DATA)) is not None:
            received.append(body)
    buffer.feed(rest)
    assert received == sent
    assert bytes(buffer.take_raw(1000)) == rest


def test_kinds_can_change_in_the_middle_of_what_has_arrived() -> None:
    buffer = FrameBuffer()
    buffer.feed(frame(Kind.HANDSHAKE, b"welcome") + frame(Kind.CONTROL, b"one") + frame(Kind.CONTROL, b"two")[:-1])
    assert buffer.take(Kind.HANDSHAKE) == b"welcome"
    assert [bytes(body) for body in buffer.split(b"", Kind.CONTROL)] == [b"one"]
    assert [bytes(body) for body in buffer.split(b"o", Kind.CONTROL)] == [b"two"]


def test_take_raw_takes_no_more_than_asked() -> None:
    buffer = FrameBuffer()
    buffer.feed(b"abcdef" + frame(Kind.DATA, b"next"))
    assert buffer.take_raw(6) == b"abcdef"
    assert buffer.take(Kind.DATA) == b"next"
    assert buffer.take_raw(10) == b""


@pytest.mark.parametrize("position", range(4))
def test_garbage_is_refused_at_its_first_wrong_byte(position: int) -> None:
    good = frame(Kind.CONTROL, b"")
    bad = good[:position] + bytes((good[position] ^ 0xFF,))
    with pytest.raises(RemoteProtocolError, match="expected a control frame"):
        FrameBuffer().split(bad, Kind.CONTROL)
    buffer = FrameBuffer()
    buffer.feed(bad)
    with pytest.raises(RemoteProtocolError, match="expected a control frame"):
        buffer.take(Kind.CONTROL)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\n", "do not begin one of ours"),
        (MAGIC + bytes((9, Kind.CONTROL)) + bytes(4), "layout 9"),
        (frame(Kind.DATA, b"x"), "kind 3"),
    ],
)
def test_the_refusal_names_what_came_instead(data: bytes, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        FrameBuffer().split(data, Kind.CONTROL)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("excess", [1, 2**31, 2**32 - 1])
def test_a_claim_over_the_limit_is_refused_with_the_header(kind: Kind, excess: int) -> None:
    claim = header(kind, 0)[:4] + min(LIMITS[kind] + excess, 2**32 - 1).to_bytes(4, "big")
    with pytest.raises(RemoteProtocolError, match="the limit is"):
        FrameBuffer().split(claim, kind)
    with pytest.raises(LocalProtocolError, match="over the limit"):
        header(kind, LIMITS[kind] + excess)


def test_a_claim_costs_no_memory() -> None:
    """64 MiB announced, 64 KiB sent: no more than what was sent is held."""
    buffers = [FrameBuffer() for _ in range(10)]
    claim = header(Kind.CONTROL, LIMITS[Kind.CONTROL])
    chunk = bytes(1024)
    tracemalloc.start()
    for buffer in buffers:
        assert buffer.split(claim, Kind.CONTROL) == []
        for _ in range(64):
            assert buffer.split(chunk, Kind.CONTROL) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 64 * 1024 * 1.5


def test_a_frame_in_single_bytes_takes_linear_time() -> None:
    body = bytes(50_000)
    buffer = FrameBuffer()
    received = [bytes(b) for byte in frame(Kind.CONTROL, body) for b in buffer.split(bytes((byte,)), Kind.CONTROL)]
    assert received == [body]


def test_mutated_streams_give_frames_or_one_typed_error() -> None:
    chance = random.Random(20261124)
    for _ in range(5_000):
        stream = bytearray(b"".join(frame(Kind.CONTROL, chance.randbytes(chance.randrange(40))) for _ in range(4)))
        for _ in range(chance.randrange(1, 6)):
            match chance.randrange(3):
                case 0:
                    stream[chance.randrange(len(stream))] ^= 1 << chance.randrange(8)
                case 1:
                    del stream[chance.randrange(len(stream)) :]
                    stream += chance.randbytes(HEADER_SIZE)
                case _:
                    place = chance.randrange(len(stream))
                    stream[place:place] = chance.randbytes(3)
        buffer = FrameBuffer()
        try:
            for piece in cut(bytes(stream), [chance.randrange(200) for _ in range(3)]):
                assert all(len(body) <= len(stream) for body in buffer.split(piece, Kind.CONTROL))
        except RemoteProtocolError:
            continue
        assert len(buffer) <= len(stream)
