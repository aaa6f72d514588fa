"""What polls say about jobs, and how jobs end."""

from __future__ import annotations

import pytest

from hpccluster.ids import JobName
from hpccluster.job import JobState
from hpccluster.state.fleet import actions, events
from hpccluster.state.fleet.brake import Trouble
from hpccluster.state.fleet.records import Phase
from support.fleet_env import FleetEnv


def test_pending_then_running_then_workers() -> None:
    env = FleetEnv(processes=2)
    [(job, number)] = env.pending(1).items()
    env.polls(JobState.PENDING, number, reason="Resources")
    assert env.record(job).shown_state is JobState.PENDING
    env.polls(JobState.RUNNING, number, node="n017")
    assert env.phase(job) is Phase.RUNNING
    assert env.state.watch(env.now).is_changing
    env.joins(job, 1)
    assert env.state.watch(env.now).is_changing
    env.joins(job)
    assert not env.state.watch(env.now).is_changing


def test_where_a_job_runs_is_asked_even_if_its_workers_were_quicker() -> None:
    env = FleetEnv()
    [(job, number)] = env.pending(1).items()
    env.joins(job)
    assert env.wants_poll
    assert env.state.watch(env.now).is_changing
    env.polls(JobState.RUNNING, number, node="n017")
    assert not env.state.watch(env.now).is_changing


def test_a_failed_poll_changes_nothing() -> None:
    env = FleetEnv()
    [(job, number)] = env.pending(1).items()
    env.polls(JobState.ABSENT, number)
    for attempt in range(1, 6):
        env.poll_failed()
        if attempt == 3:
            env.expect_report("HPC-POLL-FAILING")
    assert env.phase(job) is Phase.PENDING
    env.polls(JobState.PENDING, number)
    env.expect_report("HPC-POLL-RECOVERED")


def test_an_unknown_word_changes_nothing() -> None:
    env = FleetEnv()
    [(job, number)] = env.pending(1).items()
    env.polls(JobState.ABSENT, number)
    env.polls(JobState.UNKNOWN, number, raw_state="REVOKED")
    assert env.phase(job) is Phase.PENDING
    assert env.record(job).absences == 1


def test_absent_once_is_nothing_twice_is_the_end() -> None:
    env = FleetEnv()
    [(job, number)] = env.pending(1).items()
    env.polls(JobState.ABSENT, number)
    env.polls(JobState.PENDING, number)
    env.polls(JobState.ABSENT, number)
    assert env.phase(job) is Phase.PENDING
    env.dies(job, number, JobState.ABSENT)
    env.expect_submits(1)
    assert env.record(job).shown_state is JobState.ABSENT


@pytest.mark.parametrize("state", [JobState.ABSENT, JobState.COMPLETED, JobState.FAILED, JobState.PENDING])
def test_a_job_with_workers_is_alive_whatever_is_said(state: JobState) -> None:
    env = FleetEnv()
    [(job, number)] = env.running(1).items()
    for _ in range(3):
        env.polls(state, number)
    assert env.phase(job) is Phase.RUNNING
    assert env.record(job).shown_state is JobState.RUNNING


def test_a_verdict_waits_for_the_workers_to_leave() -> None:
    env = FleetEnv()
    [(job, number)] = env.running(1).items()
    env.now += 3600
    env.polls(JobState.TIMEOUT, number)
    env.leaves(job)
    assert "TIMEOUT" in env.expect_report("HPC-JOB-ENDED").text
    env.expect_submits(1)


def test_when_workers_leave_the_batch_system_is_asked() -> None:
    env = FleetEnv(processes=2)
    [(job, number)] = env.running(1).items()
    env.leaves(job)
    assert env.wants_poll
    assert env.phase(job) is Phase.RUNNING
    env.polls(JobState.RUNNING, number)
    assert env.phase(job) is Phase.RUNNING


def test_a_job_whose_workers_are_gone_for_long_is_lost_though_it_is_said_to_run() -> None:
    """The node is dead, and the batch system says so only minutes later."""
    env = FleetEnv(processes=2, silence=120.0)
    [(job, number)] = env.running(1).items()
    env.leaves(job, 1)
    env.tick(1000)
    env.expect_nothing()  # one worker is still here
    env.tell(events.WorkerLeft(f"{job}-1", job, "gone"))
    assert env.next_tick == 120
    env.tick(119)
    env.polls(JobState.RUNNING, number)
    env.expect_nothing()
    env.tick(1)
    assert number in env.expect_report("HPC-JOB-SILENT").text
    [cancel] = env.take(actions.Cancel)
    assert cancel.ids == (number,)
    [replacement] = env.expect_submits(1)
    env.submitted(replacement)
    # it was only cut off: its place is taken
    assert not env.state.admits(job)
    env.cancel_reported(gone=[number])
    assert env.phase(job) is Phase.OVER
    env.tick(1000)
    env.take(actions.Report)
    env.expect_nothing()


