"""What is wrong with a backend's answer, in words; empty if it keeps the contract. Pure.

Plugins are others' code: what they return is looked at once, where it comes in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from hpccluster.ids import JobId, JobName
from hpccluster.job import CancelReport, JobStatus


def job_id(answer: object) -> str:
    """Of `Backend.submit`."""
    return "" if isinstance(answer, str) and answer else f"submit returned {_shown(answer)}, no job id"


def statuses(ids: Collection[JobId]) -> Callable[[object], str]:
    """Of `Backend.poll`."""

    def check(answer: object) -> str:
        if not isinstance(answer, dict):
            return f"poll returned {_shown(answer)}, no dict"
        for job in ids:
            if job not in answer:
                return f"poll left out job {job}"
            if not isinstance(answer[job], JobStatus) or answer[job].id != job:
                return f"poll returned {_shown(answer[job])} for job {job}, not its JobStatus"
        return ""

    return check


def found(names: Collection[JobName]) -> Callable[[object], str]:
    """Of `Backend.find`."""
    return lambda answer: _names(answer, "find", lambda name: name in names)


def found_of_any_name(answer: object) -> str:
    """Of `Backend.find_all`."""
    return _names(answer, "find_all", lambda name: isinstance(name, str))


def _names(answer: object, call: str, is_asked_for: Callable[[Any], bool]) -> str:
    if not isinstance(answer, dict):
        return f"{call} returned {_shown(answer)}, no dict"
    wrong = {name: job for name, job in answer.items() if not (is_asked_for(name) and isinstance(job, str) and job)}
    return f"{call} returned {_shown(wrong)}" if wrong else ""


def report(answer: object) -> str:
    """Of `Backend.cancel`."""
    return "" if isinstance(answer, CancelReport) else f"cancel returned {_shown(answer)}, no CancelReport"


def text(answer: object) -> str:
    """Of `Backend.logs`."""
    return "" if isinstance(answer, str) else f"logs returned {_shown(answer)}, no text"


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
