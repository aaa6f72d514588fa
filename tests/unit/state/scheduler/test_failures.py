"""Tasks that raise, tasks that kill their worker, and results of attempts that count no longer."""

from __future__ import annotations

import pytest

from hpccluster.protocol.messages import RunTask
from hpccluster.testing.scheduler_env import SchedulerEnv
from hpccluster.testing.scheduler_peers import ClientPeer, NannyPeer
from hpccluster.testing.scheduler_workers import WorkerPeer


class TestExceptions:
    def test_the_error_is_the_result(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a")
        worker.expect_run("a")
        worker.fail("a")
        error = client.expect_error("a")
        assert (error.type_name, error.text, error.payload) == ("ValueError", "boom", b"pickled")
        client.leave()
        env.expect_no_records()

    def test_all_that_needs_the_task_fails_by_the_same_error_in_one_message(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a")
        client.submit("b", "c", needs=["a"])
        client.submit("d", needs=["b", "c"])
        worker.expect_run("a")
        worker.fail("a")
        assert [len(message.futures) for message in client.inbox] == [4]  # type: ignore[attr-defined]
        client.expect_error("a", "b", "c", "d")
        client.submit("late", needs=["d"])
        client.expect_error("late")
        client.leave()
        env.expect_no_records()

    def test_a_running_dependant_of_something_else_is_withdrawn(self, env: SchedulerEnv) -> None:
        client, w1, w2 = env.client(), env.worker("w1"), env.worker("w2")
        client.submit("a", workers=["w1"])
        w1.expect_run("a")
        w1.store("a")
        client.expect_stored("a")
        client.submit("b", needs=["a"], workers=["w2"])
        w2.expect_run("b")
        w1.leave()  # the input is gone while b runs; its second run fails
        w3 = env.worker("w1")
        w3.expect_run("a")
        w3.fail("a")
        client.expect_error("a", "b")
        w2.expect_cancel("b")

    def test_retries(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a", retries=2)
        for _ in range(3):
            worker.expect_run("a")
            worker.fail("a")
        client.expect_error("a")

    def test_what_must_fail_the_same_way_is_not_tried_again(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit("a", retries=2)
        worker.expect_run("a")
        worker.fail("a", retriable=False)
        client.expect_error("a")

    def test_a_long_chain(self, env: SchedulerEnv) -> None:
        client, worker = env.client(), env.worker()
        client.submit_chain(3_000)
        worker.expect_run("0")
        worker.fail("0")
        client.expect_error(*(f"{number}" for number in range(3_000)))
        client.leave()
        env.expect_no_records()


class TestAttempts:
    """What comes for an attempt that counts no longer is dropped."""

    @pytest.fixture
    def old(self, env: SchedulerEnv) -> RunTask:
        """The first attempt of a task that now has a second one, on the same worker."""
        client, worker = env.client(), env.worker()
        client.submit("a")
        (old,) = worker.expect_run("a")
        worker.give_back("a")
        (new,) = worker.expect_run("a")
        assert new.attempt > old.attempt
        return old

    def test_done(self, env: SchedulerEnv, old: RunTask) -> None:
        env.workers["w1"].finish(old)
        assert list(env.workers["w1"].runs) == [old.task]

    def test_stored(self, env: SchedulerEnv, old: RunTask) -> None:
        worker = env.workers["w1"]
        worker.store(old)  # not freed: that could hit the result of the attempt that runs there now
        worker.store("a")
        env.clients["client"].expect_stored("a")

    def test_failed(self, env: SchedulerEnv, old: RunTask) -> None:
        env.workers["w1"].fail(old)

    def test_returned(self, env: SchedulerEnv, old: RunTask) -> None:
        env.workers["w1"].give_back(old)

    def test_missing(self, env: SchedulerEnv, old: RunTask) -> None:
        env.workers["w1"].miss(old)

    def test_from_another_worker(self, env: SchedulerEnv, old: RunTask) -> None:
        w2 = env.worker("w2")
        w2.finish(env.workers["w1"].runs[old.task])
        assert list(env.workers["w1"].runs) == [old.task]

    def test_after_the_end(self, env: SchedulerEnv, old: RunTask) -> None:
        client, worker = env.clients["client"], env.workers["w1"]
        (new,) = worker.runs.values()
        worker.finish(new)
        client.expect_results("a")
        worker.finish(new)
        worker.fail(new)
        worker.give_back(new)
        worker.store(new)
        worker.expect_free("a")


def kill(worker: WorkerPeer, nanny: NannyPeer, *running: str, threads: int = 1) -> WorkerPeer:
    """The worker dies under these, its nanny says so and starts another."""
    env = worker.env
    runs = [worker._run(label) for label in running]
    worker.leave()
    nanny.testify(worker, *runs)
    return env.worker(worker.name, threads=threads)


class TestDeadlyTasks:
    def setup_one(self, env: SchedulerEnv, threads: int = 1) -> tuple[ClientPeer, NannyPeer, WorkerPeer]:
        return env.client(), env.nanny(), env.worker(threads=threads)

    def test_a_task_fails_at_the_fourth_death(self, env: SchedulerEnv) -> None:
        client, nanny, worker = self.setup_one(env)
        client.submit("poison")
        client.submit("needs it", needs=["poison"])
        for _ in range(4):
            worker.expect_run("poison")
            worker = kill(worker, nanny, "poison")
        error = client.expect_error("poison", "needs it", kind="WorkerDied", text="f was running in 4 workers")
        assert error.details["deaths"] == 4
        assert error.details["signal"] == 9
        assert "peak memory 8.0 GiB" in error.text
        assert "Killed" in error.text
        client.leave()
        env.expect_no_records()

    @pytest.mark.parametrize("testimony_first", [True, False])
    def test_the_testimony_may_come_before_or_after_the_loss(self, env: SchedulerEnv, testimony_first: bool) -> None:
        client, nanny, worker = self.setup_one(env)
        client.submit("poison")
        for _ in range(4):
            (run,) = worker.expect_run("poison")
            if testimony_first:
                nanny.testify(worker, run)
                worker.leave()
            else:
                worker.leave()
                nanny.testify(worker, run)
            worker = env.worker()
        client.expect_error("poison", kind="WorkerDied")

    def test_a_late_testimony_ends_the_attempt_that_runs(self, env: SchedulerEnv) -> None:
        client, nanny = env.client(), env.nanny()
        client.submit("poison")
        runs = []
        for number in range(4):
            worker = env.worker(f"w{number}")
            runs += worker.expect_run("poison")
            worker.leave()
        last = env.worker("last")
        last.expect_run("poison")
        for run in runs:
            nanny.testify(worker, run)
        client.expect_error("poison", kind="WorkerDied")
        last.expect_cancel("poison")

    def test_a_lost_worker_without_testimony_blames_nobody(self, env: SchedulerEnv) -> None:
        client = env.client()
        client.submit("a")
        for _ in range(10):
            worker = env.worker()
            worker.expect_run("a")
            worker.leave()

    def test_an_expected_end_blames_nobody(self, env: SchedulerEnv) -> None:
        client, nanny, worker = self.setup_one(env)
        client.submit("a")
        for _ in range(10):
            (run,) = worker.expect_run("a")
            worker.leave()
            nanny.testify(worker, run, expected=True)
            worker = env.worker()
        worker.expect_run("a")

    def test_a_testimony_counts_once(self, env: SchedulerEnv) -> None:
        client, nanny, worker = self.setup_one(env)
        client.submit("a")
        (run,) = worker.expect_run("a")
        worker.leave()
        for _ in range(10):
            nanny.testify(worker, run)
        env.worker().expect_run("a")

    def test_a_testimony_on_a_finished_task_is_nothing(self, env: SchedulerEnv) -> None:
        client, nanny, worker = self.setup_one(env)
        client.submit("a")
        (run,) = worker.expect_run("a")
        worker.finish("a")
        client.expect_results("a")
        nanny.testify(worker, run)

    def test_what_was_prefetched_is_not_blamed(self, env: SchedulerEnv) -> None:
        client, nanny, worker = self.setup_one(env)
        client.submit("poison", "a", "b")
        worker.expect_run("poison")
        for _ in range(3):
            worker = kill(worker, nanny, "poison")
            worker.expect_run("poison")
        worker = kill(worker, nanny, "poison")
        client.expect_error("poison", kind="WorkerDied")
        worker.expect_run("a")
        worker.finish("a")
        worker.finish("b")
        client.forget()
        worker.forget()

    def test_only_the_guilty_one_fails_where_several_run_at_once(self, env: SchedulerEnv) -> None:
        client, nanny, worker = self.setup_one(env, threads=4)
        innocent = ["a", "b", "c"]
        client.submit("poison", *innocent)
        for _ in range(3):
            worker.expect_run("poison", *innocent)
            worker = kill(worker, nanny, "poison", *innocent, threads=4)
        worker.expect_run("poison")  # from now on each of them has a worker of its own
        worker = kill(worker, nanny, "poison", threads=4)
        client.expect_error("poison", kind="WorkerDied")
        for label in innocent:
            worker.expect_run(label)
            worker.finish(label)
            client.expect_results(label)

    def test_nothing_else_runs_beside_a_suspect(self, env: SchedulerEnv) -> None:
        client, nanny, worker = self.setup_one(env, threads=2)
        client.submit("poison", "beside")
        for _ in range(3):
            worker.expect_run("poison", "beside")
            worker = kill(worker, nanny, "poison", threads=2)
        worker.expect_run("poison")
        worker.finish("poison")
        client.expect_results("poison")
        worker.expect_run("beside")

    def test_a_busy_worker_is_emptied_for_a_suspect(self, env: SchedulerEnv) -> None:
        client, nanny, busy = self.setup_one(env, threads=2)
        client.submit("x", "y")
        busy.expect_run("x", "y")
        client.submit("poison")
        for _ in range(3):
            victim = env.worker("victim")
            (run,) = victim.expect_run("poison")
            victim.leave()
            nanny.testify(victim, run)
        busy.expect_take_back("x", "y")  # they run, and are kept
        client.submit("z")
        busy.finish("x")
        client.expect_results("x")
        busy.finish("y")
        client.expect_results("y")
        busy.expect_run("poison")
        busy.finish("poison")
        client.expect_results("poison")
        busy.expect_run("z")

    def test_a_worker_that_was_emptied_in_vain_goes_on(self, env: SchedulerEnv) -> None:
        client, nanny, busy = self.setup_one(env)
        client.submit("x")
        busy.expect_run("x")
        client.submit("poison")
        for _ in range(3):
            victim = env.worker("victim")
            (run,) = victim.expect_run("poison")
            victim.leave()
            nanny.testify(victim, run)
        busy.expect_take_back("x")
        client.cancel("poison")
        client.expect_cancelled("poison")
        client.submit("z")
        busy.finish("x")
        client.expect_results("x")
        busy.expect_run("z")
