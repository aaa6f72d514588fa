"""Scaling: whole jobs, submitted in bounded numbers, the least useful leave first."""

from __future__ import annotations

from hpccluster.job import JobState
from hpccluster.state.fleet import actions
from hpccluster.state.fleet.records import Phase
from support.fleet_env import FleetEnv, status


def test_scale_up_submits_what_is_missing() -> None:
    env = FleetEnv()
    env.scale(2)
    first, second = env.expect_submits(2)
    env.submitted(first)
    env.scale(3)
    [third] = env.expect_submits(1)
    assert len({first, second, third}) == 3
    assert not env.state.is_settled
    env.submitted(second)
    env.submitted(third)
    assert env.state.is_settled


def test_the_same_wish_twice_asks_for_nothing() -> None:
    env = FleetEnv()
    env.scale(2)
    env.expect_submits(2)
    env.scale(2)
    env.expect_nothing()


def test_names_carry_the_cluster_and_rise() -> None:
    env = FleetEnv(first_number=0x0A1F)
    env.scale(2)
    assert env.expect_submits(2) == ["hpc-calm-otter-0a1f", "hpc-calm-otter-0a20"]


def test_submissions_are_bounded() -> None:
    env = FleetEnv(concurrent_submissions=2)
    env.scale(5)
    first, second = env.expect_submits(2)
    env.submitted(first)
    [third] = env.expect_submits(1)
    env.submitted(second)
    [fourth] = env.expect_submits(1)
    env.submitted(third)
    [fifth] = env.expect_submits(1)
    env.submitted(fourth)
    env.submitted(fifth)
    env.expect_nothing()


def test_scale_down_drops_never_submitted_jobs_without_a_word() -> None:
    env = FleetEnv(concurrent_submissions=2)
    env.scale(5)
    first, second = env.expect_submits(2)
    env.scale(2)
    env.submitted(first)
    env.submitted(second)
    env.expect_nothing()


def test_a_job_dropped_while_being_submitted_is_cancelled_when_it_has_an_id() -> None:
    env = FleetEnv()
    env.scale(1)
    [job] = env.expect_submits(1)
    env.scale(0)
    env.expect_nothing()
    env.submitted(job, "101")
    env.expect_cancel("101")
    env.cancel_reported(gone=["101"])
    assert env.record(job).shown_state is JobState.CANCELLED


def test_scale_down_takes_pending_jobs_newest_first() -> None:
    env = FleetEnv()
    ids = env.pending(3)
    first, second, third = ids
    env.joins(third)
    env.scale(2)
    env.expect_cancel(ids[second])
    env.scale(1)
    env.expect_cancel(ids[first])


def test_scale_down_takes_idle_jobs_before_busy_ones_and_then_the_youngest() -> None:
    env = FleetEnv(processes=2)
    ids = env.running(3)
    first, second, third = ids
    env.load(unfinished=5, idle=[first])
    env.scale(2)
    env.expect_retire(first)
    env.scale(1)
    env.expect_retire(third)
    assert env.phase(second) is Phase.RUNNING


def test_a_job_with_a_busy_worker_is_not_idle() -> None:
    env = FleetEnv(processes=2)
    first, _ = env.running(2)
    env.load(unfinished=1, idle_workers=[f"{first}-0"])
    assert env.record(first).idle_since is None


def test_running_jobs_hand_over_before_they_are_cancelled() -> None:
    env = FleetEnv(processes=2)
    ids = env.running(2)
    _, youngest = ids
    env.scale(1)
    env.expect_retire(youngest)
    assert not env.state.admits(youngest)
    env.leaves(youngest)
    env.expect_nothing()
    env.retired(youngest)
    env.expect_cancel(ids[youngest])
    env.cancel_reported(gone=[ids[youngest]])
    assert env.phase(youngest) is Phase.OVER


def test_a_running_job_without_workers_has_nothing_to_hand_over() -> None:
    env = FleetEnv()
    ids = env.pending(1)
    [job] = ids
    env.polls(JobState.RUNNING, ids[job])
    env.scale(0)
    env.expect_cancel(ids[job])


def test_scaling_up_again_does_not_wait_for_the_leaving() -> None:
    env = FleetEnv()
    env.running(1)
    env.scale(0)
    env.take(actions.Retire)
    env.scale(1)
    env.expect_submits(1)


