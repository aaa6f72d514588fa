"""The suite that every runner must pass, as a class to subclass in a test module:

    class TestMyRunner(RunnerContract):
        @pytest.fixture
        def runner(self) -> Runner:
            return MyRunner(RemoteTarget(host="host1"))

Each test says one sentence of the contract in `hpccluster.backend.runner`. It needs a POSIX shell and the usual small commands
where the runner runs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar

import pytest

from hpccluster.backend.runner import OUTPUT_TIME, TAIL_LIMIT, Runner, RunningCommand
from hpccluster.errors import BackendUnavailable, CommandFailed, LogsUnavailable

HOSTILE_WORDS = (
    "", " ", "a b", "'", '"', "it's", "$HOME", "$(touch x)", "`touch x`", "; touch x", "*", "~", "\\", "\\\\", "a\\nb", "%s",
    "!", "!!", "a!b", "#", "&", "|", "<", ">", "(", "{a,b}", "[a]", "=x", "-n", "--", "a\nb", "\n", "tab\there", "\r", "ünï", "日本",
    "\x01", "\x7f", "'\"'\"'", "'\\''", "x" * 5000,
)  # fmt: skip
"""Words that some shell would change if they were not quoted, or not well enough."""


class RunnerContract:
    """Subclass, name it ``Test...``, and override the fixture and what differs."""

    patience: ClassVar[float] = 30.0
    """Seconds that a change may take to show."""

    can_lose: ClassVar[bool] = False
    """Whether `lose` can be had: this is a runner with a connection."""

    @pytest.fixture
    def runner(self) -> Runner:
        """The runner under test; used in one event loop only."""
        raise NotImplementedError

    async def lose(self, runner: Runner) -> None:
        """Break the connection; a new one can be made afterwards."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------------- helpers

    def run(self, runner: Runner, scenario: Callable[[Runner], Coroutine[Any, Any, None]]) -> None:
        """Run one test within its time, and close the runner."""

        async def whole() -> None:
            try:
                async with asyncio.timeout(self.patience):
                    await scenario(runner)
            finally:
                await runner.close()

        self.run_loop(whole())

    def run_loop(self, work: Coroutine[Any, Any, None]) -> None:
        """Run an event loop; override for another kind of loop."""
        asyncio.run(work)

    async def until(self, question: Callable[[], Awaitable[Any]], what: str) -> Any:
        """The first true answer."""
        end = time.monotonic() + self.patience
        while not (answer := await question()):
            assert time.monotonic() < end, f"{what}: not within {self.patience:g} s"
            await asyncio.sleep(0.05)
        return answer

    async def until_ended(self, runner: Runner, pid: str) -> None:
        """A process of the host has ended."""

        async def ended() -> bool:
            return (await runner.run(("kill", "-0", pid.strip()))).returncode != 0

        await self.until(ended, f"process {pid.strip()} has ended")

    async def directory(self, runner: Runner) -> str:
        """A new directory where the runner runs its commands."""
        made = await runner.run(("mktemp", "-d"))
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    async def until_said(self, said: bytearray, text: bytes) -> None:
        async def heard() -> bool:
            return text in said

        await self.until(heard, f"{text!r} in {bytes(said[-200:])!r}")

    # ----------------------------------------------------------------------------------------------------------------- run

    def test_result_is_told_whole(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            script = "cat; printf 'b\\377d\\n' >&2; exit 3"
            result = await runner.run(("sh", "-c", script), stdin="ü\nlast line", timeout=20.0)
            assert (result.returncode, result.stdout, result.stderr) == (3, "ü\nlast line", "b\ufffdd\n")
            assert result.argv == ("sh", "-c", script)

        self.run(runner, scenario)

    def test_standard_input_is_empty_unless_given(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            assert (await runner.run(("cat",))).stdout == ""
            assert (await runner.run(("cat",), stdin="")).stdout == ""
            unread = await runner.run(("true",), stdin="x" * 10_000_000)
            assert unread.returncode == 0

        self.run(runner, scenario)

    def test_signal_that_ended_it_is_told(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            for number in (9, 15):
                assert (await runner.run(("sh", "-c", f"kill -{number} $$"))).returncode == -number

        self.run(runner, scenario)

    def test_words_arrive_unchanged(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            result = await runner.run(("printf", "<%s>", *HOSTILE_WORDS))
            assert result.stdout == "".join(f"<{word}>" for word in HOSTILE_WORDS)

        self.run(runner, scenario)

    def test_environment_is_changed_and_messages_are_english(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            changes = {"GIVEN": "a 'b' \\ !\n$HOME", "HOME": None, "LANG": "de_DE.UTF-8"}
            script = 'printf "%s|" "$GIVEN" "${HOME-gone}" "$LC_ALL" "$LANG"'
            result = await runner.run(("sh", "-c", script), environment=changes)
            assert result.stdout == "a 'b' \\ !\n$HOME|gone|C|de_DE.UTF-8|"
            other = await runner.run(("sh", "-c", 'echo "${LC_ALL-gone}"'), environment={"LC_ALL": None})
            assert other.stdout == "gone\n"

        self.run(runner, scenario)

    def test_command_that_is_not_there(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            folder = await self.directory(runner)
            await runner.run(("tee", f"{folder}/closed"), stdin="no permission to run this")
            for command in ("no-such-command-anywhere", "/no/such/command", f"{folder}/closed", "-x"):
                with pytest.raises(BackendUnavailable) as caught:
                    await runner.run((command, "word"))
                assert caught.value.details["command"] == command
                assert caught.value.code == "HPC-BACKEND-COMMAND"
                with pytest.raises(BackendUnavailable):
                    await runner.start((command,), output=lambda _: None)

        self.run(runner, scenario)

    def test_large_output_comes_whole(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            script = "head -c 10000000 /dev/zero | tr '\\0' x; head -c 1000000 /dev/zero | tr '\\0' y >&2"
            result = await runner.run(("sh", "-c", script))
            assert len(result.stdout) == result.stdout.count("x") == 10_000_000
            assert len(result.stderr) == result.stderr.count("y") == 1_000_000
            echoed = await runner.run(("cat",), stdin="z" * 5_000_000)
            assert len(echoed.stdout) == 5_000_000

        self.run(runner, scenario)

    def test_command_that_takes_too_long_is_killed(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            folder = await self.directory(runner)
            script = f"echo $$ > {folder}/pid; sleep 6; true"
            begin = time.monotonic()
            with pytest.raises(CommandFailed, match=r"did not end within 0\.7 s and was killed; it may have") as caught:
                await runner.run(("sh", "-c", script), timeout=0.7)
            assert caught.value.code == "HPC-COMMAND-TIMEOUT"
            assert time.monotonic() - begin < 10
            await self.until_ended(runner, await runner.read_tail(f"{folder}/pid"))

        self.run(runner, scenario)

    def test_cancelled_command_is_killed(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            folder = await self.directory(runner)
            task = asyncio.create_task(runner.run(("sh", "-c", f"echo $$ > {folder}/pid; exec sleep 65")))

            async def pid() -> str:
                with contextlib.suppress(FileNotFoundError):
                    return await runner.read_tail(f"{folder}/pid")
                return ""

            number = await self.until(pid, "the command runs")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await self.until_ended(runner, number)

        self.run(runner, scenario)

    def test_many_commands_at_once(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            commands = [runner.run(("sh", "-c", 'sleep 0.2; echo "$0"', str(number))) for number in range(25)]
            assert [int(result.stdout) for result in await asyncio.gather(*commands)] == list(range(25))

        self.run(runner, scenario)

    # --------------------------------------------------------------------------------------------------------------- files

    def test_tail_of_a_file(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            folder = await self.directory(runner)
            await runner.run(("sh", "-c", 'cd "$0"; printf "one\\ntwo\\r\\nth\\377ree\\nfour" > "a log"', folder))
            path = f"{folder}/a log"
            assert await runner.read_tail(path) == "one\ntwo\r\nth\ufffdree\nfour"
            assert await runner.read_tail(path, 2) == "th\ufffdree\nfour"
            assert await runner.read_tail(path, 0) == ""
            assert await runner.read_tail(path, 99) == await runner.read_tail(path)
            await runner.run(("sh", "-c", 'head -c 6000000 /dev/zero | tr "\\0" y | fold -w 999 > "$0/big"', folder))
            assert await runner.read_tail(f"{folder}/big", 2) == "y" * 999 + "\n" + "y" * (6000000 % 999)
            assert len(await runner.read_tail(f"{folder}/big", 10**9)) <= TAIL_LIMIT
            assert len(await runner.read_tail(f"{folder}/big")) > 6_000_000

        self.run(runner, scenario)

    def test_file_that_is_missing_or_cannot_be_read(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            folder = await self.directory(runner)
            for lines in (None, 3):
                with pytest.raises(FileNotFoundError):
                    await runner.read_tail(f"{folder}/nothing", lines)
                with pytest.raises(LogsUnavailable, match="Is a directory"):
                    await runner.read_tail(folder, lines)

        self.run(runner, scenario)

    # --------------------------------------------------------------------------------------------------------------- start

    def test_started_command_reads_and_writes_as_it_goes(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            said = bytearray()
            script = 'echo "${GIVEN} ${HOME-gone}"; while read line; do echo "got $line" >&2; done; echo end; exit 5'
            changes = {"GIVEN": "a b", "HOME": None}
            command = await runner.start(("sh", "-c", script), environment=changes, output=said.extend)
            await self.until_said(said, b"a b gone\n")
            await command.write(b"one\n")
            await self.until_said(said, b"got one\n")
            await command.write(b"two\n")
            command.close()
            command.close()
            assert await command.wait() == 5
            assert bytes(said) == b"a b gone\ngot one\ngot two\nend\n"
            await command.write(b"nobody reads this")
            command.close()
            assert await command.wait() == 5

        self.run(runner, scenario)

    def test_started_command_tells_a_signal_and_leaves_children_alone(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            killed = await runner.start(("sh", "-c", "kill -TERM $$"), output=lambda _: None)
            assert await killed.wait() == -15
            said = bytearray()
            begin = time.monotonic()
            parent = await runner.start(("sh", "-c", "sleep 16 & echo $!; exit 4"), output=said.extend)
            assert await parent.wait() == 4
            assert time.monotonic() - begin < OUTPUT_TIME + 5, "a child that holds the output open is not waited for"
            alive = await runner.run(("kill", said.decode().strip()))
            assert alive.returncode == 0

        self.run(runner, scenario)

    def test_started_command_may_close_its_output_and_go_on(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            command = await runner.start(("sh", "-c", "exec >&- 2>&-; read code; exit $code"), output=lambda _: None)
            await command.write(b"6\n")
            assert await command.wait() == 6

        self.run(runner, scenario)

    def test_writing_waits_for_a_command_that_does_not_read(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            said = bytearray()
            script = "echo $$; read line; exec sleep 67"
            command = await runner.start(("sh", "-c", script), output=said.extend)
            await self.until_said(said, b"\n")
            writing = asyncio.create_task(command.write(b"line\n" + b"x" * 2**25))
            done, _ = await asyncio.wait([writing], timeout=1.0)
            assert not done
            waiting = asyncio.create_task(command.wait())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await runner.run(("kill", "-KILL", said.decode().split()[0]))).returncode == 0
            assert await command.wait() == -9
            await writing

        self.run(runner, scenario)

    def test_started_command_reads_the_end_when_the_runner_is_closed(self, runner: Runner) -> None:
        async def scenario(runner: Runner) -> None:
            folder = await self.directory(runner)
            said = bytearray()
            script = f"echo here; cat; echo ended > {folder}/end"
            command = await runner.start(("sh", "-c", script), output=said.extend)
            await self.until_said(said, b"here")
            await runner.close()
            with contextlib.suppress(CommandFailed):  # its way is gone, too, where there was one
                assert await command.wait() == 0

            async def ended() -> bool:
                with contextlib.suppress(FileNotFoundError):
                    return bool(await runner.read_tail(f"{folder}/end"))
                return False

            await self.until(ended, "the command has read the end")

        self.run(runner, scenario)

    # ---------------------------------------------------------------------------------------------------------- connection

    def test_lost_connection_is_told_and_made_again(self, runner: Runner) -> None:
        if not self.can_lose:
            pytest.skip("a runner without a connection")

        async def scenario(runner: Runner) -> None:
            command: RunningCommand = await runner.start(("cat",), output=lambda _: None)
            running = asyncio.create_task(runner.run(("sleep", "68")))
            await runner.run(("true",))
            await self.lose(runner)
            for waiting in (command.wait(), running):
                with pytest.raises(CommandFailed, match="may still run") as caught:
                    await waiting
                assert caught.value.code == "HPC-CONNECTION-LOST"
            await command.write(b"nobody reads this")
            command.close()
            with pytest.raises(CommandFailed):
                await command.wait()
            assert (await runner.run(("echo", "again"))).stdout == "again\n"

        self.run(runner, scenario)
