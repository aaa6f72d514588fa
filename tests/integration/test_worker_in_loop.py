"""Workers over real connections, in the test's own loop: tasks, data, leaving, a lost scheduler."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest

from hpccluster.errors import CommError, HandshakeFailed, PeerLost
from hpccluster.protocol.messages import (
    CancelTasks,
    DataStored,
    Dependency,
    FetchData,
    FreeData,
    Heartbeat,
    InputsMissing,
    Leave,
    Leaving,
    ReplicasAdded,
    Role,
    TakeBack,
    TasksDone,
    TasksReturned,
)
from hpccluster.protocol.payload import collect, dump_frames, load_frames
from hpccluster.runtime import worker as worker_module
from hpccluster.runtime.settings import WorkerSettings
from hpccluster.runtime.worker import Worker
from support.scripted_scheduler import Peer, ScriptedScheduler, plain_scheduler

NOWHERE = "tcp://127.0.0.1:9"


class Stage:
    """A scripted scheduler and the workers of one test."""

    def __init__(self, scheduler: ScriptedScheduler, stack: AsyncExitStack) -> None:
        self.scheduler = scheduler
        self._stack = stack

    async def worker(self, name: str = "w", threads: int = 1, **settings: Any) -> tuple[Worker, Peer]:
        """A registered worker, and how the scheduler sees it."""
        values = {"death_timeout": 10.0, "grace": 5.0, "validate": True} | settings
        chosen = WorkerSettings(addresses=(self.scheduler.address,), nthreads=threads, job="hpc-x-0001", **values)
        worker = Worker(chosen, None, name=name)
        self._stack.push_async_callback(worker.close)
        await worker.start()
        return worker, await self.scheduler.worker()


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(plain_scheduler())
        yield Stage(scheduler, stack)


def play(scene: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with stage() as given:
            await scene(given)

    asyncio.run(main())


class Input:
    """Stands for the first future among a task's arguments."""

    def __reduce__(self) -> Any:
        return collect(self)


class Hold:
    """Holds tasks until the test lets them go; pickled by name, since they run in this process."""

    opened = threading.Event()
    entered = threading.Semaphore(0)


def hold() -> str:
    Hold.entered.release()
    Hold.opened.wait(20)
    return "held"


@pytest.fixture(autouse=True)
def _fresh_hold() -> None:
    Hold.opened = threading.Event()
    Hold.entered = threading.Semaphore(0)


async def entered() -> None:
    assert await asyncio.to_thread(Hold.entered.acquire, timeout=10)


