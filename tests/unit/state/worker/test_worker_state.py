"""The worker machine, rule by rule."""

from __future__ import annotations

import pytest

from hpccluster.protocol.messages import (
    AddFunctions,
    CancelTasks,
    DataStored,
    FetchesFailed,
    FreeData,
    FunctionBody,
    InputsMissing,
    Leave,
    Leaving,
    Ping,
    ReplicasAdded,
    RunTasks,
    StillRunning,
    TakeBack,
    TaskFailed,
    TasksDone,
    TasksReturned,
)
from hpccluster.state.worker.actions import DiscardResults, DropData, End, Execute, Fetch, KeepResults, Withdraw
from hpccluster.state.worker.events import DataPushed, LeaveWish, Source, Tick, Withdrawn
from support.worker_env import ME, A, B, C, WorkerEnv, done_message, held, inline, task


@pytest.fixture
def env() -> WorkerEnv:
    return WorkerEnv()


class TestPlainTasks:
    def test_tasks_without_inputs_go_to_the_executor_in_one_batch(self, env: WorkerEnv) -> None:
        env.run(task(1), task(2), task(3))
        env.expect(Execute([task(1), task(2), task(3)]))

    def test_finished_tasks_are_reported_as_they_came(self, env: WorkerEnv) -> None:
        env.run(task(1), task(2))
        env.skip()
        done = env.finish(1, 2)
        env.expect(done)
        assert not env.state.assigned

    def test_inline_inputs_need_no_fetch(self, env: WorkerEnv) -> None:
        env.run(task(5, inline(1), inline(2)))
        env.expect(Execute([task(5, inline(1), inline(2))]))

    def test_functions_are_passed_on_before_the_tasks_that_name_them(self, env: WorkerEnv) -> None:
        functions = AddFunctions([FunctionBody(1, "f", b"body", ["/home/ana"])])
        env.scheduler(functions, RunTasks([task(1)]))
        env.expect(functions, Execute([task(1)]))

    def test_a_failure_is_reported_as_it_came(self, env: WorkerEnv) -> None:
        env.run(task(1))
        env.skip()
        failed = env.fail(1)
        env.expect(failed)

    def test_a_repeated_hand_out_is_ignored(self, env: WorkerEnv) -> None:
        env.run(task(1))
        env.run(task(1))
        env.run(task(1, attempt=0))
        env.expect(Execute([task(1)]))

    def test_a_newer_attempt_replaces_the_older(self, env: WorkerEnv) -> None:
        env.run(task(1))
        env.skip()
        env.run(task(1, attempt=2))
        env.expect(Withdraw([1], [1]), Execute([task(1, attempt=2)]))
        env.say(Source.EXECUTOR, Withdrawn([1], [1]))
        env.finish(1, attempt=1)
        env.expect()
        done = env.finish(1, attempt=2)
        env.expect(done)

    def test_of_a_batch_only_the_live_rows_are_reported(self, env: WorkerEnv) -> None:
        env.run(task(1), task(2), task(3))
        env.scheduler(CancelTasks([2], [1]))
        env.skip()
        env.finish(1, 2, 3)
        env.expect(done_message([1, 3]))

    def test_what_a_source_may_not_say_is_dropped(self, env: WorkerEnv) -> None:
        env.run(task(1))
        env.skip()
        env.say(Source.SCHEDULER, done_message([1]), Ping())
        env.say(Source.CLIENT, Tick())
        env.expect()
        assert env.state.assigned == {1: 1}


