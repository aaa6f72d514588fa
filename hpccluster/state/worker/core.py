"""What the parts of the worker machine share: its records, and how they change together.

The rules are in `state.py`, where the messages come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hpccluster.protocol.messages import Dependency, FetchesFailed, InputsMissing, RunTask, TasksReturned
from hpccluster.state.worker.actions import DropData, Execute, Outbox, Withdraw
from hpccluster.state.worker.records import DataRecord, FetchRecord, WaitingRecord


class WorkerCore:
    """The records of one worker. The attributes are for the invariants and tests to read; nothing outside of this folder
    changes them.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.assigned: dict[int, int] = {}
        """The live attempt of each task that is here: waiting, queued or running."""
        self.unheard: set[tuple[int, int]] = set()
        """Attempts that were cancelled after they had started: their threads are busy, and their outcome is dropped."""
        self._cancelling: set[tuple[int, int]] = set()
        """Cancelled attempts of which the executor has yet to say whether they had started."""
        self.waiting: dict[int, WaitingRecord] = {}
        self.inputs: dict[int, tuple[int, ...]] = {}
        """Of each assigned task that has any: its inputs that are not inline, each once."""
        self.data: dict[int, DataRecord] = {}
        self.fetches: dict[int, FetchRecord] = {}
        self.stored = 0
        """Bytes of data held."""
        self.leaving = False
        self.deadline: float | None = None
        self.ended = False
        self._out = Outbox()
        self._to_fetch: dict[str, list[int]] = {}

    def _live_pairs(self, tasks: Iterable[int], attempts: Iterable[int]) -> list[tuple[int, int]]:
        pairs = dict(zip(tasks, attempts, strict=False))
        return [(task, attempt) for task, attempt in pairs.items() if self.assigned.get(task) == attempt]

    def _withdraw(self, pairs: Sequence[tuple[int, int]]) -> None:
        if pairs:
            self._out.actions.append(Withdraw([task for task, _ in pairs], [attempt for _, attempt in pairs]))

    def _give_back(self, pairs: Sequence[tuple[int, int]]) -> None:
        if pairs:
            self._out.messages.append(TasksReturned([task for task, _ in pairs], [attempt for _, attempt in pairs]))

    def _forget(self, task: int) -> None:
        """The task is no longer this worker's: its fetches and inputs lose a user."""
        self.assigned.pop(task, None)
        inputs = self.inputs.pop(task, ())
        waiting = self.waiting.pop(task, None)
        if waiting is not None:
            for item in waiting.missing:
                fetch = self.fetches.get(item)
                if fetch is not None:
                    fetch.waiters.discard(task)
                    self._end_unwanted_fetch(item, fetch)
        dropped: list[int] = []
        for item in inputs:
            record = self.data.get(item)
            if record is None or (waiting is not None and item in waiting.missing):
                continue
            record.users -= 1
            if record.unwanted and not record.users:
                dropped.append(item)
        self._drop(dropped)

    def _add_data(self, task: int, size: int) -> None:
        """Data is in the store, however it came; what waited for it goes on."""
        record = self.data.setdefault(task, DataRecord(0))
        self.stored += size - record.size
        record.size = size
        record.unwanted = False
        fetch = self.fetches.pop(task, None)
        if fetch is None:
            return
        record.users += len(fetch.waiters)
        ready: list[RunTask] = []
        for waiter in fetch.waiters:
            waiting = self.waiting[waiter]
            waiting.missing.discard(task)
            if not waiting.missing:
                del self.waiting[waiter]
                ready.append(waiting.run)
        if ready:
            ready.sort(key=lambda run: (run.priority, run.task))
            self._out.actions.append(Execute(ready))

    def _drop(self, tasks: list[int]) -> None:
        for task in tasks:
            self.stored -= self.data.pop(task).size
        if tasks:
            self._out.actions.append(DropData(tasks))

    def _is_obtainable(self, item: Dependency) -> bool:
        return item.task in self.fetches or any(address != self.address for address in item.addresses)

    @staticmethod
    def _own_failure(item: Dependency) -> list[tuple[int, str]]:
        """What to report of an input that only this worker is said to hold, or nobody."""
        return [(item.task, item.addresses[0] if item.addresses else "")]

    def _report_missing(self, run: RunTask, lost: Sequence[tuple[int, str]]) -> None:
        missing = [task for task, _ in lost]
        addresses = [address for _, address in lost]
        self._out.messages.append(InputsMissing(run.task, run.attempt, missing, addresses))

    def _begin_fetch(self, item: Dependency) -> FetchRecord:
        """The fetch of ``item``, which is obtainable: one that is under way, or a new one."""
        fetch = self.fetches.get(item.task)
        if fetch is None:
            others = [address for address in dict.fromkeys(item.addresses) if address != self.address]
            fetch = self.fetches[item.task] = FetchRecord(others.pop(0), others)
            if self.address in item.addresses:
                fetch.failed.append(self.address)
            self._to_fetch.setdefault(fetch.address, []).append(item.task)
        else:
            known = {fetch.address, self.address, *fetch.others, *fetch.failed}
            fetch.others += [address for address in dict.fromkeys(item.addresses) if address not in known]
        return fetch

    def _end_unwanted_fetch(self, task: int, fetch: FetchRecord) -> None:
        """Forget a fetch that nobody waits for; what it brings is dropped on arrival."""
        if not fetch.waiters and not fetch.keep:
            self.fetches.pop(task, None)

    def _report_failed_fetches(self, failed: Sequence[tuple[int, str]]) -> None:
        if failed:
            self._out.messages.append(FetchesFailed([task for task, _ in failed], [address for _, address in failed]))
