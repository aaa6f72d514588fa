"""The clients and nannies of `SchedulerEnv`: what they say, what they expect, and how healthy ones answer.

What a peer says is a plain verb (`ClientPeer.submit`); what it expects to have been told begins with ``expect_`` and
names *everything* of that kind since the last time. ``answer`` does what a healthy peer would do about all that it has
read. Workers are in `hpccluster.testing.scheduler_workers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from hpccluster.protocol import codec
from hpccluster.protocol.messages import (
    CancelFutures,
    DataLocation,
    DataPlaced,
    DataPlacement,
    DataStored,
    DefineFunction,
    ForgetFunctions,
    LocateData,
    Message,
    PlaceData,
    PutData,
    ReleaseFutures,
    RunTask,
    SubmitTasks,
    TaskErred,
    TaskErrorBody,
    TaskOptions,
    TasksCancelled,
    TasksFinished,
    TasksStored,
    WorkerExited,
)

if TYPE_CHECKING:
    from hpccluster.testing.scheduler_env import SchedulerEnv
    from hpccluster.testing.scheduler_workers import WorkerPeer

M = TypeVar("M", bound=Message)

STORED_SIZE = 1_000_000
"""Bytes of a result that stays on its worker."""


def result_of(label: str) -> bytes:
    """What a worker returns for the task of that label."""
    return f"result of {label}".encode()


class Peer:
    """What all peers share."""

    def __init__(self, env: SchedulerEnv, name: str, decoder: codec.BatchDecoder[Any]) -> None:
        self.env = env
        self.name = name
        self.decode = decoder.decode
        self.mailbox: list[Message] = []
        """On its way."""
        self.inbox: list[Message] = []
        """Read, and neither expected nor answered yet."""
        self.has_lied = False
        """The test lets it say what is not so: what it is told then may not fit its books."""

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def read(self) -> None:
        """Take the next message out of the mailbox."""
        self.inbox += self.note(self.mailbox.pop(0))

    def read_all(self) -> None:
        """Take all messages out of the mailbox."""
        while self.mailbox:
            self.read()

    def note(self, message: Message) -> Sequence[Message]:
        """Keep the peer's own books; returns what is left to be expected or answered."""
        return [message]

    def say(self, *messages: Message) -> None:
        """Tell the scheduler."""
        self.env.say(self.name, messages)

    def take(self, kind: type[M]) -> list[M]:
        """Everything of that kind since the last time."""
        taken = [message for message in self.inbox if isinstance(message, kind)]
        self.inbox = [message for message in self.inbox if not isinstance(message, kind)]
        return taken

    def forget(self) -> None:
        """Ignore what has been read so far."""
        self.read_all()
        self.inbox.clear()

    def leave(self) -> None:
        """The connection ends."""
        self.env.leave(self.name)


class NannyPeer(Peer):
    """A nanny."""

    def __init__(self, env: SchedulerEnv, name: str) -> None:
        super().__init__(env, name, codec.to_nanny)

    def testify(self, worker: WorkerPeer, *running: RunTask, signal: int = 9, expected: bool = False) -> None:
        """The worker's process has ended while these were running."""
        self.say(
            WorkerExited(
                worker=worker.name,
                exit_code=None,
                signal=signal,
                peak_memory=8 << 30,
                running=[(run.task, run.attempt) for run in running],
                log_tail="first line\nKilled",
                expected=expected,
                restarting=True,
            )
        )


