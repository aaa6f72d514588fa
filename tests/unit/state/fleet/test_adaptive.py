"""Adaptive size: the pure decision, and the machine that follows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccluster.errors import ConfigError
from hpccluster.ids import JobName
from hpccluster.job import JobState
from hpccluster.resources import JobResources
from hpccluster.state.fleet import actions
from hpccluster.state.fleet.adaptive import (
    AdaptLimits,
    AdaptSettings,
    Decision,
    JobView,
    Wish,
    decide,
    limits_in_jobs,
)
from support.fleet_env import FleetEnv

RESOURCES = JobResources(cores=8, memory=32 * 10**9, processes=4)


def make_jobs(*, waiting: int = 0, busy: int = 0, idle: Sequence[float] = ()) -> list[JobView]:
    """Busy ones are the oldest, waiting ones the newest."""
    views = [JobView(JobName(f"busy-{i}"), False) for i in range(busy)]
    views += [JobView(JobName(f"idle-{i}"), False, since) for i, since in enumerate(idle)]
    return views + [JobView(JobName(f"waiting-{i}"), True) for i in range(waiting)]


def ask(limits: AdaptLimits, jobs: Sequence[JobView] = (), *, now: float = 1000.0, **load: Any) -> Decision:
    """One decision, with a load that has been the same for a day."""
    load = {"queued": 0, "unfinished": 0, "expected_seconds": 0.0} | load
    history: tuple[Wish, ...] = ()
    for past in (now - 86400, now - 3600, now - 400):
        history = decide(limits, jobs=jobs, cores_per_job=8, history=history, now=past, **load).history
    return decide(limits, jobs=jobs, cores_per_job=8, history=history, now=now, **load)


def test_no_work_no_jobs() -> None:
    assert ask(AdaptLimits(maximum=10)).target == 0


def test_as_many_jobs_as_finish_the_work_in_the_target_duration() -> None:
    limits = AdaptLimits(maximum=100, target_duration=60)
    load: dict[str, Any] = {"queued": 10_000, "unfinished": 10_000, "expected_seconds": 10_000.0}
    assert ask(limits, **load).target == 21  # 167 cores


def test_no_more_cores_than_there_are_tasks() -> None:
    limits = AdaptLimits(maximum=100, target_duration=5)
    assert ask(limits, queued=20, unfinished=20, expected_seconds=20 * 3600.0).target == 3


def test_one_job_for_any_work_at_all() -> None:
    assert ask(AdaptLimits(maximum=100), queued=1, unfinished=1, expected_seconds=0.001).target == 1
    assert ask(AdaptLimits(maximum=100), queued=0, unfinished=1).target == 1


def test_tasks_of_unknown_duration_count_a_little() -> None:
    assert ask(AdaptLimits(maximum=100, target_duration=5), queued=1600, unfinished=1600).target == 20


def test_limits_hold() -> None:
    load: dict[str, Any] = {"queued": 10_000, "unfinished": 10_000, "expected_seconds": 1e6}
    assert ask(AdaptLimits(maximum=7), **load).target == 7
    assert ask(AdaptLimits(minimum=3, maximum=7)).target == 3


def test_pending_jobs_are_counted() -> None:
    load: dict[str, Any] = {"queued": 100, "unfinished": 100, "expected_seconds": 100 * 60.0}
    assert ask(AdaptLimits(maximum=100), make_jobs(waiting=13), **load).target == 13


def test_no_more_than_so_many_wait_in_the_queue() -> None:
    load: dict[str, Any] = {"queued": 10_000, "unfinished": 10_000, "expected_seconds": 1e6}
    assert ask(AdaptLimits(max_pending=5), make_jobs(waiting=2, busy=4), **load).target == 9


def test_surplus_pending_jobs_leave_newest_first() -> None:
    load: dict[str, Any] = {"queued": 8, "unfinished": 8, "expected_seconds": 80.0}
    decision = ask(AdaptLimits(maximum=10), make_jobs(waiting=3), **load)
    assert decision.leave == ("waiting-2", "waiting-1")
    assert decision.target == 1


def test_only_idle_jobs_leave_and_only_after_the_timeout() -> None:
    limits = AdaptLimits(maximum=10, idle_timeout=300)
    jobs = make_jobs(busy=2, idle=[600.0, 699.0, 701.0])
    decision = ask(limits, jobs, now=1000.0, unfinished=2, expected_seconds=1.0)
    assert decision.leave == ("idle-0", "idle-1")
    assert decision.target == 3


def test_the_minimum_stays_though_it_is_idle() -> None:
    decision = ask(AdaptLimits(minimum=2, maximum=10), make_jobs(idle=[0.0, 1.0, 2.0]))
    assert decision.leave == ("idle-0",)


def test_shrinking_needs_several_decisions_in_a_row() -> None:
    limits = AdaptLimits(maximum=10, wait_count=3, idle_timeout=0)
    jobs = make_jobs(idle=[0.0])
    history: tuple[Wish, ...] = ()
    for expected in ((), (), ("idle-0",)):
        decision = decide(limits, queued=0, unfinished=0, expected_seconds=0, jobs=jobs, cores_per_job=8,
                          history=history, now=1000.0)  # fmt: skip
        history = decision.history
        assert decision.leave == expected


def test_a_saw_tooth_load_costs_no_pending_job_its_place() -> None:
    limits = AdaptLimits(maximum=50)
    jobs = make_jobs(waiting=12)
    history: tuple[Wish, ...] = ()
    for second in range(600):
        tasks = 96 if second % 40 < 20 else 0
        decision = decide(limits, queued=tasks, unfinished=tasks, expected_seconds=tasks * 60.0, jobs=jobs,
                          cores_per_job=8, history=history, now=float(second))  # fmt: skip
        history = decision.history
        assert decision.target == 12
        assert len(history) < 70


def test_a_lowered_maximum_retires_the_youngest_busy_jobs() -> None:
    load: dict[str, Any] = {"queued": 1000, "unfinished": 1000, "expected_seconds": 1e6}
    decision = ask(AdaptLimits(maximum=2), make_jobs(busy=3, waiting=1), **load)
    assert decision.leave == ("waiting-0", "busy-2")
    assert decision.target == 2


@given(
    minimum=st.integers(0, 5),
    more=st.integers(0, 20),
    queued=st.integers(0, 10_000),
    other=st.integers(0, 100),
    seconds=st.floats(0, 1e9),
    waiting=st.integers(0, 8),
    busy=st.integers(0, 8),
    idle=st.lists(st.floats(0, 1000), max_size=8),
    wishes=st.lists(st.integers(0, 30), max_size=8),
)
def test_decisions_are_sane(
    minimum: int, more: int, queued: int, other: int, seconds: float, waiting: int, busy: int,
    idle: list[float], wishes: list[int],
) -> None:  # fmt: skip
    limits = AdaptLimits(minimum=minimum, maximum=minimum + more, max_pending=10)
    jobs = make_jobs(waiting=waiting, busy=busy, idle=idle)
    history = tuple(Wish(float(time * 50), wish) for time, wish in enumerate(wishes))
    decision = decide(limits, queued=queued, unfinished=queued + other, expected_seconds=seconds, jobs=jobs,
                      cores_per_job=8, history=history, now=1000.0)  # fmt: skip
    names = {job.name for job in jobs}
    assert len(set(decision.leave)) == len(decision.leave)
    assert set(decision.leave) <= names
    assert decision.target <= minimum + more
    if decision.leave:
        assert decision.target == len(jobs) - len(decision.leave)
        assert decision.target >= minimum
    if len(jobs) <= minimum + more:
        assert not any(name.startswith("busy") for name in decision.leave)


def test_limits_become_whole_jobs() -> None:
    limits = limits_in_jobs(AdaptSettings(minimum=5, maximum=18), RESOURCES)
    assert (limits.minimum, limits.maximum) == (2, 4)
    limits = limits_in_jobs(AdaptSettings(minimum_jobs=1, maximum_jobs=50, maximum_cores=80), RESOURCES)
    assert (limits.minimum, limits.maximum) == (1, 10)
    limits = limits_in_jobs(AdaptSettings(minimum_memory=33 * 10**9, maximum_memory=100 * 10**9), RESOURCES)
    assert (limits.minimum, limits.maximum) == (2, 3)
    assert limits_in_jobs(AdaptSettings(maximum=1), RESOURCES).maximum == 1
    assert limits_in_jobs(AdaptSettings(maximum=0), RESOURCES).maximum == 0
    assert limits_in_jobs(AdaptSettings(), RESOURCES).maximum is None


@pytest.mark.parametrize(
    "settings",
    [
        AdaptSettings(minimum=8, maximum=4),
        AdaptSettings(minimum=-1),
        AdaptSettings(maximum_jobs=-2),
        AdaptSettings(interval=0),
        AdaptSettings(target_duration=-1),
    ],
)
def test_limits_that_make_no_sense_are_refused(settings: AdaptSettings) -> None:
    with pytest.raises(ConfigError, match="adapt"):
        limits_in_jobs(settings, RESOURCES)


def test_memory_limits_need_jobs_with_memory() -> None:
    with pytest.raises(ConfigError, match="memory"):
        limits_in_jobs(AdaptSettings(maximum_memory=10**9), JobResources(cores=1, memory=None, processes=1))


# ------------------------------------------------------------------------------------------------------- the machine


def test_adapting_submits_the_minimum_at_once() -> None:
    env = FleetEnv()
    env.adapt(minimum=2)
    env.expect_submits(2)


def test_adapting_follows_the_load_up_and_down() -> None:
    env = FleetEnv(processes=2)
    env.adapt(maximum=3, idle_timeout=120)
    env.expect_nothing()
    env.load(queued=100, unfinished=100, expected_seconds=6000)
    env.tick(1)
    ids = {name: env.submitted(name) for name in env.expect_submits(3)}
    for name in ids:
        env.joins(name)
    first, second, _ = ids
    env.load(unfinished=4, expected_seconds=1, idle=[first, second])
    for _ in range(119):
        env.tick(1)
        env.expect_nothing()
    env.tick(1)
    env.expect_retire(first, second)
    env.load()
    env.tick(1)
    env.expect_nothing()


def test_a_job_that_ends_while_adapting_is_replaced_only_if_needed() -> None:
    env = FleetEnv()
    env.adapt(maximum=5)
    env.load(queued=2, unfinished=2, expected_seconds=600)
    env.tick(1)
    ids = {name: env.submitted(name) for name in env.expect_submits(2)}
    for name in ids:
        env.joins(name)
    first, second = ids
    env.load(unfinished=1, idle=[second])
    env.now += 3600
    env.leaves(first)
    env.polls(JobState.TIMEOUT, ids[first])
    env.expect_report("HPC-JOB-ENDED")
    env.tick(1)
    env.expect_nothing()
    env.load(queued=1, unfinished=1, expected_seconds=600, idle=[second])
    env.tick(1)
    env.expect_nothing()  # the idle one takes it
    env.load(queued=1, unfinished=2, expected_seconds=600)
    env.tick(1)
    env.expect_submits(1)


def test_stopping_to_adapt_keeps_the_jobs() -> None:
    env = FleetEnv()
    env.adapt(minimum=2)
    for name in env.expect_submits(2):
        env.submitted(name)
    env.stop_adapting()
    env.tick(10)
    env.expect_nothing()
    assert env.state.target == 2


def test_dying_jobs_under_adapt_end_in_a_pause_after_five() -> None:
    env = FleetEnv()
    env.adapt(maximum=1)
    env.load(queued=10, unfinished=10, expected_seconds=100)
    submissions = 0
    for _ in range(3600):
        env.tick(1)
        for name in [action.name for action in env.take(actions.Submit)]:
            submissions += 1
            number = env.submitted(name)
            env.polls(JobState.FAILED, number)
            env.asked.clear()
    assert submissions == 5
