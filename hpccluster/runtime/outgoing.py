"""What a client's threads say, in order, merged into few messages.

One queue for everything: what was submitted first arrives first, and a future is never released before the tasks that
need it were sent. Any thread may put something in; the loop's thread sends it.
"""

from __future__ import annotations

import asyncio
import hashlib
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from hpccluster.protocol.messages import (
    DefineFunction,
    ForgetFunctions,
    Message,
    ReleaseFutures,
    SubmitTasks,
    TaskOptions,
)
from hpccluster.runtime.functions import PickledFunction
from hpccluster.runtime.futures import FutureRecord

TASKS_PER_MESSAGE = 1000
BYTES_PER_MESSAGE = 256 * 1024
KEY_LIMIT = 1000
KEPT_FUNCTIONS = 100
"""As many functions that nobody holds any longer are kept in the cluster: the same one often comes again."""
LARGEST = 1 << 31
"""No priority and no number of retries is beyond it."""
PLAIN = TaskOptions()

TaskEntry: TypeAlias = tuple[int, PickledFunction, bytes, list[int], str, TaskOptions]
"""Future's number, function, arguments, numbers of the futures inside, key, options."""


class Outgoing:
    """The queue of one client."""

    def __init__(self, loop: asyncio.AbstractEventLoop, records: dict[int, FutureRecord]) -> None:
        self.released: deque[int] = deque()
        """Futures that are gone. `Future.__del__` appends here and does nothing else."""
        self.send: Callable[..., None] | None = None
        """The connection, once there is one."""
        self._loop = loop
        self._records = records
        self._entries: deque[TaskEntry | Message] = deque()
        self._flush_due = False
        self._sent: set[bytes] = set()
        self._gone: deque[bytes] = deque()
        """Functions that were sent and that nobody holds any longer: a program may make a new lambda for each task."""

    def say(self, entry: TaskEntry | Message) -> None:
        """Send this after everything that was said before. From any thread."""
        self._entries.append(entry)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon_threadsafe(self.flush)

    def flush(self) -> None:
        """Send what has gathered. On the loop's thread."""
        self._flush_due = False
        entries = self._entries
        released = len(self.released)  # only those that were given up before what is sent now
        run = _Run()
        while entries:
            entry = entries.popleft()
            if isinstance(entry, tuple):
                if not run.takes(entry):
                    self._send_run(run)
                    run = _Run()
                run.add(entry)
            else:
                self._send_run(run)
                run = _Run()
                self._send(entry)
        self._send_run(run)
        self._release(released)
        run = _Run()  # the functions of what was sent may go
        self._forget_functions()

    def tidy(self) -> None:
        """Tell the cluster about futures that are gone. On the loop's thread, now and then."""
        released = len(self.released)  # counted first: what was said before them is in the queue by now
        if released and not self._entries:
            self._release(released)
        self._forget_functions()

    def _forget_functions(self) -> None:
        surplus = len(self._gone) - KEPT_FUNCTIONS
        if surplus > 0:
            gone = [self._gone.popleft() for _ in range(surplus)]
            self._sent.difference_update(gone)
            self._send(ForgetFunctions(gone))

    def _send(self, message: Message) -> None:
        if self.send is not None:
            self.send(message)

    def _send_run(self, run: _Run) -> None:
        function = run.function
        if function is None:
            return
        if function.id not in self._sent:
            self._sent.add(function.id)
            weakref.finalize(function, self._gone.append, function.id).atexit = False
            self._send(DefineFunction(function.id, function.name, function.body))
        self._send(run.message())

    def _release(self, count: int) -> None:
        if not count:
            return
        numbers = [self.released.popleft() for _ in range(count)]
        for number in numbers:
            self._records.pop(number, None)
        self._send(ReleaseFutures(numbers))


class _Run:
    """Tasks with consecutive numbers, one function and the same options, on their way into one `SubmitTasks`."""

    __slots__ = ("bodies", "first", "function", "keyed", "keys", "needing", "needs", "next", "options", "size")

    def __init__(self) -> None:
        self.function: PickledFunction | None = None
        self.first = self.next = self.size = 0
        self.bodies: list[bytes] = []
        self.needs: list[list[int]] = []
        self.keys: list[str] = []
        self.needing = self.keyed = False
        self.options = PLAIN

    def takes(self, entry: TaskEntry) -> bool:
        return (
            entry[0] == self.next
            and self.function is not None
            and (entry[1] is self.function or entry[1].id == self.function.id)
            and (entry[5] is self.options or entry[5] == self.options)
            and len(self.bodies) < TASKS_PER_MESSAGE
            and self.size < BYTES_PER_MESSAGE
        )

    def add(self, entry: TaskEntry) -> None:
        number, function, body, needs, key, options = entry
        if self.function is None:
            self.function, self.first, self.options = function, number, options
        self.next = number + 1
        self.size += len(body)
        self.bodies.append(body)
        self.needs.append(needs)
        self.keys.append(key)
        self.needing = self.needing or bool(needs)
        self.keyed = self.keyed or bool(key)

    def message(self) -> SubmitTasks:
        assert self.function is not None
        needs = self.needs if self.needing else []
        keys = self.keys if self.keyed else []
        return SubmitTasks(self.first, self.function.id, self.bodies, needs, keys, self.options)


def make_key(key: str | None, function: PickledFunction, arguments: bytes, needs: list[int], client: str) -> str:
    """The key under which futures share a task: the user's own, or one of what is called with what.

    Futures inside the arguments are numbered per client, so that such a key is a client's own. Raises `ValueError`.
    """
    if key is not None:
        if not isinstance(key, str) or len(key) > KEY_LIMIT or not is_unicode(key):
            raise ValueError(f"key={key!r:.100}: a key is a text of at most {KEY_LIMIT} characters of Unicode")
        return key
    digest = hashlib.blake2b(function.id + arguments, digest_size=16)
    if needs:
        digest.update(f"{client} {needs}".encode())
    return f"{function.name}-{digest.hexdigest()}"


def is_unicode(text: str) -> bool:
    """Whether the text can be sent: half a surrogate pair, as in names of files that are no UTF-8, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def make_options(
    priority: int,
    retries: int,
    workers: str | Sequence[str] | None,
    allow_other_workers: bool,
    resources: Mapping[str, float] | None,
) -> TaskOptions:
    """The options of `Client.submit` as they travel; one object for all that ask for nothing. Raises `ValueError`."""
    if not priority and not retries and not workers and not resources:
        return PLAIN
    names = [workers] if isinstance(workers, str) else list(workers or ())
    for name in names:
        if not isinstance(name, str) or not is_unicode(name):
            raise ValueError(f"workers={workers!r:.100}: names, addresses, hosts or jobs of workers, as text")
    for word, number in (("priority", priority), ("retries", retries)):
        if not -LARGEST <= int(number) <= LARGEST:
            raise ValueError(f"{word}={number}: a number of at most {LARGEST:,}")
    if retries < 0:
        raise ValueError(f"retries={retries}: not negative")
    needs = {name: float(amount) for name, amount in (resources or {}).items()}
    return TaskOptions(int(priority), int(retries), names, bool(allow_other_workers), needs)
