"""The life of a cluster, the same on every backend: sizes, work, refusals, deaths, logs, the end.

Slurm (private, and dockerised with accounting and a login host of its own) and SSH are real ones; PBS is its fake commands (a real OpenPBS is in no distribution), local is this machine.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccluster.testing.fake_pbs import FakePBS
from support.sites import LocalSite, PBSSite, Site, SlurmSite, SSHSite

pytestmark = pytest.mark.timeout(150)

SITES = [
    "local",
    "pbs",
    "ssh",
    pytest.param("slurm", marks=pytest.mark.slurm),
    # the first that asks for it waits until it is built
    pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.timeout(900)]),
]


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Each site, empty; afterwards it must be empty again."""
    with contextlib.ExitStack() as stack:
        found: Site
        match request.param:
            case "slurm":
                found = SlurmSite(request.getfixturevalue("slurm"))
            case "docker":
                from support.docker_site import DockerSite  # the SDK is heavy

                found = DockerSite(request.getfixturevalue("docker_slurm"))
            case "pbs":
                found = PBSSite(stack.enter_context(FakePBS()), tmp_path)
            case "ssh":
                found = SSHSite(request.getfixturevalue("ssh_hosts"), tmp_path)
            case _:
                found = LocalSite(tmp_path)
        yield found
        found.wait_until_empty()


def test_jobs_do_work_tell_their_logs_and_leave_nothing(site: Site) -> None:
    said = site.run(
        """
        def where(x):
            import socket
            return os.environ.get("SLURMD_NODENAME") or socket.gethostname(), x * x

        with make() as cluster:
            plan = cluster.scale(3)
            cluster.wait_for_workers(3, timeout=60)
            with Client(cluster) as client:
                results = client.gather(client.map(where, range(300)))
            until(lambda: all(job.node and str(job.state) == "RUNNING" for job in cluster.jobs))
            jobs = [[job.name, job.workers, job.node] for job in cluster.jobs]
            logs = dict(cluster.get_logs())
            one = cluster.logs(cluster.jobs[0].name)
        say(jobs=jobs, plan=[plan.jobs, plan.workers], logs=logs, one=str(one), total=sum(v for _, v in results),
            nodes=sorted({node for node, _ in results}))
        """
    )
    assert said["total"] == sum(n * n for n in range(300))
    assert said["plan"] == [3, 3]
    assert [workers for _, workers, _ in said["jobs"]] == [1, 1, 1]
    assert len({node for _, _, node in said["jobs"]}) == site.nodes
    assert set(said["nodes"]) <= {node for _, _, node in said["jobs"]}
    for name, _, _ in said["jobs"]:
        assert "registered with" in said["logs"][name]
    assert "registered with" in said["one"]
    assert said["stderr"] == ""
    site.wait_until_empty(3.0)  # what looks after a job on a host ends a moment after it


def test_scaling_down_hands_the_data_over(site: Site) -> None:
    said = site.run(
        """
        def block(n):
            return bytes([n]) * 500_000

        with make(n_workers=3) as cluster, Client(cluster) as client:
            cluster.wait_for_workers(3, timeout=60)
            computed = client.map(block, range(9))
            scattered = client.scatter([bytes([n]) * 300_000 for n in range(6)])
            wait(computed, timeout=30)
            cluster.scale(1)
            until(lambda: len(live(cluster)) == 1 and len(cluster.workers) == 1)
            right = [value == block(n) for n, value in enumerate(client.gather(computed))]
            kept = [value == bytes([n]) * 300_000 for n, value in enumerate(client.gather(scattered))]
            say(right=all(right), kept=all(kept))
        """
    )
    assert said["right"]
    assert said["kept"]


