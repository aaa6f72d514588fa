"""The client against a real local cluster: real processes, real sockets, TLS."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpccluster import Client, Future, LocalCluster, as_completed, wait
from hpccluster.errors import ClusterClosed, ClusterNotFound, TaskCancelled, WorkerDied
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


def double(x: Any) -> Any:
    return x + x


def whoami(*_: Any) -> int:
    return os.getpid()


def touch_and_wait(touched: str, until_there: str) -> str:
    """Say that it runs, then run until it is told to end."""
    Path(touched).touch()
    while not Path(until_there).exists():
        time.sleep(0.01)
    return "done"


# ------------------------------------------------------------------------------------------------------------ results


def test_a_call_runs_elsewhere_and_its_result_comes_back(client: Client) -> None:
    future = client.submit(pow, 2, 10)
    assert future.result(timeout=20) == 1024
    assert future.done()
    assert future.status == "finished"
    assert client.submit(whoami).result(timeout=20) != os.getpid()


def test_lambdas_closures_and_keyword_arguments_work(client: Client) -> None:
    amount = 5
    assert client.submit(lambda x, *, y: x + y + amount, 1, y=2).result(timeout=20) == 8


def test_futures_are_arguments_wherever_they_are(client: Client) -> None:
    one, two = client.submit(double, 1), client.submit(double, 2)
    total = client.submit(lambda pair, extra: sum(pair) + extra["more"][0], [one, two], {"more": (one,)})
    assert total.result(timeout=20) == 8


def test_map_keeps_the_order_and_takes_several_iterables(client: Client) -> None:
    assert client.gather(client.map(double, range(2500))) == [2 * n for n in range(2500)]
    assert client.gather(client.map(pow, [2, 3], [3, 2])) == [8, 9]


def test_a_tree_of_sums(client: Client) -> None:
    level: list[Future[Any]] = client.map(double, range(256))
    while len(level) > 1:
        level = [client.submit(lambda a, b: a + b, *level[i : i + 2]) for i in range(0, len(level), 2)]
    assert level[0].result(timeout=30) == 2 * sum(range(256))


def test_gather_keeps_the_structure(client: Client) -> None:
    one, two = client.submit(double, 1), client.submit(double, 2)
    assert client.gather({"a": one, "b": [two, (one, 7)]}) == {"a": 2, "b": [4, (2, 7)]}
    bad = client.submit(lambda: 1 / 0)
    assert client.gather([one, bad, two], errors="skip") == [2, 4]
    with pytest.raises(ZeroDivisionError):
        client.gather([one, bad])


def test_large_results_stay_with_the_workers_and_are_fetched(client: Client) -> None:
    array = client.submit(np.arange, 1_000_000)
    assert client.submit(lambda a: int(a.sum()), array).result(timeout=20) == 499999500000
    assert np.array_equal(array.result(timeout=20), np.arange(1_000_000))


def test_a_worker_fetches_from_the_other_what_it_needs(client: Client, cluster: LocalCluster) -> None:
    names = sorted(client.scheduler_info()["workers"])
    here, there = (client.submit(np.ones, 200_000, workers=[name]) for name in names)
    total = client.submit(lambda a, b: float((a + b).sum()), here, there)
    assert total.result(timeout=20) == 400_000.0


def test_large_arguments_travel_as_data(client: Client) -> None:
    block = np.ones(1_000_000)
    assert client.submit(lambda a: float(a.sum()), block).result(timeout=20) == 1e6
    assert client.gather(client.map(lambda a, n: float(a.sum()) + n, [block] * 3, range(3))) == [1e6, 1e6 + 1, 1e6 + 2]
    assert client.submit(len, list(range(600_000))).result(timeout=20) == 600_000


def test_a_task_takes_more_small_inputs_than_a_message_holds(client: Client) -> None:
    parts = client.map(
        lambda n: bytes([n % 256]) * 60_000, range(1200)
    )  # 72 MB, of which each stays with the scheduler
    whole = client.submit(lambda parts: [part[0] for part in parts], parts)
    assert whole.result(timeout=60) == [n % 256 for n in range(1200)]


def test_scattered_data_small_and_large(client: Client) -> None:
    small, large = client.scatter([{"a": 1}, np.arange(500_000)])
    assert client.submit(lambda s, a: s["a"] + int(a[-1]), small, large).result(timeout=20) == 500_000
    assert small.result() == {"a": 1}
    assert client.gather(client.scatter({"x": 1, "y": 2})) == {"x": 1, "y": 2}


def test_keys_are_shared_by_futures_and_clients(client: Client, cluster: LocalCluster) -> None:
    with Client(cluster) as other:
        first = client.submit(lambda: os.urandom(8), key="once")
        again = client.submit(lambda: os.urandom(8), key="once")
        elsewhere = other.submit(lambda: os.urandom(8), key="once")
        assert first.result(20) == again.result(20) == elsewhere.result(20)
        assert first.key == "once"
    with pytest.raises(ValueError, match="a key is"):
        client.submit(double, 1, key="x" * 2000)


def test_pure_calls_share_a_task(client: Client) -> None:
    first, again = (client.submit(os.urandom, 8, pure=True) for _ in range(2))
    other, impure = client.submit(os.urandom, 9, pure=True), client.submit(os.urandom, 8)
    assert first.key == again.key != other.key
    assert first.result(20) == again.result(20) != impure.result(20)
    mapped = client.map(os.urandom, [8, 8], pure=True)
    assert client.gather(mapped) == [first.result()] * 2
    assert [f.key for f in client.map(double, [1, 2], key=["a", "b"])] == ["a", "b"]


# -------------------------------------------------------------------------------------------------------------- errors


def fails(x: int) -> int:
    raise ValueError(f"negative mass {x}")


def test_the_users_exception_comes_back_with_its_remote_traceback(client: Client) -> None:
    future = client.submit(fails, 3)
    with pytest.raises(ValueError, match="negative mass 3") as caught:
        future.result(timeout=20)
    assert "in fails" in str(caught.value.__cause__)
    assert future.status == "error"
    assert isinstance(future.exception(), ValueError)
    assert "in fails" in (future.traceback() or "")


def test_an_error_reaches_everything_that_depends_on_it(client: Client) -> None:
    bad = client.submit(fails, 1)
    with pytest.raises(ValueError, match="negative mass"):
        client.submit(double, client.submit(double, bad)).result(timeout=20)


def flaky(path: str) -> str:
    with Path(path).open("a") as file:
        file.write("x")
    if len(Path(path).read_text()) < 3:
        raise RuntimeError("not yet")
    return "at last"


def test_retries(client: Client, tmp_path: Path) -> None:
    assert client.submit(flaky, str(tmp_path / "a"), retries=2).result(timeout=20) == "at last"
    with pytest.raises(RuntimeError, match="not yet"):
        client.submit(flaky, str(tmp_path / "b"), retries=1).result(timeout=20)


def test_what_cannot_be_pickled_is_an_error_at_once(client: Client) -> None:
    with pytest.raises(TypeError, match="pickle"):
        client.submit(double, threading.Lock())
    with pytest.raises(TypeError, match="pickle"):
        client.submit(threading.Lock).result(timeout=20)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_task_that_tries_to_end_its_worker_only_fails(client: Client, error: BaseException) -> None:
    def end() -> None:
        raise error

    caught = client.submit(end).exception(timeout=20)
    assert type(caught) is type(error)
    assert client.submit(double, 1).result(timeout=20) == 2


def test_processes_that_a_task_forks_end_without_their_worker(client: Client) -> None:
    def forks() -> tuple[int, int | None]:
        context = multiprocessing.get_context("fork")
        sleeper = context.Process(target=time.sleep, args=(60,))
        sleeper.start()
        sleeper.terminate()
        sleeper.join(10)
        with context.Pool(2) as pool:
            pool.map(abs, [-1, -2])
        return os.getpid(), sleeper.exitcode

    worker = next(iter(client.nthreads()))
    process, code = client.submit(forks, workers=worker).result(timeout=30)
    assert code == -signal.SIGTERM
    assert client.submit(os.getpid, workers=worker).result(timeout=20) == process


def test_a_child_that_a_task_forks_ends_with_a_code_of_its_own(client: Client) -> None:
    def fork(end: Callable[[], object]) -> int:
        child = os.fork()
        if not child:
            end()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    ends: list[Callable[[], object]] = [lambda: sys.exit(3), lambda: sys.exit("no"), lambda: 1 / 0, sys.exit]
    assert client.gather(client.map(fork, ends), timeout=30) == [3, 1, 1, 0]


def test_a_task_that_kills_its_workers_fails_alone(client: Client, cluster: LocalCluster) -> None:
    innocents = client.map(double, range(200))
    killer = client.submit(lambda: os.kill(os.getpid(), signal.SIGSEGV))
    with pytest.raises(WorkerDied, match=r"signal 11") as caught:
        killer.result(timeout=40)
    assert caught.value.details["signal"] == 11
    assert client.gather(innocents) == [2 * n for n in range(200)]
    cluster.wait_for_workers(2, timeout=30)


def test_a_killed_workers_results_are_computed_again(client: Client, cluster: LocalCluster) -> None:
    arrays = client.map(lambda n: np.full(50_000, n), range(8))
    wait(arrays, timeout=20)
    victim = client.submit(whoami).result(timeout=20)
    os.kill(victim, signal.SIGKILL)
    assert [int(a[0]) for a in client.gather(arrays)] == list(range(8))
    cluster.wait_for_workers(2, timeout=30)


# ------------------------------------------------------------------------------------------------- cancel, release, wait


def test_cancelling_what_waits_and_what_runs(client: Client, tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    running = [client.submit(touch_and_wait, str(tmp_path / f"r{n}"), go) for n in range(4)]
    wait_until(lambda: all((tmp_path / f"r{n}").exists() for n in range(4)), "four running tasks")
    waiting = client.submit(double, 1)
    dependant = client.submit(double, waiting)
    client.cancel([waiting, running[0]])
    for future in (waiting, running[0], dependant):
        with pytest.raises(TaskCancelled):
            future.result(timeout=20)
    Path(go).touch()
    assert client.gather(running[1:]) == ["done"] * 3


def test_a_future_that_nobody_holds_is_forgotten(client: Client) -> None:
    before = client.scheduler_info()["tasks"]["known"]
    futures = client.map(double, range(100))
    wait(futures, timeout=20)
    wait(futures, timeout=20)  # nor does it hold them where they were done before
    assert sum(future.done() for future in as_completed(futures)) == 100
    del futures
    gc.collect()
    wait_until(lambda: client.scheduler_info()["tasks"]["known"] <= before, "forgotten tasks")


def test_wait_and_as_completed(client: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    slow = client.submit(touch_and_wait, str(tmp_path / "started"), str(go))
    quick = client.map(double, range(3))
    done, not_done = wait([slow, *quick], timeout=20, return_when="FIRST_COMPLETED")
    assert done
    assert slow in not_done
    with pytest.raises(TimeoutError):
        wait([slow], timeout=0)
    finished = as_completed([slow, *quick])
    assert sorted(next(finished).result() for _ in range(3)) == [0, 2, 4]
    go.touch()
    assert [f.result() for f in finished] == ["done"]
    assert sorted(value for _, value in as_completed(quick, with_results=True)) == [0, 2, 4]


def test_wait_takes_one_future_and_known_words_only(client: Client) -> None:
    future = client.submit(double, 1)
    assert wait(future, timeout=20).done == {future}
    with pytest.raises(ValueError, match="FIRST_COMPLETED"):
        wait([future], return_when="ANY")  # type: ignore[arg-type]


def test_callbacks_and_await(client: Client) -> None:
    called: list[Any] = []
    heard = threading.Event()

    def hear(future: Future[Any]) -> None:
        called.append(future.result())
        heard.set()

    client.submit(double, 4).add_done_callback(hear)
    assert heard.wait(20)
    assert called == [8]

    async def both() -> tuple[Any, int]:
        array = await client.submit(np.zeros, 100_000)
        return await client.submit(double, 21), len(array)

    assert asyncio.run(both()) == (42, 100_000)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(_awaited(client.submit(lambda: 1 / 0)))


async def _awaited(future: Future[Any]) -> Any:
    return await future


def test_a_time_out_leaves_the_task_alone(client: Client, tmp_path: Path) -> None:
    future = client.submit(touch_and_wait, str(tmp_path / "started"), str(tmp_path / "go"))
    with pytest.raises(TimeoutError):
        future.result(timeout=0.05)
    (tmp_path / "go").touch()
    assert future.result(timeout=20) == "done"


def test_priorities_decide_among_what_waits(client: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    (worker, *_) = client.scheduler_info()["workers"]
    threads = client.nthreads()[worker]
    blockers = [
        client.submit(touch_and_wait, str(tmp_path / f"b{n}"), str(go), workers=[worker]) for n in range(threads)
    ]
    wait_until(lambda: all((tmp_path / f"b{n}").exists() for n in range(threads)), "a busy worker")
    low = [client.submit(time.monotonic, workers=[worker]) for _ in range(20)]
    high = [client.submit(time.monotonic, workers=[worker], priority=10) for _ in range(20)]
    go.touch()
    wait([*blockers, *low, *high], timeout=20)
    # several threads may take a low one while the last high ones run
    assert max(client.gather(high)[: -2 * threads]) <= min(client.gather(low))


def test_two_clients_do_not_see_each_others_futures(client: Client, cluster: LocalCluster) -> None:
    with Client(cluster) as other:
        theirs = other.submit(double, 1)
        with pytest.raises(ValueError, match="another client"):
            client.submit(double, theirs)
        assert theirs.result(timeout=20) == 2


def test_a_closed_client_says_so_and_hangs_nowhere(cluster: LocalCluster, tmp_path: Path) -> None:
    client = Client(cluster)
    pending = client.submit(touch_and_wait, str(tmp_path / "s"), str(tmp_path / "go"))
    client.close()
    client.close()
    (tmp_path / "go").touch()
    with pytest.raises(ClusterClosed):
        pending.result(timeout=5)
    with pytest.raises(ClusterClosed):
        client.submit(double, 1)


def test_a_closed_client_raises_the_same_short_traceback_each_time(cluster: LocalCluster) -> None:
    client = Client(cluster)
    client.close()
    depths = []
    for _ in range(3):
        with pytest.raises(ClusterClosed) as caught:
            client.submit(double, 1)
        depths.append(len(caught.traceback))
    assert depths == [depths[0]] * 3


def test_a_child_of_the_program_is_told_to_make_a_client_of_its_own(client: Client, cluster: LocalCluster) -> None:
    pending = client.submit(time.sleep, 1)

    def child(answers: Any) -> None:
        for ask in (pending.result, lambda: client.submit(double, 1)):
            with pytest.raises(ClusterClosed, match=r"was forked .* make one here: Client"):
                ask()
        with Client(cluster) as own:
            answers.put(own.submit(double, 4).result(timeout=20))

    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=child, args=(answers,))
    process.start()
    assert answers.get(timeout=30) == 8
    process.join(20)
    assert pending.result(timeout=20) is None, "the parent's client is untouched"


def run_script(tmp_path: Path, text: str) -> str:
    """What a program that has ended well has said."""
    script = tmp_path / "script.py"
    script.write_text(text)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout


def test_a_forked_child_that_ends_as_programs_do_does_so_in_peace(cluster: LocalCluster, tmp_path: Path) -> None:
    script = f"""
