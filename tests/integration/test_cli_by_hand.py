"""A scheduler by hand, asked and ended by the other verbs: real processes, real files."""

from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

from support.cluster_processes import files_of
from support.command import Commands


def test_a_scheduler_says_how_to_join_and_leaves_nothing_behind(commands: Commands) -> None:
    with commands.started("scheduler", "--name", "brave-heron", "--host", "127.0.0.1", "--port", "0") as scheduler:
        said = scheduler.wait_for("connect ")
        address = re.search(r"address +(tls://127\.0\.0\.1:\d+)", said)
        assert address is not None
        assert said.startswith("hpccluster scheduler 'brave-heron'")
        assert "hpccluster worker brave-heron" in said
        assert f'Client("brave-heron")  or  Client("{address[1]}")' in said
        folder = commands.state / "brave-heron"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for role in ("client", "worker"):
            assert stat.S_IMODE((folder / f"{role}.json").stat().st_mode) == 0o400

        facts = json.loads(commands.out("status", "brave-heron", "--json"))
        assert facts["state"] == "running"
        assert facts["address"] == address[1]
        assert facts["workers"] == 0
        assert "running" in commands.out("status")
        assert json.loads(commands.out("jobs", "brave-heron", "--json")) == []
        assert commands.out("workers", "brave-heron") == "no workers\n"
        assert "starts no workers" in commands.err("scale", "brave-heron", "2", code=2)
        assert "writes to its terminal" in commands.err("logs", "brave-heron", code=3)
        assert "is running already" in commands.err("scheduler", "--name", "brave-heron", code=2)

        scheduler.process.send_signal(signal.SIGINT)
        assert scheduler.wait() == 130
    assert files_of(commands.state) == []


def test_down_ends_a_scheduler(commands: Commands) -> None:
    with commands.started("scheduler", "--name", "x", "--host", "127.0.0.1", "--port", "0") as scheduler:
        scheduler.wait_for("connect ")
        assert commands.out("down", "x") == "stopped 'x': no jobs were left\n"
        assert scheduler.wait() == 0
    assert "no cluster 'x'" in commands.err("down", "x", code=5)
    assert files_of(commands.state) == []


def test_nobody_waits_for_a_scheduler_that_was_killed(commands: Commands) -> None:
    with commands.started("scheduler", "--name", "x", "--host", "127.0.0.1", "--port", "0") as scheduler:
        scheduler.wait_for("connect ")
        scheduler.process.kill()
        scheduler.wait()
    assert "the head of cluster 'x' has died" in commands.err("worker", "x", code=5)


def test_plain_tcp_comes_with_a_warning(commands: Commands) -> None:
    arguments = ("scheduler", "--name", "open", "--host", "127.0.0.1", "--port", "0", "--protocol", "tcp")
    with commands.started(*arguments) as scheduler:
        said = scheduler.wait_for("warning: ")
        assert "tcp://127.0.0.1:" in said
        assert "anyone who reaches this port can run code as you" in scheduler.wait_for("run code as you")
        assert json.loads(commands.out("status", "open", "--json"))["workers"] == 0
        scheduler.process.terminate()
        assert scheduler.wait() == 0


def test_credentials_are_exported_for_one_role(commands: Commands, tmp_path: Path) -> None:
    with commands.started("scheduler", "--name", "x", "--host", "127.0.0.1", "--port", "0") as scheduler:
        scheduler.wait_for("connect ")
        exported = json.loads(commands.out("credentials", "export", "x", "--role", "worker"))
        assert exported["role"] == "worker"
        copy = tmp_path / "copy.json"
        commands.run("credentials", "export", "x", "--role", "client", "-o", str(copy))
        assert stat.S_IMODE(copy.stat().st_mode) == 0o400
        assert json.loads(copy.read_text())["role"] == "client"
        assert "exists" in commands.err("credentials", "export", "x", "--role", "client", "-o", str(copy), code=6)
        scheduler.process.terminate()
        assert scheduler.wait() == 0
        wrong = commands.err("worker", "--connection-file", str(copy), code=6)
        assert str(copy) in wrong
        assert "client" in wrong
        assert len(wrong.splitlines()) <= 3
        copy.chmod(0o644)
        assert "chmod" in commands.err("worker", "--connection-file", str(copy), code=6)


def test_a_worker_without_a_scheduler_is_one_error(commands: Commands) -> None:
    assert "no cluster" in commands.err("worker", "nobody", code=5)
    assert "--plain" in commands.err("worker", "tcp://127.0.0.1:1", code=6)
    assert "an address begins with" in commands.err("worker", "http://127.0.0.1:1", code=2)
    assert "tcp://HOST:PORT" in commands.err("worker", "tls://127.0.0.1:1", "--plain", code=2)
    assert "not a size" in commands.err("worker", "tcp://127.0.0.1:1", "--plain", "--memory-limit", "much", code=2)


def test_three_terminals(commands: Commands) -> None:
    with commands.started("scheduler", "--name", "hand", "--host", "127.0.0.1", "--port", "0") as scheduler:
        said = scheduler.wait_for("connect ")
        address = re.search(r"tls://[\d.:]+", said)
        assert address is not None
        arguments = ("--nworkers", "2", "--nthreads", "1", "--memory-limit", "1GiB", "--name", "mine")
        with commands.started("worker", address[0], *arguments) as worker:
            worker.wait_for("worker mine-1 ")  # either may be first
            line = re.search(r"(?m)^.*worker mine-0 .*$", worker.wait_for("worker mine-0 "))
            assert line is not None
            assert f"registered with {address[0]}  (1 thread, 1.0 GiB)" in line[0]
            scheduler.wait_for("worker mine-1 ")
            scheduler.wait_for("worker mine-0 ")
            names = [it["name"] for it in json.loads(commands.out("workers", "hand", "--json"))]
            assert sorted(names) == ["mine-0", "mine-1"]
            program = "from hpccluster import Client\nprint(Client('hand').submit(pow, 2, 10).result())"
            run = subprocess.run(
                [sys.executable, "-c", program], env=commands.variables(), capture_output=True, text=True, timeout=30
            )
            assert run.stdout == "1024\n", run.stderr
            scheduler.process.send_signal(signal.SIGINT)
            assert scheduler.wait() == 130
            assert worker.wait() == 0
    assert files_of(commands.state) == []


def test_a_worker_of_a_plain_scheduler_needs_an_explicit_word(commands: Commands, tmp_path: Path) -> None:
    arguments = ("scheduler", "--name", "open", "--host", "127.0.0.1", "--port", "0", "--protocol", "tcp")
    with commands.started(*arguments) as scheduler:
        address = re.search(r"tcp://[\d.:]+", scheduler.wait_for("warning: "))
        assert address is not None
        elsewhere = Commands.below(tmp_path / "elsewhere")
        assert "--plain" in elsewhere.err("worker", address[0], code=6)
        with elsewhere.started("worker", address[0], "--plain", "--nthreads", "1") as worker:
            worker.wait_for("registered with tcp://")
            assert commands.run("down", "open").returncode == 0
            assert worker.wait() == 0


def test_a_worker_that_finds_nobody_has_our_exit_code(commands: Commands) -> None:
    done = commands.run("worker", "tcp://127.0.0.1:1", "--plain", "--death-timeout", "0.5", code=5)
    assert "Traceback" not in done.stderr
