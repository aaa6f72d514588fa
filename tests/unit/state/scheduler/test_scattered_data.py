"""Data that clients put or scatter: nobody can compute it again."""

from __future__ import annotations

import pytest

from hpccluster.testing.scheduler_env import SchedulerEnv
from hpccluster.testing.scheduler_peers import result_of


def test_small_data_rides_along(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    client.put("x", "y")
    client.submit("a", needs=["y", "x"])
    (run,) = worker.expect_run("a")
    assert [needed.payload for needed in run.dependencies] == [result_of("y"), result_of("x")]
    client.locate("x")
    client.expect_location("x", payload=result_of("x"))
    client.release("x", "y", "a")
    worker.expect_cancel("a")
    client.leave()
    env.expect_no_records()


def test_large_data_goes_to_the_worker_that_holds_least(env: SchedulerEnv) -> None:
    client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
    w1.heartbeat(stored=10)
    w2.heartbeat(stored=5)
    assert client.scatter("x", size=4) is w2
    assert client.scatter("y", size=4) is w2
    assert client.scatter("z", size=4) is w1
    client.submit("a", needs=["z"])
    w1.expect_run("a")
    client.release("x")
    w2.expect_free("x")


@pytest.mark.parametrize("wish", ["w2", "node2", "tcp://w2:1", "job2"])
def test_large_data_goes_where_the_client_wishes(env: SchedulerEnv, wish: str) -> None:
    client, _, w2 = env.client(), env.worker("w1"), env.worker("w2", host="node2", job="job2")
    assert client.scatter("x", workers=[wish]) is w2


def test_large_data_waits_for_a_worker(env: SchedulerEnv) -> None:
    client = env.client()
    client.place("x")
    client.place("y", workers=["w2"])
    w1 = env.worker("w1")
    assert client.expect_placement("x") is w1
    w2 = env.worker("w2")
    assert client.expect_placement("y") is w2


def test_tasks_wait_for_data_on_its_way(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker()
    client.place("x")
    client.submit("a", needs=["x"])
    client.locate("x")
    client.expect_placement("x")
    worker.receive_data("x")
    client.expect_stored("x")
    client.expect_location("x", "w1")
    worker.expect_run("a")
    client.placed("x", worker)


def test_another_worker_is_tried_where_one_cannot_be_reached(env: SchedulerEnv) -> None:
    client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
    client.place("x")
    assert client.expect_placement("x") is w1
    client.placed("x", None)
    assert client.expect_placement("x") is w2
    client.placed("x", None)
    client.expect_error("x", kind="ResultLost", text="could not push the data to any worker (w1, w2)")
    client.leave()
    env.expect_no_records()


def test_a_worker_that_died_meanwhile_does_not_count_as_tried(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1")
    client.place("x")
    client.expect_placement("x")
    w1.leave()
    client.placed("x", None)
    w2 = env.worker("w2")
    assert client.expect_placement("x") is w2


def test_data_that_arrived_after_all_counts(env: SchedulerEnv) -> None:
    client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
    client.place("x")
    client.expect_placement("x")
    client.placed("x", None)
    client.expect_placement("x")
    w1.receive_data("x")
    client.expect_stored("x")
    w2.receive_data("x")
    client.locate("x")
    client.expect_location("x", "w1", "w2")


class TestLoss:
    def test_it_is_lost_with_its_last_copy_and_so_is_what_needs_it(self, env: SchedulerEnv) -> None:
        client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
        assert client.scatter("x") is w1
        client.submit("running", needs=["x"], workers=["w2"])
        client.submit("waiting", needs=["running", "x"])
        client.submit("other", workers=["w3"])
        w2.expect_run("running")
        w1.leave()
        client.expect_error("x", "running", "waiting", kind="ResultLost", text="its only copy was on worker w1")
        w2.expect_cancel("running")
        client.release("x", "running", "waiting", "other")
        client.leave()
        env.expect_no_records()

    def test_a_copy_saves_it(self, env: SchedulerEnv) -> None:
        client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
        client.scatter("x")
        w2.has("x")
        w1.leave()
        client.submit("a", needs=["x"])
        w2.expect_run("a")

    def test_results_made_from_it_are_lost_only_when_they_are(self, env: SchedulerEnv) -> None:
        client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
        client.scatter("x")
        client.submit("a", needs=["x"], workers=["w2"])
        client.release("x")  # kept nevertheless: "a" may have to be computed again
        w2.expect_run("a")
        w2.store("a")
        client.expect_stored("a")
        w1.leave()
        client.locate("a")
        client.expect_location("a", "w2")
        w2.leave()
        client.expect_error("a", kind="ResultLost", text="w1, which is gone")
        client.leave()
        env.expect_no_records()

    def test_results_made_from_it_are_computed_again_from_it(self, env: SchedulerEnv) -> None:
        client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
        client.scatter("x")
        client.submit("a", needs=["x"], workers=["w2"], allow_other_workers=True)
        client.release("x")
        w2.expect_run("a")
        w2.store("a")
        client.expect_stored("a")
        w2.leave()
        w1.expect_run("a")
        w1.finish("a")
        client.expect_results("a")
        w1.expect_free("x")

    def test_the_worker_died_before_the_client_has_pushed_and_said_so(self, env: SchedulerEnv) -> None:
        client, w1 = env.client(), env.worker("w1")
        client.place("x")
        client.expect_placement("x")
        w1.leave()
        client.placed("x", w1)
        client.expect_error("x", kind="ResultLost", text="w1, which is gone")

    def test_the_worker_died_before_it_said_that_it_has_it(self, env: SchedulerEnv) -> None:
        client, w1 = env.client(), env.worker("w1")
        client.place("x")
        client.expect_placement("x")
        client.placed("x", w1)
        w1.leave()
        client.expect_error("x", kind="ResultLost", text="w1, which is gone")

    def test_one_failed_fetch_does_not_lose_it(self, env: SchedulerEnv) -> None:
        client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
        client.scatter("x")
        client.submit("a", needs=["x"], workers=["w2"])
        for _ in range(2):
            w2.expect_run("a")
            w2.miss("a", "x")
        w2.expect_run("a")
        w2.finish("a")
        client.expect_results("a")
        client.submit("b", needs=["x"], workers=["w2"])
        w2.expect_run("b")
        w2.miss("b", "x")
        client.expect_error("x", "b", kind="ResultLost", text="w1, which cannot give it")
        w1.expect_free("x")


class TestLettingGo:
    def test_of_data_on_its_way(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.place("x")
        client.expect_placement("x")
        client.release("x")
        worker.receive_data("x")
        worker.expect_free("x")
        client.placed("x", worker)
        client.leave()
        env.expect_no_records()

    def test_of_data_that_waits_for_a_worker(self, env: SchedulerEnv) -> None:
        client = env.client()
        client.place("x")
        client.cancel("x")
        client.expect_cancelled("x")
        env.worker()
        client.leave()
        env.expect_no_records()

    def test_data_that_is_needed_still_arrives(self, env: SchedulerEnv) -> None:
        client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
        client.place("x")
        assert client.expect_placement("x") is w1
        client.submit("a", needs=["x"])
        client.release("x")
        client.placed("x", None)
        assert client.expect_placement("x") is w2
        w2.receive_data("x")
        client.placed("x", w2)
        w2.expect_run("a")

    def test_the_client_leaves_before_it_has_pushed(self, env: SchedulerEnv) -> None:
        alice, bob, worker = env.client("alice"), env.client("bob"), env.worker()
        alice.place("x")
        alice.expect_placement("x")
        alice.submit("a", needs=["x"], keys={"a": "k"})
        bob.submit("b", keys={"b": "k"})
        alice.leave()
        bob.expect_error("b", kind="ResultLost", text="client alice left")
        worker.receive_data("x")
        worker.expect_free("x")
        bob.leave()
        env.expect_no_records()
