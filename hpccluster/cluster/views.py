"""What a head says, as values that read well at a prompt, in a pipe and in a notebook.

Pure text from plain values: no connection, no terminal.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from hpccluster.engine.base import WorkerInfo
from hpccluster.fleet.values import JobRow
from hpccluster.fleet.views import format_time
from hpccluster.units import format_age, format_bytes

R = TypeVar("R", JobRow, WorkerInfo)


class Table(list[R], Generic[R]):
    """Rows that show themselves as a table."""

    def _cells(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        raise NotImplementedError

    def __repr__(self) -> str:
        head, rows = self._cells()
        return format_table(head, rows)

    def _repr_html_(self) -> str:
        head, rows = self._cells()
        top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


class Jobs(Table[JobRow]):
    """The fleet's jobs, oldest first."""

    @classmethod
    def from_plain(cls, rows: Iterable[Any]) -> Jobs:
        return cls(msgspec.convert(row, JobRow) for row in rows)

    def _cells(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        rows: list[Sequence[str]] = [
            (job.id or "-", job.name, job.state, job.reason, job.node, format_age(job.age_seconds), *_progress(job))
            for job in self
        ]
        return ("JOB", "NAME", "STATE", "REASON", "NODE", "AGE", "WORKERS", ""), rows


class Workers(Table[WorkerInfo]):
    """The connected workers, by name."""

    @classmethod
    def from_plain(cls, rows: Iterable[Any]) -> Workers:
        return cls(msgspec.convert(row, WorkerInfo) for row in rows)

    def _cells(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        rows: list[Sequence[str]] = [
            (
                worker.name,
                worker.host,
                worker.address,
                str(worker.threads),
                format_bytes(worker.memory) if worker.memory else "-",
                str(worker.executing),
                format_bytes(worker.stored),
            )
            for worker in self
        ]
        return ("WORKER", "HOST", "ADDRESS", "THREADS", "MEMORY", "RUNNING", "STORED"), rows


class Logs(dict[str, str]):
    """Per ``head`` and job what it has written."""

    def __repr__(self) -> str:
        return "\n".join(f"--- {name}\n{text.rstrip()}" for name, text in self.items())

    def _repr_html_(self) -> str:
        return "".join(
            f"<details><summary>{html.escape(name)}</summary><pre>{html.escape(text)}</pre></details>"
            for name, text in self.items()
        )


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, two blanks apart, without a line that a pipe could trip over."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def format_summary(kind: str, info: Mapping[str, Any]) -> str:
    """One line: ``LocalCluster 'calm-otter'  tls://127.0.0.1:41235  workers 2/2  threads 4  memory 7.8 GiB``."""
    parts = [f"{kind} {info['name']!r}", str(info["address"]), f"workers {info['workers']}/{info['expected_workers']}"]
    parts.append(f"threads {info['threads']}")
    if info.get("memory"):
        parts.append(f"memory {format_bytes(info['memory'])}")
    if waiting := info.get("jobs", {}).get("PENDING"):
        parts.append(f"jobs pending {waiting}")
    if link := info.get("dashboard"):
        parts.append(f"dashboard {link}")
    return "  ".join(parts)


def format_waiting(workers: int, wanted: int, jobs: Sequence[JobRow]) -> str:
    """One line on what a caller waits for: ``waiting for workers  4/16   jobs: 1 running, 3 pending (Priority)``."""
    line = f"waiting for workers  {workers}/{wanted}"
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.state.lower()] = counts.get(job.state.lower(), 0) + 1
    waiting = [job for job in jobs if job.state == "PENDING"]
    notes = list(dict.fromkeys(job.reason for job in waiting if job.reason))[:2]
    if starts := [job.estimated_start for job in waiting if job.estimated_start is not None]:
        notes.append(f"first start about {format_time(min(starts))}")
    if counts:
        line += "   jobs: " + ", ".join(f"{number} {state}" for state, number in sorted(counts.items(), reverse=True))
    return line + (f" ({'; '.join(notes)})" if notes else "")


def _progress(job: JobRow) -> tuple[str, str]:
    """How many of its workers have joined, and what else there is to say."""
    joined = f"{job.workers}/{job.expected_workers}" if job.state == "RUNNING" or job.workers else "-"
    if job.state == "PENDING" and job.estimated_start is not None:
        return joined, f"starts about {format_time(job.estimated_start)}"
    if job.exit_code is not None and job.state != "RUNNING":
        return joined, f"exit code {job.exit_code}"
    return joined, ""
