"""Ordinary events of a machine room, on a real Slurm: walltime, requeue, a killed head, jobs that die at once."""

from __future__ import annotations

import json

import pytest

from support.deadline import wait_until
from support.private_slurm import PrivateSlurm
from support.slurm_programs import assert_nothing_left, processes, program, queue_of, run

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]


def test_the_end_of_walltime_costs_no_task(slurm: PrivateSlurm) -> None:
    said = run(
        slurm,
        """
        def slow(n):
            time.sleep(0.5)
            return n

        with SLURMCluster(cores=1, memory="300MB", walltime="10min") as cluster, Client(cluster) as client:
            cluster.scale(2)
            cluster.wait_for_workers(2, timeout=60)
            first = {job.id for job in cluster.jobs}
            data = client.map(lambda n: bytes([n]) * 200_000, range(4))
            wait(data, timeout=30)
            futures = client.map(slow, range(60))
            victim = sorted(first)[0]
            subprocess.run(["scontrol", "update", f"jobid={victim}", "EndTime=now+1"], check=True)
            results = client.gather(futures, timeout=90)
            right = all(v == bytes([n]) * 200_000 for n, v in enumerate(client.gather(data)))
            until(lambda: [job for job in cluster.jobs if job.id and job.id not in first], 60)
            cluster.wait_for_workers(2, timeout=60)
            until(lambda: [state for _, state in squeue()] == ["RUNNING"] * 2)
            ended = [str(job.state) for job in cluster.jobs if job.id == victim]
            say(results=results, right=right, ended=ended, new=[j.id for j in cluster.jobs if j.id not in first])
        """,
    )
    assert said["results"] == list(range(60))
    assert said["right"]
    assert said["ended"] == ["TIMEOUT"]
    assert len(said["new"]) == 1


def test_a_requeued_job_comes_back_under_its_own_id(slurm: PrivateSlurm) -> None:
    said = run(
        slurm,
        """
        with SLURMCluster(cores=1, memory="300MB", walltime="10min", requeue=True) as cluster, Client(cluster) as client:
            cluster.scale(1)
            cluster.wait_for_workers(1, timeout=60)
            (job,) = cluster.jobs
            before = client.submit(os.getpid).result(30)
            subprocess.run(["scontrol", "requeue", job.id], check=True)
            until(lambda: not cluster.workers)
            subprocess.run(["scontrol", "update", f"jobid={job.id}", "StartTime=now"], check=False)
            after = client.submit(os.getpid).result(60)
            say(same=job.id in [row.id for row in cluster.jobs], again=before != after, queue=len(squeue()))
        """,
    )
    assert said["same"]
    assert said["again"]
    assert said["queue"] == 1


def test_jobs_whose_head_was_killed_end_and_take_the_pending_ones_along(slurm: PrivateSlurm) -> None:
    body = program(
        """
        cluster = SLURMCluster(cores=4, processes=1, memory="300MB", walltime="10min", death_timeout="3s")
        cluster.scale(jobs=5)
        cluster.wait_for_workers(3, timeout=60)
        say(queue=squeue(), head=int(json.load(open(cluster.directory / "head.json"))["pid"]))
        sys.stdin.readline()
        try:
            cluster.scale(jobs=6)
        except HpcClusterError as error:
            say(kind=type(error).__name__, text=str(error))
        """
    )
    owner = slurm.popen_as_user([slurm.python, "-c", body])
    assert owner.stdin is not None
    assert owner.stdout is not None
    said = json.loads(owner.stdout.readline())
    assert len(said["queue"]) == 5
    slurm.run_as_user(["kill", "-9", str(said["head"])])
    owner.stdin.write("\n")
    out, err = owner.communicate(timeout=60)
    told = json.loads(out.splitlines()[-1])
    assert told["kind"] == "ClusterClosed", out + err
    wait_until(lambda: not queue_of(slurm), "an empty queue", timeout=45)
    wait_until(lambda: not processes(slurm), "no process of the cluster", timeout=20)


def test_the_owner_puts_the_affairs_of_a_killed_head_in_order(slurm: PrivateSlurm) -> None:
    """Jobs that wait in the queue find no head only when they start: `close` cancels them in its place."""
    said = run(
        slurm,
        """
        import signal
        cluster = SLURMCluster(queue="closed", **SMALL)
        cluster.scale(jobs=2)
        waiting = squeue()
        os.kill(int(json.load(open(cluster.directory / "head.json"))["pid"]), signal.SIGKILL)
        until(lambda: cluster.status == "lost")
        cluster.close()
        record = json.load(open(cluster.directory / "head.json"))
        say(waiting=waiting, after=squeue(), state=record["state"], reason=record["reason"])
        """,
    )
    assert len(said["waiting"]) == 2
    assert (said["after"], said["state"]) == ([], "ended")
    assert said["reason"] == "its head has died (killed by SIGKILL)"
    assert said["stderr"] == ""


def test_jobs_that_die_at_once_are_not_submitted_for_ever(slurm: PrivateSlurm) -> None:
    said = run(
        slurm,
        """
        with SLURMCluster(job_script_prologue=["exit 9"], **SMALL) as cluster, Client(cluster) as client:
            cluster.adapt(minimum_jobs=1, maximum_jobs=2, interval="0.2s")
            waiting = client.map(abs, range(10))
            seen = []
            try:
                cluster.wait_for_workers(2, timeout=30)
            except HpcClusterError as error:
                seen.append((type(error).__name__, error.code))
            time.sleep(5)
            say(seen=seen, jobs=len(cluster.jobs), queue=squeue())
        """,
    )
    assert said["seen"] == [["JobDied", "HPC-JOB-PROLOGUE"]]
    assert said["jobs"] <= 5
    assert_nothing_left(slurm)
