"""A session as a library tells it: greetings, the command's own output, its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from hpccluster.errors import BackendUnavailable, CommandFailed
from hpccluster_ssh import session as module
from hpccluster_ssh.session import Pipe, Session


class OpenPipe(Pipe):
    """Remembers whether the session was given up."""

    aborted = False

    async def write(self, data: bytes) -> None:
        pass

    def write_eof(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


def run(scenario: Callable[[Session, bytearray, bytearray, OpenPipe], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        out, err = bytearray(), bytearray()
        session = Session("host1", ("squeue", "--me"), out.extend, err.extend)
        session.pipe = pipe = OpenPipe()
        async with asyncio.timeout(10):
            await scenario(session, out, err, pipe)

    asyncio.run(whole())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_output_is_what_comes_after_the_word_however_it_is_cut(size: int) -> None:
    async def scenario(session: Session, out: bytearray, err: bytearray, pipe: OpenPipe) -> None:
        said = f"Welcome {session.token[:5]}\n{session.token} 123\nout {session.token} 5\n".encode()
        complained = f"quota!{session.token}\nerr".encode()
        for begin in range(0, 1000, size):
            session.received(said[begin : begin + size])
            session.received_error(complained[begin : begin + size])
        await session.begun
        session.exited(3)
        session.closed()
        assert (session.pid, await session.wait()) == (123, 3)
        assert (bytes(out), bytes(err)) == (f"out {session.token} 5\n".encode(), b"err")

    run(scenario)


def test_output_may_come_for_long_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow network still carries it when the server has told the exit code."""
    monkeypatch.setattr(module, "OUTPUT_TIME", 0.3)

    async def scenario(session: Session, out: bytearray, err: bytearray, pipe: OpenPipe) -> None:
        session.received(f"{session.token} 123\n".encode())
        session.exited(0)
        for _ in range(5):
            await asyncio.sleep(0.15)
            session.received(b"x")
            assert not session.ended.done()
            assert not pipe.aborted
        assert await session.wait() == 0, "nothing comes any more: a child holds the output open"
        assert pipe.aborted
        session.received(b"too late")
        assert bytes(out) == b"xxxxx"

    run(scenario)


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ("missing /usr/bin", BackendUnavailable, "squeue: no such command; PATH of commands by SSH there is /usr/bin"),
        ("1", BackendUnavailable, "runs no commands"),
        ("-5", BackendUnavailable, "runs no commands"),
        ("many", BackendUnavailable, "runs no commands"),
    ],
)
def test_words_in_place_of_a_number(said: str, error: type[Exception], words: str) -> None:
    async def scenario(session: Session, out: bytearray, err: bytearray, pipe: OpenPipe) -> None:
        session.received(f"{session.token} {said}\n".encode())
        with pytest.raises(error, match=words):
            await session.begun
        assert session.pid is None

    run(scenario)


def test_shell_that_never_comes_to_the_command() -> None:
    async def endless(session: Session, out: bytearray, err: bytearray, pipe: OpenPipe) -> None:
        session.received(b"x" * (module.GREETING_LIMIT + 1))
        with pytest.raises(BackendUnavailable, match="bytes of greetings"):
            await session.begun
        session.received(b"x")
        session.closed()

    async def ended(session: Session, out: bytearray, err: bytearray, pipe: OpenPipe) -> None:
        session.received(b"This account is")
        session.received_error(b" locked.")
        session.exited(1)
        session.closed()
        with pytest.raises(BackendUnavailable, match=r"This account is locked\. and ended with exit code 1"):
            await session.begun

    async def cut(session: Session, out: bytearray, err: bytearray, pipe: OpenPipe) -> None:
        session.closed("reset")
        with pytest.raises(CommandFailed, match=r"lost \(reset\) under squeue --me; it may still run") as caught:
            await session.begun
        assert caught.value.code == "HPC-CONNECTION-LOST"

    for scenario in (endless, ended, cut):
        run(scenario)


def test_signals_by_name() -> None:
    for name, code in (("KILL", -9), ("TERM", -15), ("SIG@openssh.com", -99), ("_DFL", -99), ("", -99)):

        async def scenario(session: Session, out: bytearray, err: bytearray, pipe: OpenPipe) -> None:
            session.received(f"{session.token} 123\n".encode())
            session.exited_by_signal(name)  # noqa: B023
            session.closed()
            assert await session.wait() == code  # noqa: B023

        run(scenario)
