"""The fleet's shell with a batch system and an engine in memory, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from hpccluster.engine.base import Load
from hpccluster.errors import (
    ClusterClosed,
    ClusterError,
    ConfigError,
    CredentialError,
    JobDied,
    JobUnknown,
    StartTimeout,
    SubmitRefused,
)
from hpccluster.fleet.values import FleetSettings
from hpccluster.ids import JobId
from hpccluster.job import JobSpec, JobState
from hpccluster.resources import JobResources
from hpccluster.state.fleet.adaptive import AdaptSettings
from support.fleet_world import Fate, World, a_world
from support.virtual_time import run_virtually

REFUSED = SubmitRefused("invalid partition specified: shrot", code="HPC-SUBMIT-PARTITION")
DIES = Fate(
    ends_after=2.0,
    ends_as=JobState.FAILED,
    exit_code=127,
    workers=0,
    log="hpccluster: stage started n017\nhpccluster: stage prologue-ok\nline 14: python: No such file or directory\n",
)
ONE_EACH = JobResources(cores=1, memory=None, processes=1)


def check(work: Coroutine[Any, Any, None]) -> None:
    run_virtually(work)


def test_scale_wait_look_and_close() -> None:
    async def story() -> None:
        async with a_world() as world:
            plan = await world.fleet.scale(workers=13)
            assert str(plan) == "Plan: 4 jobs x 4 workers x 2 threads = 32 cores, 4 x 32 GB"
            assert (world.fleet.plan, world.fleet.requested, world.fleet.observed) == (16, 16, 0)
            rows = world.fleet.jobs()
            assert [row.name for row in rows] == [f"hpc-calm-otter-{n:04x}" for n in range(0x0A1F, 0x0A23)]
            assert {(row.id, row.state) for row in rows} == {(str(n), "PENDING") for n in range(481517, 481521)}
            await world.fleet.wait_for_workers(16, timeout=60)
            assert world.fleet.observed == 16
            await asyncio.sleep(10)
            assert {(row.state, row.node, row.workers) for row in world.fleet.jobs()} == {("RUNNING", "n017", 4)}
            assert world.backend.credentials[0] == b"secret of hpc-calm-otter-0a1f"
            report = await world.fleet.close()
            assert len(report.cancelled) == 4
            assert world.engine.retirements == []
            assert await world.fleet.close() == report

    check(story())


def test_no_more_than_four_submissions_at_once() -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH) as world:
            await world.fleet.scale(jobs=20)
            assert world.backend.most_submitting == 4
            assert len(world.backend.living()) == 20

    check(story())


def test_a_refusal_is_raised_at_once_in_the_batch_systems_words() -> None:
    async def story() -> None:
        async with a_world() as world:
            world.backend.fates = [Fate(), replace(Fate(), refused=REFUSED)]
            with pytest.raises(SubmitRefused, match="shrot") as caught:
                await world.fleet.scale(jobs=3)
            assert caught.value.code == "HPC-SUBMIT-PARTITION"
            assert world.now < 1
            await asyncio.sleep(3600)
            assert world.backend.calls["submit"] == 3
            assert world.fleet.plan == 8

    check(story())


def test_a_job_that_cannot_even_be_described_is_refused() -> None:
    async def story() -> None:
        async with a_world() as world:

            def broken(_: object) -> Any:
                raise ConfigError("queue: not a safe value")

            world.fleet._performer._make_spec = broken
            with pytest.raises(ConfigError, match="safe"):
                await world.fleet.scale(jobs=1)

    check(story())


def test_a_job_whose_credential_cannot_be_written_is_not_submitted() -> None:
    """A full disk, for one: that there is no job is certain, and nobody looks for it."""

    async def story() -> None:
        async with a_world() as world:

            def full(_: object) -> Any:
                raise CredentialError("cannot write the worker connection file: No space left on device")

            world.fleet._performer._make_credential = full
            with pytest.raises(CredentialError, match="No space left"):
                await world.fleet.scale(jobs=2)
            assert world.backend.calls["submit"] == 0
            assert not world.said("may or may not")
            assert (await world.fleet.close()).unconfirmed == ()
            assert world.backend.calls["find"] == 0

    check(story())


def test_limits_hold_jobs_back() -> None:
    async def story() -> None:
        limit = SubmitRefused("QOSMaxSubmitJobPerUserLimit (HPC-SUBMIT-LIMIT)", code="HPC-SUBMIT-LIMIT")
        async with a_world() as world:
            world.backend.fates = [Fate(), Fate(), Fate(refused=limit), Fate(refused=limit)]
            plan = await world.fleet.scale(jobs=4)
            assert plan.held == 2
            assert "2 held back" in str(plan)
            (told,) = world.said("QOSMaxSubmitJobPerUserLimit")
            assert told.count("HPC-SUBMIT-LIMIT") == 1
            with pytest.raises(StartTimeout, match="2 jobs are held back: QOSMaxSubmitJobPerUserLimit"):
                await world.fleet.wait_for_workers(16, timeout=10)
            await asyncio.sleep(30)
            assert len(world.backend.living()) == 4

    check(story())


FULL = SubmitRefused(
    "no host for one more job: 2 of 3 hosts are in use\n  n3: python not found", code="HPC-SUBMIT-FULL"
)


def test_one_bad_host_is_told_and_the_others_go_on() -> None:
    """Of a backend that places its jobs itself: a death says something about one host."""

    async def story() -> None:
        async with a_world(resources=ONE_EACH, places_jobs=True) as world:
            slow = replace(Fate(), join_after=30.0)
            world.backend.fates = [slow, DIES, slow]
            world.backend.fate = replace(Fate(), refused=FULL)
            assert str(await world.fleet.scale(jobs=3)) == "Plan: 3 jobs x 1 worker x 1 thread = 3 cores"
            # the good ones take their time, and are not held to blame
            await world.fleet.wait_for_workers(2, timeout=60)
            assert [notice for notice in world.notices if "HPC-JOB-PYTHON-MISSING" in notice[1]]
            assert not [notice for notice in world.notices if "PAUSED" in notice[1]]
            assert world.said("jobs are held back") == [
                "jobs are held back: no host for one more job: 2 of 3 hosts are in use (HPC-SUBMIT-FULL)"
            ], "the bad host has been told of by its own notice"
            with pytest.raises(SubmitRefused, match="n3: python not found"):
                await world.fleet.wait_for_workers(3)
            assert "1 held back" in str(world.fleet.current_plan())
            # it is tried again, and may be mended by then
            world.backend.fate = Fate()
            await world.fleet.wait_for_workers(2, timeout=5)
            await asyncio.sleep(25)
            assert world.fleet.observed == 3

    check(story())


def test_whoever_waits_for_more_than_the_hosts_that_are_left_is_told_why() -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH, places_jobs=True) as world:
            world.backend.fates = [DIES, DIES]
            world.backend.fate = replace(Fate(), refused=FULL)
            await world.fleet.scale(jobs=2)
            with pytest.raises(JobDied, match="HPC-JOB-PYTHON-MISSING"):
                await world.fleet.wait_for_workers(1)
            # told once; from then on it is that there is no host
            with pytest.raises(SubmitRefused, match="no host for one more job"):
                await world.fleet.wait_for_workers(1)

    check(story())


def test_exactly_one_size_is_given() -> None:
    async def story() -> None:
        async with a_world() as world:
            with pytest.raises(ConfigError, match="exactly one"):
                await world.fleet.scale(workers=1, jobs=1)
            with pytest.raises(ConfigError, match="exactly one"):
                await world.fleet.scale()

    check(story())


def test_whoever_waits_too_long_is_told_which_jobs_wait_and_why() -> None:
    async def story() -> None:
        async with a_world() as world:
            world.backend.fates = [Fate(start_after=None), Fate(workers=0, log="connecting to tls://10.1.0.7:8786\n")]
            await world.fleet.scale(jobs=2)
            with pytest.raises(StartTimeout) as caught:
                await world.fleet.wait_for_workers(16, timeout=120)
            text = str(caught.value).splitlines()
            assert text[0] == "0 of 16 workers after 2m00s (HPC-START-TIMEOUT)"
            assert text[1].startswith("  481517  PENDING (Priority), for 2m00s, starts about ")
            assert text[2] == "      meaning: other jobs are before it"
            assert text[3] == "  481518  RUNNING, for 2m00s"
            assert text[4] == "      its log ends with: connecting to tls://10.1.0.7:8786"
            assert text[5] == "  planned workers: 8; scale() asks for more"
            assert world.said("1 jobs wait in the queue: Priority")

    check(story())


def test_a_job_that_dies_early_is_diagnosed_for_whoever_waits() -> None:
    async def story() -> None:
        async with a_world() as world:
            world.backend.fates = [DIES]
            await world.fleet.scale(jobs=1)
            with pytest.raises(JobDied, match="HPC-JOB-PYTHON-MISSING") as caught:
                await world.fleet.wait_for_workers(4, timeout=600)
            assert world.now < 15
            assert caught.value.details["name"] == "hpc-calm-otter-0a1f"
            assert "/scratch/ana/hpc-calm-otter-0a1f.log" in str(caught.value)
            assert "'/opt/conda/bin/python'" in str(caught.value)
            assert ("error", str(caught.value)) in world.notices
            await world.fleet.wait_for_workers(4, timeout=600)  # its replacement is fine

    check(story())


def test_a_death_after_a_long_quiet_time_is_seen_as_soon_as_the_backend_can_bear() -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH, poll_slowest=5.0) as world:
            world.backend.fates = [replace(DIES, ends_after=120.5)]
            await world.fleet.scale(jobs=1)
            with pytest.raises(JobDied):
                await world.fleet.wait_for_workers(1, timeout=130)

    check(story())


def test_the_interpreter_is_the_one_that_the_backend_tells() -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH) as world:
            world.backend.python = "/opt/n3/bin/python"
            world.backend.fates = [DIES]
            await world.fleet.scale(jobs=1)
            with pytest.raises(JobDied, match="the job ran '/opt/n3/bin/python'"):
                await world.fleet.wait_for_workers(1, timeout=60)

    check(story())


def test_a_death_before_anybody_waits_is_told_to_the_first_who_does() -> None:
    async def story() -> None:
        async with a_world() as world:
            world.backend.fates = [DIES, replace(Fate(), start_after=3600.0)]
            await world.fleet.scale(jobs=1)
            await asyncio.sleep(60)
            with pytest.raises(JobDied):
                await world.fleet.wait_for_workers(4, timeout=10)
            with pytest.raises(StartTimeout):
                await world.fleet.wait_for_workers(4, timeout=10)

    check(story())


def test_dying_jobs_pause_the_pool() -> None:
    async def story() -> None:
        async with a_world() as world:
            world.backend.fate = DIES
            await world.fleet.adapt(AdaptSettings(maximum_jobs=1))
            world.engine.current = Load(queued=5, unfinished=5, expected_seconds=100)
            await asyncio.sleep(4 * 3600)
            assert world.backend.calls["submit"] == 5
            assert len(world.said("HPC-POOL-PAUSED")) == 2
            with pytest.raises(JobDied):
                await world.fleet.wait_for_workers(1)
            world.backend.fate = Fate()
            await world.fleet.scale(jobs=1)
            await world.fleet.wait_for_workers(4)

    check(story())


def test_scale_down_hands_over_before_it_cancels() -> None:
    async def story() -> None:
        async with a_world() as world:
            await world.fleet.scale(jobs=2)
            await world.fleet.wait_for_workers(8)
            world.engine.retire_takes = 100
            await world.fleet.scale(jobs=1)
            await asyncio.sleep(50)
            assert world.engine.retirements == [["hpc-calm-otter-0a20"]]
            assert len(world.backend.living()) == 2
            await asyncio.sleep(60)
            [left] = world.backend.living()
            assert left.spec.name == "hpc-calm-otter-0a1f"
            assert [row.state for row in world.fleet.jobs()] == ["RUNNING", "CANCELLED"]

    check(story())


def test_scale_down_waits_a_little_for_what_leaves() -> None:
    async def story() -> None:
        async with a_world() as world:
            await world.fleet.scale(jobs=3)
            await world.fleet.wait_for_workers(12)
            await world.fleet.scale(jobs=2)
            assert len(world.backend.living()) == 2
            world.engine.retire_takes = 3600
            begun = world.now
            await world.fleet.scale(jobs=1)
            assert world.now - begun == pytest.approx(FleetSettings().leave_patience)
            await world.fleet.scale(jobs=2)
            assert world.now - begun < FleetSettings().leave_patience + 1

    check(story())


def test_jobs_that_cannot_hand_over_stay() -> None:
    async def story() -> None:
        async with a_world() as world:
            await world.fleet.scale(jobs=1)
            await world.fleet.wait_for_workers(4)
            world.engine.retire_error = ClusterError("no worker takes 3 results")
            await world.fleet.scale(jobs=0)
            await asyncio.sleep(30)
            assert len(world.backend.living()) == 1
            assert world.said("no worker takes 3 results")
            world.engine.retire_error = None
            await asyncio.sleep(60)
            assert not world.backend.living()

    check(story())


def test_jobs_that_reach_their_walltime_are_replaced() -> None:
    async def story() -> None:
        async with a_world() as world:
            world.backend.fate = Fate(ends_after=3600.0, ends_as=JobState.TIMEOUT)
            await world.fleet.scale(jobs=2)
            await asyncio.sleep(6 * 3600)
            assert 10 <= world.backend.calls["submit"] <= 14
            assert world.fleet.plan == 8
            assert not [level for level, _ in world.notices if level == "error"]

    check(story())


def test_adapting_grows_with_the_work_and_shrinks_when_idle() -> None:
    async def story() -> None:
        async with a_world() as world:
            await world.fleet.adapt(AdaptSettings(minimum_jobs=1, maximum_jobs=5, idle_timeout=300))
            assert len(world.backend.living()) == 1
            world.engine.current = Load(queued=1000, unfinished=1000, expected_seconds=60_000)
            await world.fleet.wait_for_workers(20, timeout=60)
            workers = frozenset(worker.name for worker in world.engine.workers())
            world.engine.current = Load(idle_workers=workers)
            await asyncio.sleep(295)
            assert len(world.backend.living()) == 5
            await asyncio.sleep(15)
            assert len(world.backend.living()) == 1
            assert sum(len(jobs) for jobs in world.engine.retirements) == 4

    check(story())


def test_adapt_raises_the_refusal_of_its_minimum() -> None:
    async def story() -> None:
        async with a_world() as world:
            world.backend.fates = [Fate(refused=REFUSED)]
            with pytest.raises(SubmitRefused):
                await world.fleet.adapt(AdaptSettings(minimum_jobs=1))
            with pytest.raises(SubmitRefused):
                await world.fleet.wait_for_workers(1)
            await asyncio.sleep(70)
            assert len(world.backend.living()) == 1

    check(story())


def test_idle_jobs_are_released_and_come_back_for_whoever_waits() -> None:
    async def story() -> None:
        async with a_world(settings=FleetSettings(idle_timeout=600.0)) as world:
            await world.fleet.scale(jobs=2)
            await world.fleet.wait_for_workers(8)
            world.engine.current = Load(idle_workers=frozenset(worker.name for worker in world.engine.workers()))
            await asyncio.sleep(700)
            assert not world.backend.living()
            await world.fleet.wait_for_workers(8, timeout=60)

    check(story())


def test_a_restarted_worker_is_not_taken_for_gone() -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH) as world:
            await world.fleet.scale(jobs=1)
            await world.fleet.wait_for_workers(1)
            [worker] = world.engine.workers()
            world.engine.add(worker.name, worker.job, pid=2)
            world.engine.tell_left(worker)
            assert world.fleet.observed == 1

    check(story())


@pytest.mark.parametrize("places_jobs", [False, True])
def test_logs_of_running_waiting_and_unknown_jobs(places_jobs: bool) -> None:
    async def story() -> None:
        async with a_world(places_jobs=places_jobs) as world:
            world.backend.fates = [Fate(log="one\ntwo\n"), Fate(start_after=None)]
            await world.fleet.scale(jobs=2)
            await asyncio.sleep(20)
            first, second = (row.name for row in world.fleet.jobs())
            assert await world.fleet.logs(tail=1) == {first: "two", second: "[PENDING: Priority]"}
            assert await world.fleet.logs("481517") == {first: "one\ntwo"}
            with pytest.raises(JobUnknown, match="481517, 481518"):
                await world.fleet.logs("7")
            world.backend.is_down = True
            assert (await world.fleet.logs(first))[first] == "[cannot be reached]"
            world.backend.is_down = False

    check(story())


def test_nothing_can_be_asked_of_a_closed_fleet() -> None:
    async def story() -> None:
        world = World()
        with pytest.raises(ClusterError, match="not been started"):
            await world.fleet.scale(jobs=1)
        assert (await world.fleet.close()).unconfirmed == ()
        await world.engine.start(world.fleet.events)
        await world.fleet.start()
        await world.fleet.scale(jobs=1)
        waiting = asyncio.ensure_future(world.fleet.wait_for_workers(100))
        await asyncio.sleep(0.5)
        await asyncio.gather(world.fleet.close(), world.fleet.close())
        with pytest.raises(ClusterClosed):
            await waiting
        for wish in (world.fleet.scale(jobs=1), world.fleet.adapt(None), world.fleet.wait_for_workers(1)):
            with pytest.raises(ClusterClosed):
                await wish

    check(story())


def test_a_plugins_bug_is_a_doubt_not_the_end() -> None:
    async def story() -> None:
        async with a_world() as world:
            submit = world.backend.submit

            async def buggy(spec: JobSpec, credential: bytes | None = None) -> JobId:
                await submit(spec, credential)
                raise KeyError("JobId")

            world.backend.submit = buggy  # type: ignore[method-assign]
            await world.fleet.scale(jobs=1)
            assert world.said("KeyError")
            world.backend.submit = submit  # type: ignore[method-assign]
            await asyncio.sleep(60)
            [job] = world.backend.living()
            assert job.spec.name == "hpc-calm-otter-0a20"

    check(story())


def test_what_many_jobs_die_of_is_told_once_with_their_number() -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH) as world:
            world.backend.fate = DIES
            await world.fleet.scale(jobs=3)
            with pytest.raises(JobDied):
                await world.fleet.wait_for_workers(3, timeout=600)
            wait = [notice for notice in world.notices if "HPC-JOB-PYTHON-MISSING" in notice[1]]
            assert [text for _, text in wait if "stage:" in text] == [wait[0][1]]
            assert wait[1][1].startswith("2 jobs have ended so by now; the last: job ")
            assert all(level == "info" for level, text in wait if text.startswith("3 jobs"))

    check(story())