class TestResultsThatStay:
    def test_large_results_are_kept_and_reported_without_payload(self, env: WorkerEnv) -> None:
        env.run(task(1))
        env.skip()
        done = env.finish(1, size=1_000_000, inline=False)
        env.expect(KeepResults([1], [1]), done)
        assert env.state.stored == 1_000_000

    def test_small_and_large_in_one_batch(self, env: WorkerEnv) -> None:
        env.run(task(1), task(2))
        env.skip()
        done = TasksDone([1, 2], [1, 1], [b"value", None], [5, 99_999], [0.1, 0.2])
        env.say(Source.EXECUTOR, done)
        env.expect(KeepResults([2], [1]), done)

    def test_the_kept_result_of_a_cancelled_task_is_discarded(self, env: WorkerEnv) -> None:
        env.run(task(1))
        env.scheduler(CancelTasks([1], [1]))
        env.skip()
        env.finish(1, inline=False)
        env.expect(DiscardResults([1], [1]))
        assert not env.state.data

    def test_freed_data_is_dropped_once(self, env: WorkerEnv) -> None:
        env.run(task(1))
        env.finish(1, inline=False)
        env.skip()
        env.scheduler(FreeData([1, 1, 77]))
        env.scheduler(FreeData([1]))
        env.expect(DropData([1]))
        assert env.state.stored == 0

    def test_freed_data_stays_while_a_task_here_needs_it(self, env: WorkerEnv) -> None:
        env.run(task(1))
        env.finish(1, inline=False)
        env.run(task(2, held(1, ME)))
        env.skip()
        env.scheduler(FreeData([1]))
        env.expect()
        done = env.finish(2)
        env.expect(DropData([1]), done)

    def test_a_dependant_of_data_that_is_here_runs_at_once(self, env: WorkerEnv) -> None:
        env.run(task(1))
        env.finish(1, inline=False)
        env.skip()
        env.run(task(2, held(1, ME, A)))
        env.expect(Execute([task(2, held(1, ME, A))]))

    def test_data_pushed_by_a_client_is_reported(self, env: WorkerEnv) -> None:
        env.say(Source.CLIENT, DataPushed(9, 2_000_000))
        env.expect(DataStored(9, 2_000_000))
        assert env.state.stored == 2_000_000


class TestFetching:
    def test_a_task_waits_for_its_inputs(self, env: WorkerEnv) -> None:
        env.run(task(5, held(1, A), inline(2), held(3, B)))
        env.expect(Fetch(A, [1]), Fetch(B, [3]))
        env.arrive(1)
        env.expect(ReplicasAdded([1]))
        env.arrive(3)
        env.expect(Execute([task(5, held(1, A), inline(2), held(3, B))]), ReplicasAdded([3]))

    def test_one_fetch_serves_all_who_wait(self, env: WorkerEnv) -> None:
        env.run(task(5, held(1, A), priority=7), task(6, held(1, A), priority=3))
        env.run(task(7, held(1, A), held(1, A), priority=5))
        env.expect(Fetch(A, [1]))
        env.arrive(1)
        first, second = task(6, held(1, A), priority=3), task(7, held(1, A), held(1, A), priority=5)
        env.expect(Execute([first, second, task(5, held(1, A), priority=7)]), ReplicasAdded([1]))

    def test_fetches_from_one_holder_go_together(self, env: WorkerEnv) -> None:
        env.run(task(5, held(1, A)), task(6, held(2, A)), task(7, held(3, B)))
        env.expect(Fetch(A, [1, 2]), Fetch(B, [3]))

    def test_each_holder_is_tried_in_turn_and_then_the_task_is_given_back(self, env: WorkerEnv) -> None:
        env.run(task(5, held(1, A, B)))
        env.expect(Fetch(A, [1]))
        env.refuse(A, 1)
        env.expect(Fetch(B, [1]))
        env.refuse(B, 1)
        env.expect(InputsMissing(5, 1, [1, 1], [A, B]))
        assert not env.state.assigned
        assert not env.state.fetches

    def test_a_late_failure_of_an_earlier_holder_is_dropped(self, env: WorkerEnv) -> None:
        env.run(task(5, held(1, A, B)))
        env.refuse(A, 1)
        env.skip()
        env.refuse(A, 1)
        env.expect()

    def test_a_second_task_brings_more_holders(self, env: WorkerEnv) -> None:
        env.run(task(5, held(1, A)))
        env.run(task(6, held(1, A, C)))
        env.skip()
        env.refuse(A, 1)
        env.expect(Fetch(C, [1]))

    def test_the_worker_never_asks_itself(self, env: WorkerEnv) -> None:
        env.run(task(5, held(1, ME, A)))
        env.expect(Fetch(A, [1]))
        env.run(task(6, held(2, ME)), task(7, held(3)))
        env.expect(InputsMissing(6, 1, [2], [ME]), InputsMissing(7, 1, [3], [""]))

    def test_a_task_with_one_lost_input_starts_no_other_fetch(self, env: WorkerEnv) -> None:
        env.run(task(5, held(1, A), held(2)))
        env.expect(InputsMissing(5, 1, [2], [""]))
        assert not env.state.fetches

    def test_a_lost_input_takes_its_task_out_of_the_other_fetches(self, env: WorkerEnv) -> None:
        env.run(task(5, held(1, A), held(2, B)))
        env.refuse(A, 1)
        env.skip()
        assert not env.state.fetches
        env.arrive(2)
        env.expect(DropData([2]))

    def test_what_nobody_waits_for_any_longer_is_dropped_on_arrival(self, env: WorkerEnv) -> None:
        env.run(task(5, held(1, A)))
        env.scheduler(CancelTasks([5], [1]))
        env.skip()
        env.arrive(1)
        env.expect(DropData([1]))

    def test_a_pushed_input_ends_the_wait(self, env: WorkerEnv) -> None:
        env.run(task(5, held(1, A)))
        env.skip()
        env.say(Source.CLIENT, DataPushed(1, 100_000))
        env.expect(Execute([task(5, held(1, A))]), DataStored(1, 100_000))
        env.arrive(1)
        env.expect()
        assert env.state.stored == 100_000

    def test_freed_input_of_a_waiting_task_stays_until_it_has_run(self, env: WorkerEnv) -> None:
        env.run(task(5, held(1, A), held(2, B)))
        env.arrive(1)
        env.scheduler(FreeData([1]))
        env.skip()
        env.arrive(2)
        env.expect(Execute([task(5, held(1, A), held(2, B))]), ReplicasAdded([2]))
        done = env.finish(5)
        env.expect(DropData([1]), done)


