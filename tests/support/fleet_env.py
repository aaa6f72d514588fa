"""A small language for tests of the fleet machine.

    env = FleetEnv(processes=2)
    env.scale(1)
    [job] = env.expect_submits(1)
    env.submitted(job, "101")
    env.joins(job, 2)

Each step sends events to the machine (encoded and decoded on the way, as if they came from elsewhere), checks every
invariant, and fails if the machine had asked for something that nobody expected. `PollSoon` need not be expected;
`env.wants_poll` tells whether it was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from hpccluster.ids import JobId, JobName
from hpccluster.job import JobState, JobStatus
from hpccluster.state.fleet import actions, events
from hpccluster.state.fleet.adaptive import AdaptLimits
from hpccluster.state.fleet.events import Source
from hpccluster.state.fleet.invariants import violations
from hpccluster.state.fleet.policy import FleetPolicy
from hpccluster.state.fleet.records import JobRecord, Phase
from hpccluster.state.fleet.state import FleetState

A = TypeVar("A", bound=actions.Action)

_events = msgspec.msgpack.Decoder(events.FleetEvent)
_actions = msgspec.msgpack.Decoder(actions.FleetAction)


def status(job: str, state: JobState, **more: Any) -> JobStatus:
    """What a batch system says."""
    return JobStatus(id=JobId(job), state=state, **more)


class FleetEnv:
    """One fleet machine, its time, and what it has asked for."""

    def __init__(self, *, processes: int = 1, cores: int | None = None, **policy: Any) -> None:
        policy.setdefault("concurrent_submissions", 100)
        self.state = FleetState(
            FleetPolicy(cluster="calm-otter", processes=processes, cores=cores or processes, **policy), traced=True
        )
        self.processes = processes
        self.now = 1000.0
        self.asked: list[actions.FleetAction] = []
        self.wants_poll = False
        self.trace: list[actions.Transition] = []
        self._ids = 100

    # ---------------------------------------------------------------------------------------------------- the way in

    def tell(self, *messages: events.FleetEvent, source: Source = Source.BACKEND) -> None:
        """Send events as one batch."""
        self.expect_nothing()
        self.wants_poll = False
        received = [_events.decode(msgspec.msgpack.encode(message)) for message in messages]
        out = self.state.handle(source, received, self.now)
        self.trace += out.trace
        for action in out.actions:
            copy = _actions.decode(msgspec.msgpack.encode(action))
            assert copy == action
            if isinstance(copy, actions.PollSoon):
                self.wants_poll = True
            else:
                self.asked.append(copy)
        assert not violations(self.state), f"after {messages}: {violations(self.state)}"

    def scale(self, jobs: int) -> None:
        self.tell(events.ScaleTo(jobs), source=Source.USER)

    def adapt(self, **limits: Any) -> None:
        self.tell(events.Adapt(AdaptLimits(**limits)), source=Source.USER)

    def stop_adapting(self) -> None:
        self.tell(events.Adapt(None), source=Source.USER)

    def close(self, within: float = 30.0) -> None:
        self.tell(events.Close(self.now + within), source=Source.USER)

    def submitted(self, name: JobName, job: str | None = None) -> str:
        """The batch system took it; its id."""
        if job is None:
            self._ids += 1
            job = str(self._ids)
        self.tell(events.Submitted(name, JobId(job)))
        return job

    def refused(self, name: JobName, error: str = "invalid partition", *, limit: bool = False) -> None:
        code = "HPC-SUBMIT-LIMIT" if limit else "HPC-SUBMIT-PARTITION"
        self.tell(events.SubmitRefused(name, error, code, limit))

    def doubtful(self, name: JobName, error: str = "Socket timed out") -> None:
        """The submission failed unclearly; the warning is taken note of."""
        self.tell(events.SubmitDoubtful(name, error))
        self.expect_report("HPC-SUBMIT-DOUBTFUL")
        assert self.wants_poll

    def looked_for(self, *names: JobName, found: dict[JobName, str] | None = None) -> None:
        """A successful look for jobs by name."""
        jobs = {name: JobId(job) for name, job in (found or {}).items()}
        self.tell(events.Found(frozenset(names) | frozenset(jobs), jobs))

    def polled(self, *statuses: JobStatus, begun: float | None = None) -> None:
        self.tell(events.Polled({said.id: said for said in statuses}, self.now if begun is None else begun))

    def polls(self, state: JobState, *jobs: str, **more: Any) -> None:
        """A poll that says the same of all these ids."""
        self.polled(*(status(job, state, **more) for job in jobs))

    def poll_failed(self, error: str = "Unable to contact slurm controller") -> None:
        self.tell(events.PollFailed(error))

    def cancel_reported(self, *, gone: Iterable[str] = (), unconfirmed: Iterable[str] = ()) -> None:
        both = frozenset(map(JobId, gone)), frozenset(map(JobId, unconfirmed))
        self.tell(events.CancelReported(*both))

    def joins(self, name: JobName, workers: int | None = None) -> None:
        """Workers of the job join."""
        for index in range(self.processes if workers is None else workers):
            self.tell(events.WorkerJoined(f"{name}-{index}", name), source=Source.ENGINE)

    def leaves(self, name: JobName, workers: int | None = None) -> None:
        for index in range(self.processes if workers is None else workers):
            self.tell(events.WorkerLeft(f"{name}-{index}", name, "gone"), source=Source.ENGINE)

    def retired(self, *names: JobName) -> None:
        self.tell(events.Retired(frozenset(names)), source=Source.ENGINE)

    def retire_failed(self, *names: JobName) -> None:
        self.tell(events.RetireFailed(frozenset(names), "nobody takes the data"), source=Source.ENGINE)

    def load(self, *, idle: Iterable[JobName] = (), idle_workers: Iterable[str] = (), **load: Any) -> None:
        """How much work there is; all workers of the jobs in ``idle`` are idle, and those in ``idle_workers``."""
        workers = frozenset(f"{name}-{index}" for name in idle for index in range(self.processes))
        workers |= frozenset(idle_workers)
        self.tell(events.Load(idle_workers=workers, **load), source=Source.ENGINE)

    def tick(self, seconds: float = 0.0) -> None:
        """Time passes."""
        self.now += seconds
        self.tell(events.Tick(), source=Source.CLOCK)

    def log_fetched(self, name: JobName, text: str = "", error: str = "") -> None:
        self.tell(events.LogFetched(name, text, error))

    # --------------------------------------------------------------------------------------------------- expectations

    def expect_nothing(self) -> None:
        assert not self.asked, f"nobody expected {self.asked}"

    def expect(self, *wanted: actions.FleetAction) -> None:
        """Exactly these actions were asked for since the last expectation."""
        assert self.asked == list(wanted)
        self.asked.clear()

    def take(self, kind: type[A]) -> list[A]:
        """The actions of this kind; they count as expected."""
        found: list[A] = [action for action in self.asked if isinstance(action, kind)]
        self.asked = [action for action in self.asked if not isinstance(action, kind)]
        return found

    def expect_submits(self, number: int) -> list[JobName]:
        """That many submissions and nothing else; their names."""
        names = [action.name for action in self.take(actions.Submit)]
        assert len(names) == number, names
        self.expect_nothing()
        return names

    def expect_cancel(self, *jobs: str) -> None:
        """One cancel of exactly these ids and nothing else."""
        [cancel] = self.take(actions.Cancel)
        assert sorted(cancel.ids) == sorted(jobs)
        self.expect_nothing()

    def expect_retire(self, *names: JobName) -> None:
        [retire] = self.take(actions.Retire)
        assert sorted(retire.jobs) == sorted(names)
        self.expect_nothing()

    def expect_report(self, code: str) -> actions.Report:
        """A report with this code; other actions may remain."""
        found = [action for action in self.asked if isinstance(action, actions.Report) and action.code == code]
        assert len(found) == 1, f"no {code} in {self.asked}"
        self.asked.remove(found[0])
        return found[0]

    def expect_finished(self, *, cancelled: Sequence[JobName] = (), unconfirmed: Sequence[JobName] = ()) -> None:
        self.expect(actions.Finished(tuple(sorted(cancelled)), tuple(sorted(unconfirmed))))

    # -------------------------------------------------------------------------------------------------------- short cuts

    def pending(self, jobs: int) -> dict[JobName, str]:
        """Have that many jobs that wait in the queue: their ids by name, oldest first."""
        self.scale(jobs)
        return {name: self.submitted(name) for name in self.expect_submits(jobs)}

    def running(self, jobs: int) -> dict[JobName, str]:
        """Have that many jobs whose workers are all here."""
        ids = self.pending(jobs)
        for name in ids:
            self.joins(name)
        return ids

    def dies(self, name: JobName, job: str, state: JobState = JobState.FAILED, **more: Any) -> None:
        """The batch system says that the job has ended; its log is asked for."""
        self.polls(state, job, **more)
        assert self.take(actions.FetchLog) == [actions.FetchLog(name, JobId(job))]

    def record(self, name: JobName) -> JobRecord:
        return self.state.jobs[name]

    def phase(self, name: JobName) -> Phase:
        return self.record(name).phase

    @property
    def next_tick(self) -> float | None:
        """Seconds to the machine's own next deadline."""
        deadline = self.state.next_deadline()
        return None if deadline == math.inf else deadline - self.now
