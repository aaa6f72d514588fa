"""Places where clusters live, as one kind of thing: what a test needs to use each of them as its user would.

A scenario is a program of its own, run at the site, that prints what it saw as one JSON line; looking whether anything is
left is done from outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from hpccluster.testing.fake_pbs import FakePBS
from support.cluster_processes import VARIABLE, processes_of
from support.deadline import wait_until
from support.private_slurm import PrivateSlurm
from support.private_sshd import HOSTS, PrivateHosts
from support.slurm_programs import processes, queue_of

HEADER = """
import json, os, subprocess, sys, time
from hpccluster import Client, ClusterManager, wait
from hpccluster.errors import HpcClusterError

BACKEND, OPTIONS = json.loads({description!r})

def make(**changes):
    size = {{}} if "n_workers" in changes else {{"scale": {{"jobs": 0}}}}
    return ClusterManager(BACKEND, **(OPTIONS | size | changes))

def live(cluster):
    return [job for job in cluster.jobs if job.phase != "over"]

def until(question, seconds=60):
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)
    return answer

def say(**facts):
    print(json.dumps(facts), flush=True)
"""


class Site(ABC):
    """One backend and the system behind it. Its jobs have one worker each."""

    backend: ClassVar[str]
    is_real: ClassVar[bool] = True
    options: Mapping[str, Any]
    """Of a small job."""
    refused: Mapping[str, Any] | None = None
    """Changes that make every job refused; None where nothing is."""
    refusal: str = ""
    """What the system says to them."""
    pending: Mapping[str, Any] | None = None
    """Changes that make every job wait for ever; None where none waits."""
    why_pending: str = ""
    """What the system says of those."""
    nodes: int = 1
    """On how many hosts, by their names, three jobs run."""

    def program(self, body: str) -> str:
        """The whole text of a program."""
        return HEADER.format(description=json.dumps([self.backend, dict(self.options)])) + textwrap.dedent(body)

    @abstractmethod
    def start(self, body: str) -> subprocess.Popen[str]:
        """Start a program; its standard streams are pipes."""

    def kill(self, process: subprocess.Popen[str]) -> None:
        """End a started program by SIGKILL."""
        process.kill()
        process.wait()

    def run(self, body: str, timeout: float = 100.0) -> dict[str, Any]:
        """What a program said last. It must end well and say nothing unexpected."""
        process = self.start(body)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            self.kill(process)
        assert process.returncode == 0, out + err
        said: dict[str, Any] = json.loads(out.splitlines()[-1])
        return said | {"stderr": err}

    @abstractmethod
    def left(self) -> list[str]:
        """Jobs and processes of clusters that exist now."""

    def wait_until_empty(self, timeout: float = 30.0) -> None:
        """Until nothing is left."""
        wait_until(lambda: not self.left(), f"nothing left on {self.backend}: {self.left()}", timeout=timeout)

    @property
    @abstractmethod
    def end_job(self) -> str:
        """An expression of a program that ends ``job`` (a row of `cluster.jobs`) behind the cluster's back."""


class LocalSite(Site):
    """This machine."""

    backend = "local"
    end_job = "os.kill(next(w.pid for w in cluster.workers if w.job == job.name), 9)"

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.directory = directory
        self.options = {"cores": 1, "memory": "400MB"}

    def start(self, body: str) -> subprocess.Popen[str]:
        return popen([sys.executable, "-c", self.program(body)], self.directory, self.environment())

    def environment(self) -> dict[str, str]:
        return {**os.environ, VARIABLE: str(self.state)}

    def left(self) -> list[str]:
        return list(processes_of(self.state).values())


class SlurmSite(Site):
    """A private Slurm of several nodes, as an ordinary user of it."""

    backend = "slurm"
    end_job = 'subprocess.run(["scancel", job.id], check=True)'
    nodes = 3

    def __init__(self, slurm: PrivateSlurm) -> None:
        self.slurm = slurm
        # so large that a node holds one of them
        self.options = {"cores": 3, "processes": 1, "memory": "300MB", "walltime": "10min"}
        self.refused, self.refusal = {"queue": "shrot"}, "invalid partition specified: shrot"
        self.pending, self.why_pending = {"queue": "closed"}, "PartitionDown"

    def start(self, body: str) -> subprocess.Popen[str]:
        return self.slurm.popen_as_user([self.slurm.python, "-c", self.program(body)])

    def left(self) -> list[str]:
        return queue_of(self.slurm) + processes(self.slurm)


class PBSSite(Site):
    """The fake commands of a PBS: jobs are processes of this machine, in an environment of their own."""

    backend = "pbs"
    is_real = False
    end_job = 'subprocess.run(["qdel", job.id], check=True)'

    def __init__(self, pbs: FakePBS, directory: Path) -> None:
        self.pbs = pbs
        self.state = directory / "state"
        self.directory = directory
        self.options = {"cores": 1, "memory": "400MB", "walltime": "10min"}
        self.refused, self.refusal = {"queue": "wrokq"}, "Unknown queue"
        self.pending, self.why_pending = {"queue": "stopped"}, "Not Running: Queue not started."

    def start(self, body: str) -> subprocess.Popen[str]:
        return popen([sys.executable, "-c", self.program(body)], self.directory, self.environment())

    def environment(self) -> dict[str, str]:
        return self.pbs.environment(**{VARIABLE: str(self.state)})

    def left(self) -> list[str]:
        jobs = [f"{job.id} {job.state}" for job in list(self.pbs.jobs.values()) if not job.is_over]
        return jobs + list(processes_of(self.state).values())


class SSHSite(Site):
    """Hosts with an sshd each, which share no files with one another or with this one."""

    backend = "ssh"
    nodes = len(HOSTS)

    def __init__(self, hosts: PrivateHosts, directory: Path) -> None:
        self.hosts = hosts
        self.state = directory / "state"
        self.directory = directory
        self.options = {
            "hosts": list(HOSTS),
            "connect_options": {"config_file": str(hosts.config_file)},
            "python": hosts.python,
            "cores": 1,
            "memory": "400MB",
        }

    @property
    def end_job(self) -> str:
        kill = "for w in cluster.workers if w.job == job.name for words in [[w.host, 'kill', '-9', str(w.pid)]]"
        return f'[subprocess.run(["ssh", "-F", "{self.hosts.config_file}", *words], check=True) {kill}]'

    def start(self, body: str) -> subprocess.Popen[str]:
        environment = {**os.environ, VARIABLE: str(self.state)}
        return popen([sys.executable, "-c", self.program(body)], self.directory, environment)

    def left(self) -> list[str]:
        found = list(processes_of(self.state).values())
        for host in HOSTS:
            for pid in self.hosts.processes(host):
                with contextlib.suppress(OSError):
                    line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found += [f"{host}: {line}"] if "hpccluster.runtime" in line or "job.sh" in line else []
        return found


def popen(argv: list[str], directory: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """A process whose standard streams are pipes of text."""
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=directory, env=environment)
