"""Futures that share a task, futures that are released or cancelled, clients that leave."""

from __future__ import annotations

from hpccluster.protocol.messages import CancelFutures, SubmitTasks, TaskOptions
from hpccluster.testing.scheduler_env import SchedulerEnv
from hpccluster.testing.scheduler_peers import result_of


class TestKeys:
    def test_two_clients_share_one_run(self, env: SchedulerEnv) -> None:
        alice, bob, worker = env.client("alice"), env.client("bob"), env.worker()
        alice.submit("a", keys={"a": "k"})
        bob.submit("b", keys={"b": "k"})
        worker.expect_run("a")
        worker.finish("a")
        alice.expect_results("a")
        bob.expect_results("b", payload=result_of("a"))
        alice.release("a")
        alice.submit("again", keys={"again": "k"})
        alice.expect_results("again", payload=result_of("a"))
        for client in (alice, bob):
            client.leave()
        env.expect_no_records()

    def test_a_shared_result_that_is_stored_is_told_to_the_newcomer_only(self, env: SchedulerEnv) -> None:
        alice, bob, worker = env.client("alice"), env.client("bob"), env.worker()
        alice.submit("a", keys={"a": "k"})
        worker.expect_run("a")
        worker.store("a")
        alice.expect_stored("a")
        bob.submit("b", keys={"b": "k"})
        bob.expect_stored("b")

    def test_a_shared_error_is_told_to_the_newcomer_only(self, env: SchedulerEnv) -> None:
        alice, bob, worker = env.client("alice"), env.client("bob"), env.worker()
        alice.submit("a", keys={"a": "k"})
        worker.expect_run("a")
        worker.fail("a")
        alice.expect_error("a")
        bob.submit("b", keys={"b": "k"})
        bob.expect_error("b")

    def test_a_key_is_free_again_when_nobody_wants_it(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a", keys={"a": "k"})
        worker.expect_run("a")
        worker.finish("a")
        client.expect_results("a")
        client.release("a")
        client.submit("b", keys={"b": "k"})
        worker.expect_run("b")

    def test_a_released_input_that_is_wanted_again_runs_again(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a", keys={"a": "k"})
        worker.expect_run("a")
        worker.store("a")
        client.expect_stored("a")
        client.submit("b", needs=["a"])
        client.release("a")
        worker.expect_run("b")
        worker.store("b")
        client.expect_stored("b")
        worker.expect_free("a")
        client.submit("again", keys={"again": "k"})
        worker.expect_run("a")
        worker.store("a")
        client.expect_stored("again")

    def test_one_task_of_a_message_may_be_known_and_others_new(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker(threads=4)
        client.submit("a", "b", "c", keys={"a": "k", "c": "k"})
        worker.expect_run("a", "b")
        worker.finish("a")
        client.forget()
        assert client.outcomes == {client.futures["a"]: "finished", client.futures["c"]: "finished"}


class TestRelease:
    def test_a_ready_task_never_runs(self, env: SchedulerEnv) -> None:
        client = env.client()
        client.submit("a")
        client.release("a")
        env.worker()
        client.leave()
        env.expect_no_records()

    def test_a_running_task_is_withdrawn(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a")
        (run,) = worker.expect_run("a")
        client.release("a")
        worker.expect_cancel("a")
        worker.store(run)  # it was too late
        worker.expect_free("a")

    def test_a_task_whose_dependant_is_wanted_goes_on(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a")
        client.submit("b", needs=["a"])
        client.release("a")
        worker.expect_run("a")
        worker.finish("a")
        worker.expect_run("b")

    def test_releasing_the_last_of_a_chain_withdraws_all_of_it(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit_chain(3_000)
        client.release(*(f"{number}" for number in range(2_999)))
        worker.expect_run("0")
        client.release("2999")
        worker.expect_cancel("0")
        client.leave()
        env.expect_no_records()

    def test_a_future_that_is_not_known_is_no_harm(self, env: SchedulerEnv) -> None:
        client = env.client()
        client.submit("a")
        client.release("a", "a")


class TestCancel:
    def test_a_ready_task(self, env: SchedulerEnv) -> None:
        client = env.client()
        client.submit("a")
        client.cancel("a")
        client.expect_cancelled("a")
        env.worker()
        client.leave()
        env.expect_no_records()

    def test_an_assigned_task(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a", "b")
        worker.expect_run("a")
        client.cancel("a")
        client.expect_cancelled("a")
        worker.expect_cancel("a")
        worker.expect_run("b")

    def test_dependants_are_cancelled_too(self, env: SchedulerEnv) -> None:
        client = env.client()
        client.submit("a")
        client.submit("b", needs=["a"])
        client.submit("c", needs=["b"])
        client.submit("d", "e", needs=["c", "a"])
        client.cancel("a")
        client.expect_cancelled("a", "b", "c", "d", "e")
        client.leave()
        env.expect_no_records()

    def test_a_dependant_that_needs_no_more_of_it_is_spared(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a")
        worker.expect_run("a")
        worker.finish("a")
        client.expect_results("a")
        client.submit("b", needs=["a"])
        worker.expect_run("b")
        client.cancel("a")
        client.expect_cancelled("a")
        worker.finish("b")
        client.expect_results("b")

    def test_a_task_that_another_client_shares_goes_on(self, env: SchedulerEnv) -> None:
        alice, bob, worker = env.client("alice"), env.client("bob"), env.worker()
        alice.submit("a", keys={"a": "k"})
        bob.submit("b", keys={"b": "k"})
        worker.expect_run("a")
        alice.cancel("a")
        alice.expect_cancelled("a")
        worker.finish("a")
        bob.expect_results("b", payload=result_of("a"))

    def test_what_another_client_needs_goes_on(self, env: SchedulerEnv) -> None:
        alice, bob, worker = env.client("alice"), env.client("bob"), env.worker()
        alice.submit("a", keys={"a": "k"})
        bob.submit("b", keys={"b": "k"})
        bob.submit("bob's", needs=["b"])
        bob.release("b")
        alice.submit("alice's", needs=["a"])
        worker.expect_run("a")
        alice.cancel("a")
        alice.expect_cancelled("a", "alice's")
        worker.finish("a")
        worker.expect_run("bob's")
        worker.finish("bob's")
        bob.expect_results("bob's")

    def test_a_result_that_can_be_computed_again_survives_the_cancelling_of_its_input(self, env: SchedulerEnv) -> None:
        alice, bob, w1 = env.client("alice"), env.client("bob"), env.worker("w1")
        bob.submit("a", keys={"a": "k"})
        bob.submit("b", needs=["a"])
        bob.release("a")
        w1.expect_run("a")
        w1.store("a")
        w1.expect_run("b")
        w1.store("b")
        bob.expect_stored("b")
        w1.expect_free("a")
        alice.submit("again", keys={"again": "k"})
        w1.expect_run("a")
        alice.cancel("again")
        alice.expect_cancelled("again")
        w1.expect_cancel("a")
        w1.leave()
        w2 = env.worker("w2")
        w2.expect_run("a")
        w2.finish("a")
        w2.expect_run("b")
        w2.finish("b")
        bob.expect_results("b")

    def test_a_finished_future_is_let_go(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a")
        worker.expect_run("a")
        worker.store("a")
        client.expect_stored("a")
        client.cancel("a")
        client.expect_cancelled("a")
        worker.expect_free("a")

    def test_found_and_cancelled_at_once_is_told_in_that_order(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a", keys={"a": "k"})
        worker.expect_run("a")
        worker.finish("a")
        client.expect_results("a")
        future = client.number(["b"])
        client.asked.add(future)
        client.say(SubmitTasks(future, b"f", [b"b"], [], ["k"], TaskOptions()), CancelFutures([future]))
        client.expect_results("b", payload=result_of("a"))
        client.expect_cancelled("b")
        assert client.outcomes[future] == "cancelled"

    def test_a_long_chain(self, env: SchedulerEnv) -> None:
        client = env.client()
        client.submit_chain(3_000)
        client.cancel("0")
        client.expect_cancelled(*(f"{number}" for number in range(3_000)))
        client.leave()
        env.expect_no_records()


class TestClientLeaves:
    def test_everything_that_it_alone_wanted_goes(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a", "b", "c")
        client.submit("d", needs=["a"])
        client.put("p")
        worker.expect_run("a")
        worker.store("a", duration=9.0)
        client.expect_stored("a")
        worker.expect_run("d")
        client.leave()
        worker.expect_cancel("d")
        worker.expect_free("a")
        env.expect_no_records()

    def test_what_others_share_goes_on_and_is_placed(self, env: SchedulerEnv) -> None:
        alice, bob = env.client("alice"), env.client("bob")
        alice.submit("a")
        alice.submit("b", needs=["a"], keys={"b": "k"})
        bob.submit("bob's b", keys={"bob's b": "k"})
        alice.leave()
        worker = env.worker()
        worker.expect_run("a")
        worker.finish("a")
        worker.expect_run("b")
        worker.finish("b")
        bob.expect_results("bob's b", payload=result_of("b"))

    def test_the_same_name_may_come_again(self, env: SchedulerEnv) -> None:
        env.client("alice").submit("a")
        alice = env.client("alice")
        env.worker()
        alice.submit("b")
        env.workers["w1"].expect_run("b")

    def test_functions_are_forgotten_with_their_last_client_and_task(self, env: SchedulerEnv) -> None:
        alice, bob, worker = env.client("alice"), env.client("bob"), env.worker()
        alice.define("f")
        bob.define("f")
        alice.submit("a", keys={"a": "k"})
        bob.submit("b", keys={"b": "k"})
        alice.leave()
        worker.expect_run("a")
        bob.leave()
        worker.expect_cancel("a")
        env.expect_no_records()


class TestFunctions:
    def test_a_function_that_nobody_names_goes_from_the_workers_too(self, env: SchedulerEnv) -> None:
        alice, bob, worker = env.client("alice"), env.client("bob"), env.worker()
        for client, label in ((alice, "a"), (bob, "b")):
            client.submit(label)
            worker.expect_run(label)
            worker.finish(label)
            client.expect_results(label)
        alice.forget_function("f")
        alice.release("a")
        assert worker.functions  # bob may name it
        bob.forget_function("f")
        assert worker.functions  # a task of his does
        bob.release("b")
        assert not worker.functions
        assert not env.state.functions

    def test_a_forgotten_function_may_be_defined_again(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a")
        worker.expect_run("a")
        client.forget_function("f")
        client.submit("b")  # while a task of it runs: it is the same
        worker.finish("a")
        client.expect_results("a")
        worker.expect_run("b")
        worker.finish("b")
        client.expect_results("b")
        client.release("a", "b")
        client.forget_function("f")
        client.submit("c")  # it is sent anew
        worker.expect_run("c")

    def test_the_functions_of_a_client_that_leaves_go_from_the_workers(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a")
        worker.expect_run("a")
        client.leave()
        worker.expect_cancel("a")
        assert not worker.functions
