"""Whatever a peer says, the machine stays whole: it answers, or drops what it was told."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hpccluster.protocol.messages import (
    DataPlaced,
    DataStored,
    FetchesFailed,
    Heartbeat,
    InputsMissing,
    LocateData,
    Message,
    PlaceData,
    PutData,
    ReplicasAdded,
    SubmitTasks,
    TasksCancelled,
    TasksDone,
    TasksReturned,
    WorkerExited,
)
from hpccluster.protocol.messages import TaskOptions as Options
from hpccluster.state.scheduler import invariants
from hpccluster.state.scheduler.events import DataHeld, PeerLeft, RetireWorkers
from hpccluster.testing.scheduler_env import SchedulerEnv

LARGEST = 2**64 - 1


def test_a_function_that_was_never_sent(env: SchedulerEnv) -> None:
    client = env.client()
    client.defined.add("f")
    client.submit("a", "b")
    client.expect_error("a", "b", kind="RemoteProtocolError", text="never sent")


@pytest.mark.parametrize(
    ("dependencies", "keys", "options"),
    [
        ([[]], [], Options()),
        ([[], [], []], [], Options()),
        ([], ["k"], Options()),
        ([], [], Options(resources={"gpu": -1.0})),
        ([], [], Options(resources={"gpu": math.nan})),
        ([], [], Options(resources={"gpu": math.inf})),
    ],
)
def test_a_malformed_submission(env: SchedulerEnv, dependencies: Any, keys: list[str], options: Options) -> None:
    client = env.client()
    client.define("f")
    client.say(SubmitTasks(client.number(["a", "b"]), b"f", [b"a", b"b"], dependencies, keys, options))
    client.expect_error("a", "b", kind="RemoteProtocolError", text="malformed")


def test_a_future_submitted_twice_runs_once(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker(threads=9)
    client.submit("a")
    client.put("p")
    client.place("x")
    client.expect_placement("x")
    client.number(["b"])
    worker.expect_run("a")
    client.say(SubmitTasks(0, b"f", [b"a", b"p", b"x", b"b"], [], [], Options()))
    worker.expect_run("b")
    client.say(PutData(0, [b"1", b"2", b"3"]))
    client.say(PlaceData(0, 1, []), PlaceData(1, 1, []), PlaceData(2, 1, []))
    worker.finish("a", "b")
    client.expect_results("a", "b")


def test_a_task_cannot_be_its_own_input(env: SchedulerEnv) -> None:
    client = env.client()
    client.submit("a", "b", needs={"a": ["b"], "b": ["b"]})
    client.expect_error("a", "b", kind="DependencyFailed")


@pytest.mark.parametrize("first", [-1, -(2**63), LARGEST, 2**63])
def test_futures_beyond_all_numbers_are_dropped(env: SchedulerEnv, first: int) -> None:
    client = env.client()
    client.define("f")
    client.say(SubmitTasks(first, b"f", [b"a"], [], [], Options()), PutData(first, [b"1", b"2"]))


@pytest.mark.parametrize("duration", [math.nan, math.inf, -1.0, -math.inf, 1e300])
def test_a_duration_that_is_none_teaches_nothing(env: SchedulerEnv, duration: float) -> None:
    client, worker = env.client(), env.worker()
    client.submit("a", "b", "c")
    worker.expect_run("a")
    worker.finish("a", duration=duration)
    client.expect_results("a")
    worker.expect_run("b")
    worker.finish("b", duration=0.001)
    client.expect_results("b")
    worker.expect_run("c")
    client.submit("d", "e")
    worker.expect_run("d", "e")


def test_columns_of_unequal_length(env: SchedulerEnv) -> None:
    client, worker = env.client(), env.worker(threads=3)
    client.submit("a", "b", "c")
    runs = worker.expect_run("a", "b", "c")
    tasks = [run.task for run in runs]
    worker.say(TasksDone(tasks, [0, 0], [b"1"], [1, 2, 3], []))
    worker.say(TasksReturned(tasks, []))
    worker.say(FetchesFailed(tasks, []), InputsMissing(99, 0, tasks, []))


def test_numbers_that_nobody_gave_out(env: SchedulerEnv) -> None:
    client, worker, nanny = env.client(), env.worker(), env.nanny()
    for number in (-5, 0, 12345, LARGEST):
        worker.say(
            TasksDone([number], [number], [b""], [number], [0.1]),
            TasksReturned([number], [number]),
            InputsMissing(number, number, [number], [""]),
            FetchesFailed([number], ["nowhere"]),
            Heartbeat(number, math.nan, number, number),
        )
        client.say(DataPlaced(number, ""), DataPlaced(number, "somewhere"))
        worker.say(TasksDone([number], [number], [None], [number], [0.1]), ReplicasAdded([number]))
        worker.say(DataStored(number, number))
        worker.expect_free(str(number), str(number), str(number))
        client.say(LocateData(number, ["somewhere"]))
        assert client.mailbox == []
        (answer,) = client.inbox
        assert answer == TasksCancelled([number])
        client.inbox.clear()
        nanny.say(_testimony((number, number)))


def test_a_testimony_on_an_attempt_that_never_was(env: SchedulerEnv) -> None:
    client, nanny = env.client(), env.nanny()
    client.submit("poison")
    client.place("x")
    task = env.state.clients["client"].futures[client.futures["poison"]].id
    data = env.state.clients["client"].futures[client.futures["x"]].id
    nanny.say(_testimony((task, 10**9), (data, 0), (data, 1)))
    for _ in range(4):
        worker = env.worker()
        client.forget()
        (run,) = worker.expect_run("poison")
        worker.leave()
        nanny.testify(worker, run)
    client.expect_error("poison", kind="WorkerDied")


def _testimony(*running: tuple[int, int]) -> WorkerExited:
    return WorkerExited(
        worker="w1",
        exit_code=-(2**63),
        signal=None,
        peak_memory=LARGEST,
        running=list(running),
        log_tail="\x00\udcff".encode("utf-8", "replace").decode() * 10,
        expected=False,
        restarting=False,
    )


def test_a_peer_may_say_only_what_its_role_allows(env: SchedulerEnv) -> None:
    client, worker, nanny = env.client(), env.worker(), env.nanny()
    client.submit("a")
    (run,) = worker.expect_run("a")
    done = TasksDone([run.task], [run.attempt], [b""], [0], [0.1])
    submission = SubmitTasks(0, b"f", [b"x"], [], [], Options())
    said: list[tuple[str, Message]] = [
        (client.name, done),
        (nanny.name, done),
        ("nobody", done),
        (worker.name, submission),
        (nanny.name, submission),
        ("nobody", submission),
        (client.name, _testimony((run.task, run.attempt))),
        (worker.name, _testimony((run.task, run.attempt))),
    ]
    for source, message in said:
        env.handle(source, [message])  # type: ignore[list-item]
    assert list(worker.runs) == [run.task]


def test_events_about_nobody(env: SchedulerEnv) -> None:
    env.handle("nobody", [PeerLeft("")])
    env.handle("fleet", [RetireWorkers(["nobody"])])
    env.handle("shell", [DataHeld(1, "nobody", False)])


def test_a_broken_invariant_is_found(env: SchedulerEnv) -> None:
    client = env.client()
    client.submit("a")
    env.state.ready = 7
    with pytest.raises(invariants.InvariantBroken, match="rule 1 is broken: 7"):
        invariants.check(env.state)
    env.state.ready = 1
