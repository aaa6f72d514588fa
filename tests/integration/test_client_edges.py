"""What users give a client that is too large, too many, odd, or not its own: right results, or an error at the edge."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hpccluster import Client, LocalCluster
from hpccluster.errors import LocalProtocolError, PeerLost, ResultLost, TaskCancelled
from support.deadline import wait_until


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=2) as cluster:
        cluster.wait_for_workers(2, timeout=30)
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client
        assert client.submit(pow, 2, 3).result(timeout=10) == 8  # it is as good as before


class Pair(NamedTuple):
    first: Any
    second: Any


def test_large_elements_of_a_generator_are_not_taken_for_one_another(client: Client) -> None:
    futures = client.map(max, (bytes([n]) * 2_000_000 for n in range(8)))  # each is gone when the next one is made
    assert client.gather(futures, timeout=30) == list(range(8))


def test_a_buffer_that_a_generator_fills_anew_is_sent_as_it_is_each_time(client: Client) -> None:
    def filled() -> Iterator[Any]:
        buffer = np.zeros(300_000)
        for number in range(4):
            buffer[:] = number
            yield buffer

    assert client.gather(client.map(np.max, filled()), timeout=30) == [0, 1, 2, 3]


def test_an_element_that_comes_again_in_a_list_is_sent_once(client: Client) -> None:
    large = bytes(2_000_000)
    before = client.scheduler_info()["tasks"]["known"]
    futures = client.map(len, [large] * 20)
    assert client.gather(futures, timeout=30) == [len(large)] * 20
    assert client.scheduler_info()["tasks"]["known"] - before <= 21


def test_many_arguments_of_some_size_are_more_than_a_message_and_arrive(client: Client) -> None:
    def sizes(*args: bytes) -> int:
        return sum(map(len, args))

    assert client.submit(sizes, *(bytes([n]) * 500_000 for n in range(150))).result(timeout=30) == 75_000_000


def test_tiny_arguments_without_end_are_refused_with_what_to_do(client: Client) -> None:
    with pytest.raises(ValueError, match="give them as one list"):
        client.submit(max, *(bytes(600) for _ in range(60_000)))


def test_futures_beside_something_large_in_one_argument(client: Client) -> None:
    def describe(parts: dict[str, Any]) -> tuple[int, list[int]]:
        return len(parts["large"]), parts["small"]

    small = [client.submit(pow, 2, n) for n in range(3)]
    future = client.submit(describe, {"large": bytes(3_000_000), "small": small})
    assert future.result(timeout=20) == (3_000_000, [1, 2, 4])


def test_so_many_futures_in_one_argument_that_they_alone_are_large(client: Client) -> None:
    one = client.submit(abs, -1)
    assert client.submit(sum, [one] * 200_000).result(timeout=50) == 200_000


def test_a_gathered_future_of_another_client_is_not_taken_for_ones_own(client: Client, cluster: LocalCluster) -> None:
    with Client(cluster) as other:
        mine = [client.submit(str.__mul__, "m", 100_000 + n) for n in range(5)]
        theirs = [other.submit(str.__mul__, "t", 100_000 + n) for n in range(5)]
        assert client.gather([*theirs, *mine], timeout=20) == [
            letter * (100_000 + n) for letter in "tm" for n in range(5)
        ]
        with pytest.raises(ValueError, match="another client"):
            client.cancel(theirs)


def test_named_tuples_keep_their_shape(client: Client) -> None:
    scattered = client.scatter(Pair(1, bytes(100_000)))
    assert isinstance(scattered, Pair)
    assert client.gather(scattered, timeout=20) == Pair(1, bytes(100_000))


def test_the_time_out_of_gather_is_for_all_together(client: Client) -> None:
    with pytest.raises(TimeoutError):
        client.gather(client.map(time.sleep, [0.3] * 40), timeout=0.5)


def test_whoever_waits_for_a_future_that_is_released_hears_of_it(client: Client) -> None:
    future = client.submit(time.sleep, 5)
    releasing = threading.Timer(0.1, future.release)
    releasing.start()
    with pytest.raises(TaskCancelled):
        future.result(timeout=4)
    releasing.join()


def name_of_no_encoding() -> None:
    raise FileNotFoundError("data-\udcff.csv")


def test_an_error_whose_text_no_encoding_has_is_still_the_tasks_error(client: Client) -> None:
    with pytest.raises(FileNotFoundError):
        client.submit(name_of_no_encoding).result(timeout=20)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda c: c.submit(abs, 1, key="\ud800"), "key="),
        (lambda c: c.submit(abs, 1, priority=1 << 70), "priority="),
        (lambda c: c.submit(abs, 1, retries=1 << 70), "retries="),
        (lambda c: c.submit(abs, 1, retries=-1), "retries=-1: not negative"),
        (lambda c: c.submit(abs, 1, workers=[3]), "workers="),
        (lambda c: c.map(abs, [1, 2, 3], key=["one"]), "1 keys"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_the_edge(client: Client, call: Callable[[Client], Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        call(client)


class Ends:
    """Ends whoever unpickles it, or tries to."""

    def __init__(self, size: int) -> None:
        self.data = bytes(size)

    def __reduce__(self) -> tuple[Any, ...]:
        return end, (self.data,)


def end(_: bytes) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("size", [10, 200_000, 2_000_000])
def test_a_result_that_ends_whoever_unpickles_it_does_so_where_it_is_asked_for(client: Client, size: int) -> None:
    future = client.submit(Ends, size)
    with pytest.raises(SystemExit):
        future.result(timeout=10)
    with pytest.raises(SystemExit):
        client.gather([future], timeout=10)


def test_a_client_that_a_function_takes_along_is_named(client: Client) -> None:
    with pytest.raises(TypeError, match=r"<Client of '.*> cannot be sent to a task"):
        client.submit(lambda: client.name)
    with pytest.raises(TypeError, match=r"<Client of '.*> cannot be sent to a task"):
        client.submit(len, [client])


def test_whoever_has_waited_in_a_loop_that_is_closed_is_in_nobodys_way(client: Client, tmp_path: Path) -> None:
    def until(path: str) -> str:
        while not Path(path).exists():
            time.sleep(0.01)
        return "done"

    future = client.submit(until, str(tmp_path / "go"))

    async def wait_in_vain() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.1)

    asyncio.run(wait_in_vain())
    (tmp_path / "go").touch()
    assert future.result(timeout=20) == "done"


def test_a_callable_with_an_odd_name(client: Client) -> None:
    odd = partial(abs)
    odd.__name__ = 3  # type: ignore[attr-defined]
    assert client.submit(odd, -1).result(timeout=20) == 1


def does_not_load() -> Any:
    raise ValueError("not here")


class LoadsNowhere:
    def __reduce__(self) -> Any:
        return does_not_load, ()


def test_a_result_that_cannot_be_unpickled_says_whose_it_is(client: Client) -> None:
    with pytest.raises(ValueError, match="not here") as raised:
        client.submit(LoadsNowhere).result(timeout=20)
    assert "LoadsNowhere-" in "".join(raised.value.__notes__)


def test_a_question_that_cannot_be_sent_ends_no_connection(client: Client) -> None:
    for odd in (object(), "x" * 70_000_000):
        with pytest.raises(LocalProtocolError):
            client.request("scheduler_info", odd=odd)


def test_no_task_waits_behind_a_cancelled_one_that_never_ends(tmp_path: Path) -> None:
    with LocalCluster(n_workers=2) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(2, timeout=30)
        endless = client.submit(touch_and_sleep, str(tmp_path / "runs"), 1000)
        wait_until((tmp_path / "runs").exists, "the task to run")
        endless.cancel()
        assert client.gather(client.map(abs, [-1] * 20), timeout=5) == [1] * 20
        assert client.gather([client.submit(abs, -n) for n in range(20)], timeout=5) == list(range(20))


def touch_and_sleep(path: str, seconds: float) -> None:
    Path(path).touch()
    time.sleep(seconds)


class Spoilt:
    """Large, and no longer to be pickled once its worker's environment says so."""

    def __init__(self, value: bytes = bytes(100_000)) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        if "SPOILT" in os.environ:
            raise RuntimeError("spoilt by another task")
        return Spoilt, (self.value,)


