"""The fleet when the batch system freezes, is down, or loses answers; and how often it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from hpccluster.engine.base import Load
from hpccluster.errors import StartTimeout
from hpccluster.fleet.values import FleetSettings
from hpccluster.job import JobState
from hpccluster.resources import JobResources
from support.fleet_world import Fate, World, a_world
from support.virtual_time import run_virtually

ONE_EACH = JobResources(cores=1, memory=None, processes=1)


def check(work: Coroutine[Any, Any, None]) -> None:
    run_virtually(work)


def test_a_doubtful_submission_that_made_a_job_is_found_cancelled_and_replaced() -> None:
    async def story() -> None:
        async with a_world() as world:
            world.backend.fates = [Fate(doubt="there", start_after=None)]
            await world.fleet.scale(jobs=1)
            assert world.said("may or may not have been submitted")
            await asyncio.sleep(60)
            ghost, real = world.backend.jobs.values()
            assert ghost.state is JobState.CANCELLED
            assert real.state is JobState.RUNNING
            assert not world.fleet.admits(ghost.spec.name)
            assert world.fleet.admits(real.spec.name)

    check(story())


def test_a_doubtful_submission_that_made_none_is_replaced_after_two_looks() -> None:
    async def story() -> None:
        async with a_world() as world:
            world.backend.fates = [Fate(doubt="lost")]
            await world.fleet.scale(jobs=1)
            await asyncio.sleep(60)
            [job] = world.backend.living()
            assert job.spec.name == "hpc-calm-otter-0a20"
            assert world.backend.calls["find"] >= 2

    check(story())


def test_a_controller_that_freezes_during_submissions_leaves_no_ghosts() -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH, settings=FleetSettings(submit_timeout=20.0)) as world:
            world.backend.freeze()
            scaling = asyncio.ensure_future(world.fleet.scale(jobs=20))
            await asyncio.sleep(60)
            world.backend.thaw()
            await scaling
            most = 0
            for _ in range(600):
                await asyncio.sleep(1)
                admitted = [job for job in world.backend.living() if world.fleet.admits(job.spec.name)]
                most = max(most, len(admitted))
            assert most == 20
            assert len(world.backend.living()) == 20
            assert len({job.spec.name for job in world.backend.jobs.values()}) == len(world.backend.jobs)

    check(story())


def test_an_outage_of_ten_minutes_changes_nothing_and_is_asked_about_rarely() -> None:
    async def story() -> None:
        async with a_world() as world:
            world.backend.fates = [Fate(), Fate(), Fate(start_after=3600.0)]
            await world.fleet.scale(jobs=3)
            await world.fleet.wait_for_workers(8)
            before = [(row.name, row.state) for row in world.fleet.jobs()]
            world.backend.is_down = True
            await asyncio.sleep(120)
            asked = world.backend.calls["poll"]
            await asyncio.sleep(480)
            assert world.backend.calls["poll"] - asked <= 480 / 30 + 1
            assert [(row.name, row.state) for row in world.fleet.jobs()] == before
            assert len(world.said("HPC-POLL-FAILING")) == 1
            world.backend.is_down = False
            await asyncio.sleep(31)
            assert world.said("answers again")
            assert world.backend.calls["submit"] == 3
            assert world.backend.calls["cancel"] == 0

    check(story())


def test_many_pending_jobs_are_one_question_each_half_minute() -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH, settings=FleetSettings(concurrent_submissions=50)) as world:
            world.backend.fate = Fate(start_after=None)
            world.backend.submit_takes = 0.01
            await world.fleet.scale(jobs=300)
            await asyncio.sleep(120)
            asked = world.backend.calls["poll"]
            await asyncio.sleep(3600)
            assert world.backend.calls["poll"] - asked <= 3600 / 30 + 2

    check(story())


def test_nothing_is_asked_while_nothing_can_change() -> None:
    async def story() -> None:
        async with a_world(settings=FleetSettings(idle_timeout=None)) as world:
            await asyncio.sleep(3600)
            assert world.backend.calls["poll"] == 0
            await world.fleet.scale(jobs=3)
            await world.fleet.wait_for_workers(12)
            world.engine.current = Load(unfinished=12)
            await asyncio.sleep(10)
            asked = world.backend.calls["poll"]
            await asyncio.sleep(3600)
            assert world.backend.calls["poll"] - asked <= 13

    check(story())


def test_a_lost_worker_is_a_reason_to_ask() -> None:
    async def story() -> None:
        async with a_world() as world:
            await world.fleet.scale(jobs=1)
            await world.fleet.wait_for_workers(4)
            await asyncio.sleep(1000)
            [job] = world.backend.living()
            world.backend.end(job, JobState.NODE_FAIL)
            await asyncio.sleep(5)
            [replacement] = world.backend.living()
            assert replacement is not job

    check(story())


def test_close_waits_for_slow_ends_and_verifies_them() -> None:
    async def story() -> None:
        async with a_world() as world:
            world.backend.fate = Fate(cancel_takes=12.0)
            await world.fleet.scale(jobs=2)
            await world.fleet.wait_for_workers(8)
            begun = world.now
            report = await world.fleet.close(60)
            assert (len(report.cancelled), report.unconfirmed) == (2, ())
            assert not world.backend.living()
            assert 12 <= world.now - begun < 20

    check(story())


def test_close_of_a_frozen_system_is_bounded_and_honest() -> None:
    async def story() -> None:
        world = World()
        await world.engine.start(world.fleet.events)
        await world.fleet.start()
        await world.fleet.scale(jobs=2)
        world.backend.freeze()
        begun = world.now
        report = await world.fleet.close(30)
        assert world.now - begun <= 31
        assert report.cancelled == ()
        assert report.unconfirmed == ("hpc-calm-otter-0a1f", "hpc-calm-otter-0a20")
        assert "not verified to be gone" in str(report)
        world.backend.thaw()

    check(story())


def test_close_says_why_it_could_not_confirm() -> None:
    async def story() -> None:
        world = World(settings=FleetSettings(command_timeout=10.0))
        await world.engine.start(world.fleet.events)
        await world.fleet.start()
        await world.fleet.scale(jobs=2)
        world.backend.freeze()
        assert (await world.fleet.close(30)).problem == "cancel jobs: no answer within 10 s"
        world.backend.thaw()

    check(story())


def test_close_when_the_system_comes_back_in_time() -> None:
    async def story() -> None:
        async with a_world(settings=FleetSettings(command_timeout=10.0)) as world:
            await world.fleet.scale(jobs=2)
            world.backend.is_down = True
            closing = asyncio.ensure_future(world.fleet.close(60))
            await asyncio.sleep(30)
            world.backend.is_down = False
            report = await closing
            assert (len(report.cancelled), report.unconfirmed) == (2, ())

    check(story())


def test_close_in_the_midst_of_submissions_leaves_nothing() -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH) as world:
            world.backend.fates = [Fate(), Fate(doubt="there"), Fate(doubt="lost")]
            scaling = asyncio.ensure_future(world.fleet.scale(jobs=20))
            await asyncio.sleep(0.05)
            report = await world.fleet.close(30)
            assert not report.unconfirmed
            assert not world.backend.living()
            assert world.backend.calls["submit"] <= 8
            await asyncio.wait([scaling])
            assert scaling.exception() is not None

    check(story())


def test_a_failure_of_the_shell_itself_still_cancels_the_jobs() -> None:
    async def story() -> None:
        world = World()
        await world.engine.start(world.fleet.events)
        await world.fleet.start()
        await world.fleet.scale(jobs=2)

        def broken() -> Load:
            raise RuntimeError("a bug of ours")

        world.engine.load = broken  # type: ignore[method-assign]
        await asyncio.sleep(120)
        assert world.said("the fleet has failed")
        report = await world.fleet.close(30)
        assert len(report.cancelled) == 2
        assert not world.backend.living()

    check(story())


def test_a_job_whose_node_is_dead_is_replaced_though_the_batch_system_does_not_know() -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH) as world:
            world.backend.fate = Fate(cancel_takes=20.0)
            await world.fleet.scale(jobs=2)
            await world.fleet.wait_for_workers(2)
            victim, other = world.backend.living()
            world.engine.leave(victim.spec.name)
            await asyncio.sleep(119)
            assert world.backend.calls["submit"] == 2
            await asyncio.sleep(6)
            await world.fleet.wait_for_workers(2, timeout=10)
            assert [job for job in world.backend.living() if job not in (victim, other)]
            await asyncio.sleep(60)
            assert victim.state is JobState.CANCELLED
            assert len(world.said("counts as lost")) == 1
            await asyncio.sleep(3600)
            assert world.backend.calls["submit"] == 3

    check(story())


def test_what_holds_up_the_only_job_is_told_without_counting_others() -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH) as world:
            world.backend.fate = Fate(doubt="lost")
            await world.fleet.scale(jobs=1)
            texts = []
            for _ in range(12):
                with pytest.raises(StartTimeout) as caught:
                    await world.fleet.wait_for_workers(1, timeout=2)
                texts.append(str(caught.value))
            assert any("new jobs are held back: it is unclear" in text for text in texts), texts
            assert not any("0 jobs" in text for text in texts)

    check(story())


def test_submissions_that_always_fail_unclearly_get_rarer() -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH) as world:
            world.backend.fate = Fate(doubt="lost")
            await world.fleet.scale(jobs=2)
            await asyncio.sleep(3600)
            assert 5 <= world.backend.calls["submit"] <= 12
            with pytest.raises(StartTimeout, match="2 jobs are held back: it is unclear whether jobs are taken"):
                await world.fleet.wait_for_workers(2, timeout=5)
            world.backend.fate = Fate()
            await world.fleet.wait_for_workers(2, timeout=1000)
            assert world.backend.calls["submit"] <= 15

    check(story())
