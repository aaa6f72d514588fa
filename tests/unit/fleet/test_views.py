"""How jobs are shown."""

from __future__ import annotations

from hpccluster.fleet.views import make_row
from hpccluster.ids import JobId, JobName
from hpccluster.job import JobState, JobStatus
from hpccluster.state.fleet.records import JobRecord, Phase


def row_of(record: JobRecord) -> tuple[str, str]:
    row = make_row(record, now=10.0, processes=1, explain=lambda _: "")
    return row.state, row.reason


def test_a_job_that_waits_says_why_until_its_worker_has_joined() -> None:
    status = JobStatus(id=JobId("9"), state=JobState.PENDING, reason="BeginTime")
    record = JobRecord(JobName("hpc-calm-otter-0001"), 1, 0.0, phase=Phase.PENDING, id=JobId("9"), status=status)
    assert row_of(record) == ("PENDING", "BeginTime")
    # the worker is quicker than the next poll
    record.phase, record.workers = Phase.RUNNING, {"w"}
    assert row_of(record) == ("RUNNING", "")


def test_a_reason_is_one_line() -> None:
    said = "Connection refused\ncannot connect to server pbssrv (errno=15010)"
    record = JobRecord(JobName("hpc-calm-otter-0001"), 1, 0.0, phase=Phase.DOUBTFUL, note=said)
    assert row_of(record) == (
        "UNKNOWN",
        "submission unclear: Connection refused; cannot connect to server pbssrv (errno=15010)",
    )