class TestReplicas:
    def test_a_wanted_replica_is_fetched_and_reported(self, env: WorkerEnv) -> None:
        env.replicate(held(1, A), held(2, A))
        env.expect(Fetch(A, [1, 2]))
        env.arrive(1, 2)
        env.expect(ReplicasAdded([1, 2]))

    def test_what_is_here_is_reported_at_once_and_wanted_again(self, env: WorkerEnv) -> None:
        env.run(task(1))
        env.finish(1, inline=False)
        env.run(task(2, held(1, ME)))
        env.scheduler(FreeData([1]))
        env.skip()
        env.replicate(held(1, A))
        env.expect(ReplicasAdded([1]))
        done = env.finish(2)
        env.expect(done)

    def test_a_replica_that_cannot_be_had(self, env: WorkerEnv) -> None:
        env.replicate(held(1, A, B), held(2), held(3, ME))
        env.expect(Fetch(A, [1]), FetchesFailed([2, 3], ["", ME]))
        env.refuse(A, 1)
        env.refuse(B, 1)
        env.expect(Fetch(B, [1]), FetchesFailed([1, 1], [A, B]))

    def test_a_freed_replica_is_dropped_on_arrival(self, env: WorkerEnv) -> None:
        env.replicate(held(1, A))
        env.scheduler(FreeData([1]))
        env.skip()
        env.arrive(1)
        env.expect(DropData([1]))


class TestHandedOutAnew:
    def test_what_an_earlier_attempt_has_left_goes(self, env: WorkerEnv) -> None:
        env.run(task(1))
        env.finish(1, inline=False, size=100_000)
        env.skip()
        env.run(task(1, attempt=2))  # the scheduler had given up the first before it heard of the result
        env.expect(DropData([1]), Execute([task(1, attempt=2)]))
        env.finish(1, attempt=2)
        assert not env.state.stored

    def test_it_stays_while_a_task_here_needs_it(self, env: WorkerEnv) -> None:
        env.run(task(1))
        env.finish(1, inline=False, size=100_000)
        env.run(task(2, held(1, ME)))
        env.skip()
        env.run(task(1, attempt=2))
        env.expect(Execute([task(1, attempt=2)]))
        done = env.finish(2)
        env.expect(DropData([1]), done)


