"""Slurm's words for states and reasons, in ours.

States: the section JOB STATE CODES of squeue(1) and sacct(1). Reasons: JOB REASON CODES of squeue(1). Both lists grow with
each version of Slurm; a state that is not here is UNKNOWN, a reason that is not here is shown as it is.
"""

from __future__ import annotations

from hpccluster.job import JobState

STATES = {
    "BOOT_FAIL": JobState.NODE_FAIL,
    "CANCELLED": JobState.CANCELLED,
    "COMPLETED": JobState.COMPLETED,
    # the nodes are allocated, but they still boot
    "CONFIGURING": JobState.PENDING,
    # it still has its nodes, and its processes may still run: not an end
    "COMPLETING": JobState.RUNNING,
    "DEADLINE": JobState.TIMEOUT,
    "FAILED": JobState.FAILED,
    "LAUNCH_FAILED": JobState.FAILED,
    "NODE_FAIL": JobState.NODE_FAIL,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "PENDING": JobState.PENDING,
    "POWER_UP_NODE": JobState.PENDING,
    "PREEMPTED": JobState.PREEMPTED,
    "RECONFIG_FAIL": JobState.NODE_FAIL,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "RESIZING": JobState.RUNNING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "REVOKED": JobState.CANCELLED,
    "RUNNING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    # requeued and held, with a mark
    "SPECIAL_EXIT": JobState.PENDING,
    "STAGE_OUT": JobState.RUNNING,
    # they wait to be continued
    "STOPPED": JobState.PENDING,
    "SUSPENDED": JobState.PENDING,
    "TIMEOUT": JobState.TIMEOUT,
}

REASONS = (
    ("Priority", "jobs of higher priority wait before it; it starts when they have started"),
    ("Resources", "it is next in line, but its resources are in use: smaller or shorter jobs start sooner"),
    ("Dependency", "it waits for another job"),
    ("DependencyNeverSatisfied", "the job that it waits for has failed: it will never start, cancel it"),
    ("BeginTime", "it may not start before a certain time (after a requeue, Slurm waits a little)"),
    ("JobHeldUser", "it is held by you: scontrol release JOBID"),
    ("JobHeldAdmin", "it is held by an administrator; ask them why"),
    ("JobArrayTaskLimit", "as many tasks of its array run as were allowed at a time"),
    ("PartitionTimeLimit", "its walltime is above the partition's limit: it never starts there; give a shorter walltime="),
    ("PartitionNodeLimit", "it needs more nodes than the partition allows: it never starts there"),
    ("PartitionDown", "the partition is down; choose another queue= or wait for the administrators"),
    ("PartitionInactive", "the partition takes no jobs now; choose another queue= or wait"),
    ("PartitionConfig", "the partition has no nodes that fit; choose another queue= or ask for less"),
    ("ReqNodeNotAvail", "nodes that it needs are down, drained, or reserved (then a shorter walltime= may fit before)"),
    ("BadConstraints", "no node has what it asks for: check constraint=, gres=, cores= and memory="),
    ("NodeDown", "a node that it needs is down"),
    ("Nodes_required_for_job_are_DOWN,_DRAINED", "nodes that it needs are down, drained or reserved"),
    ("Reservation", "it waits for its reservation to begin"),
    ("ReservationDeleted", "its reservation was deleted; it never starts: cancel it"),
    ("Licenses", "the licenses that it asks for are in use"),
    ("BurstBuffer", "its burst buffer is being prepared"),
    ("InvalidAccount", "its account is not valid here; check account="),
    ("InvalidQOS", "its QOS is not valid here; check qos="),
    ("AccountNotAllowed", "its account may not use this partition; check account= and queue="),
    ("QOSNotAllowed", "its QOS may not be used in this partition; check qos= and queue="),
    ("MaxMemPerLimit", "it asks for more memory than one job may have; give less memory="),
    ("AccountingPolicy", "a limit of your account is reached"),
    ("Prolog", "the node is being prepared"),
    ("JobLaunchFailure", "the job could not be started on its node: is the log directory visible and writable there?"),
    ("NonZeroExitCode", "its script ended with an error; see its log"),
    ("RaisedSignal", "its script was ended by a signal"),
    ("OutOfMemory", "it used more memory than it asked for; give more memory="),
    ("TimeLimit", "it reached its walltime"),
    ("NodeFail", "its node failed"),
    ("job_requeued_in_held_state", "it was put back into the queue and is held: scontrol release JOBID"),
    ("launch_failed_requeued_held", "it could not be started and is held: scontrol release JOBID, once the node is mended"),
)  # fmt: skip
"""Reasons and what they mean. One that Slurm makes longer (``ReqNodeNotAvail,_UnavailableNodes:n17``) still matches."""

LIMITS = (
    ("Assoc", "limit of your account or user"),
    ("QOS", "limit of its QOS"),
)
"""Families of reasons about limits: ``AssocGrpCpuLimit``, ``QOSMaxJobsPerUserLimit``."""

LIMITED = {
    "cpu": "CPUs",
    "mem": "memory",
    "gres": "GPUs",
    "node": "nodes",
    "wall": "walltime",
    "billing": "billing units",
    "energy": "energy",
    "submit": "jobs in the queue",
    "job": "jobs",
}
"""Parts of such reasons, the more telling first: ``...WallDurationPerJobLimit`` is about the walltime."""


def explain(reason: str) -> str:
    """What a reason means and what to do about it; empty if there is nothing to add."""
    reason = reason.replace(" ", "_")  # scontrol's spelling; squeue has blanks there
    word = reason.split(",_")[0].split("(")[0]
    for known, meaning in REASONS:
        if word == known or reason.startswith(f"{known}_"):
            return meaning
    for family, whose in LIMITS:
        if word.startswith(family):
            return _limit(word.removeprefix(family), whose)
    return ""


def _limit(rest: str, whose: str) -> str:
    lower = rest.lower()
    what = next((name for part, name in LIMITED.items() if part in lower), "resources")
    if "perjob" in lower or ("perj" in lower and "limit" in lower) or "min" in lower[:3]:
        return f"one job asks for more (or less) {what} than the {whose} allows: it never starts like this"
    if "minutes" in lower:
        return f"the {whose} on {what} used over time is reached: it waits until the usage has decayed"
    return f"the {whose} on {what} is in use: it starts when others of its jobs have ended"
