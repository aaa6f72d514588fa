"""What a worker is doing, in memory that it shares with its nanny.

The nanny is the witness of a worker that dies, so that what the worker runs must be readable from outside, even if it
dies at its next instruction. A message per task would be far too dear; two stores into shared memory cost 0.1 µs.

Layout, in 64-bit words, one block per worker: state, incarnation, then (task + 1, attempt) for each thread. A task word
of 0 means that the thread has run nothing yet; a negative one is the task that it has ended last.
"""

from __future__ import annotations

import mmap
from enum import IntEnum

_WORD = 8
_HEADER = 2
_STATE, _INCARNATION = 0, 1


class WorkerPhase(IntEnum):
    """How far a worker has come, as its nanny must know it."""

    STARTING = 0
    REGISTERED = 1
    """It has been registered at least once."""
    ENDING = 2
    """It ends because it was told to, or has asked to."""
    DISMISSED = 3
    """Its nanny wants it to end at once: there is nobody to hand anything over to."""


class WorkerSlots:
    """One worker's block. Both sides use this class; the worker writes, the nanny reads (and resets)."""

    def __init__(self, words: memoryview, threads: int) -> None:
        self._words = words
        self.threads = threads

    @property
    def phase(self) -> WorkerPhase:
        """How far the worker has come."""
        return WorkerPhase(self._words[_STATE])

    @phase.setter
    def phase(self, phase: WorkerPhase) -> None:
        self._words[_STATE] = phase

    @property
    def incarnation(self) -> int:
        """The number of its last registration; a worker that registers anew counts on."""
        return self._words[_INCARNATION]

    @incarnation.setter
    def incarnation(self, number: int) -> None:
        self._words[_INCARNATION] = number

    @property
    def tasks(self) -> memoryview:
        """Two words per thread, for the executor: it writes the attempt first, then the task's number plus one."""
        return self._words[_HEADER:]

    def running(self) -> list[tuple[int, int]]:
        """The (task, attempt) pairs that are running; if none is, those that ended last.

        A worker may die of what a task has done a moment after the task has ended (a signal sent to itself, a broken
        heap): whoever hears this knows which of these have been reported as done and are beyond suspicion.
        """
        tasks = self.tasks
        pairs = [(tasks[i], tasks[i + 1]) for i in range(0, len(tasks), 2)]
        now = [(task - 1, attempt) for task, attempt in pairs if task > 0]
        return now or [(-task - 1, attempt) for task, attempt in pairs if task < 0]

    def reset(self, incarnation: int) -> None:
        """Ready for a new worker process."""
        for index in range(len(self._words)):
            self._words[index] = 0
        self.incarnation = incarnation


class SlotTable:
    """The blocks of all workers of one nanny: anonymous memory that processes forked from here share."""

    def __init__(self, workers: int, threads: int) -> None:
        block = _HEADER + 2 * threads
        self._memory = mmap.mmap(-1, workers * block * _WORD)
        words = memoryview(self._memory).cast("q")
        self.workers = [WorkerSlots(words[i * block : (i + 1) * block], threads) for i in range(workers)]


def private_slots(threads: int) -> WorkerSlots:
    """A block that nobody else sees: for workers without a nanny."""
    return SlotTable(1, threads).workers[0]
