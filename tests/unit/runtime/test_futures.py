"""Futures without a cluster: what their records do when they are settled."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from hpccluster.runtime.futures import FutureRecord, FutureState


def test_the_first_outcome_stays() -> None:
    record = FutureRecord(1)
    record.settle(FutureState.FINISHED, b"x")
    record.settle(FutureState.CANCELLED, None)
    assert (record.state, record.outcome) == (FutureState.FINISHED, b"x")


def test_a_watcher_is_called_once_before_or_after() -> None:
    record, calls = FutureRecord(1), []
    record.watch(lambda: calls.append("before"))
    record.settle(FutureState.FINISHED, b"")
    record.watch(lambda: calls.append("after"))
    assert calls == ["before", "after"]


def test_waiting_ends_with_the_outcome_or_the_time() -> None:
    record = FutureRecord(1)
    assert not record.wait(0)
    waiter = threading.Thread(target=record.wait, args=(10,))
    waiter.start()
    record.settle(FutureState.ERRED, None)
    waiter.join(10)
    assert not waiter.is_alive()
    assert record.wait(0)


@given(st.integers(1, 8))
def test_no_watcher_is_lost_or_called_twice_when_threads_race(threads: int) -> None:
    record, calls, start = FutureRecord(1), [], threading.Barrier(threads + 1)

    def watch(number: int) -> None:
        start.wait()
        record.watch(lambda: calls.append(number))

    watchers = [threading.Thread(target=watch, args=(n,)) for n in range(threads)]
    for thread in watchers:
        thread.start()
    start.wait()
    record.settle(FutureState.FINISHED, b"")
    for thread in watchers:
        thread.join()
    assert sorted(calls) == list(range(threads))


def test_who_waits_again_and_again_leaves_nothing_behind() -> None:
    record, calls = FutureRecord(1), []
    record.watch(lambda: calls.append("stays"))
    gone = record.watch(lambda: calls.append("gone"))
    for _ in range(3):
        assert not record.wait(0)
    record.unwatch(gone)
    assert record.watchers is not None
    assert len(record.watchers) == 1
    record.settle(FutureState.FINISHED, b"")
    assert calls == ["stays"]
    record.watch(lambda: calls.append("late"))
    assert not record.watchers
