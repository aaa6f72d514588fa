"""Workers that vanish: what they had goes back, what only they held is computed again."""

from __future__ import annotations

from hpccluster.protocol.messages import InputsMissing, RunTask
from hpccluster.testing.scheduler_env import SchedulerEnv
from hpccluster.testing.scheduler_peers import result_of


def test_tasks_go_back_in_order_before_all_others(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    client.submit("first")
    worker.expect_run("first")
    worker.finish("first", duration=0.0199)
    client.expect_results("first")
    client.submit("a", "b", "c", "d", "e", "f", "g")
    worker.expect_run("a", "b", "c", "d", "e")
    worker.leave()
    env.worker("w2").expect_run("a", "b", "c", "d", "e")


def test_a_stored_result_is_computed_again_and_told_again(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("a")
    w1.expect_run("a")
    w1.store("a")
    client.expect_stored("a")
    w1.leave()
    w2 = env.worker("w2")
    w2.expect_run("a")
    w2.store("a")
    client.expect_stored("a")


def test_a_small_result_survives_its_worker(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("a")
    w1.expect_run("a")
    w1.finish("a")
    client.expect_results("a")
    w1.leave()
    w2 = env.worker("w2")
    client.submit("b", needs=["a"])
    w2.expect_run("b")


def test_another_copy_is_enough(env: SchedulerEnv) -> None:
    client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
    client.submit("a", workers=["w1"])
    w1.expect_run("a")
    w1.store("a")
    client.expect_stored("a")
    w2.has("a")
    w1.leave()
    client.locate("a")
    client.expect_location("a", "w2")


def test_an_unwanted_result_is_not_computed_again(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("a")
    client.submit("b", needs=["a"])
    client.release("a")
    w1.expect_run("a")
    w1.store("a")
    w1.expect_run("b")
    w1.finish("b")
    client.expect_results("b")
    w1.expect_free("a")
    w1.leave()
    env.worker("w2")


def test_released_inputs_are_computed_again_too(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("a")
    client.submit("b", "c", needs=["a"])
    client.submit("d", needs=["b", "c"])
    client.release("a", "b", "c")
    while w1.runs:
        w1.store(*w1.runs.values(), duration=1.0)
    w1.forget()
    client.expect_stored("d")
    w1.leave()
    w2 = env.worker("w2")
    for label in ("a", "b", "c", "d"):
        w2.expect_run(label)
        w2.store(label, duration=1.0)
    client.expect_stored("d")
    w2.expect_free("a", "b", "c")


def test_an_inline_input_is_not_computed_again(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("a")
    client.submit("b", needs=["a"])
    client.release("a")
    w1.expect_run("a")
    w1.finish("a")
    w1.expect_run("b")
    w1.store("b")
    client.expect_stored("b")
    w1.leave()
    (run,) = env.worker("w2").expect_run("b")
    assert run.dependencies[0].payload == result_of("a")


def test_waiting_and_ready_dependants_wait_again(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("a", "x", workers=["w1"])
    w1.expect_run("a")
    client.submit("ready", needs=["a"], workers=["w2"])
    client.submit("waiting", needs=["a", "x"])
    w1.store("a", duration=1.0)
    client.expect_stored("a")
    w1.expect_run("x")
    w1.leave()
    w2 = env.worker("w2")
    w1 = env.worker("w1")
    w1.expect_run("a")
    w1.finish("a", duration=1.0)
    client.expect_results("a")
    w1.expect_run("x")
    w2.expect_run("ready")
    w1.finish("x")
    client.expect_results("x")
    w1.expect_run("waiting")


def test_a_running_dependant_may_still_end(env: SchedulerEnv) -> None:
    client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
    client.submit("a", workers=["w1"])
    client.submit("b", needs=["a"], workers=["w2"])
    client.release("a")
    w1.expect_run("a")
    w1.store("a")
    w2.expect_run("b")
    w1.leave()
    w3 = env.worker("w1")
    w3.expect_run("a")
    w2.finish("b")  # it had fetched its input
    client.expect_results("b")
    w3.expect_cancel("a")
    client.release("b")
    client.leave()
    env.expect_no_records()


def test_a_running_dependant_that_misses_its_input_waits_for_it(env: SchedulerEnv) -> None:
    client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
    client.submit("a", workers=["w1"])
    client.submit("b", needs=["a"], workers=["w2"])
    w1.expect_run("a")
    w1.store("a")
    client.expect_stored("a")
    w2.expect_run("b")
    w1.leave()
    w2.miss("b", "a")
    w1 = env.worker("w1")
    w1.expect_run("a")
    w1.finish("a")
    client.expect_results("a")
    w2.expect_run("b")


def test_a_long_chain_is_computed_again(env: SchedulerEnv) -> None:
    length = 3_000
    client, w1 = env.client(), env.worker("w1")
    client.submit_chain(length)
    client.release(*(f"{number}" for number in range(length - 1)))
    env.validate = False  # it would take a while
    while w1.runs:
        w1.work(stored=True)
    w1.forget()
    client.expect_stored(f"{length - 1}")
    env.validate = True
    env.tick()
    w1.leave()
    w2 = env.worker("w2")
    w2.expect_run("0")
    env.validate = False
    while w2.runs:
        w2.work(stored=True)
    w2.forget()
    env.validate = True
    client.expect_stored(f"{length - 1}")
    client.release(f"{length - 1}")
    w2.forget()
    client.leave()
    env.expect_no_records()


def test_the_same_name_again_is_a_loss_first(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    client.submit("a")
    (old,) = worker.expect_run("a")
    (new,) = env.worker().expect_run("a")
    assert new.attempt > old.attempt


class TestDataThatCannotBeHad:
    """A peer says that it could not get a result from a worker that is connected."""

    def test_the_last_copy_is_given_up_at_the_third_time(self, env: SchedulerEnv) -> None:
        client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
        client.submit("a", workers=["w1"])
        w1.expect_run("a")
        w1.store("a")
        client.expect_stored("a")
        client.submit("b", needs=["a"], workers=["w2"])
        for _ in range(3):
            w2.expect_run("b")
            w2.miss("b", "a")
        w1.expect_free("a")
        w1.expect_run("a")
        w1.finish("a")
        client.expect_results("a")
        w2.expect_run("b")

    def test_many_complaints_at_once_are_one(self, env: SchedulerEnv) -> None:
        client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2", threads=9)
        client.submit("a", workers=["w1"])
        w1.expect_run("a")
        w1.store("a")
        client.expect_stored("a")
        tasks = [f"{number}" for number in range(9)]
        client.submit(*tasks, needs=["a"], workers=["w2"])
        runs = w2.expect_run(*tasks)
        w2.runs.clear()
        number = runs[0].dependencies[0].task
        w2.say(*(InputsMissing(run.task, run.attempt, [number], [w1.address]) for run in runs))
        assert len(w2.take(RunTask)) == 9

    def test_one_of_several_copies_is_given_up_at_once(self, env: SchedulerEnv) -> None:
        client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
        client.submit("a", workers=["w1"])
        w1.expect_run("a")
        w1.store("a")
        client.expect_stored("a")
        w2.has("a")
        client.locate("a", failed=[w1])
        w1.expect_free("a")
        client.expect_location("a", "w2")

    def test_a_client_may_say_so(self, env: SchedulerEnv) -> None:
        client, w1 = env.client(), env.worker("w1")
        client.submit("a")
        w1.expect_run("a")
        w1.store("a")
        client.expect_stored("a")
        for _ in range(2):
            client.locate("a", failed=[w1])
            client.expect_location("a", "w1")
        client.locate("a", failed=[w1])
        w1.expect_free("a")
        w1.expect_run("a")
        w1.store("a")
        client.expect_stored("a")
        client.expect_location("a", "w1")

    def test_an_address_that_holds_it_no_longer_means_nothing(self, env: SchedulerEnv) -> None:
        client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
        client.submit("a", workers=["w1"])
        w1.expect_run("a")
        w1.store("a")
        client.expect_stored("a")
        w2.has("a")
        client.submit("b", needs=["a"], workers=["w2"])
        (run,) = w2.expect_run("b")
        w1.leave()
        assert run.dependencies[0].addresses[0] == w1.address
        w2.miss("b", "a")
        client.forget()
        env.workers["w2"].forget()


class TestLocate:
    def test_a_small_result_is_the_answer_itself(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a")
        worker.expect_run("a")
        worker.finish("a")
        client.expect_results("a")
        client.locate("a")
        client.expect_location("a", payload=result_of("a"))

    def test_a_result_that_is_not_there_yet_is_told_when_it_is(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a")
        worker.expect_run("a")
        client.locate("a")
        client.locate("a")
        worker.store("a")
        client.expect_stored("a")
        client.expect_location("a", "w1")

    def test_an_error_is_an_answer(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a")
        worker.expect_run("a")
        client.locate("a")
        worker.fail("a")
        client.expect_error("a")
        client.locate("a")
        client.expect_error("a")

    def test_what_is_not_known_is_cancelled(self, env: SchedulerEnv) -> None:
        client = env.client()
        client.submit("a")
        client.release("a")
        client.locate("a")
        client.expect_cancelled("a")

    def test_a_released_future_gets_no_answer(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a")
        client.submit("b", needs=["a"])
        worker.expect_run("a")
        client.locate("a")
        client.release("a")
        worker.store("a")
        worker.expect_run("b")

    def test_without_a_data_service_only_holders_are_named(self) -> None:
        with SchedulerEnv(address="") as env:
            client, worker = env.client(), env.worker()
            client.submit("a")
            worker.expect_run("a")
            worker.store("a")
            client.expect_stored("a")
            client.locate("a")
            client.expect_location("a", "w1")
