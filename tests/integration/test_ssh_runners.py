"""Both SSH runners against real SSH servers: the runner contract, and what happens to connections."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop

from hpccluster.backend.registry import get_runner
from hpccluster.backend.remote import RemoteTarget
from hpccluster.backend.runner import LocalRunner, Runner
from hpccluster.testing.runner_contract import RunnerContract
from hpccluster_ssh.ssh_runner import SshRunner
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


def test_greetings_of_the_shell_are_not_the_commands(kind: str, ssh_hosts: PrivateHosts) -> None:
    async def scenario() -> None:
        runner = make(kind, ssh_hosts, user="noisy")
        try:
            result = await runner.run(("sh", "-c", "echo out; echo err >&2"))
            assert (result.stdout, result.stderr) == ("out\n", "err\n")
            said = bytearray()
            command = await runner.start(("sh", "-c", "echo out; echo err >&2"), output=said.extend)
            assert await command.wait() == 0
            assert bytes(said) == b"out\nerr\n"
        finally:
            await runner.close()

    asyncio.run(scenario())


def test_host_behind_a_jump_host(kind: str, ssh_hosts: PrivateHosts) -> None:
    async def scenario() -> None:
        for target in ({"host": "inner"}, {"host": ssh_hosts.address("inner"), "proxy_jump": "jump"}):
            runner = make(kind, ssh_hosts, **target)
            try:
                assert (await runner.run(("hostname",))).stdout == "inner\n"
                assert (await runner.run(("cat",), stdin="x" * 1_000_000)).stdout == "x" * 1_000_000
            finally:
                await runner.close()

    asyncio.run(scenario())
    assert not logins(ssh_hosts, "inner"), "closed connections are closed"
    assert not logins(ssh_hosts, "jump")


def logins(hosts: PrivateHosts, name: str) -> list[str]:
    """The connections of users to a host, as the host sees them."""
    listed = hosts.run(name, ["ss", "-Htn", "state", "established"]).stdout
    return [line for line in listed.splitlines() if f"{hosts.address(name)}:22 " in line]
