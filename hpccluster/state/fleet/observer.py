"""What the batch system and the engine say about single jobs, and what it means for their records.

It knows nothing of how many jobs are wanted: that is `state`'s part.
"""

from __future__ import annotations

from hpccluster.ids import JobId, JobName
from hpccluster.job import JobState, JobStatus
from hpccluster.state.fleet.book import JobBook, known
from hpccluster.state.fleet.brake import Brake, Trouble
from hpccluster.state.fleet.endings import describe
from hpccluster.state.fleet.events import CancelReported, Found, Polled, Retired, RetireFailed
from hpccluster.state.fleet.inquest import Inquest
from hpccluster.state.fleet.policy import FleetPolicy
from hpccluster.state.fleet.records import JobRecord, Phase

_POLL_TROUBLE_AFTER = 3
"""Failed polls in a row that are worth a word."""
_CANCEL_TROUBLE_AFTER = 3
"""Cancels of one job without proof of its end that are worth a word."""


class Observer:
    """Corrects the records by what is observed."""

    def __init__(self, policy: FleetPolicy, book: JobBook, brake: Brake, inquest: Inquest) -> None:
        self.lost = 0
        """Jobs that ended though nobody wanted it."""
        self.cancel_problem = ""
        """What the last cancel said that left jobs unconfirmed."""
        self._policy = policy
        self._book = book
        self._brake = brake
        self._inquest = inquest
        self._failed_polls = 0

    # --------------------------------------------------------------------------------------------------- submissions

    def submitted(self, name: JobName, job: JobId) -> None:
        """The batch system took it."""
        record = self._book.jobs.get(name)
        if record is None or record.id == job:
            return
        if record.id is not None:
            self._book.cancel_stray(job)  # a second job under one name: nobody wanted it
        elif not self._book.take_id(record, job):
            self.submit_doubtful(name, f"the batch system gave it the id {job} of another job")
        elif record.phase is not Phase.SUBMITTING or record.unwanted:
            self._book.cancel(record, "submitted, but unwanted")
        else:
            self._book.move(record, Phase.RUNNING if record.workers else Phase.PENDING, f"submitted as {job}")
            self._brake.is_over(Trouble.REFUSED, Trouble.LIMIT, Trouble.UNCLEAR)
            self._book.poll_soon()

    def submit_doubtful(self, name: JobName, error: str) -> None:
        """There may be a job of that name."""
        record = self._book.jobs.get(name)
        if record is None or record.phase is not Phase.SUBMITTING:
            return
        self._book.move(record, Phase.DOUBTFUL, error)
        record.note = error
        record.keeps_place, record.unwanted, record.was_doubtful = not record.unwanted, True, True
        if record.workers:
            self._book.turn_away(record)
        self._book.report("warning", "HPC-SUBMIT-DOUBTFUL", f"job {name} may or may not have been submitted: {error}")
        self._book.poll_soon()

    def found(self, message: Found) -> None:
        """Jobs were looked for by name."""
        for record in known(self._book.jobs, message.asked | set(message.jobs)):
            if not record.may_yet_come:
                continue
            job = message.jobs.get(record.name)
            if job is not None:
                if self._book.take_id(record, job):
                    self._book.cancel(record, "found after a doubtful submission")
                continue
            if record.phase is Phase.DOUBTFUL and not record.workers:
                record.misses += 1
                if record.misses >= 2:
                    self._did_not_show_up(record)

    def _did_not_show_up(self, record: JobRecord) -> None:
        brake = self._brake
        # those that were submitted together count once, and deaths are more important
        is_first = brake.trouble in (Trouble.NONE, Trouble.REFUSED, Trouble.LIMIT)
        if record.keeps_place and (is_first or (brake.trouble is Trouble.UNCLEAR and record.name == brake.probe)):
            brake.meet(Trouble.UNCLEAR, f"it is unclear whether jobs are taken: {record.note}", self._book.now)
        self._book.end(record, "it did not show up")

    # ----------------------------------------------------------------------------------------------------------- polls

    def polled(self, message: Polled) -> None:
        """A poll was successful."""
        if self._failed_polls >= _POLL_TROUBLE_AFTER:
            self._book.report("info", "HPC-POLL-RECOVERED", "the batch system answers again")
        self._failed_polls = 0
        for job, status in message.statuses.items():
            record = self._book.ids.get(job)
            if record is None or status.state is JobState.UNKNOWN:
                continue
            if record.phase is not Phase.OVER:
                self._observe(record, status)
            elif status.state.is_live and record.ended_at is not None and message.begun > record.ended_at:
                self._returned(record, status)

    def _observe(self, record: JobRecord, status: JobStatus) -> None:
        is_proven_alive = bool(record.workers) and record.phase is not Phase.CANCELLING
        if status.state is JobState.ABSENT:
            record.absences = 0 if is_proven_alive else record.absences + 1
            if record.absences >= 2:
                self._end(record, None)
            return
        record.absences = 0
        if status.state.is_over:
            if is_proven_alive:
                record.verdict = status
            else:
                self._end(record, status)
            return
        record.status, record.verdict = status, None
        if status.state is JobState.RUNNING and record.started_at is None:
            record.started_at = self._book.now
        if record.phase is Phase.PENDING and status.state is JobState.RUNNING:
            self._book.move(record, Phase.RUNNING, "started")
        elif record.phase is Phase.RUNNING and status.state is JobState.PENDING and not record.workers:
            record.started_at = record.silent_since = None
            self._book.move(record, Phase.PENDING, "put back into the queue")

    def _returned(self, record: JobRecord, status: JobStatus) -> None:
        """The batch system lists an ended job as alive."""
        if record.unwanted:
            self._book.report("warning", "HPC-JOB-RETURNED", f"job {record.id} is back after its end; cancelled again")
            self._book.cancel(record, "came back")
            return
        record.status, record.absences, record.verdict = status, 0, None
        self._book.move(record, Phase.PENDING if status.state is JobState.PENDING else Phase.RUNNING, "came back")

    def poll_failed(self, error: str) -> None:
        """A poll failed: nothing is known about any job."""
        self._failed_polls += 1
        if self._failed_polls == _POLL_TROUBLE_AFTER:
            text = f"the batch system does not answer; jobs are taken to be as they were: {error}"
            self._book.report("warning", "HPC-POLL-FAILING", text)

    # -------------------------------------------------------------------------------------------------------- ends

    def cancel_reported(self, message: CancelReported) -> None:
        """A cancel has come to an end."""
        if message.unconfirmed and message.message:
            self.cancel_problem = message.message
        for job in sorted(message.gone | message.unconfirmed):
            record = self._book.ids.get(job)
            if record is None or record.phase is not Phase.CANCELLING:
                continue
            if job in message.gone:
                self._end(record, None)
                continue
            record.cancel_again_at = self._book.now + self._policy.cancel_again * min(record.cancels, 12)
            self._book.poll_soon()
            if record.cancels == _CANCEL_TROUBLE_AFTER:
                text = f"job {job} is not known to be gone after {record.cancels} cancels. {message.message}".rstrip()
                self._book.report("warning", "HPC-CANCEL-UNCONFIRMED", text)

    def _end(self, record: JobRecord, status: JobStatus | None) -> None:
        if status is not None:
            record.status = status
        wanted = not record.unwanted
        self._book.end(record, describe(status) if wanted or status is not None else "cancelled")
        if wanted:
            self.lost += 1
            self._inquest.open(record, status)

    # --------------------------------------------------------------------------------------------------------- workers

    def worker_joined(self, worker: str, job: JobName) -> None:
        """A worker that was born in that job joined."""
        record = self._book.jobs.get(job)
        if record is None or worker in record.workers:
            return
        record.workers.add(worker)
        record.idle_since = record.silent_since = None
        record.absences = record.misses = 0
        if record.joined_at is None:
            record.joined_at = self._book.now
        if record.started_at is None:
            record.started_at = self._book.now
        self._brake.worked = True
        if self._brake.is_over(Trouble.EARLY_DEATH):
            self._book.report("info", "HPC-POOL-RESUMED", "a worker joined; jobs are submitted again")
        if not record.is_seen_running:
            self._book.poll_soon()  # it was quicker than our polls: where does it run?
        if record.phase is Phase.PENDING:
            self._book.move(record, Phase.RUNNING, "worker joined")
        elif record.phase is Phase.DOUBTFUL:
            self._book.turn_away(record)
            self._book.poll_soon()
        elif record.phase is Phase.OVER:
            self._worker_of_the_dead(record)

    def _worker_of_the_dead(self, record: JobRecord) -> None:
        """A worker joined a job that we thought had ended: it has not."""
        if record.id is None:
            record.unwanted = record.was_doubtful = True
            record.misses = 0
            self._book.move(record, Phase.DOUBTFUL, "its worker joined")
            self._book.turn_away(record)
            self._book.poll_soon()
        elif record.unwanted:
            self._book.cancel(record, "its worker joined after its end")
        else:
            self._book.move(record, Phase.RUNNING, "its worker joined after its end")

    def worker_left(self, worker: str, job: JobName) -> None:
        """A worker of that job left."""
        record = self._book.jobs.get(job)
        if record is None or worker not in record.workers:
            return
        record.workers.discard(worker)
        if record.workers or record.phase is Phase.OVER:
            return
        record.idle_since, record.silent_since = None, self._book.now
        if record.verdict is not None:
            self._end(record, record.verdict)
        else:
            self._book.poll_soon()

    def silent(self, record: JobRecord) -> None:
        """Its workers have been gone for so long that its node must be, too: many batch systems take minutes to say so."""
        text = f"job {record.id} counts as lost: its workers have been gone for {self._policy.silence:.0f} s"
        self._book.report("warning", "HPC-JOB-SILENT", text)
        self._book.cancel(record, "silent")
        self.lost += 1

    def retired(self, message: Retired) -> None:
        """The workers of these jobs are gone with their results handed over."""
        for record in known(self._book.jobs, message.jobs):
            if record.phase is Phase.RETIRING:
                self._book.cancel(record, "retired")

    def retire_failed(self, message: RetireFailed) -> None:
        """Workers could not hand over: their jobs stay."""
        for record in known(self._book.jobs, message.jobs):
            if record.phase is not Phase.RETIRING:
                continue
            if not record.workers:
                self._book.cancel(record, "no worker is left")
                continue
            record.unwanted = False
            record.held_until = self._book.now + self._policy.retire_again
            self._book.move(record, Phase.RUNNING, "could not be retired")
            text = f"job {record.id} could not hand over its results and stays for now: {message.error}"
            self._book.report("warning", "HPC-RETIRE-FAILED", text)
