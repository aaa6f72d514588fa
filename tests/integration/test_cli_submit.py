"""Programs with clusters of their own on this machine: submitted, looked at, followed, waited for, stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster_processes import processes_of, wait_until_gone
from support.command import COMMAND, Commands
from support.deadline import wait_until

PROGRAM = """\
import sys
from hpccluster import Client
with Client() as client:
    print("sum", sum(client.gather(client.map(abs, range(-5, 5)))))
sys.exit(int(sys.argv[1]))
"""
STAYS = """\
import time
from pathlib import Path
print("ready", flush=True)
while not Path("end").exists():
    time.sleep(0.05)
print("over", flush=True)
"""


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands.below(tmp_path)
    (made.directory / "program.py").write_text(PROGRAM)
    (made.directory / "stays.py").write_text(STAYS)
    yield made
    wait_until_gone(made.state)


def submit(commands: Commands, *arguments: str, name: str = "sweep", code: int = 0) -> str:
    done = commands.run("submit", "--name", name, "--workers", "1", *arguments, code=code)
    return done.stdout + done.stderr


def state_of(commands: Commands, name: str = "sweep") -> str:
    return str(json.loads(commands.out("status", name, "--json"))["state"])


def test_a_program_finds_its_cluster_and_keeps_its_exit_code(commands: Commands) -> None:
    waited = commands.run(
        "submit", "--name", "sweep", "--workers", "1", "--wait", "--", sys.executable, "program.py", "3", code=3
    )
    assert waited.stdout == "sum 25\n"  # stdout is the program's
    said = waited.stderr
    assert said.startswith("submitted 'sweep'   program and head: here (")
    for verb in ("logs -f", "status", "down"):
        assert f"hpccluster {verb} sweep" in said
    assert "survives logout" in said
    assert commands.out("logs", "sweep") == "sum 25\n"
    assert commands.run("wait", "sweep", code=3).stdout == ""
    facts = json.loads(commands.out("status", "sweep", "--json"))
    assert facts["state"] == "finished"
    assert facts["program"]["exit_code"] == 3
    assert "finished, exit code 3" in commands.out("status", "sweep")
    assert re.search(r"finished, exit code 3, \d+\w+ ago", commands.out("status"))
    assert "has ended" in commands.err("jobs", "sweep", code=5)
    assert "has ended" in commands.err("down", "sweep", code=5)


def test_a_running_program_is_looked_at_and_stopped(commands: Commands) -> None:
    submit(commands, "--", sys.executable, "stays.py")
    assert state_of(commands) == "running"
    assert "is running already" in submit(commands, "--", sys.executable, "stays.py", code=2)
    wait_until(lambda: json.loads(commands.out("workers", "sweep", "--json")), "a worker")
    (job,) = json.loads(commands.out("jobs", "sweep", "--json"))
    assert job["state"] == "RUNNING"
    assert job["workers"] == 1
    assert "1/1" in commands.out("jobs", "sweep")
    assert "2 jobs" in commands.out("scale", "sweep", "2")
    assert len(json.loads(commands.out("jobs", "sweep", "--json"))) == 2
    assert "stage" in commands.out("logs", "sweep", "--job", job["name"])
    assert commands.out("logs", "sweep", "--head")
    assert "goes on" in commands.err("wait", "sweep", "--timeout", "0.1", code=124)
    down = commands.run("down", "nothing", "sweep", "never", code=5)
    assert "stopped 'sweep': 2 jobs cancelled and gone" in down.stdout
    assert "no cluster 'nothing'" in down.stderr
    assert "no cluster 'never'" in down.stderr
    wait_until_gone(commands.state)
    assert commands.out("logs", "sweep") == "ready\n"
    assert state_of(commands) == "killed"


def test_logs_are_followed_to_the_programs_end(commands: Commands) -> None:
    submit(commands, "--", sys.executable, "stays.py")
    with commands.started("logs", "-f", "sweep") as logs:
        logs.wait_for("ready")
        logs.process.send_signal(signal.SIGINT)
        assert logs.wait() == 130
        assert "'sweep' goes on; stop it with: hpccluster down sweep" in logs.output
    with commands.started("logs", "-f", "sweep") as logs:
        logs.wait_for("ready")
        (commands.directory / "end").touch()
        assert logs.wait() == 0
        assert logs.output == "ready\nover\n"


def test_an_interrupt_leaves_the_program_running(commands: Commands) -> None:
    with commands.started("submit", "--name", "sweep", "--wait", "--", sys.executable, "stays.py") as submitted:
        submitted.wait_for("survives logout")
        submitted.process.send_signal(signal.SIGINT)
        assert submitted.wait() == 130
        assert "'sweep' goes on; stop it with: hpccluster down sweep" in submitted.output
    assert state_of(commands) == "running"
    (commands.directory / "end").touch()
    assert commands.run("wait", "sweep").returncode == 0


def test_a_program_that_cannot_run_leaves_nothing(commands: Commands) -> None:
    (commands.directory / "no.yaml").write_text("backend: local\ncoers: 1\n")
    (commands.directory / "no.yaml").chmod(0o600)
    assert "no such program" in submit(commands, "--wait", "--", "./nothing", code=125)
    assert "no.yaml line 2" in submit(commands, "-c", "no.yaml", "--", sys.executable, "stays.py", code=2)
    assert not processes_of(commands.state)


def test_the_demo_computes_and_cleans_up(commands: Commands) -> None:
    done = commands.run("demo")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("STATION")
    assert len(lines) == 10
    assert lines[1].startswith("granite-pass")
    assert lines[-1].startswith("done in ")
    assert "\x1b" not in done.stdout + done.stderr
    wait_until_gone(commands.state)
    assert not list(commands.state.iterdir())


def test_a_head_that_was_killed_is_said_to_be_lost(commands: Commands) -> None:
    submit(commands, "--", sys.executable, "stays.py")
    os.kill(json.loads(commands.out("status", "sweep", "--json"))["pid"], signal.SIGKILL)
    wait_until(lambda: state_of(commands) == "lost", "the lost cluster")
    for arguments in (["jobs", "sweep"], ["wait", "sweep"], ["logs", "-f", "sweep"]):
        assert "has died" in commands.err(*arguments, code=5)
    assert commands.out("down", "sweep") == "its head had died; put in order 'sweep': no jobs were left\n"
    assert state_of(commands) == "killed"
    assert "was stopped before its end: its head has died" in commands.err("wait", "sweep", code=5)
    (commands.directory / "end").touch()
    submit(commands, "--wait", "--", sys.executable, "program.py", "0")


def test_a_program_does_not_outlive_its_killed_head(commands: Commands) -> None:
    submit(commands, "--", sys.executable, "stays.py")
    head = json.loads(commands.out("status", "sweep", "--json"))["pid"]
    os.kill(head, signal.SIGKILL)
    wait_until_gone(commands.state)
    assert state_of(commands) == "lost"
    assert "has died" in commands.err("jobs", "sweep", code=5)


def test_what_is_not_text_is_told_and_keeps_no_program_from_running(commands: Commands) -> None:
    commands.environment["ODD"] = os.fsdecode(b"caf\xe9")
    done = commands.run(
        "submit", "--workers", "1", "--wait", "--", sys.executable, "-c", "import os; print('ODD' in os.environ)"
    )
    assert done.stdout == "False\n"
    assert "does not get these variables, which are not UTF-8 text: 'ODD'" in done.stderr
    odd = os.fsdecode(b"print('caf\xe9')")
    assert "arguments are not UTF-8 text" in submit(commands, "--wait", "--", sys.executable, "-c", odd, code=125)
    assert "--set: not UTF-8 text" in commands.err("script", "--set", f"shebang={odd}", code=2)


def test_a_file_that_is_no_program_is_told_from_one_that_is_not_there(commands: Commands) -> None:
    assert "fix: python ./stays.py" in submit(commands, "--", "./stays.py", code=2)
    assert "cannot run 'stays': no such program" in submit(commands, "--", "stays", code=2)


def test_waiting_for_a_cluster_that_had_no_program(commands: Commands) -> None:
    commands.out("up", "--name", "plain", "--workers", "1")
    commands.out("down", "plain")
    assert "cluster 'plain' had no program, and has ended: it was told to" in commands.err("wait", "plain", code=5)


def test_closed_streams_are_no_trouble(commands: Commands) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *COMMAND, "up", "--name", "quiet", "--workers", "1"],
        cwd=commands.directory,
        env=commands.variables(),
        timeout=50,
    )
    assert done.returncode == 0
    assert state_of(commands, "quiet") == "running"
    assert commands.out("down", "quiet").startswith("stopped 'quiet'")


def test_a_home_that_nobody_has_is_named(commands: Commands) -> None:
    for arguments in (["script", "-c", "~nouser/x.yaml"], ["config", "validate", "~nouser/x.yaml"]):
        assert "'~nouser/x.yaml': could not determine home directory" in commands.err(*arguments, code=2)
    commands.environment["HPCCLUSTER_STATE_DIRECTORY"] = "~nouser/x"
    said = commands.run("status", code=2)
    commands.environment.clear()
    assert "$HPCCLUSTER_STATE_DIRECTORY='~nouser/x': could not determine home directory" in said.stderr


def test_the_words_of_a_program_are_its_own_also_without_dashes(commands: Commands) -> None:
    says = ("-c", "import sys; print(sys.argv[1:])", "--debug", "--wait")
    done = commands.run("submit", "--name", "sweep", "--workers", "1", "--wait", sys.executable, *says)
    assert done.stdout == "['--debug', '--wait']\n"
    assert "no such program" in commands.err("submit", "nothing", "--wait", code=2)  # its --wait, not ours
    code, narrow = commands.at_terminal("backends", columns=40)
    assert code == 0
    assert all(name in narrow for name in ("BACKEND", "local", "slurm", "ssh"))