def spoil(_: Spoilt) -> None:
    os.environ["SPOILT"] = "1"


def test_a_result_that_can_no_longer_be_pickled_is_lost_with_the_reason() -> None:
    with LocalCluster(n_workers=2) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(2, timeout=30)
        one, other = client.nthreads()
        made = client.submit(Spoilt, workers=one)
        client.submit(spoil, made, workers=one).result(timeout=20)
        with pytest.raises(ResultLost, match="spoilt by another task"):
            made.result(timeout=10)
        with pytest.raises(ResultLost, match="spoilt by another task"):
            client.submit(id, made, workers=other).result(timeout=10)


def count_and_make(path: str) -> bytes:
    with Path(path).open("a") as file:
        file.write("x")
    return bytes(100_000)


def test_a_client_that_reaches_nobody_says_so_and_has_nothing_computed_again(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(address: str, *_: Any) -> Any:
        raise PeerLost(f"no way to {address}")

    link = client._link
    assert link is not None
    future = client.submit(count_and_make, str(tmp_path / "runs"))
    assert future.exception(timeout=20) is None
    monkeypatch.setattr(link._fetcher, "fetch", unreachable)
    monkeypatch.setattr(link._fetcher, "push", unreachable)
    with pytest.raises(PeerLost, match=r"none of .* can be reached"):
        future.result(timeout=20)
    with pytest.raises(ResultLost, match="could not push the data to any worker"):
        client.scatter(bytes(1_000_000))
    monkeypatch.undo()
    assert len(future.result(timeout=20)) == 100_000
    assert (tmp_path / "runs").read_text() == "x"


def test_data_for_a_worker_that_has_just_died_goes_to_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(1, timeout=30)
        worker, link = cluster.workers[0].pid, client._live()

        async def push_to_the_dead(address: str, *_: Any) -> None:
            monkeypatch.undo()
            os.kill(worker, signal.SIGKILL)
            raise PeerLost(f"no way to {address}")  # before the scheduler can know

        monkeypatch.setattr(link._fetcher, "push", push_to_the_dead)
        assert client.submit(len, bytes(3_000_000)).result(timeout=30) == 3_000_000


def test_data_that_is_lost_before_its_worker_has_said_that_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(1, timeout=30)

        async def push_in_vain(*_: Any) -> None:
            """The worker takes the data, and dies before it has told the scheduler."""

        monkeypatch.setattr(client._live()._fetcher, "push", push_in_vain)
        data = client.scatter(bytes(1_000_000))
        length = client.submit(len, data)
        os.kill(cluster.workers[0].pid, signal.SIGKILL)
        with pytest.raises(ResultLost, match="its only copy"):
            length.result(timeout=30)


def test_functions_that_the_program_has_dropped_are_dropped_by_the_workers(client: Client) -> None:
    def loaded() -> int:
        import gc

        from hpccluster.runtime.executor import Executor

        return sum(len(one._bodies) for one in gc.get_objects() if isinstance(one, Executor))

    for start in range(0, 1000, 200):
        futures = [client.submit(lambda n=n: n) for n in range(start, start + 200)]
        assert client.gather(futures, timeout=20) == list(range(start, start + 200))
    del futures

    def most() -> int:
        counts: list[int] = client.gather([client.submit(loaded, workers=w) for w in client.nthreads()], timeout=20)
        return max(counts)

    wait_until(lambda: most() <= 150, "dropped functions")
