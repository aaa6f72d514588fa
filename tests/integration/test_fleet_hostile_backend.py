"""Backends that break their contract: whatever they raise or return, the fleet goes on and says whose fault it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpccluster.errors import BackendError, BackendUnavailable, ConfigError, HpcClusterError, JobDied, PolicyRefused
from hpccluster.fleet.asking import ask, render
from hpccluster.ids import JobId
from hpccluster.job import CancelReport, JobSpec, JobState, JobStatus
from hpccluster.resources import JobResources
from hpccluster.testing.backend_contract import BackendContract
from hpccluster_local.backend import LocalBackend
from hpccluster_local.options import LocalOptions
from support.fleet_world import Fate, World, a_world
from support.virtual_time import run_virtually

ONE_EACH = JobResources(cores=1, memory=None, processes=1)
Answer = Callable[..., Awaitable[Any]]


def returns(value: Any) -> Answer:
    async def answer(*_: Any) -> Any:
        return value

    return answer


def raises(error: BaseException) -> Answer:
    async def answer(*_: Any) -> Any:
        raise error

    return answer


def raises_at_once(*_: Any) -> Any:
    raise ZeroDivisionError("not even a coroutine")


async def hangs(*_: Any) -> Any:
    await asyncio.Event().wait()


async def hangs_whatever_happens(*_: Any) -> Any:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


BROKEN: dict[str, Answer] = {
    "raises": raises(ZeroDivisionError("oops")),
    "exits": raises(SystemExit("no licence")),
    "cancels itself": raises(asyncio.CancelledError()),
    "is no coroutine": raises_at_once,
    "returns None": returns(None),
    "returns a number": returns(7),
    "hangs": hangs,
}


def breaks(world: World, method: str, answer: Answer) -> None:
    """From now on the method does this; ``delattr`` mends it."""
    setattr(world.backend, method, answer)


def said(world: World) -> str:
    return "\n".join(text for _, text in world.notices)


def test_script_that_cannot_be_made_is_the_fault_of_the_backend() -> None:
    class Broken(LocalBackend):
        def render(self, spec: JobSpec) -> str:
            raise ZeroDivisionError("oops")

    spec = BackendContract().spec(Path("/tmp"), "true")
    with pytest.raises(
        BackendError, match=r"make the job script: the backend breaks its contract: ZeroDivisionError: oops"
    ):
        render(Broken(LocalOptions()), spec)
    with pytest.raises(ConfigError):
        render(LocalBackend(LocalOptions()), replace(spec, command=("a\nb",)))


@pytest.mark.parametrize("how", [*BROKEN, "leaves one out", "tells of another"])
def test_poll_that_breaks_the_contract_changes_nothing(how: str) -> None:
    other = JobStatus(id=JobId("1"), state=JobState.COMPLETED)

    async def tells_of_another(ids: Any) -> Any:
        return dict.fromkeys(ids, other)

    broken = {**BROKEN, "leaves one out": returns({}), "tells of another": tells_of_another}[how]

    async def story() -> None:
        async with a_world(resources=ONE_EACH) as world:
            breaks(world, "poll", broken)
            await world.fleet.scale(jobs=2)
            await world.fleet.wait_for_workers(2, timeout=60)
            await asyncio.sleep(400)
            assert world.fleet.observed == 2
            assert "poll: " in said(world), world.notices
            delattr(world.backend, "poll")
            await asyncio.sleep(200)
            assert {row.state for row in world.fleet.jobs()} == {"RUNNING"}

    run_virtually(story())


@pytest.mark.parametrize("how", BROKEN)
def test_submit_that_breaks_the_contract_is_doubtful(how: str) -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH) as world:
            breaks(world, "submit", BROKEN[how])
            await world.fleet.scale(jobs=1)
            assert "HPC-SUBMIT-DOUBTFUL" in said(world), world.notices
            delattr(world.backend, "submit")
            # it is looked for under its name, in vain, and another is submitted
            await world.fleet.wait_for_workers(1, timeout=600)

    run_virtually(story())


@pytest.mark.parametrize("error", [ConfigError("x"), PolicyRefused("x"), BackendUnavailable("x")])
def test_what_proves_that_there_is_no_job_is_raised(error: HpcClusterError) -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH) as world:
            breaks(world, "submit", raises(error))
            with pytest.raises(type(error)):
                await world.fleet.scale(jobs=1)
            await asyncio.sleep(60)
            assert world.backend.calls["find"] == 0, "nothing to look for"

    run_virtually(story())


@pytest.mark.parametrize("how", [*BROKEN, "claims nothing"])
def test_cancel_that_breaks_the_contract_is_not_believed(how: str) -> None:
    async def story() -> None:
        world = World(resources=ONE_EACH)
        await world.engine.start(world.fleet.events)
        await world.fleet.start()
        await world.fleet.scale(jobs=1)
        breaks(world, "cancel", {**BROKEN, "claims nothing": returns(CancelReport())}[how])
        report = await world.fleet.close(20)
        assert report.unconfirmed == ("hpc-calm-otter-0a1f",)

    run_virtually(story())


@pytest.mark.parametrize("how", BROKEN)
def test_logs_find_and_explain_that_break_the_contract_cost_their_answer_only(how: str) -> None:
    async def story() -> None:
        async with a_world(resources=ONE_EACH) as world:
            breaks(world, "logs", BROKEN[how])
            breaks(world, "explain", raises_at_once)
            world.backend.fate = Fate(ends_after=2.0, ends_as=JobState.FAILED, exit_code=1, workers=0)
            await world.fleet.scale(jobs=1)
            with pytest.raises(JobDied, match="FAILED, exit code 1"):
                await world.fleet.wait_for_workers(1, timeout=600)
            assert world.fleet.jobs()

    run_virtually(story())


def test_a_backend_that_ignores_its_end_is_left_behind() -> None:
    async def story() -> None:
        begun = asyncio.get_running_loop().time()
        with pytest.raises(BackendError, match=r"poll: no answer within 0\.2 s"):
            await ask(hangs_whatever_happens, doing="poll", timeout=0.2)
        assert asyncio.get_running_loop().time() - begun < 5
        asking = asyncio.ensure_future(ask(hangs_whatever_happens, doing="poll", timeout=None))
        await asyncio.sleep(1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(story(), 30))
    finally:
        loop.close()
