"""The records of all jobs, and the actions that one `handle` collects. It keeps the books; the rules are in `state`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from hpccluster.ids import JobId, JobName, make_job_name
from hpccluster.job import JobState
from hpccluster.state.fleet.actions import Cancel, FleetAction, Level, Outbox, PollSoon, Report, Retire, Submit
from hpccluster.state.fleet.policy import FleetPolicy
from hpccluster.state.fleet.records import JobRecord, Phase


class Watch(NamedTuple):
    """What to ask the batch system about."""

    ids: frozenset[JobId]
    names: frozenset[JobName]
    """Jobs to look for by name."""
    is_changing: bool
    """Whether news is expected: jobs wait, start, or are to be verified to be gone."""
    is_urgent: bool
    """Whether somebody waits for the news of an end."""


class JobBook:
    """All records, by name and by id."""

    def __init__(self, policy: FleetPolicy, *, traced: bool) -> None:
        self.jobs: dict[JobName, JobRecord] = {}
        """Oldest first."""
        self.ids: dict[JobId, JobRecord] = {}
        self.now = -math.inf
        self._policy = policy
        self._traced = traced
        self._next = policy.first_number
        self._source = ""
        self._out = Outbox()
        self._to_cancel: list[JobId] = []
        self._to_retire: list[JobName] = []
        self._poll_soon = False

    # ------------------------------------------------------------------------------------------------- one handle

    def open(self, source: str, now: float) -> None:
        """Begin to collect the actions of one `handle`."""
        self._source, self.now = source, now
        self._out = Outbox()
        self._to_cancel, self._to_retire, self._poll_soon = [], [], False

    def close(self) -> Outbox:
        """All that was collected; cancels and retirements are one action each, as they are one conversation."""
        if self._to_cancel:
            self.do(Cancel(tuple(dict.fromkeys(self._to_cancel))))
        if self._to_retire:
            self.do(Retire(tuple(dict.fromkeys(self._to_retire))))
        if self._poll_soon:
            self.do(PollSoon())
        return self._out

    def do(self, action: FleetAction) -> None:
        """Ask the shell for this."""
        self._out.actions.append(action)

    def report(self, level: Level, code: str, text: str) -> None:
        """Tell people."""
        self.do(Report(level, code, text))

    def poll_soon(self) -> None:
        """Ask the shell to look at the batch system soon."""
        self._poll_soon = True

    # -------------------------------------------------------------------------------------------------- questions

    def counted(self) -> list[JobRecord]:
        """The jobs that the fleet has or will have, oldest first."""
        return [record for record in self.jobs.values() if record.is_counted]

    def submitting(self) -> int:
        """How many submissions are under way, wanted or not."""
        return sum(1 for record in self.jobs.values() if record.phase is Phase.SUBMITTING)

    def open_jobs(self) -> list[JobRecord]:
        """Jobs that are not known to be over."""
        return [record for record in self.jobs.values() if record.phase is not Phase.OVER]

    def watch(self, now: float) -> Watch:
        """What is worth asking the batch system at this time."""
        ids: set[JobId] = set()
        names: set[JobName] = set()
        changing = urgent = False
        for record in self.jobs.values():
            over = record.phase is Phase.OVER
            if record.may_yet_come:
                names.add(record.name)  # for as long as the fleet lives: nobody knows when a controller thaws
            elif over and (record.ended_at is None or now - record.ended_at > self._policy.tombstones):
                continue
            elif record.id is not None:
                ids.add(record.id)
            if over or record.phase is Phase.SUBMITTING:
                continue
            is_complete = record.is_seen_running and len(record.workers) >= record.expected_workers(
                self._policy.processes
            )
            changing = changing or record.phase is not Phase.RUNNING or not is_complete
            urgent = urgent or record.phase in (Phase.CANCELLING, Phase.DOUBTFUL)
        return Watch(frozenset(ids), frozenset(names), changing, urgent)

    # -------------------------------------------------------------------------------------------------- bookkeeping

    def submit(self) -> JobRecord:
        """A new job under a name that was never used."""
        name = make_job_name(self._policy.cluster, self._next)
        record = JobRecord(name, self._next, created_at=self.now)
        self._next += 1
        self.jobs[name] = record
        self._note(record, "", "submit")
        self.do(Submit(name))
        return record

    def take_id(self, record: JobRecord, job: JobId) -> bool:
        """Note the job's id; False if another job that is not over has it."""
        other = self.ids.get(job)
        if other is not None and other is not record:
            if other.phase is not Phase.OVER:
                return False
            other.id = None  # ids of ended jobs may come again: process ids do
        record.id = job
        self.ids[job] = record
        return True

    def move(self, record: JobRecord, phase: Phase, cause: str) -> None:
        """Put a record into another phase."""
        before, record.phase = record.phase, phase
        if phase is not Phase.OVER:
            record.ended_at = None
        self._note(record, before, cause)

    def cancel(self, record: JobRecord, cause: str) -> None:
        """It is to go now: by its id, or as soon as it has one."""
        record.unwanted = True
        if record.id is None:
            return
        if record.phase is not Phase.CANCELLING:
            self.move(record, Phase.CANCELLING, cause)
            record.absences = record.misses = 0
        record.cancels += 1
        record.cancel_again_at = None
        self._to_cancel.append(record.id)
        self._poll_soon = True

    def cancel_stray(self, job: JobId) -> None:
        """Cancel a job that no record stands for."""
        self._to_cancel.append(job)

    def retire(self, record: JobRecord, cause: str) -> None:
        """Its workers are to hand over; it is cancelled then."""
        record.unwanted = True
        self.move(record, Phase.RETIRING, cause)
        self._to_retire.append(record.name)

    def turn_away(self, record: JobRecord) -> None:
        """Workers joined a job that is not to have any: let them go, without a change of phase."""
        self._to_retire.append(record.name)

    def end(self, record: JobRecord, cause: str) -> None:
        """It is over."""
        self.move(record, Phase.OVER, cause)
        record.ended_at = self.now
        record.note = cause
        if record.status is not None and record.status.state.is_over:
            record.ended_as = record.status.state
        else:
            record.ended_as = JobState.CANCELLED if record.unwanted and record.id is not None else JobState.ABSENT
        record.keeps_place = False
        record.idle_since = record.silent_since = record.cancel_again_at = None

    def forget_old(self) -> None:
        """Drop the records of jobs that ended long ago, beyond those that are kept for `logs` and `jobs`."""
        ended = [
            record
            for record in self.jobs.values()
            if record.phase is Phase.OVER and not record.workers and not record.may_yet_come
        ]
        for record in ended[: max(0, len(ended) - self._policy.kept_records)]:
            if record.ended_at is not None and self.now - record.ended_at > self._policy.tombstones:
                self._forget(record)

    def _forget(self, record: JobRecord) -> None:
        del self.jobs[record.name]
        if record.id is not None and self.ids.get(record.id) is record:
            del self.ids[record.id]

    def _note(self, record: JobRecord, before: str, cause: str) -> None:
        if self._traced:
            entry = (self.now, self._source, str(record.name), str(before), str(record.phase), cause)
            self._out.trace.append(entry)


def known(jobs: dict[JobName, JobRecord], names: Iterable[JobName]) -> list[JobRecord]:
    """The records of those names that we know, oldest first, whatever order they were given in."""
    found = [jobs[name] for name in names if name in jobs]
    return sorted(found, key=lambda record: record.number)
