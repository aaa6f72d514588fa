"""Sending workers home without losing anything."""

from __future__ import annotations

from hpccluster.protocol.messages import RunTask
from hpccluster.testing.scheduler_env import HEAD, SchedulerEnv


def test_an_idle_worker_goes_at_once(env: SchedulerEnv) -> None:
    worker = env.worker()
    env.retire(worker)
    worker.expect_leave()
    env.expect_retired(worker)
    env.retire(worker)
    worker.leave()


def test_what_has_not_started_is_taken_back_and_what_runs_may_end(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("first")
    w1.expect_run("first")
    w1.finish("first")
    client.expect_results("first")
    client.submit("a", "b", "c")
    w1.expect_run("a", "b", "c")
    env.retire(w1)
    w1.expect_take_back("a", "b", "c")
    w2 = env.worker("w2")
    w1.give_back("b", "c")
    w2.expect_run("b", "c")
    client.submit("d")
    w2.expect_run("d")
    w1.finish("a")
    client.expect_results("a")
    w1.expect_leave()
    env.expect_retired(w1)


def test_results_that_only_it_has_are_copied_to_others(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("a", "b", "shared")
    while w1.runs:
        w1.store(*w1.runs.values())
    w1.forget()
    client.expect_stored("a", "b", "shared")
    w2, w3 = env.worker("w2"), env.worker("w3")
    w2.has("shared")
    env.retire(w1)
    w2.expect_fetch("a")
    w3.expect_fetch("b")
    w2.has("a")
    w3.has("b")
    w1.expect_leave()
    env.expect_retired(w1)
    w1.leave()
    client.locate("a")
    client.expect_location("a", "w2")
    client.locate("b")
    client.expect_location("b", "w3")


def test_a_result_that_nobody_needs_any_more_is_not_waited_for(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("a")
    w1.expect_run("a")
    w1.store("a")
    client.expect_stored("a")
    w2 = env.worker("w2")
    env.retire(w1)
    w2.expect_fetch("a")
    client.release("a")
    w1.expect_free("a")
    w1.expect_leave()
    env.expect_retired(w1)
    w2.has("a")
    w2.expect_free("a")


class TestCopiesThatFail:
    def one_result(self, env: SchedulerEnv) -> None:
        client, w1 = env.client(), env.worker("w1")
        client.submit("a")
        w1.expect_run("a")
        w1.store("a")
        client.expect_stored("a")

    def test_another_target_is_tried(self, env: SchedulerEnv) -> None:
        self.one_result(env)
        w1, w2, w3 = env.workers["w1"], env.worker("w2"), env.worker("w3")
        env.retire(w1)
        w2.expect_fetch("a")
        w2.cannot_fetch("a", w1)
        w3.expect_fetch("a")
        w3.has("a")
        w1.expect_leave()
        env.expect_retired(w1)

    def test_what_nobody_can_fetch_is_computed_again(self, env: SchedulerEnv) -> None:
        self.one_result(env)
        w1, w2 = env.workers["w1"], env.worker("w2")
        env.retire(w1)
        for _ in range(3):
            w2.expect_fetch("a")
            w2.cannot_fetch("a", w1)
        w1.expect_free("a")
        w1.expect_leave()
        env.expect_retired(w1)
        w2.expect_run("a")

    def test_the_target_dies(self, env: SchedulerEnv) -> None:
        self.one_result(env)
        w1, w2 = env.workers["w1"], env.worker("w2")
        env.retire(w1)
        w2.expect_fetch("a")
        w3 = env.worker("w3")
        w2.leave()
        w3.expect_fetch("a")

    def test_the_target_retires_before_it_has_the_copy(self, env: SchedulerEnv) -> None:
        self.one_result(env)
        w1, w2 = env.workers["w1"], env.worker("w2")
        env.retire(w1)
        w2.expect_fetch("a")
        env.retire(w2)
        w2.expect_leave()
        env.expect_retired(w2)
        w3 = env.worker("w3")
        w2.leave()
        w3.expect_fetch("a")

    def test_the_target_retires_when_it_has_the_copy(self, env: SchedulerEnv) -> None:
        self.one_result(env)
        client, w1, w2 = env.clients["client"], env.workers["w1"], env.worker("w2")
        client.submit("slow", workers=["w2"])
        w2.expect_run("slow")
        env.retire(w1)
        w2.expect_fetch("a")
        env.retire(w2)
        w2.expect_take_back("slow")
        w3 = env.worker("w3")
        w2.has("a")
        w3.expect_fetch("a")
        w3.has("a")
        w1.expect_leave()
        env.expect_retired(w1)
        w2.finish("slow")
        client.expect_results("slow")
        w2.expect_leave()
        env.expect_retired(w2)

    def test_the_worker_itself_dies(self, env: SchedulerEnv) -> None:
        self.one_result(env)
        w1, w2 = env.workers["w1"], env.worker("w2")
        env.retire(w1)
        w2.expect_fetch("a")
        w1.leave()
        w2.expect_run("a")


class TestNoOtherWorker:
    """The scheduler's own process takes the data."""

    def test_the_data_is_held_until_nobody_needs_it(self, env: SchedulerEnv) -> None:
        client, w1 = env.client(), env.worker("w1")
        client.submit("a")
        w1.expect_run("a")
        w1.store("a")
        client.expect_stored("a")
        env.retire(w1)
        env.expect_hold("a")
        env.hold("a", w1)
        w1.expect_leave()
        env.expect_retired(w1)
        w1.leave()
        w2 = env.worker("w2")
        client.submit("b", needs=["a"])
        (run,) = w2.expect_run("b")
        assert run.dependencies[0].addresses == [HEAD]
        w2.finish("b")
        client.expect_results("b")
        client.release("a")
        env.expect_drop("a")

    def test_holding_fails(self, env: SchedulerEnv) -> None:
        client, w1 = env.client(), env.worker("w1")
        client.submit("a")
        w1.expect_run("a")
        w1.store("a")
        client.expect_stored("a")
        env.retire(w1)
        for _ in range(3):
            env.expect_hold("a")
            env.hold("a", w1, succeeded=False)
        w1.expect_free("a")
        w1.expect_leave()
        env.expect_retired(w1)
        env.worker("w2").expect_run("a")

    def test_a_worker_that_joins_meanwhile_is_not_needed(self, env: SchedulerEnv) -> None:
        client, w1 = env.client(), env.worker("w1")
        client.submit("a")
        w1.expect_run("a")
        w1.store("a")
        client.expect_stored("a")
        env.retire(w1)
        env.expect_hold("a")
        env.worker("w2")
        env.hold("a", w1)
        w1.expect_leave()
        env.expect_retired(w1)

    def test_data_that_was_released_meanwhile_is_dropped(self, env: SchedulerEnv) -> None:
        client, w1 = env.client(), env.worker("w1")
        client.submit("a")
        w1.expect_run("a")
        w1.store("a")
        client.expect_stored("a")
        env.retire(w1)
        env.expect_hold("a")
        client.release("a")
        w1.expect_free("a")
        w1.expect_leave()
        env.expect_retired(w1)
        env.hold("a", w1)
        env.expect_drop("a")
        assert not env.held

    def test_two_retire_together(self, env: SchedulerEnv) -> None:
        client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
        client.submit("a", workers=["w1"])
        w1.expect_run("a")
        w1.store("a")
        client.expect_stored("a")
        w2.has("a")
        env.retire(w1, w2)
        env.expect_hold("a", "a")
        env.hold("a", w2)
        w2.expect_leave()
        env.expect_retired(w2)
        w2.leave()
        env.hold("a", w1)
        w1.expect_leave()
        env.expect_retired(w1)

    def test_without_a_data_service_the_worker_stays_until_another_comes(self) -> None:
        with SchedulerEnv(address="") as env:
            client, w1 = env.client(), env.worker("w1")
            client.submit("a")
            w1.expect_run("a")
            w1.store("a")
            client.expect_stored("a")
            env.retire(w1)
            env.worker("w2").expect_fetch("a")


def test_scattered_data_is_waited_for(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.place("x")
    assert client.expect_placement("x") is w1
    env.retire(w1)
    w2 = env.worker("w2")
    w1.receive_data("x")
    client.expect_stored("x")
    w2.expect_fetch("x")
    client.placed("x", w1)
    w2.has("x")
    w1.expect_leave()
    env.expect_retired(w1)


def test_a_retiring_worker_is_sent_no_scattered_data(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("slow")
    w1.expect_run("slow")
    env.retire(w1)
    w1.expect_take_back("slow")
    client.place("x")
    w2 = env.worker("w2")
    assert client.expect_placement("x") is w2


def test_a_worker_that_leaves_by_itself_is_treated_the_same(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.submit("a")
    w1.expect_run("a")
    w1.store("a")
    client.expect_stored("a")
    w2 = env.worker("w2")
    w1.leaving()
    w2.expect_fetch("a")
    w2.has("a")
    w1.expect_leave()
    env.expect_retired(w1)


def test_the_same_name_may_come_again_after_it_went(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    env.retire(w1)
    w1.expect_leave()
    env.expect_retired(w1)
    w1.leave()
    client.submit("a")
    env.worker("w1").expect_run("a")


def test_much_data_goes_in_one_message_per_target(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    labels = [f"{number}" for number in range(200)]
    client.submit(*labels)
    while w1.runs:
        w1.store(*w1.runs.values())
    w1.forget()
    client.expect_stored(*labels)
    w2 = env.worker("w2")
    env.retire(w1)
    assert len(w2.inbox) == 1
    w2.expect_fetch(*labels)
    for label in labels[:-1]:
        w2.has(label)
    w1.expect_run()
    assert not w1.take(RunTask)
    w2.has(labels[-1])
    w1.expect_leave()
    env.expect_retired(w1)