def test_the_size_follows_the_work(site: Site) -> None:
    said = site.run(
        """
        with make() as cluster, Client(cluster) as client:
            cluster.adapt(minimum_jobs=0, maximum_jobs=3, interval="0.5s", wait_count=2, idle_timeout="1s")
            before = len(live(cluster))
            futures = client.map(time.sleep, [0.5] * 40)
            most = 0
            while not all(future.done() for future in futures):
                most = max(most, len(live(cluster)))
                time.sleep(0.2)
            until(lambda: not live(cluster))
            say(before=before, most=most, errors=[str(f.exception()) for f in futures if f.status != "finished"])
        """
    )
    assert said["before"] == 0
    assert 2 <= said["most"] <= 3
    assert said["errors"] == []


def test_a_refused_job_is_raised_where_it_was_asked_for(site: Site) -> None:
    if site.refused is None:
        pytest.skip("nothing is refused here")
    said = site.run(
        f"""
        with make(**{dict(site.refused)!r}) as cluster:
            try:
                cluster.scale(2)
            except HpcClusterError as error:
                until(lambda: not live(cluster))
                say(kind=type(error).__name__, text=str(error), code=error.code)
        """
    )
    assert said["kind"] == "SubmitRefused"
    assert said["code"].startswith("HPC-SUBMIT-")
    assert site.refusal in said["text"]


def test_a_job_that_dies_early_says_why_and_its_log_stays(site: Site) -> None:
    said = site.run(
        """
        with make(python="/opt/none/bin/python") as cluster:
            cluster.scale(1)
            try:
                cluster.wait_for_workers(1, timeout=60)
            except HpcClusterError as error:
                log = cluster.logs(cluster.jobs[0].name)
                say(kind=type(error).__name__, text=str(error), code=error.code, details=error.details, log=str(log))
        """
    )
    assert (said["kind"], said["code"]) == ("JobDied", "HPC-JOB-PYTHON-MISSING")
    assert said["details"]["exit_code"] == 127
    assert "/opt/none/bin/python" in said["text"]
    assert "python not found" in said["log"]


def test_waiting_in_vain_says_which_jobs_wait_and_for_what(site: Site) -> None:
    if site.pending is None:
        pytest.skip("no job waits here")
    said = site.run(
        f"""
        with make(**{dict(site.pending)!r}) as cluster:
            cluster.scale(2)
            try:
                cluster.wait_for_workers(2, timeout=5)
            except HpcClusterError as error:
                logs = [str(cluster.logs(job.name)) for job in cluster.jobs]
                states = [str(job.state) for job in cluster.jobs]
                say(kind=type(error).__name__, text=str(error), logs=logs, states=states)
        """
    )
    assert said["kind"] == "StartTimeout"
    assert said["text"].count(site.why_pending) >= 2
    assert all(f"PENDING: {site.why_pending}" in log for log in said["logs"]), said["logs"]
    assert said["states"] == ["PENDING", "PENDING"]


def test_a_job_that_is_ended_from_outside_costs_no_result(site: Site) -> None:
    said = site.run(
        f"""
        with make(n_workers=2) as cluster, Client(cluster) as client:
            cluster.wait_for_workers(2, timeout=60)
            data = client.map(lambda n: bytes([n]) * 200_000, range(6))
            wait(data, timeout=30)
            job = cluster.jobs[0]
            before = {{(worker.host, worker.pid) for worker in cluster.workers}}
            {site.end_job}
            until(lambda: len({{(worker.host, worker.pid) for worker in cluster.workers}} & before) < 2)
            right = all(value == bytes([n]) * 200_000 for n, value in enumerate(client.gather(data)))
            cluster.wait_for_workers(2, timeout=60)
            say(right=right, live=len(live(cluster)))
        """
    )
    assert said["right"]
    assert said["live"] == 2


def test_nothing_outlives_an_owner_that_was_killed(site: Site) -> None:
    owner = site.start(
        """
        cluster = make(n_workers=2)
        cluster.wait_for_workers(2, timeout=60)
        client = Client(cluster)
        futures = client.map(time.sleep, [300] * 2)
        say(jobs=len(live(cluster)))
        sys.stdin.read()
        """
    )
    assert owner.stdout is not None
    said = json.loads(owner.stdout.readline())
    assert said["jobs"] == 2
    assert site.left()
    site.kill(owner)
    site.wait_until_empty()
