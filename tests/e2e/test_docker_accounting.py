"""Slurm with accounting: its refusals of accounts, QOS and limits, and what it remembers of jobs that squeue has forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpccluster.errors import SubmitRefused
from hpccluster.job import JobSpec, JobState
from hpccluster.testing.backend_contract import BackendContract
from hpccluster_slurm.backend import SlurmBackend
from hpccluster_slurm.options import SlurmOptions
from support.docker_runner import DockerRunner
from support.docker_site import DockerSite
from support.docker_slurm import DockerSlurm

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


@pytest.fixture
def slurm(docker_slurm: DockerSlurm) -> Iterator[DockerSlurm]:
    yield docker_slurm
    docker_slurm.cancel_all()


def backend_of(slurm: DockerSlurm, user: str = "ana", **options: Any) -> SlurmBackend:
    given: dict[str, Any] = {"cores": 1, "memory": "100MB", "walltime": "2min", **options}
    return SlurmBackend(SlurmOptions(**given), DockerRunner(slurm, user))


def spec_of(backend: SlurmBackend, line: str = "true") -> JobSpec:
    return BackendContract().spec(
        Path("/tmp"),
        line,
        log_path="/dev/null",
        resources=backend.options.resources(),
        walltime=backend.options.walltime_seconds(),
    )


LATER: dict[str, Any] = {"job_extra_directives": ("--begin=now+1hour",)}

REFUSALS: list[tuple[str, str, dict[str, Any], str, str]] = [
    # user, cause, options, the option to blame, a part of what Slurm says
    ("ana", "ACCOUNT", {"account": "nope"}, "account", "Invalid account"),
    ("ana", "ACCOUNT", {"account": "chemistry"}, "account", "Invalid account"),
    ("bob", "ACCOUNT", {"account": "physics"}, "account", "Invalid account"),
    ("ana", "ACCOUNT", {"queue": "astro"}, "queue", "account/partition combination"),
    ("ana", "QOS", {"qos": "nope"}, "qos", "Invalid qos specification"),
    ("ana", "QOS", {"qos": "gold"}, "qos", "Invalid qos specification"),
    ("bob", "QOS", {"qos": "small"}, "qos", "Invalid qos specification"),
    ("ana", "TIME", {"qos": "brief", "walltime": "20min"}, "walltime", "QOSMaxWallDurationPerJobLimit"),
    ("ana", "LIMITS", {"qos": "brief", "cores": 3}, "", "QOSMaxCpuPerJobLimit"),
]


@pytest.mark.parametrize(
    ("user", "cause", "options", "blamed", "said"),
    REFUSALS,
    ids=[f"{user}-{'-'.join(map(str, options.values()))}" for user, _, options, _, _ in REFUSALS],
)
def test_refusals_of_accounting(
    slurm: DockerSlurm, user: str, cause: str, options: dict[str, Any], blamed: str, said: str
) -> None:
    async def scenario() -> None:
        backend = backend_of(slurm, user, **options)
        spec = spec_of(backend)
        with pytest.raises(SubmitRefused) as caught:
            await backend.submit(spec)
        assert caught.value.code == f"HPC-SUBMIT-{cause}"
        assert caught.value.details.get("option", "") == blamed
        assert said in str(caught.value.details["said"])
        assert await backend.find([spec.name]) == {}

    asyncio.run(scenario())


def test_allowed_accounts_are_charged(slurm: DockerSlurm) -> None:
    async def scenario() -> None:
        astro = backend_of(slurm, account="astro", queue="astro", **LATER)
        job = await astro.submit(spec_of(astro))
        assert slurm.admin("squeue", "--noheader", f"--jobs={job}", "--format=%a %q").split() == ["astro", "normal"]

    asyncio.run(scenario())


def test_a_full_queue_is_a_limit_that_passes(slurm: DockerSlurm) -> None:
    """The one refusal that is no mistake of the user's: the cluster holds back and asks again."""

    async def scenario() -> None:
        backend = backend_of(slurm, qos="small", **LATER)
        jobs = [await backend.submit(spec_of(backend)) for _ in range(2)]
        with pytest.raises(SubmitRefused) as caught:
            await backend.submit(spec_of(backend))
        assert caught.value.code == "HPC-SUBMIT-LIMIT"
        assert "QOSMaxSubmitJobPerUserLimit" in str(caught.value)
        await BackendContract().until_gone(backend, jobs[0])
        await backend.submit(spec_of(backend))

    asyncio.run(scenario())


