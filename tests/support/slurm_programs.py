"""Programs that are run as the user of a private Slurm, and what is looked at afterwards."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from support.private_slurm import PrivateSlurm

HEADER = """
import json, os, subprocess, sys, time
from hpccluster import Client, ClusterManager, SLURMCluster, wait
from hpccluster.errors import HpcClusterError

def squeue():
    text = subprocess.run(["squeue", "--me", "-h", "-o", "%j %T"], capture_output=True, text=True, check=True).stdout
    return sorted(line.split() for line in text.splitlines())

def until(question, seconds=40):
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)

def say(**facts):
    print(json.dumps(facts), flush=True)

def where(x):
    return os.environ["SLURMD_NODENAME"], x * x

SMALL = dict(cores=2, processes=2, memory="400MB", walltime="00:10:00")
"""


def program(body: str) -> str:
    """A whole program: the usual imports and helpers, then ``body``."""
    return HEADER + textwrap.dedent(body)


def run(slurm: PrivateSlurm, body: str, *, timeout: float = 100.0) -> dict[str, Any]:
    """What the program said last; it must end well and say nothing unexpected."""
    done = slurm.run_as_user([slurm.python, "-c", program(body)], timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    said["stderr"] = done.stderr
    return said


def queue_of(slurm: PrivateSlurm) -> list[str]:
    """The jobs of the user: id, name and state a line."""
    done = slurm.run_as_user(["squeue", "--me", "-h", "-o", "%A %j %T"])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def assert_nothing_left(slurm: PrivateSlurm) -> None:
    """No job is in the queue."""
    assert queue_of(slurm) == []


def processes(slurm: PrivateSlurm) -> list[str]:
    """Command lines of hpccluster's processes of this Slurm's user."""
    done = slurm.run_as_user(
        ["ps", "-u", str(slurm.user or ""), "-o", "args="] if slurm.user else ["ps", "x", "-o", "args="]
    )
    return [line for line in done.stdout.splitlines() if "hpccluster." in line and str(slurm.directory) in line]
