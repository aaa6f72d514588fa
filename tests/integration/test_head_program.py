"""The program beside the head."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from hpccluster.errors import ClusterError
from hpccluster.head.program import Program


async def start(tmp_path: Path, *command: str) -> Program:
    return await Program.start(
        command,
        directory=str(tmp_path),
        environment=dict(os.environ) | {"GREETING": "hello"},
        connection_file=tmp_path / "client.json",
        log=tmp_path / "program.log",
    )


def test_a_program_finds_its_cluster_and_its_place(tmp_path: Path) -> None:
    async def scenario() -> int:
        code = (
            "import os, sys; print(os.environ['HPCCLUSTER_CLUSTER'], os.getcwd(), os.environ['GREETING']); sys.exit(7)"
        )
        program = await start(tmp_path, sys.executable, "-c", code)
        return await program.wait()

    assert asyncio.run(scenario()) == 7
    assert (tmp_path / "program.log").read_text().split() == [f"{tmp_path}/client.json", str(tmp_path), "hello"]
    assert (tmp_path / "program.log").stat().st_mode & 0o077 == 0


def test_a_signal_is_told_as_a_shell_would(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, int]:
        program = await start(tmp_path, "sh", "-c", "kill -SEGV $$")
        return await program.wait(), await program.end(1.0)

    assert asyncio.run(scenario()) == (139, 139)


def test_the_end_takes_what_the_program_has_started_along(tmp_path: Path) -> None:
    async def scenario() -> int:
        # The child ignores SIGTERM; the pipe tells when the last of them is gone.
        reading, writing = os.pipe()
        script = "(trap '' TERM; echo up; exec sleep 100) & wait"
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", script, start_new_session=True, stdout=writing, stderr=asyncio.subprocess.DEVNULL
        )
        os.close(writing)
        assert os.read(reading, 10) == b"up\n"
        code = await Program(process).end(5.0)
        assert os.read(reading, 10) == b""
        os.close(reading)
        return code

    assert asyncio.run(scenario()) == 143


def test_a_program_that_ignores_the_polite_way_is_killed(tmp_path: Path) -> None:
    async def scenario() -> int:
        program = await start(tmp_path, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 100; done")
        while not (tmp_path / "program.log").read_text():
            await asyncio.sleep(0.01)
        return await program.end(0.05)

    assert asyncio.run(scenario()) == 137


def test_a_program_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="cannot be run: No such file"):
        asyncio.run(start(tmp_path, "no-such-program-anywhere", "x"))
