"""The exit code of the command for each kind of end: what scripts rely on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpccluster.testing.fake_commands import FakeSlurm
from support.command import COMMAND, Commands


def test_0_fine_2_wrong_usage_5_no_such_cluster(commands: Commands) -> None:
    commands.run("status", code=0)
    commands.run("stats", code=2)
    commands.run("up", "--set", "coers=1", code=2)
    commands.run("up", "--backend", "slrum", code=2)
    commands.run("jobs", "nobody", code=5)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_1_anything_else(commands: Commands) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "backends"], stdout=full, stderr=subprocess.PIPE, text=True, env=commands.variables(), timeout=30
        )
    assert done.returncode == 1
    assert done.stderr == "error: [Errno 28] No space left on device\n"


def test_3_refused_by_the_batch_system(commands: Commands) -> None:
    with FakeSlurm() as slurm:
        commands.environment["PATH"] = slurm.environment()["PATH"]
        slurm.fail("sbatch", stderr="sbatch: error: invalid partition specified: shrot")
        arguments = ("up", "--backend", "slurm", "--set", "cores=1", "--set", "memory=1GB", "--jobs", "1")
        assert "invalid partition specified: shrot" in commands.err(*arguments, code=3)


def test_4_a_job_died(commands: Commands) -> None:
    said = commands.err("demo", "--set", "job_script_prologue=[exit 9]", code=4)
    assert "HPC-JOB-PROLOGUE" in said


def test_6_not_allowed_124_timed_out_130_interrupted(commands: Commands) -> None:
    wait = "import time\nprint('ready')\nwhile True: time.sleep(0.1)"
    commands.out("submit", "--name", "mine", "--workers", "1", "--", sys.executable, "-c", wait)
    commands.run("wait", "mine", "--timeout", "0.1", code=124)
    with commands.started("logs", "-f", "mine") as following:
        following.wait_for("ready")
        following.process.send_signal(signal.SIGINT)
        assert following.wait() == 130
        assert "'mine' goes on" in following.output
    (commands.state / "mine" / "client.json").chmod(0o644)
    assert "is open to others" in commands.err("jobs", "mine", code=6)
    (commands.state / "mine" / "client.json").chmod(0o400)


def test_125_a_failure_of_ours_where_the_codes_are_the_programs(commands: Commands) -> None:
    submit = ("submit", "--name", "mine", "--workers", "1", "--wait")
    commands.run(*submit, "--", sys.executable, "-c", "raise SystemExit(77)", code=77)
    commands.run(*submit, "--set", "coers=1", "--", "true", code=125)
    commands.run("attach", "mine", "--", "true", code=125)
