"""Closing: everything is cancelled, verified, and what is not verified is said."""

from __future__ import annotations

from hpccluster.job import JobState
from hpccluster.state.fleet import actions
from hpccluster.state.fleet.records import Phase
from support.fleet_env import FleetEnv


def test_closing_nothing_is_finished_at_once() -> None:
    env = FleetEnv()
    env.close()
    env.expect_finished()
    env.close()
    env.scale(3)
    env.tick(100)
    env.expect_nothing()


def test_pending_and_running_jobs_are_cancelled_without_being_retired() -> None:
    env = FleetEnv()
    ids = env.pending(2)
    first, second = ids
    env.joins(first)
    env.close()
    env.expect_cancel(*ids.values())
    env.cancel_reported(gone=[ids[second]], unconfirmed=[ids[first]])
    env.polls(JobState.CANCELLED, ids[first])
    env.expect_finished(cancelled=[first, second])


def test_a_retiring_job_is_not_waited_for() -> None:
    env = FleetEnv()
    [(job, number)] = env.running(1).items()
    env.scale(0)
    env.expect_retire(job)
    env.close()
    env.expect_cancel(number)
    env.cancel_reported(gone=[number])
    env.expect_finished(cancelled=[job])
    env.retired(job)
    env.expect_nothing()


def test_a_submission_under_way_is_waited_for_and_cancelled() -> None:
    env = FleetEnv()
    env.scale(2)
    first, second = env.expect_submits(2)
    env.close()
    env.expect_nothing()
    env.submitted(first, "101")
    env.expect_cancel("101")
    env.refused(second)
    env.cancel_reported(gone=["101"])
    env.expect_finished(cancelled=[first])


def test_doubtful_jobs_are_looked_for() -> None:
    env = FleetEnv()
    env.scale(2)
    first, second = env.expect_submits(2)
    env.doubtful(first)
    env.doubtful(second)
    env.close()
    env.looked_for(second, found={first: "101"})
    env.expect_cancel("101")
    env.cancel_reported(gone=["101"])
    env.looked_for(second)
    env.expect_finished(cancelled=[first])


def test_a_submission_that_never_showed_up_is_looked_for_once_more() -> None:
    env = FleetEnv()
    env.scale(1)
    [job] = env.expect_submits(1)
    env.doubtful(job)
    env.looked_for(job)
    env.looked_for(job)
    [replacement] = env.expect_submits(1)
    env.scale(0)
    env.refused(replacement)
    env.now += 5000
    assert env.state.watch(env.now).names == {job}
    env.close()
    env.looked_for(found={job: "101"})
    env.expect_cancel("101")
    env.cancel_reported(gone=["101"])
    env.expect_finished(cancelled=[job])


def test_what_is_not_verified_by_the_deadline_is_said() -> None:
    env = FleetEnv()
    env.scale(3)
    first, second, third = env.expect_submits(3)
    env.submitted(first, "101")
    env.doubtful(second)
    env.close(within=30)
    env.expect_cancel("101")
    assert env.next_tick == 30
    env.tick(30)
    env.expect_finished(unconfirmed=[first, second, third])
    assert env.next_tick is None


def test_cancels_are_repeated_until_the_deadline() -> None:
    env = FleetEnv()
    [(job, number)] = env.pending(1).items()
    env.close(within=30)
    env.expect_cancel(number)
    env.cancel_reported(unconfirmed=[number])
    assert env.next_tick == 5
    env.tick(5)
    env.expect_cancel(number)
    env.cancel_reported(gone=[number])
    env.expect_finished(cancelled=[job])


def test_one_absence_is_no_proof() -> None:
    env = FleetEnv()
    [(job, number)] = env.pending(1).items()
    env.close()
    env.expect_cancel(number)
    env.cancel_reported(unconfirmed=[number])
    env.polls(JobState.ABSENT, number)
    env.expect_nothing()
    env.poll_failed()
    env.polls(JobState.ABSENT, number)
    env.expect_finished(cancelled=[job])


def test_a_job_that_comes_back_while_closing_is_cancelled_again() -> None:
    env = FleetEnv()
    ids = env.pending(2)
    first, second = ids
    env.close()
    env.expect_cancel(*ids.values())
    env.cancel_reported(gone=[ids[first]], unconfirmed=[ids[second]])
    env.now += 1
    env.polls(JobState.PENDING, ids[first])
    env.expect_report("HPC-JOB-RETURNED")
    env.expect_cancel(ids[first])
    env.cancel_reported(gone=ids.values())
    env.expect_finished(cancelled=[first, second])


def test_nothing_is_submitted_or_blamed_while_closing() -> None:
    env = FleetEnv()
    ids = env.pending(2)
    first, second = ids
    env.close()
    env.expect_cancel(*ids.values())
    env.polls(JobState.FAILED, ids[first])
    env.polls(JobState.CANCELLED, ids[second])
    env.expect_finished(cancelled=[first, second])


def test_workers_are_not_admitted_while_closing() -> None:
    env = FleetEnv()
    [(job, number)] = env.pending(1).items()
    env.close()
    env.expect_cancel(number)
    assert not env.state.admits(job)
    env.joins(job)
    assert env.take(actions.Action) == []
    assert env.phase(job) is Phase.CANCELLING
