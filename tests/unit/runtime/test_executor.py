"""The executor: batches, priorities, taking back, and everything that user code may do."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from typing import Any, NoReturn

import numpy as np
import pytest

from hpccluster.protocol.messages import INLINE_LIMIT, Dependency, FunctionBody, TasksDone
from hpccluster.protocol.payload import collect, dump_arguments, dump_frames, dumps, load_error
from hpccluster.runtime.executor import PORTION
from hpccluster.runtime.results import dump_result
from support.executor_env import ExecutorEnv, in_loop


def add(a: int, b: int) -> int:
    return a + b


def raise_it(error: BaseException) -> NoReturn:
    raise error


class Odd(Exception):
    """Its pickle cannot be loaded: `Exception` calls it with one argument."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise SystemExit("even worse")


class Gate:
    """Lets a test hold a task. Module state, since tasks are pickled by name here."""

    opened = threading.Event()
    entered = threading.Semaphore(0)


def produce(size: int) -> bytes:
    Gate.entered.release()
    return bytes(size)


def hold() -> str:
    Gate.entered.release()
    Gate.opened.wait(20)
    return "held"


@pytest.fixture(autouse=True)
def _gate() -> None:
    Gate.opened = threading.Event()
    Gate.entered = threading.Semaphore(0)


