"""How the fleet shows its jobs: rows, and the error of whoever has waited too long. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from hpccluster.errors import StartTimeout
from hpccluster.fleet.values import JobRow
from hpccluster.job import JobState, JobStatus
from hpccluster.state.fleet.records import JobRecord, Phase
from hpccluster.units import format_age

_MEANINGLESS = frozenset({"", "none", "(null)"})


def make_row(record: JobRecord, *, now: float, processes: int, explain: Callable[[JobStatus], str]) -> JobRow:
    """The row of one job."""
    status = record.status
    waits = record.phase in (Phase.PENDING, Phase.RUNNING) and not record.workers
    until = now if record.ended_at is None else record.ended_at
    return JobRow(
        name=record.name,
        id=record.id or "",
        state=record.shown_state.value,
        phase=record.phase.value,
        reason="; ".join(_reason(record).splitlines()),  # a cell of a table: batch systems may say several lines
        meaning=explain(status) if status is not None and waits else "",
        node=status.node if status is not None else "",
        age_seconds=max(0.0, until - record.created_at),
        exit_code=status.exit_code if status is not None and status.state.is_over else None,
        workers=len(record.workers),
        expected_workers=record.expected_workers(processes),
        estimated_start=status.estimated_start if status is not None and record.phase is Phase.PENDING else None,
    )


def _reason(record: JobRecord) -> str:
    match record.phase:
        case Phase.SUBMITTING:
            return "being submitted"
        case Phase.DOUBTFUL:
            return f"submission unclear: {record.note}"
        case Phase.RETIRING:
            return "its workers finish and hand over"
        case Phase.CANCELLING:
            return "being cancelled"
        case _:
            said = record.status.reason if record.status is not None else ""
            if record.workers and record.status is not None and record.status.state is JobState.PENDING:
                said = ""  # its worker has joined since the last poll: it waits for nothing any more
            if said.lower() not in _MEANINGLESS:
                return said
            return record.note if record.phase is Phase.OVER and record.shown_state is JobState.ABSENT else ""


def start_timeout(
    wanted: int,
    have: int,
    *,
    seconds: float,
    rows: Sequence[JobRow],
    last_words: Mapping[str, str],
    hints: Sequence[str],
) -> StartTimeout:
    """The error that lists which jobs wait, and why. ``last_words``: by job name, what a running one wrote last."""
    text = [f"{have} of {wanted} workers after {format_age(seconds)} (HPC-START-TIMEOUT)"]
    for row in rows:
        state = row.state + (f" ({row.reason})" if row.reason else "")
        line = f"  {row.id or row.name}  {state}, for {format_age(row.age_seconds)}"
        if row.workers:
            line += f", {row.workers} of {row.expected_workers} workers"
        if row.estimated_start is not None:
            line += f", starts about {format_time(row.estimated_start)}"
        text.append(line)
        if row.meaning:
            text.append(f"      meaning: {row.meaning}")
        if row.name in last_words:
            text.append(f"      its log ends with: {last_words[row.name]}")
    text += [f"  {hint}" for hint in hints]
    return StartTimeout(
        "\n".join(text), code="HPC-START-TIMEOUT", details={"wanted": wanted, "have": have, "seconds": seconds}
    )


def format_time(when: float) -> str:
    """A local time of day, with the day where that is not today."""
    then = time.localtime(when)
    return time.strftime("%H:%M" if then[:3] == time.localtime()[:3] else "%a %d %b %H:%M", then)
