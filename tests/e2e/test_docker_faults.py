"""What befalls a machine room, on hosts that really are separate: the end of walltime, a dead node, a cut cable, a hang.

The program and its head are on the login host. One job a node, each with workers that hold data and work; the fault
strikes one node. Every result must come out right, and nothing be left behind.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.deadline import wait_until
from support.docker_site import DockerSite
from support.docker_slurm import NODES, DockerSlurm

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

OUTAGE = 6.0
"""Seconds: less than Slurm (10) and workers and head (20) bear with."""

WORK = """
    import socket

    def block(n):
        return bytes([n]) * 200_000

    def slow(n):
        time.sleep(0.3)
        return n * n

    def where(n):
        time.sleep(0.3)
        return socket.gethostname(), n * n

    with make(n_workers=2, **CHANGES) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(2, timeout=60)
        until(lambda: len({job.node for job in live(cluster)} - {""}) == 2)
        data = client.map(block, range(8))
        wait(data, timeout=30)
        first = [job.id for job in cluster.jobs]
        victim = max(cluster.jobs, key=lambda job: job.node)
        futures = client.map(slow, range(120))
        client.gather(futures[:4])
        workers = sorted([worker.host, worker.pid] for worker in cluster.workers)
        say(node=victim.node, job=victim.id)
        sys.stdin.readline()
        results = client.gather(futures, timeout=120)
        blocks = [value == block(n) for n, value in enumerate(client.gather(data, timeout=60))]
        cluster.wait_for_workers(2, timeout=90)
        after = client.gather(client.map(where, range(20)), timeout=60)
        same = workers == sorted([worker.host, worker.pid] for worker in cluster.workers)
        (struck,) = [str(job.state) for job in cluster.jobs if job.id == victim.id]
        new = [job.id for job in live(cluster) if job.id not in first]
        say(results=results, blocks=blocks, after=[value for _, value in after], struck=struck, new=new, same=same, hosts=sorted({host for host, _ in after}), live=len(live(cluster)))
"""


class Working:
    """A program at work on two nodes; ``node`` and ``job`` are what the fault is meant for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"the program did not begin to work: {process.communicate(timeout=20)}")
        said = json.loads(line)
        self.node: str = said["node"]
        self.job: str = said["job"]

    def result(self) -> dict[str, Any]:
        """What has become of it; checked for what holds after every fault."""
        out, err = self._process.communicate("\n", timeout=300)
        assert self._process.returncode == 0, out + err
        said: dict[str, Any] = json.loads(out.splitlines()[-1])
        assert said["results"] == [n * n for n in range(120)]
        assert said["blocks"] == [True] * 8
        assert said["after"] == [n * n for n in range(20)]
        assert said["live"] == 2
        return said


Work = Callable[..., contextlib.AbstractContextManager[Working]]


@pytest.fixture
def work(docker_slurm: DockerSlurm) -> Iterator[Work]:
    """Starts the program; at the end all nodes are mended, and the queue and the hosts are empty by themselves."""
    site = DockerSite(docker_slurm)

    @contextlib.contextmanager
    def working(**changes: Any) -> Iterator[Working]:
        process = site.start(WORK.replace("**CHANGES", f"**{changes!r}"))
        try:
            yield Working(process)
        finally:
            site.kill(process)

    yield working
    docker_slurm.mend()
    site.wait_until_empty(timeout=60)


def test_a_node_loses_power(docker_slurm: DockerSlurm, work: Work) -> None:
    with work(requeue=True) as program:
        docker_slurm.crash(program.node)
        said = program.result()
        assert docker_slurm.state_of(program.node) == "down*"
    # Slurm has started the same job again, on the node that is left
    assert (said["struck"], said["new"]) == ("RUNNING", [])
    assert said["hosts"] == sorted({*NODES} - {program.node})


def test_a_cable_that_is_pulled_for_some_seconds_costs_nothing(docker_slurm: DockerSlurm, work: Work) -> None:
    with work() as program:
        with docker_slurm.unplugged(program.node):
            time.sleep(OUTAGE)
        said = program.result()
    assert (said["struck"], said["new"], said["same"]) == ("RUNNING", [], True)


def test_a_node_hangs_and_wakes_up(docker_slurm: DockerSlurm, work: Work) -> None:
    with work(requeue=False) as program:
        docker_slurm.freeze(program.node)
        said = program.result()
    assert (said["struck"], len(said["new"])) == ("NODE_FAIL", 1)
    assert said["hosts"] == sorted({*NODES} - {program.node})


def test_a_node_is_cut_off_and_comes_back(docker_slurm: DockerSlurm, work: Work) -> None:
    # (requeued, the job might be sent back to this node before its former self has ended there)
    with work(requeue=False) as program:
        docker_slurm.cut_off(program.node)
        wait_until(lambda: docker_slurm.state_of(program.node) == "down*", "Slurm misses the node", timeout=60)
        docker_slurm.reconnect(program.node)
        program.result()


def test_the_end_of_walltime_costs_no_task(docker_slurm: DockerSlurm, work: Work) -> None:
    with work() as program:
        docker_slurm.admin("scontrol", "update", f"jobid={program.job}", "EndTime=now+1")

        def is_over() -> bool:
            asked = docker_slurm.admin("squeue", "--noheader", "--states=running", "--format=%A")
            return program.job not in asked.split()

        wait_until(is_over, "the end of the job", timeout=60)
        said = program.result()
    assert (said["struck"], len(said["new"])) == ("TIMEOUT", 1)


def test_nodes_are_separate_hosts(docker_slurm: DockerSlurm) -> None:
    """The head on the login host, each worker on a host of its own, by address and by name."""
    said = DockerSite(docker_slurm).run(
        """
        import socket
        with make(n_workers=2) as cluster, Client(cluster) as client:
            cluster.wait_for_workers(2, timeout=60)
            until(lambda: all(job.node for job in cluster.jobs))
            hosts = [client.submit(socket.gethostname, workers=[worker.name]).result(30) for worker in cluster.workers]
            head = json.load(open(cluster.directory / "head.json"))
            say(here=socket.gethostbyname(socket.gethostname()), head=head, hosts=hosts, program=socket.gethostname(),
                addresses=[worker.host for worker in cluster.workers], jobs=[job.node for job in cluster.jobs])
        """
    )
    assert said["program"] == said["head"]["host"] == "login"
    assert sorted(said["hosts"]) == sorted(said["jobs"]) == list(NODES)
    assert len({said["here"], *said["addresses"]}) == 3
