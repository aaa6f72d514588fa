"""Who gets which task: spreading, the window, priorities, fairness, constraints."""

from __future__ import annotations

import pytest

from hpccluster.protocol.messages import AddFunctions, DefineFunction, RunTask, RunTasks, TasksFinished
from hpccluster.state.scheduler.core import PORTION
from hpccluster.state.scheduler.placement import MOST_IN_FLIGHT, TURN
from hpccluster.testing.scheduler_env import SchedulerEnv
from hpccluster.testing.scheduler_peers import ClientPeer
from hpccluster.testing.scheduler_workers import WorkerPeer


def labels(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def teach(client: ClientPeer, worker: WorkerPeer, function: str, duration: float) -> None:
    """Let the scheduler learn how long the function runs."""
    label = f"teach {function}"
    client.submit(label, function=function)
    worker.expect_run(label)
    worker.finish(label, duration=duration)
    client.expect_results(label)
    client.release(label)


def test_a_map_is_spread_over_the_threads(env: SchedulerEnv) -> None:
    client, w1, w2 = env.client(), env.worker("w1", threads=2), env.worker("w2", threads=1)
    client.submit("a", "b", "c", "d")
    w1.expect_run("a", "c")
    w2.expect_run("b")
    w2.finish("b")
    client.expect_results("b")
    w2.expect_run("d")
    w1.finish("a", "c")
    w2.finish("d")
    client.expect_results("a", "c", "d")
    client.release("a", "b", "c", "d")
    client.leave()
    env.expect_no_records()


def test_tasks_wait_for_the_first_worker(env: SchedulerEnv) -> None:
    client = env.client()
    client.submit("a", "b")
    env.worker("w1").expect_run("a")
    env.worker("w2").expect_run("b")


def test_a_function_goes_to_a_worker_once(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    teach(client, worker, "f", 0.001)
    client.submit("a", "b", function="f")  # the peer fails if the function comes twice
    worker.expect_run("a", "b")


def test_the_window_opens_when_the_duration_is_known(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    tasks = labels("t", 100)
    client.submit(*tasks)
    worker.expect_run("t0")
    worker.finish("t0", duration=0.0099)
    client.expect_results("t0")
    worker.expect_run(*tasks[1:11])  # ten times 10 ms are 100 ms


def test_the_window_holds_a_bounded_number_of_tasks(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    teach(client, worker, "f", 0.0)
    client.submit(*labels("t", MOST_IN_FLIGHT + 10), function="f")
    assert len(worker.take(RunTask)) == MOST_IN_FLIGHT


def test_long_tasks_are_not_prefetched(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker(threads=2)
    teach(client, worker, "f", 3.0)
    client.submit("a", "b", "c", function="f")
    worker.expect_run("a", "b")
    worker.finish("a", duration=3.0)
    client.expect_results("a")
    worker.expect_run("c")


def test_a_worker_without_progress_gets_nothing_ahead(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    teach(client, worker, "f", 0.001)
    client.submit("slow", function="f")
    worker.expect_run("slow")
    env.pass_time(1.0)
    client.submit("a", function="f")
    env.worker("w2").expect_run("a")


def test_work_in_flight_is_bounded_in_bytes(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    teach(client, worker, "f", 0.0)
    tasks = [f"{number}".ljust(1_000_000) for number in range(100)]
    client.submit(*tasks, function="f")
    assert 10 <= len(worker.take(RunTask)) <= 60


def test_a_small_task_does_not_take_large_ones_along(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    teach(client, worker, "f", 0.0)
    client.submit("small", *[f"{number}".ljust(10_000_000) for number in range(100)], function="f")
    assert len(worker.take(RunTask)) <= 7


def test_short_tasks_are_spread_evenly(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    teach(client, w1, "f", 0.0)
    w2 = env.worker("w2", threads=2)
    client.submit(*labels("t", 900), function="f")
    given = len(w1.take(RunTask)), len(w2.take(RunTask))
    assert sum(given) == 900
    assert abs(given[0] - 300) <= 40


def test_no_message_grows_large() -> None:
    env = SchedulerEnv(latency=True)
    client, worker = env.client(), env.worker(threads=20)
    tasks = [f"{number}".ljust(PORTION // 4) for number in range(20)]
    client.submit(*tasks, keys={task: task for task in tasks})
    # the function comes along with the first
    assert [len(message.tasks) for message in worker.mailbox if isinstance(message, RunTasks)] == [4, 5, 5, 5, 1]
    worker.read_all()
    worker.finish(*tasks)
    client.submit(*[f"again {task}" for task in tasks], keys={f"again {task}": task for task in tasks})
    finished = [len(message.futures) for message in client.mailbox if isinstance(message, TasksFinished)]
    assert sum(finished) == 40
    assert max(finished) <= 5


def test_functions_count_in_what_makes_a_message_large() -> None:
    env = SchedulerEnv(latency=True)
    client = env.client()
    for function in labels("f", 20):
        client.defined.add(function)
        client.say(DefineFunction(function.encode(), function, bytes(PORTION // 4)))
        client.submit(f"task of {function}", function=function)
    worker = env.worker(threads=20)
    sent = [len(message.functions) for message in worker.mailbox if isinstance(message, AddFunctions)]
    assert sum(sent) == 20
    assert max(sent) <= 5


def test_higher_priority_runs_earlier(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    client.submit("running")
    (running,) = worker.expect_run("running")
    client.submit("low", priority=-1)
    client.submit("normal")
    client.submit("high", priority=1)
    for label, following in (("running", "high"), ("high", "normal"), ("normal", "low")):
        worker.finish(label, duration=9.0)
        client.expect_results(label)
        (run,) = worker.expect_run(following)
        assert (run.priority < running.priority) == (following == "high")


def test_a_priority_for_each_task_costs_no_look_at_all_of_them() -> None:
    env = SchedulerEnv()
    env.validate = False
    client, worker = env.client(), env.worker()
    tasks = labels("t", 2000)
    for priority, task in enumerate(tasks):
        client.submit(task, priority=priority)
    order = []
    for _ in tasks:
        (run,) = worker.take(RunTask)
        order.append(run.arguments.decode())
        worker.finish(run, duration=9.0)
        assert len(env.state.levels) <= 2000 - len(order) + 1  # what is over is not looked at again
    assert order == [tasks[0], *reversed(tasks[1:])]
    client.expect_results(*order)


@pytest.mark.parametrize("priority", [10**6, -(10**6), 2**63 - 1, -(2**63)])
def test_any_priority_can_be_sent(env: SchedulerEnv, priority: int) -> None:
    client, worker = env.client(), env.worker()
    client.submit("a", priority=priority)
    worker.expect_run("a")


def test_two_clients_take_turns(env: SchedulerEnv) -> None:
    alice, bob, worker = env.client("alice"), env.client("bob"), env.worker()
    teach(alice, worker, "f", 0.0)
    worker.leave()
    bob.define("f")
    alice.submit(*labels("a", 5 * TURN), function="f")
    bob.submit(*labels("b", TURN), function="f")
    given = [run.arguments.decode()[0] for run in env.worker("w2").take(RunTask)]
    assert given[: 3 * TURN] == ["b"] * TURN + ["a"] * 2 * TURN, "bob comes first: alice has just been served"


def test_clients_take_turns_one_task_at_a_time_too(env: SchedulerEnv) -> None:
    alice, bob, worker = env.client("alice"), env.client("bob"), env.worker()
    alice.submit("gpu", priority=5, resources={"gpu": 1})  # a level of its own, which cannot be placed
    alice.submit(*labels("a", 10))
    bob.submit(*labels("b", 10))
    given = []
    for _ in range(8):
        (run,) = worker.take(RunTask)
        given.append(run.arguments.decode()[0])
        worker.finish(run, duration=1.0)
        env.tick()
    worker.forget()
    alice.forget()
    bob.forget()
    assert sorted(given[:2] + given[2:4]) == sorted("abab")
    assert given.count("a") == given.count("b")


def test_a_client_that_comes_and_goes_with_its_tasks_does_not_starve_others(env: SchedulerEnv) -> None:
    alice, bob, worker = env.client("alice"), env.client("bob"), env.worker()
    alice.submit("a")
    bob.submit(*labels("b", 10))
    given = []
    for number in range(8):
        (run,) = worker.take(RunTask)
        given.append(run.arguments.decode()[0])
        alice.submit(f"a{number}")
        worker.finish(run, duration=1.0)
    worker.forget()
    alice.forget()
    bob.forget()
    assert given.count("b") == 4


class TestConstraints:
    @pytest.mark.parametrize("wish", ["w2", "tcp://w2:1", "node2", "job2"])
    def test_a_worker_is_named_by_name_address_host_or_job(self, env: SchedulerEnv, wish: str) -> None:
        client, _, w2 = env.client(), env.worker("w1"), env.worker("w2", host="node2", job="job2")
        client.submit("a", workers=[wish])
        w2.expect_run("a")

    def test_a_task_waits_for_the_worker_that_it_names(self, env: SchedulerEnv) -> None:
        client, w1 = env.client(), env.worker("w1")
        client.submit("a", workers=["w2"])
        client.submit("b")
        w1.expect_run("b")
        env.worker("w2").expect_run("a")

    def test_others_are_taken_where_none_of_the_named_is_there(self, env: SchedulerEnv) -> None:
        client, w1 = env.client(), env.worker("w1")
        client.submit("a", workers=["w2"], allow_other_workers=True)
        w1.expect_run("a")

    def test_the_named_one_is_taken_if_it_is_there(self, env: SchedulerEnv) -> None:
        client, _, w2 = env.client(), env.worker("w1", threads=4), env.worker("w2")
        client.submit("a", workers=["w2"], allow_other_workers=True)
        w2.expect_run("a")

    def test_resources_are_taken_and_released_again(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker(threads=4, resources={"gpu": 2})
        client.submit("a", "b", "c", resources={"gpu": 1})
        worker.expect_run("a", "b")
        worker.finish("a")
        client.expect_results("a")
        worker.expect_run("c")
        worker.fail("b")
        client.expect_error("b")
        client.cancel("c")
        client.expect_cancelled("c")
        worker.expect_cancel("c")
        client.submit("both", resources={"gpu": 2})
        worker.expect_run("both")

    def test_fractions_of_a_resource_add_up(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker(threads=10, resources={"gpu": 1})
        for part in (0.1, 0.2, 0.3, 0.7):
            client.submit(f"{part}", resources={"gpu": part})
        worker.expect_run("0.1", "0.2", "0.3")
        worker.finish("0.2", "0.1", "0.3")
        client.expect_results("0.1", "0.2", "0.3")
        worker.expect_run("0.7")
        worker.finish("0.7")
        client.expect_results("0.7")
        client.submit("all", resources={"gpu": 1})
        worker.expect_run("all")

    def test_a_constrained_task_blocks_nobody_else(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("gpu", priority=10, resources={"gpu": 1})
        client.submit("a")
        worker.expect_run("a")
        env.worker("w2", resources={"gpu": 1}).expect_run("gpu")
