"""`SLURMCluster` and ``hpccluster submit`` on a real Slurm, as an ordinary user of it.

Each scenario is a program of its own, run as the user of the private Slurm, since that is how it is used; it prints what
it saw as one JSON line.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from support.deadline import wait_until
from support.private_slurm import PrivateSlurm
from support.slurm_programs import assert_nothing_left, processes, program, queue_of, run

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]


def test_work_runs_in_jobs_on_several_nodes_and_nothing_is_left(slurm: PrivateSlurm) -> None:
    said = run(
        slurm,
        """
        before = squeue()
        with SLURMCluster(**SMALL) as cluster:
            script = cluster.job_script()
            plan = str(cluster.scale(jobs=3))
            cluster.wait_for_workers(6, timeout=60)
            with Client(cluster) as client:
                results = client.gather(client.map(where, range(300)))
            until(lambda: all(job.node for job in cluster.jobs))  # Slurm tells the node in the next poll
            during, jobs, logs = squeue(), [dict(state=str(j.state), node=j.node) for j in cluster.jobs], cluster.get_logs()
            shown = repr(cluster.jobs)
        say(before=before, during=during, after=squeue(), plan=plan, script=script, jobs=jobs, shown=shown,
            nodes=sorted({node for node, _ in results}), total=sum(value for _, value in results), logs=dict(logs))
        """,
    )
    assert said["before"] == said["after"] == []
    assert [state for _, state in said["during"]] == ["RUNNING"] * 3
    assert said["total"] == sum(n * n for n in range(300))
    assert said["plan"] == "Plan: 3 jobs x 2 workers x 1 thread = 6 cores, 3 x 400 MB"
    assert "#SBATCH --cpus-per-task=2" in said["script"]
    assert [job["state"] for job in said["jobs"]] == ["RUNNING"] * 3
    assert set(said["nodes"]) <= {job["node"] for job in said["jobs"]}
    assert "RUNNING" in said["shown"]
    assert any("registered with" in text for name, text in said["logs"].items() if name != "head")


def test_a_refused_job_raises_slurms_own_words(slurm: PrivateSlurm) -> None:
    said = run(
        slurm,
        """
        with SLURMCluster(queue="shrot", **SMALL) as cluster:
            try:
                cluster.scale(jobs=1)
            except HpcClusterError as error:
                say(kind=type(error).__name__, text=str(error), code=error.code, left=squeue())
        """,
    )
    assert said["kind"] == "SubmitRefused"
    assert said["code"] == "HPC-SUBMIT-PARTITION"
    assert "invalid partition specified: shrot" in said["text"]
    assert "short" in said["text"]
    assert 'queue="shrot"' in said["text"]


def test_a_refusal_names_the_line_that_said_it(slurm: PrivateSlurm) -> None:
    (slurm.home / "wrong.yaml").write_text("backend: slurm\ncores: 1\nmemory: 300MB\nqueue: shrot\n")
    (slurm.home / "wrong.yaml").chmod(0o644)
    said = run(
        slurm,
        """
        texts = []
        with ClusterManager.from_file("wrong.yaml") as cluster:
            try:
                cluster.scale(jobs=1)
            except HpcClusterError as error:
                texts.append(str(error))
        try:
            ClusterManager.from_file("wrong.yaml", n_workers=1)
        except HpcClusterError as error:
            texts.append(str(error))
        say(texts=texts)
        """,
    )
    assert len(said["texts"]) == 2
    for text in said["texts"]:
        assert "wrong.yaml line 4" in text, text


def test_a_prologue_that_fails_says_so(slurm: PrivateSlurm) -> None:
    said = run(
        slurm,
        """
        with SLURMCluster(job_script_prologue=["echo no such module: python/9 >&2", "exit 3"], **SMALL) as cluster:
            cluster.scale(jobs=1)
            try:
                cluster.wait_for_workers(2, timeout=60)
            except HpcClusterError as error:
                say(kind=type(error).__name__, text=str(error), code=error.code, details=error.details)
        """,
    )
    assert (said["kind"], said["code"], said["details"]["exit_code"]) == ("JobDied", "HPC-JOB-PROLOGUE", 3)
    assert "no such module: python/9" in said["text"]


def test_waiting_for_jobs_that_cannot_start_says_which_and_why(slurm: PrivateSlurm) -> None:
    said = run(
        slurm,
        """
        with SLURMCluster(queue="closed", **SMALL) as cluster:
            cluster.scale(jobs=2)
            try:
                cluster.wait_for_workers(4, timeout=5)
            except HpcClusterError as error:
                say(kind=type(error).__name__, text=str(error), during=squeue())
        """,
    )
    assert said["kind"] == "StartTimeout"
    assert said["text"].count("PartitionDown") == 2
    assert [state for _, state in said["during"]] == ["PENDING"] * 2
    assert_nothing_left(slurm)


def test_killing_the_owner_takes_running_and_pending_jobs_along(slurm: PrivateSlurm) -> None:
    body = program(
        """
        cluster = SLURMCluster(cores=4, processes=1, memory="300MB", walltime="10min")
        cluster.scale(jobs=5)
        cluster.wait_for_workers(3, timeout=60)
        say(queue=squeue(), pid=os.getpid())
        sys.stdin.read()
        """
    )
    owner = slurm.popen_as_user([slurm.python, "-c", body])
    assert owner.stdout is not None
    said = json.loads(owner.stdout.readline())
    states = [state for _, state in said["queue"]]
    assert sorted(states) == ["PENDING"] * 2 + ["RUNNING"] * 3
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_until(lambda: not queue_of(slurm), "an empty queue", timeout=15)
    wait_until(lambda: not processes(slurm), "no process of the cluster", timeout=15)


SWEEP = """
import sys
from hpccluster import Client