async def until(condition: Callable[[], bool]) -> None:
    """Until the worker, which shares this loop, has come so far."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


class TestTasks:
    def test_a_worker_says_who_it_is(self) -> None:
        async def scene(stage: Stage) -> None:
            worker, peer = await stage.worker("calm", threads=3, memory_limit=10**9, resources={"gpus": 2.0})
            hello = peer.hello
            assert (hello.role, hello.name, hello.threads, hello.memory) == (Role.WORKER, "calm", 3, 10**9)
            assert (hello.job, hello.incarnation, hello.resources) == ("hpc-x-0001", 0, {"gpus": 2.0})
            assert hello.address.startswith("tcp://127.0.0.1:")
            assert worker.name == "calm"

        play(scene)

    def test_results_and_errors(self) -> None:
        async def scene(stage: Stage) -> None:
            _, peer = await stage.worker()
            peer.run(1, pow, 2, 10)
            assert await peer.result(1) == 1024
            peer.run(2, lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await peer.result(2)

        play(scene)

    def test_a_small_input_comes_with_the_task(self) -> None:
        async def scene(stage: Stage) -> None:
            _, peer = await stage.worker()
            peer.run(1, pow, Input(), 3, inputs=(Dependency(99, b"\x80\x05K\x02.", 5, []),))
            assert await peer.result(1) == 8

        play(scene)

    def test_queued_tasks_are_given_back_and_cancelled(self) -> None:
        async def scene(stage: Stage) -> None:
            _, peer = await stage.worker()
            peer.run(1, hold)
            await entered()
            for task in (2, 3):
                peer.run(task, pow, 2, task)
            peer.send(TakeBack([1, 2], [1, 1]), CancelTasks([3], [1]))
            assert await peer.next(TasksReturned) == TasksReturned([2], [1])
            Hold.opened.set()
            assert await peer.result(1) == "held"
            peer.run(4, pow, 2, 4)
            assert await peer.result(4) == 16
            assert not peer.heard(TasksReturned)

        play(scene)

    def test_the_result_of_a_cancelled_task_is_thrown_away(self) -> None:
        async def scene(stage: Stage) -> None:
            worker, peer = await stage.worker()
            peer.run(1, lambda wait: (wait(), bytes(100_000))[1], hold)
            await entered()
            peer.send(CancelTasks([1], [1]))
            await until(lambda: 1 not in worker._state.assigned)
            peer.run(2, pow, 2, 4)
            Hold.opened.set()
            assert await peer.result(2) == 16
            done = await peer.next(TasksDone)
            assert done.tasks == [2]
            assert len(worker.store) == 0

        play(scene)

    def test_heartbeats(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker_module, "HEARTBEAT", 0.02)

        async def scene(stage: Stage) -> None:
            _, peer = await stage.worker()
            peer.run(1, bytes, 200_000)
            await peer.next(TasksDone)
            while (beat := await peer.next(Heartbeat)).stored == 0:
                pass
            assert beat.stored == 200_000
            assert beat.memory > 10_000_000
            assert beat.executing == 0

        play(scene)


class TestData:
    def test_a_large_result_stays_and_is_fetched_by_a_client(self) -> None:
        async def scene(stage: Stage) -> None:
            worker, peer = await stage.worker()
            peer.run(1, np.arange, 300_000)
            done = await peer.next(TasksDone)
            assert (done.payloads, done.sizes) == ([None], [300_000 * 8])
            fetcher = stage.scheduler.fetcher()
            found = await fetcher.fetch(peer.hello.address, [1, 77])
            assert list(found) == [1]
            assert np.array_equal(load_frames(found[1]), np.arange(300_000))
            peer.send(FreeData([1]))
            peer.run(2, pow, 1, 1)
            await peer.result(2)
            assert await fetcher.fetch(peer.hello.address, [1]) == {}
            assert len(worker.store) == 0
            await fetcher.close()

        play(scene)

    def test_large_bytes_and_lists_survive_the_trip(self) -> None:
        async def scene(stage: Stage) -> None:
            _, peer = await stage.worker()
            values: list[Any] = [b"x" * 3_000_000, list(range(500_000)), "y" * 100_000]
            for task, value in enumerate(values):
                peer.run(task, lambda value=value: value)
                await peer.result(task)
            fetcher = stage.scheduler.fetcher()
            found = await fetcher.fetch(peer.hello.address, [0, 1, 2])
            assert [load_frames(found[task]) for task in range(3)] == values
            await fetcher.close()

        play(scene)

    def test_an_input_is_fetched_from_another_worker(self) -> None:
        async def scene(stage: Stage) -> None:
            _, first = await stage.worker("first")
            _, second = await stage.worker("second")
            first.run(1, np.ones, 100_000)
            await first.result(1)
            there = Dependency(1, None, 800_000, [NOWHERE, first.hello.address])
            second.run(2, lambda value: float(value.sum()), Input(), inputs=(there,))
            assert await second.next(ReplicasAdded) == ReplicasAdded([1])
            assert await second.result(2) == 100_000

        play(scene)

    def test_an_input_that_nobody_has(self) -> None:
        async def scene(stage: Stage) -> None:
            _, first = await stage.worker("first")
            _, second = await stage.worker("second")
            addresses = [first.hello.address, NOWHERE]
            second.run(2, abs, Input(), inputs=(Dependency(1, None, 800_000, addresses),))
            assert await second.next(InputsMissing) == InputsMissing(2, 1, [1, 1], addresses)

        play(scene)

    def test_a_replica_on_demand(self) -> None:
        async def scene(stage: Stage) -> None:
            _, first = await stage.worker("first")
            worker, second = await stage.worker("second")
            first.run(1, bytes, 100_000)
            await first.result(1)
            second.send(FetchData([Dependency(1, None, 100_000, [first.hello.address])]))
            assert await second.next(ReplicasAdded) == ReplicasAdded([1])
            assert worker.store.value(1) == bytes(100_000)

        play(scene)

    def test_a_client_pushes_data_and_a_worker_may_not(self) -> None:
        async def scene(stage: Stage) -> None:
            _, peer = await stage.worker()
            client = stage.scheduler.fetcher()
            await client.push(peer.hello.address, 7, dump_frames(np.ones(50_000)))
            stored = await peer.next(DataStored)
            assert (stored.task, stored.size > 400_000) == (7, True)
            peer.run(8, lambda value: float(value.sum()), Input(), inputs=(Dependency(7, None, 0, [NOWHERE]),))
            assert await peer.result(8) == 50_000
            other = stage.scheduler.fetcher(Role.WORKER)
            with pytest.raises(HandshakeFailed, match="a worker may not push"):
                await other.push(peer.hello.address, 9, [b"data"])
            nanny = stage.scheduler.fetcher(Role.NANNY)
            with pytest.raises(CommError, match="no business"):
                await nanny.fetch(peer.hello.address, [7])
            for fetcher in (client, other, nanny):
                await fetcher.close()

        play(scene)

    def test_connections_are_used_again(self) -> None:
        async def scene(stage: Stage) -> None:
            worker, peer = await stage.worker()
            peer.run(1, bytes, 100_000)
            await peer.result(1)
            fetcher = stage.scheduler.fetcher()
            for _ in range(5):
                await fetcher.fetch(peer.hello.address, [1])
            assert len(worker._serving) == 1
            await asyncio.gather(*(fetcher.fetch(peer.hello.address, [1]) for _ in range(20)))
            assert len(worker._serving) == 2
            await fetcher.close()

        play(scene)


class TestLeaving:
    def test_leave_ends_the_worker(self) -> None:
        async def scene(stage: Stage) -> None:
            worker, peer = await stage.worker()
            peer.send(Leave("retired"))
            assert await worker.ended() == "retired"
            await worker.close()
            assert await peer.lost is None

        play(scene)

    def test_who_is_told_to_leave_hands_over_first(self) -> None:
        async def scene(stage: Stage) -> None:
            worker, peer = await stage.worker()
            peer.run(1, hold)
            await entered()
            peer.run(2, pow, 2, 2)
            await until(lambda: 2 in worker._state.assigned)
            worker.leave("SIGTERM")
            assert await peer.next(Leaving) == Leaving("SIGTERM")
            assert await peer.next(TasksReturned) == TasksReturned([2], [1])
            Hold.opened.set()
            assert await peer.result(1) == "held"
            peer.send(Leave("handed over"))
            assert await worker.ended() == "handed over"

        play(scene)

    def test_nobody_waits_longer_than_the_grace(self) -> None:
        async def scene(stage: Stage) -> None:
            worker, peer = await stage.worker(grace=0.05)
            worker.leave("SIGTERM")
            assert "time to hand over" in await worker.ended()
            assert await peer.next(Leaving)

        play(scene)

    def test_a_timer_that_comes_a_hair_early_ends_the_grace_all_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scene(stage: Stage) -> None:
            worker, _ = await stage.worker(grace=0.05)
            worker.leave("SIGTERM")
            now = worker._now
            monkeypatch.setattr(worker, "_now", lambda: now() - 0.001)
            assert "time to hand over" in await worker.ended()

        play(scene)

    def test_close_is_idempotent_and_leaves_no_thread(self) -> None:
        async def scene(stage: Stage) -> None:
            before = set(threading.enumerate())
            worker, peer = await stage.worker(threads=2)
            peer.run(1, pow, 2, 2)
            await peer.result(1)
            threads = [t for t in threading.enumerate() if t.name.startswith("hpccluster-task") and t not in before]
            assert len(threads) == 2
            await worker.close()
            await worker.close()
            for thread in threads:
                thread.join(10)
                assert not thread.is_alive()

        play(scene)


class TestLostScheduler:
    def test_a_worker_comes_back_with_nothing_of_its_old_life(self) -> None:
        async def scene(stage: Stage) -> None:
            worker, peer = await stage.worker()
            peer.run(1, bytes, 100_000)
            await peer.result(1)
            peer.run(2, hold)
            await entered()
            peer.channel.abort()
            again = await stage.scheduler.worker()
            assert (again.name, again.hello.incarnation) == ("w", 1)
            assert again.hello.address == peer.hello.address
            assert len(worker.store) == 0
            again.run(2, pow, 2, 2)
            assert await again.result(2) == 4
            Hold.opened.set()
            again.run(3, pow, 2, 3)
            assert await again.result(3) == 8
            assert [message.tasks for message in again._inbox if isinstance(message, TasksDone)] == [[2], [3]]

        play(scene)

    def test_a_scheduler_that_says_goodbye_ends_the_worker(self) -> None:
        async def scene(stage: Stage) -> None:
            worker, peer = await stage.worker()
            await peer.channel.close()
            assert await worker.ended() == "the cluster has closed"

        play(scene)

    def test_a_scheduler_that_does_not_come_back(self) -> None:
        async def scene(stage: Stage) -> None:
            worker, peer = await stage.worker(death_timeout=0.2)
            await stage.scheduler.stop_listening()
            peer.channel.abort()
            with pytest.raises(PeerLost, match="no head was found within"):
                await worker.ended()

        play(scene)

    def test_a_worker_that_is_turned_away(self) -> None:
        async def scene(stage: Stage) -> None:
            stage.scheduler.refusal = HandshakeFailed("not you")
            with pytest.raises(HandshakeFailed, match="not you"):
                await stage.worker()

        play(scene)

    def test_a_worker_that_comes_before_its_scheduler(self) -> None:
        async def main() -> None:
            early = ScriptedScheduler(None)
            await early.start()
            port = early.port
            await early.stop_listening()
            settings = WorkerSettings(addresses=(f"tcp://127.0.0.1:{port}",), death_timeout=10)
            worker = Worker(settings, None, name="w")
            starting = asyncio.create_task(worker.start())
            await asyncio.sleep(0.1)  # it has tried in vain
            assert not starting.done()
            late = ScriptedScheduler(None)
            await late.start(port)
            await starting
            assert (await late.worker()).name == "w"
            await worker.close()
            await late.close()

        asyncio.run(main())
