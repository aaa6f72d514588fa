"""Why jobs wait, in PBS's words and ours. Comments as recorded from OpenPBS, see ``recorded/README.md``."""

from __future__ import annotations

import pytest

from hpccluster.ids import JobId
from hpccluster.job import JobState, JobStatus
from hpccluster_pbs.words import explain, status_of


def meaning(reason: str, state: JobState = JobState.PENDING) -> str:
    return explain(JobStatus(id=JobId("1.pbssrv"), state=state, reason=reason))


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("Not Running: Not enough free nodes available", "when other jobs have ended"),
        ("Not Running: Insufficient amount of resource: ncpus (R: 12 A: 10 T: 12)", "when other jobs have ended"),
        ("Not Running: Insufficient amount of resource: ncpus", "when other jobs have ended"),
        ("Not Running: Insufficient amount of resource: host", "node that it needs is down"),
        ("Not Running: No available resources on nodes", "when other jobs have ended"),
        ("Not Running: Queue not started.", "another queue="),
        ("Can Never Run: Insufficient amount of resource: ncpus (R: 99 A: 12 T: 12)", "never starts: ask for less"),
        ("Can Never Run: Insufficient amount of resource: host (nosuch != n1,n2,n3)", "never starts"),
        ("Not Running: User has reached queue q2 running job limit.", "as many jobs run as are allowed"),
        ("Not Running: User has reached server running job limit.", "as many jobs run as are allowed"),
        ("Not Running: Queue mq per-user limit reached on resource ncpus", "limit on this resource"),
        ("Not Running: Server per-user limit reached on resource ncpus", "limit on this resource"),
        # not seen: the other entries of the scheduler's table
        ("Not Running: Job would conflict with reservation or top job", "a shorter walltime="),
        ("Not Running: Job would interfere with a confirmed reservation", "a shorter walltime="),
        ("Not Running: Job would break strict sorted order", "higher priority"),
        ("Not Running: Job would interfere with a top job", "higher priority"),
        ("Not Running: Job would cross dedicated time boundary", "kept for others"),
        ("Not Running: Job will run in nonprimetime only", "kept for others"),
        ("Not Running: Queue long job limit reached for user ana", "as many jobs run"),
        ("Not Running: Project has reached queue long's running limit.", "as many jobs run"),
        ("Not Running: would exceed user ana's limit on resource ncpus in queue long", "limit on this resource"),
        ("Not Running: Not enough of the right type of nodes are available", "when other jobs have ended"),
        ("Not Running: host set switch1 has too few free resources", "when other jobs have ended"),
        ("Not Running: can't fit in the largest placement set, and can't span psets", "never starts"),
        ("Not Running: Not enough total nodes available", "never starts"),
        ("Not Running: Node is in an ineligible state: down", "is down"),
        ("Not Running: Job has zero shares for fairshare", "no shares"),
        ("held (u)", "qrls"),
        ("held (u): Job held by tbuser on Tue Nov 24 06:20:11 2026", "qrls"),
        ("held (uo): Job held by operator on Tue Nov 24 06:20:11 2026", "administrator"),
        ("held (s): job held, too many failed attempts to run", "log_directory="),
        ("held (s)", "administrator"),
        ("waits until Tue Dec 31 23:59:00 2030", "before a certain time"),
    ],
)
def test_pending_jobs_are_explained(reason: str, part: str) -> None:
    assert part in meaning(reason)


def test_held_jobs_say_by_whom_and_how() -> None:
    """``qhold`` replaces the comment (req_holdjob.c); ``qsub -h`` makes none."""
    by_qhold = {"job_state": "H", "Hold_Types": "u", "comment": "Job held by tbuser on Tue Nov 24 06:20:11 2026"}
    assert status_of(JobId("1.pbssrv"), by_qhold).reason == ("held (u): Job held by tbuser on Tue Nov 24 06:20:11 2026")
    assert status_of(JobId("1.pbssrv"), {"job_state": "H", "Hold_Types": "u"}).reason == "held (u)"


@pytest.mark.parametrize("reason", ["", "Not Running: the moon is full"])
def test_nothing_is_made_up(reason: str) -> None:
    assert meaning(reason) == ""


def test_ended_jobs_need_no_explanation() -> None:
    assert meaning("exceeded resource walltime", JobState.TIMEOUT) == ""