class TestRunning:
    def test_what_ends_while_the_loop_is_busy_comes_in_small_messages(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            env.executor.execute([env.task(produce, 60_000) for _ in range(100)])
            for _ in range(100):
                assert Gate.entered.acquire(timeout=20)  # this is the loop's thread
            await env.until(100)
            carried = [sum(len(body or b"") for body in e.payloads) for e in env.events if isinstance(e, TasksDone)]
            assert max(carried) <= PORTION + 64 * 1024

        in_loop(check)

    def test_a_result(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            assert await env.call(add, 1, 2) == 3

        in_loop(check)

    def test_a_batch_comes_back_as_columns(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            first = env.task(add, 0, 1)
            tasks = [first, *(env.task(add, number, 1) for number in range(1, 300))]
            env.executor.execute(tasks)
            await env.until(300)
            assert env.results() == {task.task: number + 1 for number, task in enumerate(tasks)}
            assert len(env.events) < 300
            done = env.events[0]
            assert isinstance(done, TasksDone)
            assert all(0 <= seconds < 5 for seconds in done.durations)

        in_loop(check, threads=2)

    def test_smaller_priorities_run_first_across_batches(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            blocker = env.task(hold)
            env.executor.execute([blocker])
            assert Gate.entered.acquire(timeout=10)
            late = [env.task(add, 1, number, priority=priority) for number, priority in enumerate((5, 3, 4))]
            urgent = env.task(add, 1, 1, priority=1)
            env.executor.execute(late)
            env.executor.execute([urgent])
            Gate.opened.set()
            await env.until(5)
            assert env.order() == [blocker.task, urgent.task, late[1].task, late[2].task, late[0].task]

        in_loop(check)

    def test_inline_and_stored_inputs(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            env.store.put(901, np.arange(10), 80)
            env.store.put_frames(902, dump_frames(np.ones(10)))
            arguments, _ = dump_arguments((_Input(), [_Input(), _Input()]), {})
            inputs = (
                Dependency(900, dumps(100), 5, []),
                Dependency(901, None, 80, ["tcp://h:1"]),
                Dependency(902, None, 80, ["tcp://h:1"]),
            )
            value = await env.call(_total, arguments=arguments, dependencies=inputs)
            assert value == 100 + 45 + 10
            assert env.store.value(902) is env.store.value(902)

        in_loop(check)

    def test_paths_of_a_client_are_added_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "path", list(sys.path))

        async def check(env: ExecutorEnv) -> None:
            for number in (1, 2):
                env.executor.add_functions([FunctionBody(number, "f", dumps(len), ["/nowhere/at/all"])])
            assert sys.path.count("/nowhere/at/all") == 1

        in_loop(check)

    def test_several_threads_run_at_once(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            env.executor.execute([env.task(hold) for _ in range(3)])
            for _ in range(3):
                assert Gate.entered.acquire(timeout=10)
            assert env.executor.executing == 3
            Gate.opened.set()
            await env.until(3)

        in_loop(check, threads=3)


class _Input:
    def __reduce__(self) -> Any:
        return collect(self)


def _total(first: Any, others: list[Any]) -> float:
    return float(first + sum(other.sum() for other in others))


class TestTakingBack:
    def test_what_is_queued_can_be_had_back_and_what_runs_cannot(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            running, queued, other = env.task(hold), env.task(add, 1, 2), env.task(add, 3, 4)
            env.executor.execute([running])
            assert Gate.entered.acquire(timeout=10)
            env.executor.execute([queued, other])
            asked = [running.task, queued.task, other.task, 999]
            assert env.executor.withdraw(asked, [1, 1, 2, 1]) == [(queued.task, 1)]
            assert env.executor.withdraw([queued.task], [1]) == []
            Gate.opened.set()
            await env.until(2)
            assert env.order() == [running.task, other.task]

        in_loop(check)

    def test_a_task_that_was_taken_back_can_come_again(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            running, queued = env.task(hold), env.task(add, 1, 2)
            env.executor.execute([running])
            assert Gate.entered.acquire(timeout=10)
            env.executor.execute([queued])
            env.executor.withdraw([queued.task], [1])
            queued.attempt = 2
            env.executor.execute([queued])
            Gate.opened.set()
            await env.until(2)
            done = [pair for event in env.events if isinstance(event, TasksDone) for pair in _pairs(event)]
            assert done == [(running.task, 1), (queued.task, 2)]

        in_loop(check)

    def test_the_slots_say_what_runs(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            run = env.task(hold, attempt=7)
            env.executor.execute([run])
            assert Gate.entered.acquire(timeout=10)
            assert env.slots.running() == [(run.task, 7)]
            Gate.opened.set()
            await env.until(1)
            assert await env.call(env_is_idle_but_for_this, 1) == 1

        in_loop(check)

    def test_after_stop_nothing_is_reported(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            env.executor.execute([env.task(hold), env.task(add, 1, 2)])
            assert Gate.entered.acquire(timeout=10)
            threads = [thread for thread in threading.enumerate() if thread.name.startswith("hpccluster-task")]
            env.executor.stop()
            Gate.opened.set()
            for thread in threads:
                thread.join(10)
                assert not thread.is_alive()
            assert env.events == []

        in_loop(check)


def env_is_idle_but_for_this(value: int) -> int:
    return value


def _pairs(done: TasksDone) -> list[tuple[int, int]]:
    return list(zip(done.tasks, done.attempts, strict=True))


class TestUserCodeThatFails:
    """Whatever a task does, it has an outcome that names the cause, and the thread runs the next one."""

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("negative mass"),
            SystemExit(3),
            KeyboardInterrupt(),
            GeneratorExit(),
            BaseException("base"),
            RecursionError("deep"),
            MemoryError(),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_raised_exceptions_are_the_outcome(self, error: BaseException) -> None:
        async def check(env: ExecutorEnv) -> None:
            failed = await env.failure(raise_it, error)
            assert failed.error.type_name == type(error).__name__
            assert failed.retriable
            assert "raise_it" in failed.error.traceback
            assert "runtime/executor.py" not in failed.error.traceback
            assert type(load_error(failed.error)) is type(error)
            assert await env.call(add, 1, 1) == 2

        in_loop(check)

    def test_exceptions_that_cannot_be_pickled_as_they_are(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            failed = await env.failure(lambda: raise_it(Odd(1, 2)))
            assert (failed.error.type_name, failed.error.text) == ("Odd", "1 and 2")
            assert type(load_error(failed.error)) is Odd
            failed = await env.failure(lambda: raise_it(ValueError(threading.Lock())))
            assert "lock" in str(load_error(failed.error))
            failed = await env.failure(lambda: raise_it(Unprintable()))
            assert failed.error.type_name == "Unprintable"
            assert await env.call(add, 1, 1) == 2

        in_loop(check)

    def test_a_huge_exception_is_cut(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            failed = await env.failure(lambda: raise_it(ValueError("x" * 20_000_000)))
            assert len(failed.error.text) <= 100_000
            assert len(failed.error.payload) <= 1024 * 1024
            assert len(failed.error.traceback) <= 1024 * 1024

        in_loop(check)

    @pytest.mark.parametrize(
        ("function", "kind"),
        [
            (lambda: (number for number in range(3)), "generator"),
            (threading.Lock, "lock"),
            (lambda: [threading.Lock()] * 3, "list"),
        ],
        ids=["generator", "lock", "list of locks"],
    )
    def test_results_that_cannot_be_pickled(self, function: Any, kind: str) -> None:
        async def check(env: ExecutorEnv) -> None:
            failed = await env.failure(function)
            assert failed.error.type_name == "TypeError"
            assert f"a {kind}, cannot be pickled" in failed.error.text
            assert not failed.retriable
            assert await env.call(add, 1, 1) == 2

        in_loop(check)

    def test_what_cannot_be_unpickled_is_not_tried_again(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            failed = await env.failure(add, arguments=b"garbage")
            assert (failed.error.type_name, failed.retriable) == ("UnpicklingError", False)
            assert "arguments of add()" in failed.error.traceback
            failed = await env.failure(add, body=b"cno_such_module_here\nf\n.")
            assert (failed.error.type_name, failed.retriable) == ("ModuleNotFoundError", False)
            failed = await env.failure(add, dependencies=(Dependency(77, b"garbage", 7, []),))
            assert not failed.retriable
            assert "result of task 77" in failed.error.traceback
            failed = await env.failure(add, dependencies=(Dependency(78, None, 7, ["tcp://h:1"]),))
            assert failed.error.type_name == "ResultLost"

        in_loop(check)

    def test_an_unknown_function(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            run = env.task(add, 1, 2)
            run.function = 12345
            env.executor.execute([run])
            await env.until(1)
            assert "has not sent function 12345" in str(env.events[0])

        in_loop(check)

    def test_a_fork_ends_in_the_child(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            child = await env.call(os.fork)
            assert child > 0
            assert os.waitpid(child, 0) == (child, 0)
            assert await env.call(add, 1, 1) == 2

        in_loop(check)

    def test_blocked_signals_stay_with_their_thread(self) -> None:
        async def check(env: ExecutorEnv) -> None:
            await env.call(lambda: len(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})))
            assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
            assert await env.call(add, 1, 1) == 2

        in_loop(check)


class TestResults:
    @pytest.mark.parametrize(
        "value",
        [None, True, 5, 2.5, "text", b"bytes", bytearray(b"x"), (1, [2]), {"a": {1}}, np.arange(5), np.float64(1)],
        ids=lambda value: type(value).__name__,
    )
    def test_small_results_ride_along(self, value: Any) -> None:
        body, size, kept = dump_result(value)
        assert body is not None
        assert (size, kept) == (len(body), None)
        assert repr(pickle.loads(body)) == repr(value)

    @pytest.mark.parametrize(
        "value",
        [
            b"x" * (INLINE_LIMIT + 1),
            "x" * (INLINE_LIMIT + 1),
            bytearray(INLINE_LIMIT + 1),
            np.zeros(INLINE_LIMIT),
            [np.zeros(INLINE_LIMIT)],
            np.zeros((400, 400))[:, ::2],
            list(range(INLINE_LIMIT)),
            2 ** (9 * INLINE_LIMIT),
            np.array([{}] * INLINE_LIMIT, dtype=object),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_large_results_stay(self, value: Any) -> None:
        body, size, kept = dump_result(value)
        assert body is None
        assert kept is value
        assert size > INLINE_LIMIT

    def test_the_limit_itself_rides_along(self) -> None:
        overhead = len(pickle.dumps(b"x" * 60_000, 5)) - 60_000
        body, size, _ = dump_result(b"x" * (INLINE_LIMIT - overhead))
        assert body is not None
        assert size == INLINE_LIMIT

    def test_large_arrays_are_not_pickled_to_learn_their_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def no(*_: object, **__: object) -> bytes:
            raise AssertionError("pickled")

        monkeypatch.setattr("hpccluster.runtime.results._dumps", no)
        assert dump_result(np.zeros(100_000))[1] == 800_000
        assert dump_result(b"x" * 100_000)[1] == 100_000

    def test_a_large_result_that_cannot_be_pickled_is_refused(self) -> None:
        with pytest.raises(TypeError):
            dump_result([threading.Lock(), b"x" * INLINE_LIMIT])