def work(n):
    return n * n

with Client() as client:
    client.wait_for_workers(2, timeout=60)
    print("total", sum(client.gather(client.map(work, range(int(sys.argv[1]))))))
sys.exit(int(sys.argv[2]))
"""

DESCRIPTION = """
backend: slurm
cores: 2
processes: 2
memory: 400MB
walltime: "00:10:00"
scale: {jobs: 1}
"""


def cli(slurm: PrivateSlurm, *arguments: str, timeout: float = 90) -> tuple[int, str, str]:
    done = slurm.run_as_user([slurm.python, "-m", "hpccluster", *arguments], timeout=timeout)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def sweep(slurm: PrivateSlurm) -> Path:
    """A program and the description of its cluster, in the user's home."""
    (slurm.home / "sweep.py").write_text(SWEEP)
    (slurm.home / "cluster.yaml").write_text(DESCRIPTION)
    (slurm.home / "cluster.yaml").chmod(0o644)
    return slurm.home / "sweep.py"


def test_submit_runs_a_program_with_a_cluster_of_its_own(slurm: PrivateSlurm, sweep: Path) -> None:
    code, out, err = cli(
        slurm, "submit", "-c", "cluster.yaml", "--name", "sweep", "--", slurm.python, "sweep.py", "100", "0"
    )
    assert code == 0, out + err
    assert "sweep" in out + err
    code, out, err = cli(slurm, "wait", "sweep")
    assert code == 0, out + err
    code, out, err = cli(slurm, "logs", "sweep")
    assert f"total {sum(n * n for n in range(100))}" in out, out + err
    code, out, err = cli(slurm, "status", "sweep", "--json")
    status = json.loads(out)
    assert status["program"]["exit_code"] == 0, status
    wait_until(lambda: not queue_of(slurm), "an empty queue", timeout=15)


def test_submit_wait_returns_the_programs_own_exit_code(slurm: PrivateSlurm, sweep: Path) -> None:
    code, out, err = cli(
        slurm, "submit", "-c", "cluster.yaml", "--name", "seven", "--wait", "--", slurm.python, "sweep.py", "10", "7"
    )
    assert code == 7, out + err
    assert "total 285" in out, out + err
    assert_nothing_left(slurm)


def test_down_ends_a_detached_cluster_and_its_jobs(slurm: PrivateSlurm, sweep: Path) -> None:
    (slurm.home / "long.py").write_text("import time\ntime.sleep(600)\n")
    code, out, err = cli(slurm, "submit", "-c", "cluster.yaml", "--name", "long", "--", slurm.python, "long.py")
    assert code == 0, out + err
    wait_until(lambda: queue_of(slurm), "a job in the queue")
    code, out, err = cli(slurm, "down", "long")
    assert code == 0, out + err
    assert_nothing_left(slurm)
