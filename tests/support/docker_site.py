"""The dockerised Slurm as a site: the user is logged in to a host that is neither the controller nor a node."""

from __future__ import annotations

import subprocess
import uuid

from support.docker_slurm import DockerSlurm
from support.sites import Site


class DockerSite(Site):
    """Slurm with accounting, whose hosts are containers."""

    backend = "slurm"
    end_job = 'subprocess.run(["scancel", job.id], check=True)'
    nodes = 2

    def __init__(self, slurm: DockerSlurm) -> None:
        self.slurm = slurm
        # a node of 4 cores holds two of them, and they are spread
        self.options = {"cores": 2, "processes": 1, "memory": "300MB", "walltime": "10min"}
        self.refused, self.refusal = {"queue": "shrot"}, "invalid partition specified: shrot"
        self.pending, self.why_pending = {"queue": "closed"}, "PartitionDown"
        self._marks: dict[int, str] = {}

    def start(self, body: str) -> subprocess.Popen[str]:
        # what is killed here is docker's client: the program is found by a mark in its command line
        mark = f"program-{uuid.uuid4().hex}"
        process = self.slurm.popen_as_user([self.slurm.python, "-c", self.program(body), mark])
        self._marks[process.pid] = mark
        return process

    def kill(self, process: subprocess.Popen[str]) -> None:
        mark = self._marks.pop(process.pid)  # in brackets, so that the pattern does not match the command that holds it
        self.slurm.run("login", ["pkill", "--signal=KILL", "--full", f"[{mark[0]}]{mark[1:]}"])
        super().kill(process)

    def left(self) -> list[str]:
        return self.slurm.queue() + self.slurm.processes()
