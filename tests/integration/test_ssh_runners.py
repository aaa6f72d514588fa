"""Both SSH runners against real SSH servers: the runner contract, and what happens to connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from hpccluster.backend.registry import get_runner
from hpccluster.backend.remote import RemoteTarget
from hpccluster.backend.runner import LocalRunner, Runner
from hpccluster.errors import BackendUnavailable, CommandFailed
from hpccluster.testing.runner_contract import RunnerContract
from hpccluster_ssh import ssh_runner
from hpccluster_ssh.hop import Hop
from hpccluster_ssh.session import Link, LinkLost, Pipe, Session
from hpccluster_ssh.ssh_runner import SshRunner
from support.deadline import wait_until
from support.private_sshd import PrivateHosts

RUNNERS = ("asyncssh", "paramiko")


def make(kind: str, hosts: PrivateHosts, host: str = "host1", **settings: object) -> SshRunner:
    target = RemoteTarget(host=host, config_file=str(hosts.config_file), **settings)  # type: ignore[arg-type]
    runner = get_runner(kind)(target)
    assert isinstance(runner, SshRunner)
    return runner


@pytest.fixture(params=RUNNERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestLocalRunner(RunnerContract):
    @pytest.fixture
    def runner(self) -> Runner:
        return LocalRunner()


class TestSshRunner(RunnerContract):
    """By an account whose log-in shell prints greetings, which are not the command's."""

    can_lose = True

    @pytest.fixture
    def runner(self, kind: str, ssh_hosts: PrivateHosts) -> Runner:
        self.hosts = ssh_hosts
        return make(kind, ssh_hosts, user="noisy")

    def run_loop(self, work: Coroutine[Any, Any, None]) -> None:
        uvloop.run(work)

    async def lose(self, runner: Runner) -> None:
        self.hosts.crash("host1")
        self.hosts.up("host1")