def test_a_job_that_cannot_hand_over_stays_and_is_asked_again() -> None:
    env = FleetEnv()
    ids = env.running(1)
    [job] = ids
    env.scale(0)
    env.expect_retire(job)
    env.retire_failed(job)
    env.expect_report("HPC-RETIRE-FAILED")
    assert env.state.admits(job)
    assert env.next_tick == 60
    env.tick(60)
    env.expect_retire(job)
    env.retired(job)
    env.expect_cancel(ids[job])


def test_an_unconfirmed_cancel_is_repeated_until_a_poll_shows_the_end() -> None:
    env = FleetEnv()
    ids = env.pending(1)
    [(job, number)] = ids.items()
    env.scale(0)
    env.expect_cancel(number)
    env.cancel_reported(unconfirmed=[number])
    assert env.wants_poll
    env.polls(JobState.RUNNING, number)
    assert env.next_tick == 5
    env.tick(5)
    env.expect_cancel(number)
    env.tick(60)  # the second cancel has not been answered: no third one
    env.cancel_reported(unconfirmed=[number])
    env.polls(JobState.CANCELLED, number)
    assert env.phase(job) is Phase.OVER


def test_a_cancel_that_never_works_is_told_once() -> None:
    env = FleetEnv()
    [(_, number)] = env.pending(1).items()
    env.scale(0)
    env.expect_cancel(number)
    for attempt in range(1, 6):
        env.cancel_reported(unconfirmed=[number])
        if attempt == 3:
            env.expect_report("HPC-CANCEL-UNCONFIRMED")
        env.tick(60)
        env.expect_cancel(number)


def test_a_cancelled_job_that_comes_back_is_cancelled_again() -> None:
    env = FleetEnv()
    [(job, number)] = env.pending(1).items()
    env.scale(0)
    env.expect_cancel(number)
    env.cancel_reported(gone=[number])
    ended = env.now
    env.now += 30
    env.polled(status(number, JobState.PENDING), begun=ended - 1)  # an old answer proves nothing
    env.expect_nothing()
    env.polls(JobState.PENDING, number)
    env.expect_report("HPC-JOB-RETURNED")
    env.expect_cancel(number)
    assert env.phase(job) is Phase.CANCELLING


def test_what_is_about_unknown_jobs_is_dropped() -> None:
    env = FleetEnv()
    [(job, _)] = env.running(1).items()
    stranger = type(job)("hpc-calm-otter-ffff")
    env.submitted(stranger, "9")
    env.refused(stranger)
    env.looked_for(found={stranger: "9"})
    env.polls(JobState.FAILED, "9")
    env.cancel_reported(gone=["9"])
    env.joins(stranger)
    env.leaves(stranger)
    env.retired(stranger)
    env.log_fetched(stranger)
    env.expect_nothing()
    assert env.state.admits(stranger)
    assert env.state.admits("")


def test_idle_jobs_are_released_and_come_back_with_new_work() -> None:
    env = FleetEnv(idle_timeout=1800)
    ids = env.running(2)
    env.load(idle=ids)
    env.tick(1799)
    env.expect_nothing()
    env.tick(1)
    env.expect_report("HPC-JOBS-IDLE")
    env.expect_retire(*ids)
    env.retired(*ids)
    env.expect_cancel(*ids.values())
    env.cancel_reported(gone=ids.values())
    env.expect_nothing()
    assert env.state.goal == 0
    env.load(queued=3, unfinished=3)
    env.expect_submits(2)


def test_idle_jobs_stay_while_others_work() -> None:
    env = FleetEnv(idle_timeout=1800)
    first, _ = env.running(2)
    env.load(unfinished=1, idle=[first])
    env.tick(4000)
    env.expect_nothing()


def test_jobs_that_wait_long_are_mentioned_once() -> None:
    env = FleetEnv()
    ids = env.pending(2)
    env.polls(JobState.PENDING, *ids.values(), reason="Priority")
    assert env.next_tick == 60
    env.tick(60)
    assert "2 jobs wait in the queue: Priority" in env.expect_report("HPC-JOB-WAITS").text
    env.tick(600)
    env.expect_nothing()


def test_the_trace_tells_a_jobs_life() -> None:
    env = FleetEnv()
    [(job, _)] = env.running(1).items()
    assert [(before, after) for _, _, name, before, after, _ in env.trace if name == job] == [
        ("", "submitting"),
        ("submitting", "pending"),
        ("pending", "running"),
    ]