@pytest.mark.parametrize("what", ["rejoins", "requeued", "comes back"])
def test_a_job_that_is_not_silent_any_more_stays(what: str) -> None:
    env = FleetEnv(silence=120.0)
    [(job, number)] = env.running(1).items()
    env.leaves(job)
    env.tick(100)
    if what == "rejoins":
        env.joins(job)
    elif what == "requeued":
        env.polls(JobState.PENDING, number)
        env.polls(JobState.RUNNING, number)
    else:
        env.polls(JobState.PREEMPTED, number)
        env.expect_report("HPC-JOB-ENDED")
        [replacement] = env.expect_submits(1)
        env.tick(1)
        env.polls(JobState.RUNNING, number)
        env.expect_cancel(env.submitted(replacement))
    env.tick(100)
    env.expect_nothing()
    assert env.phase(job) is Phase.RUNNING


@pytest.mark.parametrize("state", [JobState.TIMEOUT, JobState.PREEMPTED, JobState.NODE_FAIL, JobState.CANCELLED])
def test_jobs_that_end_by_no_fault_are_replaced(state: JobState) -> None:
    env = FleetEnv()
    for _ in range(10):
        [(job, number)] = env.running(1).items() if not env.state.jobs else [newest(env)]
        env.now += 1
        env.leaves(job)
        env.polls(state, number)
        env.expect_report("HPC-JOB-ENDED")
        [replacement] = env.expect_submits(1)
        env.submitted(replacement)
        env.joins(replacement)
    assert env.state.brake.trouble is Trouble.NONE


@pytest.mark.parametrize("state", [JobState.PREEMPTED, JobState.NODE_FAIL])
def test_preemption_before_the_workers_joined_is_no_death(state: JobState) -> None:
    env = FleetEnv()
    env.pending(1)
    for _ in range(10):
        env.polls(state, newest(env)[1])
        env.expect_report("HPC-JOB-ENDED")
        [replacement] = env.expect_submits(1)
        env.submitted(replacement)


def test_a_requeued_job_waits_again_and_rejoins() -> None:
    env = FleetEnv()
    [(job, number)] = env.running(1).items()
    env.leaves(job)
    env.polls(JobState.PENDING, number, reason="BeginTime")
    assert env.phase(job) is Phase.PENDING
    env.joins(job)
    assert env.phase(job) is Phase.RUNNING


def test_a_preempted_job_that_returns_is_one_of_the_fleet_again() -> None:
    env = FleetEnv()
    [(job, number)] = env.running(1).items()
    env.leaves(job)
    env.polls(JobState.PREEMPTED, number)
    env.expect_report("HPC-JOB-ENDED")
    [replacement] = env.expect_submits(1)
    other = env.submitted(replacement)
    env.now += 60
    env.polls(JobState.PENDING, number)  # now there is one too many: the newer one goes
    env.expect_cancel(other)
    assert env.phase(job) is Phase.PENDING


def test_a_job_that_was_thought_dead_is_alive_when_its_worker_joins() -> None:
    env = FleetEnv()
    [(job, number)] = env.pending(1).items()
    env.polls(JobState.ABSENT, number)
    env.dies(job, number, JobState.ABSENT)
    [replacement] = env.expect_submits(1)
    env.joins(job)
    assert env.phase(job) is Phase.RUNNING
    other = env.submitted(replacement)
    env.expect_cancel(other)


def test_an_early_death_is_told_with_its_log() -> None:
    env = FleetEnv()
    [(job, number)] = env.pending(1).items()
    env.polls(JobState.RUNNING, number)
    env.now += 2
    env.dies(job, number, JobState.FAILED, exit_code=127, node="n017")
    env.expect_submits(1)  # the first one is replaced at once
    env.log_fetched(job, "hpccluster: stage started")
    [failed] = env.take(actions.JobFailed)
    assert (failed.name, failed.id, failed.seconds, failed.joined, failed.alarm) == (job, number, 2.0, False, True)
    assert failed.status.exit_code == 127
    assert failed.log == "hpccluster: stage started"
    env.log_fetched(job, "again")
    env.expect_nothing()


def test_three_deaths_pause_the_pool_and_five_end_it() -> None:
    env = FleetEnv()
    env.pending(1)
    delays = {1: 0, 2: 15, 3: 60, 4: 300}
    submissions = 1
    for death in range(1, 6):
        _, number = newest(env)
        env.polls(JobState.FAILED, number, exit_code=1)
        if death in (3, 5):
            assert "exit code 1" in env.expect_report("HPC-POOL-PAUSED").text
        assert len(env.take(actions.FetchLog)) == 1  # whoever asks next is told of the last one
        if death == 5:
            break
        if delays[death]:
            env.tick(delays[death] - 1)
            env.expect_nothing()
            env.tick(1)
        [replacement] = env.expect_submits(1)
        submissions += 1
        env.submitted(replacement)
    env.tick(1_000_000)
    env.expect_nothing()
    assert submissions == 5
    assert env.state.brake.is_final
    env.scale(1)  # whoever asks again has read why
    env.expect_submits(1)


