"""Submissions that are refused, held back by limits, or end in doubt."""

from __future__ import annotations

from hpccluster.job import JobState
from hpccluster.state.fleet import events
from hpccluster.state.fleet.brake import Trouble
from hpccluster.state.fleet.records import Phase
from support.fleet_env import FleetEnv


def test_a_refusal_lowers_the_target_to_what_exists() -> None:
    env = FleetEnv(concurrent_submissions=2)
    env.scale(4)
    first, second = env.expect_submits(2)
    env.submitted(first)
    [third] = env.expect_submits(1)
    env.refused(second)
    env.expect_nothing()
    assert env.state.target == 2
    env.submitted(third)
    env.expect_nothing()
    assert env.state.is_settled


def test_all_refused_leaves_nothing_and_tries_nothing() -> None:
    env = FleetEnv()
    env.scale(2)
    for job in env.expect_submits(2):
        env.refused(job)
    env.expect_nothing()
    assert env.state.target == 0
    env.tick(10_000)
    env.expect_nothing()


def test_a_refused_replacement_pauses_the_pool_and_is_tried_again() -> None:
    env = FleetEnv()
    [(job, number)] = env.running(1).items()
    env.leaves(job)
    env.now += 3600
    env.polls(JobState.TIMEOUT, number)
    env.expect_report("HPC-JOB-ENDED")
    [replacement] = env.expect_submits(1)
    env.refused(replacement, "partition is down")
    env.expect_report("HPC-SUBMIT-PARTITION")
    assert env.state.target == 1
    assert env.next_tick == 60
    env.tick(60)
    [again] = env.expect_submits(1)
    env.refused(again, "partition is down")
    env.expect_report("HPC-SUBMIT-PARTITION")
    env.tick(60)
    env.expect_nothing()
    env.tick(240)
    [third] = env.expect_submits(1)
    env.submitted(third)
    assert env.state.brake.trouble is Trouble.NONE


def test_a_limit_holds_jobs_back_and_tops_up_one_by_one() -> None:
    env = FleetEnv(concurrent_submissions=2)
    env.scale(4)
    first, second = env.expect_submits(2)
    env.submitted(first)
    [third] = env.expect_submits(1)
    env.refused(second, "QOSMaxSubmitJobPerUserLimit", limit=True)
    env.expect_report("HPC-SUBMIT-LIMIT")
    env.refused(third, "QOSMaxSubmitJobPerUserLimit", limit=True)
    env.expect_nothing()
    assert env.state.target == 4
    assert env.state.is_settled
    env.tick(20)
    [probe] = env.expect_submits(1)
    env.refused(probe, "QOSMaxSubmitJobPerUserLimit", limit=True)
    env.tick(19)
    env.expect_nothing()
    env.tick(1)
    [probe] = env.expect_submits(1)
    env.submitted(probe)
    env.expect_submits(2)


def test_a_doubtful_job_keeps_its_place_until_two_looks_did_not_find_it() -> None:
    env = FleetEnv()
    env.scale(1)
    [job] = env.expect_submits(1)
    env.doubtful(job)
    assert env.state.watch(env.now).names == {job}
    assert not env.state.admits(job)
    env.looked_for(job)
    env.poll_failed()  # says nothing
    env.expect_nothing()
    env.looked_for(job)
    [replacement] = env.expect_submits(1)
    assert replacement != job


def test_a_doubtful_job_that_is_found_is_cancelled_and_replaced_when_it_is_gone() -> None:
    env = FleetEnv()
    env.scale(1)
    [job] = env.expect_submits(1)
    env.doubtful(job)
    env.looked_for(job)
    env.looked_for(found={job: "101"})
    env.expect_cancel("101")
    env.cancel_reported(unconfirmed=["101"])
    env.polls(JobState.RUNNING, "101")
    env.polls(JobState.ABSENT, "101")
    env.expect_nothing()
    env.polls(JobState.ABSENT, "101")
    env.expect_submits(1)


def test_a_doubtful_job_that_comes_minutes_later_is_cancelled() -> None:
    env = FleetEnv()
    env.scale(1)
    [job] = env.expect_submits(1)
    env.doubtful(job)
    env.looked_for(job)
    env.looked_for(job)
    [replacement] = env.expect_submits(1)
    env.submitted(replacement, "102")
    env.now += 300
    assert job in env.state.watch(env.now).names
    env.looked_for(found={job: "101"})
    env.expect_cancel("101")
    env.cancel_reported(gone=["101"])
    env.expect_nothing()


def test_the_worker_of_a_doubtful_job_is_turned_away() -> None:
    env = FleetEnv()
    env.scale(1)
    [job] = env.expect_submits(1)
    env.doubtful(job)
    env.looked_for(job)
    env.joins(job)
    env.expect_retire(job)
    assert env.wants_poll
    env.looked_for(job)  # it does exist, whatever is listed
    env.looked_for(job)
    env.expect_nothing()
    env.looked_for(found={job: "101"})
    env.expect_cancel("101")


def test_a_doubtful_job_that_is_dropped_frees_its_place_at_once() -> None:
    env = FleetEnv()
    env.scale(1)
    [job] = env.expect_submits(1)
    env.doubtful(job)
    env.scale(0)
    env.scale(1)
    env.expect_submits(1)
    env.looked_for(found={job: "101"})
    env.expect_cancel("101")


def test_a_worker_may_join_before_the_submission_is_answered() -> None:
    env = FleetEnv()
    env.scale(1)
    [job] = env.expect_submits(1)
    env.joins(job)
    env.submitted(job, "101")
    assert env.phase(job) is Phase.RUNNING


def test_late_and_double_answers_of_a_submission_change_nothing() -> None:
    env = FleetEnv()
    env.scale(1)
    [job] = env.expect_submits(1)
    env.submitted(job, "101")
    env.submitted(job, "101")
    env.refused(job)
    env.tell(events.SubmitDoubtful(job, "late"))
    env.expect_nothing()
    assert env.phase(job) is Phase.PENDING


def test_a_second_job_under_one_name_is_cancelled() -> None:
    env = FleetEnv()
    env.scale(1)
    [job] = env.expect_submits(1)
    env.submitted(job, "101")
    env.submitted(job, "102")
    env.expect_cancel("102")


def test_an_id_that_another_job_has_is_a_doubtful_answer() -> None:
    env = FleetEnv()
    env.scale(2)
    first, second = env.expect_submits(2)
    env.submitted(first, "101")
    env.submitted(second, "101")
    env.expect_report("HPC-SUBMIT-DOUBTFUL")
    assert env.phase(second) is Phase.DOUBTFUL


def test_an_id_of_an_ended_job_may_come_again() -> None:
    env = FleetEnv()
    env.scale(1)
    [first] = env.expect_submits(1)
    env.submitted(first, "101")
    env.scale(0)
    env.expect_cancel("101")
    env.cancel_reported(gone=["101"])
    env.scale(1)
    [second] = env.expect_submits(1)
    env.submitted(second, "101")
    env.polls(JobState.RUNNING, "101")
    assert env.phase(second) is Phase.RUNNING
