"""Tasks that need the results of others: inline, stored, with locality; and what happens to the data in between."""

from __future__ import annotations

from hpccluster.protocol.messages import ARGUMENT_LIMIT, Dependency, FreeData, ReplicasAdded
from hpccluster.testing.scheduler_env import SchedulerEnv
from hpccluster.testing.scheduler_peers import STORED_SIZE, result_of


def test_a_small_input_rides_along(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    client.submit("a")
    client.submit("b", needs=["a"])
    worker.expect_run("a")
    worker.finish("a")
    client.expect_results("a")
    (run,) = worker.expect_run("b")
    assert run.dependencies == [Dependency(env.id_of("a"), result_of("a"), len(result_of("a")), [])]
    worker.finish("b")
    client.expect_results("b")


def test_many_small_inputs_do_not_all_ride_along(env: SchedulerEnv) -> None:
    """A message has its limit: what is too much for it is fetched from the scheduler's process."""
    client, worker = env.client(), env.worker()
    parts = [f"part {number} {'.' * 50_000}" for number in range(40)]
    client.put(*parts)
    client.submit("sum", needs=parts)
    (run,) = worker.expect_run("sum")
    inline = [needed for needed in run.dependencies if needed.payload is not None]
    fetched = [needed for needed in run.dependencies if needed.payload is None]
    assert sum(len(needed.payload or b"") for needed in inline) <= ARGUMENT_LIMIT
    assert len(inline) + len(fetched) == len(parts)
    assert fetched
    assert {tuple(needed.addresses) for needed in fetched} == {("tcp://head:1",)}
    # the worker's copies are of no further use
    worker.say(ReplicasAdded([needed.task for needed in fetched]))
    assert [message.tasks for message in worker.take(FreeData)] == [[needed.task for needed in fetched]]
    worker.finish("sum")
    client.expect_results("sum")


def test_a_large_input_is_fetched_from_its_holders_or_through_the_head(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("a")
    w1.expect_run("a")
    w1.store("a")
    client.expect_stored("a")
    w2 = env.worker("w2")
    w2.has("a")
    client.submit("b", needs=["a"], workers=["w2"])
    (run,) = w2.expect_run("b")
    addresses = ["tcp://w1:1", "tcp://w2:1", "tcp://head:1"]
    assert run.dependencies == [Dependency(env.id_of("a"), None, STORED_SIZE, addresses)]


def test_a_task_goes_where_its_large_inputs_are(env: SchedulerEnv) -> None:
    client, w1, w2 = env.client(), env.worker("w1", threads=2), env.worker("w2", threads=2)
    client.submit("small", workers=["w1"])
    client.submit("large", workers=["w2"])
    w1.expect_run("small")
    w2.expect_run("large")
    w1.store("small", size=1_000)
    w2.store("large", size=500_000_000)
    client.expect_stored("small", "large")
    client.submit("busy", workers=["w2"])
    w2.expect_run("busy")
    client.submit("c", needs=["small", "large"])
    w2.expect_run("c")


def test_a_task_does_not_queue_behind_its_input_if_the_way_is_shorter(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("a")
    w1.expect_run("a")
    w1.store("a", size=1_000, duration=5.0)
    client.expect_stored("a")
    client.submit("busy")
    w1.expect_run("busy")
    w2 = env.worker("w2")
    client.submit("b", needs=["a"])
    w2.expect_run("b")


def test_an_input_may_occur_twice(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    client.submit("a")
    client.submit("b", needs=["a", "a"])
    worker.expect_run("a")
    worker.finish("a")
    client.expect_results("a")
    (run,) = worker.expect_run("b")
    assert [needed.task for needed in run.dependencies] == [env.id_of("a")] * 2
    client.release("a", "b")
    worker.expect_cancel("b")
    client.leave()
    env.expect_no_records()


def test_a_diamond(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker(threads=2)
    client.submit("top")
    client.submit("left", "right", needs=["top"])
    client.submit("bottom", needs=["left", "right"])
    client.release("top", "left", "right")
    worker.expect_run("top")
    worker.store("top")
    worker.expect_run("left", "right")
    worker.finish("right")
    worker.finish("left")
    worker.expect_free("top")
    (run,) = worker.expect_run("bottom")
    assert [needed.payload for needed in run.dependencies] == [result_of("left"), result_of("right")]
    worker.finish("bottom")
    client.expect_results("bottom")
    client.release("bottom")
    client.leave()
    env.expect_no_records()


def test_a_tree_keeps_no_more_than_it_needs(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    layer = [f"0.{number}" for number in range(16)]
    client.submit(*layer)
    depth = 0
    while len(layer) > 1:
        depth += 1
        above = [f"{depth}.{number}" for number in range(len(layer) // 2)]
        client.submit(*above, needs={label: layer[2 * i : 2 * i + 2] for i, label in enumerate(above)})
        client.release(*layer)
        layer = above
    most = 0
    while worker.runs:
        worker.store(*worker.runs.values(), duration=1.0)  # long ones are handed out one by one
        most = max(most, len(worker.data))
        worker.forget()
    client.expect_stored(*layer)
    assert most <= 6, "pairs are joined as soon as both are there: one result per layer, and one more"
    assert worker.data == {env.id_of(layer[0])}
    client.release(*layer)
    worker.expect_free(*layer)


def test_dependants_become_ready_in_their_order_before_younger_tasks(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    client.submit("a")
    client.submit("b", "c", "d", needs=["a"])
    client.submit("e", "f")
    worker.expect_run("a")
    for done, following in zip("abcde", "bcdef", strict=True):
        worker.finish(done, duration=1.0)
        client.expect_results(done)
        worker.expect_run(following)


def test_ready_tasks_are_found_after_their_group_was_empty(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    other = env.client("other")
    client.submit("a")
    worker.expect_run("a")
    client.submit("b", needs=["a"])
    other.submit("x", "y")
    worker.finish("a", duration=1.0)
    client.expect_results("a")
    worker.expect_run("x")
    worker.finish("x", duration=1.0)
    other.expect_results("x")
    worker.expect_run("b")
    worker.finish("b", duration=1.0)
    client.expect_results("b")
    worker.expect_run("y")


def test_an_input_that_was_let_go_before_is_an_error(env: SchedulerEnv) -> None:
    client = env.client()
    client.submit("a")
    client.release("a")
    client.submit("b", needs=["a"])
    client.expect_error("b", kind="DependencyFailed", text="released")
    client.release("b")
    client.leave()
    env.expect_no_records()


def test_a_task_on_many_stored_inputs_is_placed_quickly(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    inputs = [f"i{number}" for number in range(2_000)]
    client.submit("first")
    worker.expect_run("first")
    worker.finish("first", duration=0.0)
    client.expect_results("first")
    client.submit(*inputs)
    worker.expect_run(*inputs)
    worker.store(*inputs, duration=0.0)
    client.expect_stored(*inputs)
    client.submit("sum", needs=inputs)  # quadratic steps would take far longer than the test's timeout
    (run,) = worker.expect_run("sum")
    assert len(run.dependencies) == 2_000