def run_with(runner: SshRunner, scenario: Callable[[SshRunner], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        try:
            await scenario(runner)
        finally:
            await runner.close()

    asyncio.run(whole())


def logins(hosts: PrivateHosts, name: str) -> list[str]:
    """The connections of users to a host, as the host sees them."""
    listed = hosts.run(name, ["ss", "-Htn", "state", "established"]).stdout
    return [line for line in listed.splitlines() if f"{hosts.address(name)}:22 " in line]


def commands(hosts: PrivateHosts, name: str, word: str) -> list[str]:
    """The command lines of a host that begin so."""
    listed = hosts.run(name, ["ps", "-eo", "args"]).stdout
    return [line for line in listed.splitlines() if line.startswith(word)]


def test_greetings_of_the_shell_are_not_the_commands(kind: str, ssh_hosts: PrivateHosts) -> None:
    async def scenario(runner: SshRunner) -> None:
        result = await runner.run(("sh", "-c", "echo out; echo err >&2"))
        assert (result.stdout, result.stderr) == ("out\n", "err\n")
        said = bytearray()
        command = await runner.start(("sh", "-c", "echo out; echo err >&2"), output=said.extend)
        assert await command.wait() == 0
        assert bytes(said) == b"out\nerr\n"

    run_with(make(kind, ssh_hosts, user="noisy"), scenario)


def test_commands_share_one_connection(kind: str, ssh_hosts: PrivateHosts) -> None:
    async def scenario(runner: SshRunner) -> None:
        results = await asyncio.gather(*(runner.run(("echo", str(number))) for number in range(8)))
        assert [result.stdout for result in results] == [f"{number}\n" for number in range(8)]
        await runner.run(("true",))
        assert len(logins(ssh_hosts, "host1")) == 1

    run_with(make(kind, ssh_hosts), scenario)
    wait_until(lambda: not logins(ssh_hosts, "host1"), "the connection is closed")


def test_server_that_allows_few_commands_at_once(kind: str, ssh_hosts: PrivateHosts) -> None:
    """MaxSessions is 2 for this user: commands that go on for as long as they like need further connections."""

    async def scenario(runner: SshRunner) -> None:
        said = [bytearray() for _ in range(7)]
        cats = [await runner.start(("cat",), output=heard.extend) for heard in said]
        assert (await runner.run(("echo", "one more"))).stdout == "one more\n"
        assert len(logins(ssh_hosts, "host1")) >= 4
        for number, cat in enumerate(cats):
            await cat.write(f"{number}".encode())
            cat.close()
        assert [await cat.wait() for cat in cats] == [0] * 7
        assert [bytes(heard) for heard in said] == [f"{number}".encode() for number in range(7)]
        many = await asyncio.gather(*(runner.run(("echo", str(number))) for number in range(15)))
        assert [int(result.stdout) for result in many] == list(range(15))

    run_with(make(kind, ssh_hosts, user="narrow"), scenario)


def test_log_in_shell_that_never_comes_to_the_command(
    kind: str, ssh_hosts: PrivateHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_runner, "START_TIME", 1.0)

    async def scenario(runner: SshRunner) -> None:
        for work in (runner.run(("true",), timeout=1.0), runner.start(("true",), output=lambda _: None)):
            with pytest.raises(CommandFailed, match="the log-in shell did not start true within 1 s") as caught:
                await work
            assert caught.value.code == "HPC-SSH-SHELL"
            assert "Please wait." in str(caught.value)
            assert "start files" in str(caught.value)

    run_with(make(kind, ssh_hosts, user="stuck"), scenario)
    wait_until(lambda: not commands(ssh_hosts, "host1", "cat"), "the shell has ended")


class _Lost(Link):
    """A connection that the host closes as soon as it is made."""

    async def open(self, command: str, session: Session) -> Pipe:
        raise LinkLost

    async def close(self) -> None:
        pass


class _LosingRunner(SshRunner):
    made = 0

    async def connect(self, lost: Callable[[Link], None]) -> Link:
        self.made += 1
        link = _Lost(lost)
        link.set_lost()
        return link

    def resolve(self, target: RemoteTarget) -> Hop:
        raise AssertionError("not asked for")


def test_connections_that_are_lost_at_once_are_not_made_for_ever() -> None:
    async def scenario(runner: SshRunner) -> None:
        with pytest.raises(BackendUnavailable, match="lost as soon as it was made") as caught:
            await runner.run(("true",))
        assert caught.value.code == "HPC-SSH-UNREACHABLE"

    runner = _LosingRunner(RemoteTarget(host="n1"))
    run_with(runner, scenario)
    assert runner.made == 3


def test_host_that_is_cut_off_is_given_up_and_found_again(kind: str, ssh_hosts: PrivateHosts) -> None:
    async def scenario(runner: SshRunner) -> None:
        command = await runner.start(("cat",), output=lambda _: None)
        running = asyncio.create_task(runner.run(("sleep", "60")))
        await runner.run(("true",))
        ssh_hosts.cut("host2")
        begin = time.monotonic()
        for waiting in (command.wait(), running):
            with pytest.raises(CommandFailed, match="host2: the connection was lost") as caught:
                await waiting
            assert caught.value.code == "HPC-CONNECTION-LOST"
        assert time.monotonic() - begin < 15
        ssh_hosts.mend("host2")
        assert (await runner.run(("hostname",))).stdout == "host2\n"

    run_with(make(kind, ssh_hosts, "host2", keepalive=1.0), scenario)


def test_connection_that_was_lost_while_nobody_used_it(kind: str, ssh_hosts: PrivateHosts) -> None:
    async def scenario(runner: SshRunner) -> None:
        for silent in (False, True):
            await runner.run(("true",))
            if silent:
                ssh_hosts.cut("host3")
            ssh_hosts.crash("host3")
            ssh_hosts.mend("host3")
            ssh_hosts.up("host3")
            assert (await runner.run(("hostname",))).stdout == "host3\n"

    run_with(make(kind, ssh_hosts, "host3", keepalive=1.0), scenario)


def test_cancelled_at_any_time_nothing_goes_on(kind: str, ssh_hosts: PrivateHosts) -> None:
    async def scenario(runner: SshRunner) -> None:
        for moment in (0.0, 0.02, 0.05, 0.1, 0.2):
            tasks: list[asyncio.Task[Any]] = [asyncio.create_task(runner.run(("sleep", "61"))) for _ in range(4)]
            tasks += [asyncio.create_task(begin(runner)) for _ in range(2)]
            await asyncio.sleep(moment)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert (await runner.run(("echo", "fine"))).stdout == "fine\n"

    async def begin(runner: SshRunner) -> None:
        command = await runner.start(("cat",), output=lambda _: None)
        try:
            await command.wait()
        finally:
            command.close()

    run_with(make(kind, ssh_hosts), scenario)
    wait_until(lambda: not commands(ssh_hosts, "host1", "sleep"), "no command is left")
    wait_until(lambda: not commands(ssh_hosts, "host1", "cat"), "no started command is left")


def test_command_that_takes_too_long_is_killed_with_what_it_started(kind: str, ssh_hosts: PrivateHosts) -> None:
    async def scenario(runner: SshRunner) -> None:
        with pytest.raises(CommandFailed, match="was killed"):
            await runner.run(("sh", "-c", "sleep 62 & sleep 62; true"), timeout=0.7)

    run_with(make(kind, ssh_hosts), scenario)
    wait_until(lambda: not commands(ssh_hosts, "host1", "sleep 62"), "nothing of it is left")


def test_host_behind_a_jump_host(kind: str, ssh_hosts: PrivateHosts) -> None:
    async def scenario(runner: SshRunner) -> None:
        assert (await runner.run(("hostname",))).stdout == "inner\n"
        assert (await runner.run(("cat",), stdin="x" * 1_000_000)).stdout == "x" * 1_000_000

    for target in ({"host": "inner"}, {"host": ssh_hosts.address("inner"), "proxy_jump": "jump"}):
        run_with(make(kind, ssh_hosts, **target), scenario)
    for name in ("inner", "jump"):
        wait_until(lambda name=name: not logins(ssh_hosts, name), "the connections are closed")  # type: ignore[misc]


def test_the_first_host_on_the_way_is_known_without_a_connection(kind: str, ssh_hosts: PrivateHosts) -> None:
    for name, first in (("host1", "host1"), ("inner", "jump")):
        assert make(kind, ssh_hosts, name).first_host() == ssh_hosts.address(first)
    assert LocalRunner().first_host() == ""