class ClientPeer(Peer):
    """A client. Its futures are named by labels."""

    def __init__(self, env: SchedulerEnv, name: str) -> None:
        super().__init__(env, name, codec.to_client)
        self.futures: dict[str, int] = {}
        self.labels: dict[int, str] = {}
        self.outcomes: dict[int, str] = {}
        """Per future what the client knows: ``stored``, then at the latest ``finished``, ``erred`` or ``cancelled``."""
        self.asked: set[int] = set()
        """Futures that were cancelled or asked for: told of again even when they have an outcome."""
        self.locations: dict[int, DataLocation] = {}
        """Per future the last answer to `locate`."""
        self.defined: set[str] = set()

    # ------------------------------------------------------------------------------------------------------------ says

    def number(self, labels: Sequence[str]) -> int:
        """Numbers for new futures; the first of them."""
        first = len(self.labels)
        for future, label in enumerate(labels, start=first):
            self.futures[label] = future
            self.labels[future] = label
        return first

    def define(self, function: str) -> None:
        """Define a function, unless it is."""
        if function not in self.defined:
            self.defined.add(function)
            self.say(DefineFunction(function.encode(), function, b"body"))

    def forget_function(self, function: str) -> None:
        """Name it no more, unless it is defined again."""
        self.defined.discard(function)
        self.say(ForgetFunctions([function.encode()]))

    def submit(
        self,
        *labels: str,
        function: str = "f",
        needs: Sequence[str] | Mapping[str, Sequence[str]] = (),
        keys: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Submit tasks in one message. ``needs``: the inputs of all of them, or of each; ``keys``: of those that have one."""
        self.define(function)
        first = self.number(labels)
        inputs = [needs.get(label, ()) if isinstance(needs, Mapping) else needs for label in labels]
        dependencies = [[self.futures[name] for name in names] for names in inputs]
        self.say(
            SubmitTasks(
                first,
                function.encode(),
                [label.encode() for label in labels],
                dependencies if any(dependencies) else [],
                [keys.get(label, "") for label in labels] if keys else [],
                TaskOptions(**options),
            )
        )

    def submit_chain(self, length: int) -> None:
        """Submit the tasks ``0``, ``1``, ..., each of which needs the one before."""
        self.submit(*map(str, range(length)), needs={str(number): [str(number - 1)] for number in range(1, length)})

    def put(self, *labels: str) -> None:
        """Give small data to the scheduler."""
        self.say(PutData(self.number(labels), [result_of(label) for label in labels]))

    def place(self, label: str, *, size: int = STORED_SIZE, workers: Sequence[str] = ()) -> None:
        """Announce large data."""
        self.say(PlaceData(self.number([label]), size, list(workers)))

    def scatter(self, label: str, *, size: int = STORED_SIZE, workers: Sequence[str] = ()) -> WorkerPeer:
        """Large data with all that belongs to it; returns the worker that has it now."""
        self.place(label, size=size, workers=workers)
        worker = self.expect_placement(label)
        worker.receive_data(label, size=size)
        self.placed(label, worker)
        self.expect_stored(label)
        return worker

    def placed(self, label: str, worker: WorkerPeer | None) -> None:
        """The data was pushed to that worker; None: it could not be."""
        self.say(DataPlaced(self.futures[label], worker.address if worker else ""))

    def release(self, *labels: str) -> None:
        """Let go of futures."""
        self.say(ReleaseFutures([self.futures[label] for label in labels]))

    def cancel(self, *labels: str) -> None:
        """Cancel futures."""
        futures = [self.futures[label] for label in labels]
        self.asked.update(futures)
        self.say(CancelFutures(futures))

    def locate(self, label: str, *, failed: Sequence[WorkerPeer] = ()) -> None:
        """Ask where a result is; ``failed`` could not give it."""
        self.asked.add(self.futures[label])
        self.say(LocateData(self.futures[label], [worker.address for worker in failed]))

    # --------------------------------------------------------------------------------------------------------- expects

    def note(self, message: Message) -> Sequence[Message]:
        """Check that no future is told two different ends."""
        if isinstance(message, TasksFinished):
            self._note_outcomes(message.futures, "finished")
        elif isinstance(message, TasksStored):
            self._note_outcomes(message.futures, "stored")
        elif isinstance(message, TaskErred):
            self._note_outcomes(message.futures, "erred")
        elif isinstance(message, TasksCancelled):
            self._note_outcomes(message.futures, "cancelled")
        elif isinstance(message, DataPlacement):
            self.env.labels[message.task] = self.labels.get(message.future, "")
        elif isinstance(message, DataLocation):
            self.locations[message.future] = message
        return [message]

    def _note_outcomes(self, futures: Sequence[int], outcome: str) -> None:
        assert len(set(futures)) == len(futures), f"{self.name} is told twice of one future: {futures}"
        for future in futures:
            before = self.outcomes.get(future)
            assert before in (None, "stored") or future in self.asked or self.has_lied, (
                f"{self.name}/{self.labels[future]} is {outcome} after it was {before}"
            )
            self.outcomes[future] = outcome

    def expect_results(self, *labels: str, payload: bytes | None = None) -> None:
        """Exactly these have small results."""
        found = {
            self.labels[future]: result
            for message in self.take(TasksFinished)
            for future, result in zip(message.futures, message.payloads, strict=True)
        }
        wanted = {label: payload or result_of(label) for label in labels}
        assert found == wanted, f"finished are {found}"

    def expect_stored(self, *labels: str) -> None:
        """Exactly these have results that stay with a worker."""
        found = [self.labels[future] for message in self.take(TasksStored) for future in message.futures]
        assert sorted(found) == sorted(labels), f"stored are {found}"

    def expect_error(self, *labels: str, kind: str = "", text: str = "") -> TaskErrorBody:
        """Exactly these have failed, all by one error of that kind (empty: the user's own)."""
        messages = self.take(TaskErred)
        found = [self.labels[future] for message in messages for future in message.futures]
        assert sorted(found) == sorted(labels), f"erred are {found}"
        for message in messages:
            assert message.error.kind == kind, message.error
            assert text in message.error.text, message.error
        return messages[0].error

    def expect_cancelled(self, *labels: str) -> None:
        """Exactly these are cancelled."""
        found = [self.labels[future] for message in self.take(TasksCancelled) for future in message.futures]
        assert sorted(found) == sorted(labels), f"cancelled are {found}"

    def expect_location(self, label: str, *holders: str, payload: bytes | None = None) -> None:
        """One answer to `locate`: these workers (by name), the scheduler being the last resort; or the value itself."""
        (found,) = self.take(DataLocation)
        assert self.labels[found.future] == label, found
        addresses = [self.env.workers[name].address for name in holders]
        if holders and self.env.state.holder.address:
            addresses.append(self.env.state.holder.address)
        assert (found.addresses, found.payload) == (addresses, payload), found

    def expect_placement(self, label: str) -> WorkerPeer:
        """The data is to go to that worker."""
        (found,) = self.take(DataPlacement)
        assert self.labels[found.future] == label, found
        return next(worker for worker in self.env.workers.values() if worker.address == found.address)

    # --------------------------------------------------------------------------------------------------------- answers

    def answer(self) -> None:
        """Push all data that there is a worker for, and take note of the rest."""
        self.read_all()
        inbox, self.inbox = self.inbox, []
        for message in inbox:
            if isinstance(message, DataPlacement):
                worker = next((w for w in self.env.workers.values() if w.address == message.address), None)
                if worker is not None:
                    worker.data.add(message.task)
                    worker.say(DataStored(message.task, STORED_SIZE))
                self.say(DataPlaced(message.future, message.address if worker else ""))
