"""What waits behind something slow is taken back when others are idle."""

from __future__ import annotations

from hpccluster.protocol.messages import RunTask, StillRunning, TasksReturned
from hpccluster.testing.scheduler_env import SchedulerEnv
from hpccluster.testing.scheduler_peers import ClientPeer
from hpccluster.testing.scheduler_workers import WorkerPeer


def fill(client: ClientPeer, worker: WorkerPeer, *labels: str) -> None:
    """Let the worker have these in its window, a quick function being known."""
    client.submit("quick")
    worker.expect_run("quick")
    worker.finish("quick")
    client.expect_results("quick")
    client.submit(*labels)
    worker.expect_run(*labels)


def test_tasks_behind_a_slow_one_go_to_whoever_is_idle(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    fill(client, w1, "slow", "a", "b", "c")
    w2 = env.worker("w2", threads=2)
    env.tick(0.2)
    w1.expect_take_back("a", "b", "c")
    w1.give_back("a", "b", "c")
    w2.expect_run("a", "b", "c")


def test_they_are_asked_for_once(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    fill(client, w1, "slow", "a")
    env.worker("w2")
    env.tick(0.2)
    w1.expect_take_back("a")
    env.tick(0.2)
    env.tick(10)


def test_nothing_is_taken_back_while_nobody_is_idle(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    fill(client, w1, "slow", "a")
    w2 = env.worker("w2")
    client.submit("other", workers=["w2"])
    w2.expect_run("other")
    env.tick(10)


def test_nothing_is_taken_back_from_a_worker_that_gets_on(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    fill(client, w1, "a", "b", "c")
    env.worker("w2")
    env.tick(0.01)


def test_a_task_that_waits_for_a_resource_does_not_keep_others_waiting(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("gpu", resources={"gpu": 1})
    fill(client, w1, "slow", "a")
    env.worker("w2")
    env.tick(0.2)
    w1.expect_take_back("a")


def test_a_constrained_task_is_taken_back_only_for_a_worker_that_may_run_it(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("quick")
    w1.expect_run("quick")
    w1.finish("quick")
    client.expect_results("quick")
    client.submit("slow", "a", workers=["w1", "w3"])
    w1.expect_run("slow", "a")
    env.worker("w2")
    env.tick(0.2)
    w3 = env.worker("w3")
    env.tick(0.2)
    w1.expect_take_back("a")
    w1.give_back("a")
    w3.expect_run("a")


def test_only_part_is_taken_from_a_worker_that_is_merely_busy(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("quick")
    w1.expect_run("quick")
    w1.finish("quick", duration=0.0099)
    client.expect_results("quick")
    tasks = [f"t{number}" for number in range(10)]
    client.submit(*tasks)
    w1.expect_run(*tasks)
    w2 = env.worker("w2")
    env.tick()
    w1.expect_take_back("t6", "t7", "t8", "t9")
    w1.give_back("t6", "t7", "t8", "t9")
    w2.expect_run("t6", "t7", "t8", "t9")


def test_a_task_comes_home_when_it_had_started(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    fill(client, w1, "slow", "a")
    env.worker("w2")
    env.tick(0.2)
    w1.expect_take_back("a")
    w1.finish("slow", "a")
    client.expect_results("slow", "a")
    assert not w1.take(RunTask)


def cancelled_while_it_runs(client: ClientPeer, worker: WorkerPeer, label: str) -> RunTask:
    (run,) = worker.expect_run(label)
    client.cancel(label)
    client.expect_cancelled(label)
    worker.expect_cancel(label)
    return run


def test_nothing_goes_behind_a_cancelled_task_that_runs_on(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("endless")
    run = cancelled_while_it_runs(client, w1, "endless")
    w1.say(StillRunning([run.task], [run.attempt]))
    client.submit("a")
    w2 = env.worker("w2")
    w2.expect_run("a")
    client.submit("b")
    w1.say(TasksReturned([run.task], [run.attempt]))  # it has ended after all
    w1.expect_run("b")


def test_what_was_given_before_a_cancelled_task_was_known_to_run_on_is_taken_back(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("endless")
    run = cancelled_while_it_runs(client, w1, "endless")
    client.submit("a")
    w1.expect_run("a")
    w1.say(StillRunning([run.task], [run.attempt]))
    w2 = env.worker("w2")
    env.tick(0.2)
    w1.expect_take_back("a")
    w1.give_back("a")
    w2.expect_run("a")


def test_no_worker_claims_more_cancelled_tasks_than_it_has_threads(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1", threads=2)
    w1.say(StillRunning([1, 2, 3, 4], [0, 0, 0, 0]), TasksReturned([1, 2, 3, 4], [0, 0, 0, 0]))
    client.submit("a", "b")
    w1.expect_run("a", "b")