def test_a_limit_on_running_jobs_is_explained(slurm: DockerSlurm) -> None:
    async def scenario() -> None:
        contract = BackendContract()
        backend = backend_of(slurm, qos="small")
        first = await backend.submit(spec_of(backend, "sleep 60"))
        await contract.until_state(backend, first, JobState.RUNNING)
        second = await backend.submit(spec_of(backend))

        async def reason() -> str:
            status = (await backend.poll([second]))[second]
            return backend.explain(status) if status.reason == "QOSMaxJobsPerUserLimit" else ""

        assert await contract.until(reason, "the reason") == (
            "the limit of its QOS on jobs is in use: it starts when others of its jobs have ended"
        )

    asyncio.run(scenario())


def test_accounting_remembers_what_squeue_has_forgotten(slurm: DockerSlurm) -> None:
    async def scenario() -> None:
        backend = backend_of(slurm)
        lines = {"good": "true", "bad": "exit 7", "killed": "kill -9 $$", "running": "sleep 100"}
        jobs = {name: await backend.submit(spec_of(backend, line)) for name, line in lines.items()}
        later = backend_of(slurm, **LATER)
        jobs["pending"] = await later.submit(spec_of(later))
        contract = BackendContract()
        await contract.until_state(backend, jobs["running"], JobState.RUNNING)
        await contract.until_gone(backend, jobs["running"])
        await contract.until_gone(backend, jobs["pending"])

        async def forgotten() -> bool:
            return not set(jobs.values()) & set(
                slurm.admin("squeue", "--noheader", "--states=all", "--format=%A").split()
            )

        await contract.until(forgotten, "squeue has forgotten the jobs")

        async def told() -> bool:
            return all(status.state.is_over for status in (await backend.poll(jobs.values())).values())

        await contract.until(told, "sacct tells how all jobs have ended")
        found = await backend.poll(jobs.values())
        status = {name: found[job] for name, job in jobs.items()}
        assert (status["good"].state, status["good"].exit_code) == (JobState.COMPLETED, 0)
        assert (status["bad"].state, status["bad"].exit_code) == (JobState.FAILED, 7)
        assert status["killed"].state == JobState.FAILED
        assert (status["running"].state, status["running"].reason) == (JobState.CANCELLED, "cancelled by uid 1000")
        assert (status["pending"].state, status["pending"].node) == (JobState.CANCELLED, "")
        assert all(status[name].node in ("n1", "n2") for name in ("good", "bad", "killed", "running"))

    asyncio.run(scenario())


def test_accounting_tells_who_has_cancelled_a_job(slurm: DockerSlurm) -> None:
    async def scenario() -> None:
        backend, contract = backend_of(slurm), BackendContract()
        job = await backend.submit(spec_of(backend, "sleep 60"))
        await contract.until_state(backend, job, JobState.RUNNING)
        slurm.admin("scancel", job)

        async def told() -> bool:
            return (await backend.poll([job]))[job].reason == "cancelled by uid 0"

        await contract.until(told, "who has cancelled it")

    asyncio.run(scenario())


def test_a_cluster_lives_within_its_qos(slurm: DockerSlurm) -> None:
    """Three jobs are wanted, two may be in the queue and one may run: it works with that, and waits for more."""
    said = DockerSite(slurm).run(
        """
        with make(qos="small") as cluster, Client(cluster) as client:
            cluster.scale(3)
            cluster.wait_for_workers(1, timeout=60)
            results = client.gather(client.map(abs, range(-50, 0)), timeout=60)
            waiting = until(lambda: [job.reason for job in cluster.jobs if str(job.state) == "PENDING" and job.reason])
            queue = subprocess.run(["squeue", "--me", "-h", "-o", "%q %T"], capture_output=True, text=True).stdout
            (running,) = [job.id for job in cluster.jobs if str(job.state) == "RUNNING"]
            subprocess.run(["scancel", running], check=True)
            ids = until(lambda: {job.id for job in live(cluster) if job.id} - {running})
            cluster.wait_for_workers(1, timeout=60)
            more = client.gather(client.map(abs, range(-50, 0)), timeout=60)
            say(results=results, more=more, waiting=waiting, queue=sorted(queue.splitlines()))
        """
    )
    assert said["results"] == said["more"] == list(range(50, 0, -1))
    assert said["queue"] == ["small PENDING", "small RUNNING"]
    assert said["waiting"] == ["QOSMaxJobsPerUserLimit"]