def test_many_deaths_at_once_are_not_replaced_and_told_three_times() -> None:
    env = FleetEnv()
    ids = env.pending(50)
    env.polls(JobState.FAILED, *ids.values())
    assert len(env.take(actions.FetchLog)) == 3
    assert len(env.take(actions.Report)) == 2
    env.expect_nothing()


@pytest.mark.parametrize(
    ("nodes", "said"), [(("n2", "n2", "n2"), True), (("n2", "n3", "n2"), False), (("n2", "", "n2"), False)]
)
def test_the_node_that_all_of_them_died_on_is_told(nodes: tuple[str, ...], said: bool) -> None:
    env = FleetEnv()
    for node, number in zip(nodes, env.pending(3).values(), strict=True):
        env.polls(JobState.FAILED, number, exit_code=127, node=node)
        env.take(actions.FetchLog)
        env.take(actions.Submit)
    assert ("all on node n2" in env.expect_report("HPC-POOL-PAUSED").text) is said


def test_while_paused_one_job_probes_and_success_releases_the_rest() -> None:
    env = FleetEnv()
    ids = env.pending(3)
    env.polls(JobState.FAILED, *ids.values())
    env.take(actions.FetchLog)
    env.expect_report("HPC-POOL-PAUSED")
    env.tick(60)
    [probe] = env.expect_submits(1)
    env.submitted(probe)
    env.tick(1000)
    env.expect_report("HPC-JOB-WAITS")
    env.joins(probe)
    env.expect_report("HPC-POOL-RESUMED")
    env.expect_submits(2)


def test_a_worker_that_joins_ends_the_count_of_deaths() -> None:
    env = FleetEnv()
    ids = env.pending(4)
    jobs = list(ids)
    env.dies(jobs[0], ids[jobs[0]])
    env.expect_submits(1)
    env.dies(jobs[1], ids[jobs[1]])
    env.joins(jobs[2])
    env.expect_submits(1)
    assert env.state.brake.count == 0


def test_after_success_deaths_are_no_alarm_until_they_pause_the_pool() -> None:
    env = FleetEnv()
    ids = env.pending(2)
    first, second = ids
    env.joins(first)
    env.dies(second, ids[second])
    env.expect_submits(1)
    env.log_fetched(second)
    [failed] = env.take(actions.JobFailed)
    assert not failed.alarm


def test_jobs_whose_workers_die_at_once_pause_the_pool_too() -> None:
    env = FleetEnv()
    env.pending(1)
    for death in range(1, 4):
        job, number = newest(env)
        env.joins(job)
        env.now += 3
        env.leaves(job)
        env.polls(JobState.FAILED, number, exit_code=1)
        env.take(actions.FetchLog)
        if death == 2:
            env.tick(15)
        if death < 3:
            env.submitted(*env.expect_submits(1))
    assert "3 jobs in a row" in env.expect_report("HPC-POOL-PAUSED").text
    assert env.state.brake.trouble is Trouble.BRIEF_LIFE


def test_workers_that_were_told_to_end_soon_are_no_death_to_explain() -> None:
    env = FleetEnv()
    [(job, number)] = env.pending(1).items()
    env.joins(job)
    env.leaves(job)
    env.polls(JobState.COMPLETED, number, exit_code=0)
    assert env.expect_report("HPC-JOB-ENDED").level == "info"
    env.expect_submits(1)


def test_an_early_death_by_walltime_counts() -> None:
    env = FleetEnv()
    [(job, number)] = env.pending(1).items()
    env.dies(job, number, JobState.TIMEOUT)
    env.expect_submits(1)
    assert env.state.brake.count == 1


def test_old_records_are_forgotten_but_never_their_names() -> None:
    env = FleetEnv(kept_records=2, tombstones=600)
    names: set[JobName] = set()
    for _ in range(6):
        [(job, number)] = env.pending(1).items()
        assert job not in names
        names.add(job)
        env.scale(0)
        env.expect_cancel(number)
        env.cancel_reported(gone=[number])
    env.tick(599)
    assert len(env.state.jobs) == 6
    env.tick(2)
    assert len(env.state.jobs) == 2
    [(job, _)] = env.pending(1).items()
    assert job not in names


def newest(env: FleetEnv) -> tuple[JobName, str]:
    """The newest job with its id."""
    record = max(env.state.jobs.values(), key=lambda record: record.number)
    assert record.id is not None
    return record.name, record.id
