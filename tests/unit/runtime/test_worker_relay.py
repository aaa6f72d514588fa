"""A worker's stderr: whole lines go on, the last ones are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccluster.runtime.relay import TAIL, StderrRelay


class Pipes:
    """A relay from a pipe to a file."""

    def __init__(self, path: Path) -> None:
        read, self.writer = os.pipe()
        os.set_blocking(read, False)
        self._path = path
        self._target = os.open(path, os.O_WRONLY | os.O_CREAT)
        self._seen = 0
        self.relay = StderrRelay(read, self._target)

    def passed_on(self) -> bytes:
        """What has come since this was last asked."""
        data = self._path.read_bytes()[self._seen :]
        self._seen += len(data)
        return data

    def close(self) -> None:
        self.relay.close()
        os.close(self.writer)
        os.close(self._target)


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[Pipes]:
    given = Pipes(tmp_path / "job.log")
    yield given
    given.close()


def test_only_whole_lines_go_on(pipes: Pipes) -> None:
    os.write(pipes.writer, b"one\ntw")
    assert pipes.relay.pump()
    assert pipes.passed_on() == b"one\n"
    os.write(pipes.writer, b"o\n")
    pipes.relay.pump()
    assert pipes.passed_on() == b"two\n"
    assert pipes.relay.tail == "one\ntwo\n"


def test_the_rest_goes_on_at_the_end(pipes: Pipes) -> None:
    os.write(pipes.writer, b"no newline")
    pipes.relay.pump()
    assert pipes.relay.tail == "no newline"
    pipes.relay.close()
    pipes.relay.close()
    assert pipes.passed_on() == b"no newline\n"
    assert pipes.relay.tail == "no newline\n"


def test_the_tail_is_bounded_and_begins_with_a_line(pipes: Pipes) -> None:
    for number in range(1000):
        os.write(pipes.writer, b"line %04d\n" % number)
        pipes.relay.pump()
    assert TAIL - 20 < len(pipes.relay.tail) <= TAIL
    assert pipes.relay.tail.startswith("line ")
    assert pipes.relay.tail.endswith("line 0999\n")


def test_an_endless_line_does_not_fill_the_memory(pipes: Pipes) -> None:
    total = 0
    for _ in range(10):
        os.write(pipes.writer, b"x" * 60_000)
        pipes.relay.pump()
        total += len(pipes.passed_on())
    assert total > 500_000
    assert len(pipes.relay.tail) <= TAIL


def test_bytes_that_are_no_text_are_shown_all_the_same(pipes: Pipes) -> None:
    os.write(pipes.writer, b"\xff\xfe broken\n")
    pipes.relay.pump()
    assert "broken" in pipes.relay.tail
