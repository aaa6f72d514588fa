"""Commands of this host as the backends run them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from hpccluster.backend.dialect import CommandResult
from hpccluster.backend.runner import TAIL_LIMIT, LocalRunner, read_tail
from hpccluster.errors import BackendUnavailable, CommandFailed, LogsUnavailable
from hpccluster.job import JobState
from hpccluster.testing.backend_contract import BackendContract
from hpccluster_local.backend import LocalBackend
from hpccluster_local.options import LocalOptions
from support.deadline import wait_until

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine in each kind of loop."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


def test_result_is_told_whole(run: Run) -> None:
    script = "cat; echo \"$GIVEN ${REMOVED-gone} $LC_ALL\"; printf 'b\\377d\\n' >&2; exit 3"
    runner = LocalRunner({**os.environ, "REMOVED": "there", "LC_ALL": "de_DE.UTF-8"})
    result = run(
        runner.run(("sh", "-c", script), stdin="ü\n", environment={"GIVEN": "a b", "REMOVED": None}, timeout=10.0)
    )
    assert result == CommandResult(("sh", "-c", script), 3, "ü\na b gone C\n", "b\ufffdd\n")


def test_arguments_are_no_shell(run: Run, tmp_path: Path) -> None:
    words = ("$(touch x)", "; touch x", "*", "", "a b")
    result = run(LocalRunner().run(("printf", "%s|", *words)))
    assert result.stdout == "".join(f"{word}|" for word in words)


def test_command_that_is_not_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sbatch").write_text("no permission")
    for command in ("no-such-command-anywhere", str(tmp_path / "sbatch")):
        with pytest.raises(BackendUnavailable, match="on PATH") as caught:
            run(LocalRunner().run((command,)))
        assert caught.value.details["command"] == command


def test_command_that_takes_too_long_is_ended(run: Run, tmp_path: Path) -> None:
    # a wrapper, as sites have them: its child holds the pipes open
    wrapper = f"echo $$ > {tmp_path}/pid; sleep 6.5; true"
    begin = time.monotonic()
    with pytest.raises(CommandFailed, match=r"did not end within 0\.3 s and was killed; it may have") as caught:
        run(LocalRunner().run(("sh", "-c", wrapper), timeout=0.3))
    assert time.monotonic() - begin < 5
    assert caught.value.code == "HPC-COMMAND-TIMEOUT"
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_command_that_leaves_a_daemon_behind_is_not_waited_for(run: Run, tmp_path: Path) -> None:
    daemon = f"(echo $$ >{tmp_path}/pid; exec sleep 9) & seq 30000; exit 3"
    begin = time.monotonic()
    result = run(LocalRunner().run(("sh", "-c", daemon), timeout=8.0))
    assert time.monotonic() - begin < 5
    assert (result.returncode, result.stdout.splitlines()[-1]) == (3, "30000")


def test_cancelled_command_is_ended(run: Run, tmp_path: Path) -> None:
    async def scenario() -> int:
        pid = tmp_path / "pid"
        command = ("sh", "-c", f"echo $$ > {pid}; exec sleep 60")
        task = asyncio.create_task(LocalRunner().run(command))
        while not pid.exists() or not pid.read_text().strip():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return int(pid.read_text())

    pid = run(scenario())
    wait_until(lambda: not psutil.pid_exists(pid), "the command has ended")


def test_command_that_goes_on(run: Run) -> None:
    async def scenario() -> None:
        lines: list[bytes] = []
        runner = LocalRunner({**os.environ, "REMOVED": "there"})
        script = 'echo "$GIVEN ${REMOVED-gone}"; while read line; do echo "got $line" >&2; done; exit 5'
        changes = {"GIVEN": "a b", "REMOVED": None}
        command = await runner.start(("sh", "-c", script), environment=changes, output=lines.append)
        await command.write(b"one\n")
        await command.write(b"two\n")
        command.close()
        command.close()
        assert await asyncio.wait_for(command.wait(), 10) == 5
        assert b"".join(lines) == b"a b gone\ngot one\ngot two\n"
        await command.write(b"nobody reads this")
        assert await command.wait() == 5

    run(scenario())


def test_started_command_ends_by_a_signal_or_leaves_a_child(run: Run) -> None:
    async def scenario() -> None:
        killed = await LocalRunner().start(("sh", "-c", "kill -TERM $$"), output=lambda data: None)
        assert await asyncio.wait_for(killed.wait(), 10) == -15
        begin = time.monotonic()
        parent = await LocalRunner().start(("sh", "-c", "sleep 8 & exit 4"), output=lambda data: None)
        assert await asyncio.wait_for(parent.wait(), 7) == 4
        assert time.monotonic() - begin < 7, "the child that holds its output open is not waited for"

    run(scenario())


def test_started_command_that_does_not_read(run: Run) -> None:
    async def scenario() -> None:
        command = await LocalRunner().start(("sh", "-c", "read line; exec sleep 60"), output=lambda data: None)
        writing = asyncio.create_task(command.write(b"line\n" + b"x" * 2**24))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(writing), 0.5)
        writing.cancel()
        command.close()
        waiting = asyncio.create_task(command.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        command._process.kill()  # type: ignore[attr-defined]
        assert await asyncio.wait_for(command.wait(), 10) == -9

    run(scenario())


def test_closed_runner_ends_the_input_of_what_runs(run: Run) -> None:
    async def scenario() -> None:
        runner = LocalRunner()
        command = await runner.start(("cat",), output=lambda data: None)
        await runner.close()
        assert await asyncio.wait_for(command.wait(), 10) == 0
        with pytest.raises(BackendUnavailable, match="on PATH"):
            await runner.start(("no-such-command-anywhere",), output=lambda data: None)

    run(scenario())


def test_local_jobs_in_each_loop(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        contract = BackendContract()
        backend = LocalBackend(LocalOptions())
        job = await backend.submit(contract.spec(tmp_path, "exit 6"))
        status = await contract.until_state(backend, job, JobState.FAILED)
        assert status.exit_code == 6
        other = await backend.submit(contract.spec(tmp_path, "sleep 60"))
        assert (await backend.cancel([other])).gone == {other}

    run(scenario())


def test_tail(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\r\nth\xffree\nfour")
    assert read_tail(str(path)) == "one\ntwo\r\nth\ufffdree\nfour"
    assert read_tail(str(path), 2) == "th\ufffdree\nfour"
    assert read_tail(str(path), 0) == ""
    assert read_tail(str(path), 99) == read_tail(str(path))
    path.write_bytes(b"x" * 100 + b"\n" + (b"y" * 999 + b"\n") * (TAIL_LIMIT // 1000 + 10))
    assert read_tail(str(path), 1) == "y" * 999 + "\n"
    assert len(read_tail(str(path), 10**9)) <= TAIL_LIMIT
    with pytest.raises(FileNotFoundError):
        read_tail(str(tmp_path / "nowhere"))
    with pytest.raises(LogsUnavailable, match="Is a directory"):
        read_tail(str(tmp_path))
