"""``hpccluster submit`` as at a site: the program and its head stay on the login host when the user has logged out."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.deadline import wait_until
from support.docker_slurm import NODES, DockerSlurm

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

DESCRIPTION = """\
backend: slurm
cores: 2
processes: 2
memory: 400MB
walltime: "00:10:00"
account: {account}
scale: {{jobs: 2}}
"""

SWEEP = """
import os, socket, sys, time
from hpccluster import Client

def work(n):
    return socket.gethostname(), n * n

with Client() as client:
    client.wait_for_workers(4, timeout=60)
    done = client.gather(client.map(work, range(1000)))
    print("total", sum(value for _, value in done), "on", *sorted({host for host, _ in done}), flush=True)
    while not os.path.exists("go-on"):
        time.sleep(0.1)
sys.exit(3)
"""


class Login:
    """A user's sessions on the login host: each command is one of its own."""

    def __init__(self, slurm: DockerSlurm, name: str) -> None:
        self.slurm = slurm
        self.directory = f"{slurm.home}/{name}"
        self.shell(f"mkdir -p {self.directory}")

    def shell(self, line: str, code: int = 0) -> str:
        """What a line of shell says; it must end with that code."""
        done = self.slurm.run_as_user(["sh", "-c", f"cd {self.slurm.home}; cd {self.directory} 2>/dev/null; {line}"])
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    def write(self, name: str, text: str) -> None:
        self.slurm.write(f"{self.directory}/{name}", text)


@pytest.fixture
def login(docker_slurm: DockerSlurm, request: pytest.FixtureRequest) -> Iterator[Login]:
    yield Login(docker_slurm, request.node.name)
    wait_until(lambda: docker_slurm.queue() + docker_slurm.processes() == [], "neither jobs nor processes", timeout=30)


def test_a_submitted_program_outlives_the_session(login: Login) -> None:
    login.write("cluster.yaml", DESCRIPTION.format(account="astro"))
    login.write("sweep.py", SWEEP)
    said = login.shell("hpccluster submit -c cluster.yaml --name sweep -- python sweep.py")
    assert "Plan: 2 jobs x 2 workers" in said
    total = f"total {sum(n * n for n in range(1000))} on {' '.join(NODES)}\n"
    wait_until(lambda: login.shell("hpccluster logs sweep") == total, "the program's output", timeout=60)
    status = json.loads(login.shell("hpccluster status sweep --json"))
    assert status["state"] == "running"
    jobs = json.loads(login.shell("hpccluster jobs sweep --json"))
    assert sorted(job["node"] for job in jobs) == list(NODES)
    accounts = login.slurm.admin("squeue", "--noheader", "--format=%a %k").splitlines()
    assert [line.split()[0] for line in accounts] == ["astro"] * 2
    assert all(line.endswith("head login") for line in accounts)  # the comment says where the head is
    login.shell("touch go-on")
    login.shell("hpccluster wait sweep", code=3)
    finished = json.loads(login.shell("hpccluster status sweep --json"))
    assert (finished["state"], finished["program"]["exit_code"]) == ("finished", 3)
    wait_until(lambda: not login.slurm.queue(), "an empty queue")


def test_down_ends_jobs_on_other_hosts(login: Login) -> None:
    login.write("cluster.yaml", DESCRIPTION.format(account="physics"))
    login.shell("hpccluster submit -c cluster.yaml --name long -- sleep 1000")
    wait_until(lambda: len(json.loads(login.shell("hpccluster workers long --json"))) == 4, "the workers", timeout=60)
    assert login.shell("hpccluster down long") == "stopped 'long': 2 jobs cancelled and gone\n"
    assert login.slurm.queue() == []


def test_a_refused_account_names_the_line_that_said_it(login: Login) -> None:
    login.write("cluster.yaml", DESCRIPTION.format(account="chemistry"))
    said = login.shell("hpccluster submit -c cluster.yaml --name bad -- sleep 1", code=3)
    assert "HPC-SUBMIT-ACCOUNT" in said
    assert "Invalid account or account/partition combination" in said
    assert "cluster.yaml line 6; rendered as '#SBATCH --account=chemistry'" in said
