"""The command line on a real Slurm: as an ordinary user, from the description to the end of the last job."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from support.deadline import wait_until
from support.private_slurm import PrivateSlurm

pytestmark = pytest.mark.slurm

SITE = """\
backend: slurm
cores: 1
memory: 200MB
queue: {queue}
scale: {{jobs: 2}}
"""


class Site:
    """The command, run by the user of the private Slurm in a directory of this test."""

    def __init__(self, slurm: PrivateSlurm, name: str) -> None:
        self.slurm = slurm
        self.directory = slurm.shared_directory(name)
        self.state = self.directory / "state"

    def write(self, queue: str) -> str:
        file = self.directory / "site.yaml"
        file.write_text(SITE.format(queue=queue))
        file.chmod(0o644)
        return str(file)

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [self.slurm.python, "-c", "from hpccluster.cli.main import main; main()", *arguments]
        done = self.slurm.run_as_user(command, env={"HPCCLUSTER_STATE_DIRECTORY": str(self.state)})
        assert done.returncode == code, done.stdout + done.stderr
        return done


@pytest.fixture
def site(slurm: PrivateSlurm, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(slurm, request.node.name)
    yield made
    wait_until(lambda: not slurm.job_ids(), "an empty queue")


def test_a_program_runs_beside_its_jobs(site: Site) -> None:
    description = site.write("normal")
    said = site.run("submit", "-c", description, "--name", "sweep", "--", "bash", "-c", "echo hi; exit 5")
    assert "Plan: 2 jobs" in said.stdout
    assert site.run("wait", "sweep", code=5).stderr == ""
    facts = json.loads(site.run("status", "sweep", "--json").stdout)
    assert facts["state"] == "finished"
    assert site.run("logs", "sweep").stdout == "hi\n"
    assert not site.slurm.job_ids()


def test_jobs_are_shown_and_taken_down(site: Site) -> None:
    site.run("submit", "-c", site.write("normal"), "--name", "long", "--", "sleep", "1000")
    wait_until(lambda: len(json.loads(site.run("workers", "long", "--json").stdout)) == 2, "two workers")
    jobs = json.loads(site.run("jobs", "long", "--json").stdout)
    assert sorted(job["id"] for job in jobs) == sorted(site.slurm.job_ids())
    assert {job["state"] for job in jobs} == {"RUNNING"}
    assert "stage auth-ok" in site.run("logs", "long", "--job", jobs[0]["id"]).stdout
    assert "Plan: 3 jobs" in site.run("scale", "long", "--jobs", "3").stdout
    assert site.run("down", "long").stdout == "stopped 'long': 3 jobs cancelled and gone\n"
    assert not site.slurm.job_ids()


def test_a_refusal_names_the_line_of_the_description(site: Site) -> None:
    description = site.write("shrot")
    error = site.run("submit", "-c", description, "--name", "bad", "--", "sleep", "1", code=3).stderr
    assert "Slurm refused the job (HPC-SUBMIT-PARTITION)" in error
    assert 'queue="shrot"   (' in error
    assert "site.yaml line 4; rendered as '#SBATCH --partition=shrot')" in error
    assert "did you mean 'short'?" in error
    assert len(error.splitlines()) <= 10


def test_the_demo_runs_on_slurm(site: Site) -> None:
    rows = json.loads(site.run("demo", "--backend", "slurm", "--json").stdout)["stations"]
    assert len(rows) == 8
    assert all(row["low"] < row["trend"] < row["high"] for row in rows)


def test_what_a_killed_head_left_in_the_queue_is_cleaned_up(site: Site) -> None:
    site.run("up", "-c", site.write("closed"), "--name", "gone")
    assert len(site.slurm.job_ids()) == 2
    head = json.loads(site.run("status", "gone", "--json").stdout)["pid"]
    site.slurm.run_as_user(["kill", "-9", str(head)])
    wait_until(lambda: json.loads(site.run("status", "gone", "--json").stdout)["state"] == "lost", "the lost cluster")
    (found,) = json.loads(site.run("cleanup", "--json").stdout)["found"]
    assert sorted(job["id"] for job in found["jobs"]) == sorted(site.slurm.job_ids())
    assert "2 jobs verified gone, credentials removed" in site.run("cleanup", "--yes").stdout
    assert not site.slurm.job_ids()
    assert site.run("cleanup").stdout == "nothing is left behind\n"