class TestTakingBack:
    def test_queued_tasks_are_withdrawn_and_returned(self, env: WorkerEnv) -> None:
        env.run(task(1), task(2), task(3))
        env.skip()
        env.scheduler(TakeBack([1, 2, 3, 4], [1, 1, 9, 1]))
        env.expect(Withdraw([1, 2], [1, 1]))
        env.say(Source.EXECUTOR, Withdrawn([2], [1]))
        env.expect(TasksReturned([2], [1]))
        done = env.finish(1)
        env.expect(done)

    def test_waiting_tasks_are_returned_at_once(self, env: WorkerEnv) -> None:
        env.run(task(5, held(1, A)))
        env.skip()
        env.scheduler(TakeBack([5], [1]))
        env.expect(TasksReturned([5], [1]))
        assert not env.state.fetches

    def test_cancelled_tasks_are_forgotten_but_those_that_run_are_told_of(self, env: WorkerEnv) -> None:
        env.run(task(1), task(2), task(5, held(3, A)), task(4))
        env.skip()
        env.scheduler(CancelTasks([1, 2, 4, 5], [1, 1, 1, 1]))
        env.expect(Withdraw([1, 2, 4], [1, 1, 1]))
        env.say(Source.EXECUTOR, Withdrawn([1], [1]))
        env.expect(StillRunning([2, 4], [1, 1]))
        assert not env.state.assigned
        env.finish(2)
        env.expect(TasksReturned([2], [1]))
        env.fail(4)
        env.expect(TasksReturned([4], [1]))
        assert not env.state.unheard

    def test_cancelling_another_attempt_changes_nothing(self, env: WorkerEnv) -> None:
        env.run(task(1, attempt=2))
        env.skip()
        env.scheduler(CancelTasks([1], [1]), TakeBack([1], [1]))
        env.expect()
        done = env.finish(1, attempt=2)
        env.expect(done)

    def test_cancelling_in_the_same_tick_withdraws_after_the_hand_out(self, env: WorkerEnv) -> None:
        env.scheduler(RunTasks([task(1)]), CancelTasks([1], [1]))
        env.expect(Execute([task(1)]), Withdraw([1], [1]))


class TestLeaving:
    def test_unstarted_tasks_go_back_and_the_scheduler_is_told(self, env: WorkerEnv) -> None:
        env.run(task(1), task(2), task(5, held(3, A)))
        env.skip()
        env.say(Source.SHELL, LeaveWish("SIGTERM", env.now + 4))
        env.expect(Withdraw([1, 2], [1, 1]), Leaving("SIGTERM"), TasksReturned([5], [1]))
        env.say(Source.EXECUTOR, Withdrawn([2], [1]))
        env.expect(TasksReturned([2], [1]))
        done = env.finish(1)
        env.expect(done)

    def test_new_tasks_are_returned(self, env: WorkerEnv) -> None:
        env.say(Source.SHELL, LeaveWish("SIGTERM", env.now + 4))
        env.skip()
        env.run(task(1), task(2))
        env.expect(TasksReturned([1, 2], [1, 1]))

    def test_a_repeated_hand_out_of_a_running_task_is_not_returned(self, env: WorkerEnv) -> None:
        env.run(task(1))
        env.say(Source.SHELL, LeaveWish("SIGTERM", env.now + 4))
        env.skip()
        env.run(task(1))
        env.expect()
        done = env.finish(1)
        env.expect(done)

    def test_a_second_wish_may_only_shorten_the_time(self, env: WorkerEnv) -> None:
        env.say(Source.SHELL, LeaveWish("SIGTERM", env.now + 4))
        env.say(Source.SHELL, LeaveWish("walltime", env.now + 100))
        env.expect(Leaving("SIGTERM"))
        assert env.state.deadline == env.now + 4

    def test_leave_ends_the_worker(self, env: WorkerEnv) -> None:
        env.run(task(1), task(5, held(3, A)))
        env.skip()
        env.scheduler(Leave("closing"), RunTasks([task(9)]))
        env.expect(End("closing"))
        env.finish(1)
        env.expect()

    def test_at_the_deadline_the_worker_ends_all_the_same(self, env: WorkerEnv) -> None:
        env.say(Source.SHELL, LeaveWish("SIGTERM", env.now + 4))
        env.skip()
        env.now += 3.9
        env.say(Source.SHELL, Tick())
        env.expect()
        env.now += 0.1
        env.say(Source.SHELL, Tick())
        env.expect(End("its time to hand over was up"))


def test_unknown_tasks_in_any_message_change_nothing(env: WorkerEnv) -> None:
    failed: TaskFailed = env.fail(8)
    assert failed.task == 8
    env.finish(8, inline=False)
    env.arrive(7)
    env.refuse(A, 7)
    env.say(Source.EXECUTOR, Withdrawn([8], [1]))
    env.expect(DiscardResults([8], [1]), DropData([7]))
