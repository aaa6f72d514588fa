"""States and reasons of Slurm in our words."""

from __future__ import annotations

import pytest

from hpccluster.job import JobState
from hpccluster_slurm.words import STATES, explain


def test_live_words_are_never_an_end() -> None:
    for word in (
        "PENDING",
        "CONFIGURING",
        "RUNNING",
        "COMPLETING",
        "SUSPENDED",
        "REQUEUED",
        "REQUEUE_HOLD",
        "STAGE_OUT",
    ):
        assert STATES[word].is_live, word
    for word in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL"):
        assert STATES[word].is_over, word
    assert STATES["DEADLINE"] == JobState.TIMEOUT


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("Priority", "higher priority"),
        ("Resources", "next in line"),
        ("PartitionTimeLimit", "walltime="),
        ("PartitionDown", "queue="),
        ("ReqNodeNotAvail", "drained"),
        ("ReqNodeNotAvail,_UnavailableNodes:n[1-3]", "drained"),
        ("Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions", "drained"),
        # as squeue --Format of 22.05 prints them, with blanks
        ("ReqNodeNotAvail, UnavailableNodes:n2", "drained"),
        ("ReqNodeNotAvail, May be reserved for other job", "reserved"),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", "drained"),
        ("launch failed requeued held", "scontrol release"),
        ("job requeued in held state", "scontrol release"),
        ("BadConstraints", "constraint="),
        ("JobHeldUser", "scontrol release"),
        ("BeginTime", "certain time"),
        ("DependencyNeverSatisfied", "never start"),
        ("QOSMaxJobsPerUserLimit", "limit of its QOS on jobs is in use"),
        ("QOSMaxGRESPerUser", "limit of its QOS on GPUs is in use"),
        ("QOSMaxCpuPerJobLimit", "one job asks for more"),
        ("QOSMaxWallDurationPerJobLimit", "more (or less) walltime"),
        ("AssocGrpCpuLimit", "limit of your account or user on CPUs is in use"),
        ("AssocGrpCPUMinutesLimit", "used over time"),
        ("AssocMaxJobsLimit", "on jobs is in use"),
        ("AssocGrpMemLimit", "on memory"),
    ],
)
def test_common_reasons_are_explained(reason: str, part: str) -> None:
    text = explain(reason)
    assert text
    assert part in text


@pytest.mark.parametrize("reason", ["", "None", "SomethingNew", "priority"])
def test_nothing_is_made_up(reason: str) -> None:
    assert explain(reason) == ""
