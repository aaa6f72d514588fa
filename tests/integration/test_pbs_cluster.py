"""`PBSCluster` and ``hpccluster submit`` on a fake PBS: what goes otherwise than on other batch systems.

The life of a cluster that is the same everywhere is in ``test_all_backends.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccluster.testing.fake_pbs import FakePBS
from support.command import Commands
from support.deadline import wait_until
from support.sites import PBSSite

pytestmark = pytest.mark.timeout(100)


@pytest.fixture
def pbs() -> Iterator[FakePBS]:
    with FakePBS() as fake:
        yield fake


@pytest.fixture
def site(pbs: FakePBS, tmp_path: Path) -> Iterator[PBSSite]:
    found = PBSSite(pbs, tmp_path)
    yield found
    found.wait_until_empty()


def say(process: subprocess.Popen[str], line: str) -> None:
    """Tell a running program to go on."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> dict[str, object]:
    """What a running program says next."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr.read() if process.stderr else ""
    said: dict[str, object] = json.loads(line)
    return said


def test_a_job_that_is_run_again_rejoins(pbs: FakePBS, site: PBSSite) -> None:
    program = site.start(
        """
        with make(n_workers=1) as cluster, Client(cluster) as client:
            cluster.wait_for_workers(1, timeout=30)
            before, job = cluster.workers[0].pid, cluster.jobs[0].id
            future = client.submit(lambda: bytes(300_000))
            wait([future], timeout=30)
            say(job=job)
            sys.stdin.readline()
            until(lambda: [worker for worker in cluster.workers if worker.pid != before])
            say(job=cluster.jobs[0].id, jobs=len(cluster.jobs), right=future.result(timeout=30) == bytes(300_000))
        """
    )
    job = hear(program)["job"]
    assert isinstance(job, str)
    pbs.rerun(job)
    say(program, "it was requeued")
    assert hear(program) == {"job": job, "jobs": 1, "right": True}
    assert program.wait(30) == 0
    assert pbs.jobs[job].run_count == 2


def test_work_goes_on_while_the_server_is_down(pbs: FakePBS, site: PBSSite) -> None:
    program = site.start(
        """
        with make(n_workers=2) as cluster, Client(cluster) as client:
            cluster.wait_for_workers(2, timeout=30)
            say(jobs=len(live(cluster)))
            sys.stdin.readline()
            cluster.scale(3)
            total = sum(client.gather(client.map(abs, range(100))))
            say(total=total, jobs=len(live(cluster)))
            sys.stdin.readline()
            cluster.wait_for_workers(3, timeout=60)
            say(jobs=len(live(cluster)))
        """
    )
    assert hear(program) == {"jobs": 2}
    pbs.is_down = True
    say(program, "the server is down")
    assert hear(program)["total"] == 4950
    failed = wait_until(lambda: [call for call in pbs.calls if call.command == "qsub"][2:], "a submission that fails")
    pbs.is_down = False
    say(program, "it is back")
    assert hear(program) == {"jobs": 3}
    assert program.wait(30) == 0
    assert failed


def test_a_log_directory_that_nodes_cannot_write_to_is_explained(pbs: FakePBS, site: PBSSite) -> None:
    pbs.can_write_output = False
    said = site.run(
        """
        with make() as cluster:
            cluster.scale(1)
            try:
                cluster.wait_for_workers(1, timeout=4)
            except HpcClusterError as error:
                say(kind=type(error).__name__, text=str(error))
        """
    )
    assert said["kind"] == "StartTimeout"
    assert "too many failed attempts" in said["text"]
    assert "log_directory=" in said["text"]


def test_close_says_what_a_hung_node_keeps(pbs: FakePBS, site: PBSSite) -> None:
    program = site.start(
        """
        cluster = make(n_workers=2)
        cluster.wait_for_workers(2, timeout=30)
        say(job=cluster.jobs[0].id, name=cluster.jobs[0].name)
        sys.stdin.readline()
        try:
            cluster.close(timeout=12)
        except HpcClusterError as error:
            say(text=str(error), details=error.details)
        """
    )
    stuck = hear(program)
    pbs.hung.add(str(stuck["job"]))
    say(program, "its node hangs")
    told = hear(program)
    assert told["details"] == {"unconfirmed": stuck["name"]}
    for words in ("the end of 1 of its jobs", "runs one of these jobs, hangs", "hpccluster cleanup"):
        assert words in str(told["text"])
    pbs.hung.clear()
    assert program.wait(30) == 0


def test_without_a_history_and_with_output_that_pbs_keeps_a_missing_python_is_named(
    pbs: FakePBS, site: PBSSite
) -> None:
    pbs.history = pbs.writes_at_once = False
    said = site.run(
        """
        with make(python="/opt/none/bin/python") as cluster:
            cluster.scale(1)
            try:
                cluster.wait_for_workers(1, timeout=40)
            except HpcClusterError as error:
                say(code=error.code, details=error.details)
        """
    )
    assert said["code"] == "HPC-JOB-PYTHON-MISSING"
    assert said["details"]["exit_code"] == 127
    assert said["details"]["stage"] == "prologue"


def test_without_a_history_the_log_says_why_a_job_died(pbs: FakePBS, site: PBSSite) -> None:
    pbs.history = False
    said = site.run(
        """
        with make(python="/bin/sh -c 'exit 9'") as cluster:
            cluster.scale(1)
            try:
                cluster.wait_for_workers(1, timeout=40)
            except HpcClusterError as error:
                say(kind=type(error).__name__, text=str(error), details=error.details)
        """
    )
    assert said["kind"] == "JobDied"
    assert said["details"]["state"] == "ABSENT"
    assert said["details"]["exit_code"] == 9
    assert "no longer listed" in said["text"]


def test_torque(tmp_path: Path) -> None:
    with FakePBS(flavour="torque", server="torque01") as pbs:
        site = PBSSite(pbs, tmp_path)
        said = site.run(
            """
            with make(n_workers=2) as cluster, Client(cluster) as client:
                cluster.wait_for_workers(2, timeout=30)
                total = sum(client.gather(client.map(abs, range(100))))
                logs = [str(cluster.logs(job.name)) for job in cluster.jobs]
                say(total=total, logs=logs, script=cluster.job_script())
            """
        )
        site.wait_until_empty()
    assert said["total"] == 4950
    assert all("registered with" in log for log in said["logs"])  # while they run
    assert "#PBS -l nodes=1:ppn=1" in said["script"]


def test_a_program_with_a_cluster_of_its_own(pbs: FakePBS, tmp_path: Path) -> None:
    commands = Commands.below(tmp_path)
    commands.environment = {"PATH": pbs.environment()["PATH"]}
    (commands.directory / "cluster.yaml").write_text("backend: pbs\ncores: 1\nmemory: 300MB\nscale: {jobs: 2}\n")
    (commands.directory / "program.py").write_text(
        "from hpccluster import Client\n"
        "with Client() as client:\n"
        "    print('sum', sum(client.gather(client.map(abs, range(-5, 5)))))\n"
        "raise SystemExit(3)\n"
    )
    program = ["submit", "-c", "cluster.yaml", "--name", "sweep", "--wait", "--", sys.executable, "program.py"]
    assert commands.run(*program, code=3).stdout == "sum 25\n"
    assert len(pbs.jobs) == 2
    assert all(job.is_over for job in pbs.jobs.values())
    (commands.directory / "cluster.yaml").write_text(
        "backend: pbs\ncores: 1\nmemory: 300MB\nqueue: wrokq\nscale: {jobs: 1}\n"
    )
    refused = commands.err(*program, code=125)
    for words in ("Unknown queue", "cluster.yaml line 4", "did you mean 'workq'?"):
        assert words in refused