import os, sys
from hpccluster import Client
client = Client({cluster.name!r})
assert client.submit(lambda: bytes(500_000)).result() == bytes(500_000)
child = os.fork()
if not child:
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), client.submit(pow, 2, 3).result(timeout=20))
"""
    assert run_script(tmp_path, script) == "7 8\n"


def test_callbacks_come_though_the_main_thread_has_ended(cluster: LocalCluster, tmp_path: Path) -> None:
    script = f"""
import threading, time
from hpccluster import Client
client = Client({cluster.name!r})
def go():
    threading.main_thread().join()
    called = threading.Event()
    client.submit(pow, 2, 2).add_done_callback(lambda _: called.set())
    print(client.submit(pow, 2, 3).result(timeout=20), called.wait(20))
threading.Thread(target=go).start()
"""
    assert run_script(tmp_path, script) == "8 True\n"


def test_a_callback_for_a_client_that_is_closed_is_called_too(cluster: LocalCluster) -> None:
    with Client(cluster) as client:
        future = client.submit(pow, 2, 3)
        called = threading.Event()
        future.add_done_callback(lambda _: called.set())
        assert called.wait(20)
    again = threading.Event()
    future.add_done_callback(lambda _: again.set())
    assert again.wait(20)


def test_targets_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="not int"):
        Client(3)
    with LocalCluster(n_workers=0) as cluster:
        pass
    with pytest.raises(ClusterClosed, match=f"'{cluster.name}' is closed"):
        Client(cluster)
    with pytest.raises(ClusterNotFound, match="fix: copy a file to here"):
        Client("tls://127.0.0.1:9")
    with pytest.raises(TypeError, match=r"starts none; a new one on this machine: Client\(LocalCluster\(n_workers="):
        Client(n_workers=2)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ClusterNotFound, match=r"if the file 'file' here is meant: say \./file"):
        Client("file")


# ------------------------------------------------------------------------------------------------------------ programs


def test_a_client_without_a_target_never_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPCCLUSTER_CLUSTER", raising=False)
    with pytest.raises(ClusterNotFound, match="needs to know its cluster"):
        Client()


SCRIPT = """
from helper import triple
from hpccluster import LocalCluster, Client

OFFSET = 100

class Thing:
    def __init__(self, x): self.x = x

def work(thing):
    return triple(thing.x) + OFFSET

cluster = LocalCluster(n_workers=2, threads_per_worker=1)
client = Client(cluster)
things = client.map(Thing, range(5))
print(client.gather(client.map(work, things)))
print(type(client.gather(things)[0]) is Thing)
cluster.close()
"""


def test_a_script_without_a_main_guard_and_with_a_module_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def triple(x):\n    return 3 * x\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=50, cwd="/"
    )
    assert done.stdout.splitlines() == ["[100, 103, 106, 109, 112]", "True"], done.stderr
    assert done.stderr == ""


def test_a_module_that_starts_a_cluster_starts_none_in_the_workers_that_import_it(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def triple(x):\n    return 3 * x\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-c", "import script"], capture_output=True, text=True, timeout=50, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "ClusterError: a worker has imported the module 'script', which starts a cluster" in done.stderr
