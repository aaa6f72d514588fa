"""The fleet machine: which jobs to submit, cancel and retire.

Rules:

1. Everything that can change the fleet lives in this folder; the only way in is `FleetState.handle`.
2. No I/O, clock, randomness, settings lookup, logging. ``now`` and the policy are arguments; ties break by age.
3. Nothing that a batch system or an engine says makes `handle` raise. What is about a name or id that we do not know, or
   comes twice or too late, is dropped by rule.
4. A job's name is chosen before it is submitted and never used again.
5. What we decided counts at once (a job being submitted is one of the fleet); what we observe only corrects it.
6. A failed poll changes nothing. A word that we do not know changes nothing. A job that is absent in two successful
   polls and has no worker has ended, cause unknown.
7. A job that has workers is alive, whatever the batch system says, until they leave (or until we cancelled it). One that
   all its workers have left for long is lost, whatever the batch system says: it is cancelled and replaced.
8. A submission that failed unclearly may have made a job, now or later. It is looked for by name and cancelled if seen;
   its workers are not admitted; and it holds its place in the fleet until two looks in a row did not find it or it is
   verified to be gone, so that there are never two jobs where one was wanted.
9. Workers of a running job hand over their results before it is cancelled, except when everything is closed.
10. Whatever goes wrong again and again ends in a pause with a cause, never in a loop of submissions (see `brake`).

A job's way, with the phase that each event leads to:

    SUBMITTING --Submitted--> PENDING --Polled/WorkerJoined--> RUNNING --Polled/WorkerLeft--> OVER
        |  `--SubmitRefused--> OVER       |                       | `--shrink--> RETIRING --Retired--> CANCELLING
        |                                 `--shrink, close--> CANCELLING --CancelReported/Polled--> OVER
        `--SubmitDoubtful--> DOUBTFUL --Found--> CANCELLING
                                 `--not found twice--> OVER

An ended job can come back: a requeue, a batch system restored from a backup, a submission that a frozen controller takes
up minutes later. What was wanted is then one of the fleet again; what was not is cancelled again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

from hpccluster.ids import JobName
from hpccluster.state.fleet.actions import Finished, Outbox
from hpccluster.state.fleet.adaptive import AdaptLimits, JobView, Wish, decide
from hpccluster.state.fleet.book import JobBook, Watch, known
from hpccluster.state.fleet.brake import Brake, Trouble
from hpccluster.state.fleet.events import (
    Adapt,
    CancelReported,
    Close,
    FleetEvent,
    Found,
    Load,
    LogFetched,
    Polled,
    PollFailed,
    Retired,
    RetireFailed,
    ScaleTo,
    Source,
    SubmitDoubtful,
    SubmitRefused,
    Submitted,
    Tick,
    WorkerJoined,
    WorkerLeft,
)
from hpccluster.state.fleet.inquest import Inquest
from hpccluster.state.fleet.observer import Observer
from hpccluster.state.fleet.policy import FleetPolicy
from hpccluster.state.fleet.records import JobRecord, Phase, leaving_order


class FleetState:
    """All jobs of one cluster. Reading its attributes is fine; changing them is not."""

    def __init__(self, policy: FleetPolicy, *, traced: bool = False) -> None:
        self.policy = policy
        self.book = JobBook(policy, traced=traced)
        self.jobs = self.book.jobs
        self.target = 0
        """Jobs that are wanted."""
        self.released = 0
        """How many of them were let go since there was nothing to do; they come back with the work."""
        self.limits: AdaptLimits | None = None
        """Set while adapting."""
        self.load = Load()
        self.brake = Brake()
        self.is_closing = False
        self.finished: Finished | None = None
        self._deadline = math.inf
        self._to_close: frozenset[JobName] = frozenset()
        self._is_growing = False
        self._history: tuple[Wish, ...] = ()
        self._inquest = Inquest(policy, self.book, self.brake)
        self._observer = Observer(policy, self.book, self.brake, self._inquest)

    # ---------------------------------------------------------------------------------------------------- the way in

    def handle(self, source: Source, messages: Sequence[FleetEvent], now: float) -> Outbox:
        """Take in what was told, and say what is to be done."""
        self.book.open(source, now)
        for message in messages:
            self._apply(message, now)
        if not self.is_closing:
            self._reconcile(now)
        else:
            self._try_to_finish(now)
        return self.book.close()

    def _apply(self, message: FleetEvent, now: float) -> None:
        match message:
            case ScaleTo():
                self._scale(message.jobs)
            case Adapt():
                self._adapt(message.limits)
            case Close():
                self._close(message.deadline)
            case Submitted():
                self._observer.submitted(message.name, message.id)
            case SubmitRefused():
                self._submit_refused(message, now)
            case SubmitDoubtful():
                self._observer.submit_doubtful(message.name, message.error)
            case Found():
                self._observer.found(message)
            case Polled():
                self._observer.polled(message)
            case PollFailed():
                self._observer.poll_failed(message.error)
            case CancelReported():
                self._observer.cancel_reported(message)
            case LogFetched():
                self._inquest.log_fetched(message)
            case WorkerJoined():
                self._observer.worker_joined(message.worker, message.job)
            case WorkerLeft():
                self._observer.worker_left(message.worker, message.job)
            case Retired():
                self._observer.retired(message)
            case RetireFailed():
                self._observer.retire_failed(message)
            case Load():
                self._loaded(message, now)
            case Tick():
                self._tick(now)
            case _:
                assert_never(message)

    # ------------------------------------------------------------------------------------------------------ questions

    @property
    def goal(self) -> int:
        """How many jobs there are to be now."""
        return 0 if self.is_closing else max(0, self.target - self.released)

    @property
    def is_settled(self) -> bool:
        """Whether every submission that can be made now has been answered."""
        return self.book.submitting() == 0

    @property
    def is_examining(self) -> bool:
        """Whether the cause of a death is being looked for."""
        return self._inquest.is_open

    def watch(self, now: float) -> Watch:
        """What is worth asking the batch system at this time."""
        return self.book.watch(now)

    def admits(self, job: str) -> bool:
        """Whether workers of that job may join. One that we do not know is somebody's own worker."""
        record = self.jobs.get(JobName(job))
        return record is None or not record.unwanted

    def next_deadline(self) -> float:
        """When a `Tick` is due at the latest; infinite if nothing waits for time to pass."""
        times = [self._deadline] if self.is_closing and self.finished is None else []
        if self.brake.until > self.book.now and len(self.book.counted()) < self.goal:
            times.append(self.brake.until)
        for record in self.jobs.values():
            if record.cancel_again_at is not None:
                times.append(record.cancel_again_at)
            elif record.phase is Phase.PENDING and not record.told_waiting:
                times.append(record.created_at + self.policy.waiting_notice)
            elif record.phase is Phase.RUNNING:
                times += [record.held_until] if record.held_until > self.book.now else []
                times += [] if record.silent_since is None else [record.silent_since + self.policy.silence]
        return min(times, default=math.inf)

    # --------------------------------------------------------------------------------------------------------- wishes

    def _scale(self, jobs: int) -> None:
        if self.is_closing:
            return
        self.target, self.limits = max(0, jobs), None
        self._wished()

    def _adapt(self, limits: AdaptLimits | None) -> None:
        if self.is_closing:
            return
        self.limits, self._history = limits, ()
        self.target = len(self.book.counted())
        if limits is not None:
            self.target = max(self.target, limits.minimum)
        self._wished()

    def _wished(self) -> None:
        self.released = 0
        self.brake.release()
        self._is_growing = True
        for record in self.jobs.values():
            record.held_until = 0.0

    def _close(self, deadline: float) -> None:
        self._deadline = min(self._deadline, deadline)
        if self.is_closing:
            return
        self.is_closing, self.target, self.limits = True, 0, None
        for record in self.jobs.values():
            record.unwanted = True  # ended ones, too: if one comes back it is cancelled
            if record.may_yet_come and record.phase is Phase.OVER:
                record.misses = 1
                self.book.move(record, Phase.DOUBTFUL, "close: one more look")
        alive = self.book.open_jobs()
        self._to_close = frozenset(record.name for record in alive)
        for record in alive:
            record.keeps_place = False
            # One that is being cancelled is asked again only if its first answer has come.
            if record.phase is not Phase.CANCELLING or record.cancel_again_at is not None:
                self.book.cancel(record, "close")

    def _try_to_finish(self, now: float) -> None:
        open_jobs = [record.name for record in self.book.open_jobs()]
        if self.finished is None and (not open_jobs or now >= self._deadline):
            closed = known(self.jobs, self._to_close - set(open_jobs))
            gone = tuple(record.name for record in closed if record.id is not None)
            self.finished = Finished(gone, tuple(open_jobs), self._observer.cancel_problem if open_jobs else "")
            self.book.do(self.finished)

    # ------------------------------------------------------------------------------------------------------ reconcile

    def _reconcile(self, now: float) -> None:
        """Bring what there is to what is wanted."""
        if self.limits is not None and self._observer.lost:
            self.target = min(self.target, len(self.book.counted()))  # the next decision says what is to be replaced
        self._observer.lost = 0
        if not any(record.is_counted for record in known(self.jobs, filter(None, [self.brake.probe]))):
            self.brake.probe = None
        counted = self.book.counted()
        surplus = len(counted) - self.goal
        if surplus > 0 and self.limits is None:
            self._let_go(leaving_order([record for record in counted if record.held_until <= now])[:surplus], "shrink")
        elif surplus < 0:
            slots = max(0, self.policy.concurrent_submissions - self.book.submitting())
            for _ in range(min(-surplus, slots, self.brake.allowance(now))):
                record = self.book.submit()
                if self.brake.is_probing:
                    self.brake.probe = record.name
        if self.is_settled:
            self._is_growing = False

    def _let_go(self, records: Sequence[JobRecord], cause: str) -> None:
        for record in records:
            if record.was_doubtful:
                record.keeps_place = False  # it is looked for all the same
            elif record.phase is Phase.RUNNING and record.workers:
                self.book.retire(record, cause)
            else:
                self.book.cancel(record, cause)

    # --------------------------------------------------------------------------------------------------- submissions

    def _submit_refused(self, message: SubmitRefused, now: float) -> None:
        record = self.jobs.get(message.name)
        if record is None or record.phase is not Phase.SUBMITTING:
            return
        if record.workers:
            self._observer.submit_doubtful(message.name, f"refused, but its worker joined: {message.error}")
            return
        wanted = not record.unwanted
        self.book.end(record, f"refused: {message.error}")
        if not wanted:
            return
        if message.limit:
            if self.brake.trouble is not Trouble.LIMIT:
                # where hosts are to blame, each of them has been told of by itself
                why = message.error.partition("\n")[0] if self.policy.blames_hosts else message.error
                self.book.report("warning", message.code, f"jobs are held back: {why}")
            self.brake.meet(Trouble.LIMIT, message.error, now)
        elif self._is_growing and self.limits is None:
            # Whoever asked for more is told by an exception. What exists stays, and nothing more is tried.
            self.target = min(self.target, len(self.book.counted()))
        else:
            self.brake.meet(Trouble.REFUSED, message.error, now)
            self.book.report("error", message.code, f"a job could not be submitted: {message.error}")

    # ------------------------------------------------------------------------------------------------------------ time

    def _loaded(self, message: Load, now: float) -> None:
        self.load = message
        if message.unfinished > 0:
            self.released = 0
        for record in self.jobs.values():
            is_idle = bool(record.workers) and record.workers <= message.idle_workers
            if not is_idle:
                record.idle_since = None
            elif record.idle_since is None:
                record.idle_since = now

    def _tick(self, now: float) -> None:
        if self.brake.trouble is Trouble.BRIEF_LIFE and self._inquest.has_healthy_job():
            self.brake.release()
        for record in self.jobs.values():
            if record.cancel_again_at is not None and record.cancel_again_at <= now:
                self.book.cancel(record, "once more")
        self.book.forget_old()
        if self.is_closing:
            return
        for record in self.jobs.values():
            if record.is_silent(now, self.policy.silence):
                self._observer.silent(record)
        if self.limits is not None:
            self._decide(self.limits, now)
        else:
            self._release_idle(now)
        self._mention_waiting(now)

    def _decide(self, limits: AdaptLimits, now: float) -> None:
        counted = self.book.counted()
        decision = decide(
            limits,
            queued=self.load.queued,
            unfinished=self.load.unfinished,
            expected_seconds=self.load.expected_seconds,
            jobs=[JobView(record.name, record.waits, record.idle_since) for record in counted],
            cores_per_job=self.policy.cores,
            history=self._history,
            now=now,
        )
        self._history = decision.history
        self.target = decision.target
        leave = [record for record in known(self.jobs, decision.leave) if record.held_until <= now]
        self._let_go(leave, "adapt")

    def _release_idle(self, now: float) -> None:
        """Under `scale`, jobs without work go after a while; their places are kept, and filled when work comes."""
        timeout = self.policy.idle_timeout
        if timeout is None or self.load.unfinished > 0:
            return
        idle = [
            record
            for record in self.book.counted()
            if record.idle_since is not None and record.idle_since <= now - timeout and record.held_until <= now
        ]
        if idle:
            self.released += len(idle)
            self._let_go(idle, "idle")
            text = f"{len(idle)} idle jobs are released after {timeout / 60:.0f} min; they come back with new work"
            self.book.report("info", "HPC-JOBS-IDLE", text)

    def _mention_waiting(self, now: float) -> None:
        due = [
            record
            for record in self.jobs.values()
            if record.phase is Phase.PENDING
            and not record.told_waiting
            and record.created_at + self.policy.waiting_notice <= now
        ]
        if not due:
            return
        for record in due:
            record.told_waiting = True
        reasons = sorted({record.status.reason for record in due if record.status is not None and record.status.reason})
        text = f"{len(due)} jobs wait in the queue: {', '.join(reasons) or 'no reason given'}"
        self.book.report("info", "HPC-JOB-WAITS", text)
