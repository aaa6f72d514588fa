"""Why jobs wait, in PBS's words and ours. Comments as recorded from OpenPBS, see ``recorded/README.md``."""

from __future__ import annotations

import pytest

from hpccluster.ids import JobId
from hpccluster.job import JobState, JobStatus
from hpccluster_pbs.words import explain


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
        ("Not Running: User has reached queue q2 running job limit.", "as many jobs run as you may have"),
        ("Not Running: User has reached server running job limit.", "as many jobs run as you may have"),
        ("Not Running: Queue mq per-user limit reached on resource ncpus", "your share of a resource"),
        ("Not Running: Server per-user limit reached on resource ncpus", "your share of a resource"),
        ("job held, too many failed attempts to run", "log_directory="),
        ("held (u)", "qrls"),
        ("held (s)", "administrator"),
        ("waits until Tue Dec 31 23:59:00 2030", "before a certain time"),
    ],
)
def test_pending_jobs_are_explained(reason: str, part: str) -> None:
    assert part in meaning(reason)


@pytest.mark.parametrize("reason", ["", "Not Running: the moon is full"])
def test_nothing_is_made_up(reason: str) -> None:
    assert meaning(reason) == ""


def test_ended_jobs_need_no_explanation() -> None:
    assert meaning("exceeded resource walltime", JobState.TIMEOUT) == ""
