"""What ``qstat -f`` prints about jobs, in each of its forms, as flat attributes. Pure text work.

The forms, best first. ``dsv``: one line a job, nothing ambiguous. ``json``: OpenPBS 23.06.06 breaks it where a value holds a
lone backslash or begins with a zero, later versions print only the first of several jobs. ``text``: every version has it, but
a newline in a value is printed as it is. Torque has the last only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Form = Literal["dsv", "json", "text"]

DELIMITER = "@@"
"""Between the attributes of the form ``dsv``. The default, ``|``, is found in values."""

_UNKNOWN = re.compile(r"Unknown Job Id(?: Error)?\s+(\S+)", re.IGNORECASE)
_FINISHED = re.compile(r"(\S+) Job has finished, use -x", re.IGNORECASE)
_NO_HISTORY = re.compile(r"not configured to maintain job history\s*(\S*)", re.IGNORECASE)
_NO_FORM = re.compile(
    r"invalid option|unknown option|unrecognized option|conflicting options|illegal -[FD]|^usage:",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Report:
    """What is said of one job."""

    id: str
    attributes: Mapping[str, str]
    """By their names as qstat prints them; resources as ``Resource_List.ncpus``."""


@dataclass(frozen=True, slots=True)
class Denials:
    """What the error output says of single jobs; ids are as PBS wrote them."""

    unknown: frozenset[str]
    finished: frozenset[str]
    """Over, but without ``-x`` nothing is told of them."""
    no_history: bool
    """The server keeps no history, so with ``-x`` it tells nothing at all."""
    rest: str
    """Complaints about something else."""
    no_form: bool
    """qstat does not know the form that was asked for."""


def parse_reports(text: str, form: Form) -> list[Report]:
    """The jobs in the output. Raises `ValueError` where it makes no sense."""
    match form:
        case "dsv":
            return list(_from_dsv(text))
        case "json":
            return list(_from_json(text))
        case "text":
            return list(_from_text(text))


def parse_denials(text: str) -> Denials:
    """What qstat wrote to its error output."""
    unknown, finished, rest = set(), set(), []
    no_history = False
    for line in text.splitlines():
        if match := _UNKNOWN.search(line):
            unknown.add(match[1])
        elif match := _FINISHED.search(line):
            finished.add(match[1])
        elif _NO_HISTORY.search(line):
            no_history = True
        elif line.strip():
            rest.append(line.strip())
    said = "\n".join(rest)
    return Denials(frozenset(unknown), frozenset(finished), no_history, said, bool(_NO_FORM.search(said)))


def parse_queues(text: str) -> dict[str, dict[str, str]]:
    """What ``qstat -Q -f`` tells of each queue."""
    queues: dict[str, dict[str, str]] = {}
    for block in re.split(r"^Queue:\s*", text, flags=re.MULTILINE)[1:]:
        name, *lines = block.splitlines()
        matches = [match for line in lines if (match := re.fullmatch(r"\s+([\w.]+) = (.*)", line))]
        queues[name.strip()] = {match[1]: match[2] for match in matches}
    return queues


def parse_default_queue(text: str) -> str:
    """The queue of jobs that name none, from ``qstat -B -f``; empty where there is none."""
    match = re.search(r"^\s+default_queue = (\S+)", text, re.MULTILINE)
    return match[1] if match else ""


def limits_of(queue: Mapping[str, str]) -> list[str]:
    """A queue's limits on one job: ``walltime at most 24:00:00``."""
    words = {"resources_max": "at most", "resources_min": "at least"}
    pairs = ((*name.partition(".")[::2], value) for name, value in queue.items())
    return [f"{resource} {words[kind]} {value}" for kind, resource, value in pairs if kind in words]


def number_of(job: str) -> str:
    """An id without the server's name, which commands write in different ways: ``13[2].pbssrv`` -> ``13[2]``."""
    return job.partition(".")[0]


def _from_dsv(text: str) -> Iterator[Report]:
    told, noise = 0, ""
    for line in text.split("\n"):  # values may hold other characters that end lines for Python
        head, *cells = line.split(DELIMITER)
        if match := re.fullmatch(r"Job Id: (\S+)", head.strip()):
            told += 1
            pairs = (cell.partition("=") for cell in cells)
            yield Report(match[1], {name: _unescape(value) for name, equals, value in pairs if equals})
        else:
            noise = noise or line.strip()  # a site's banner: what it may hide counts as not said
    if noise and not told:
        raise ValueError(f"not a job: {noise[:200]!r}")


def _unescape(text: str) -> str:
    """``\\n`` is a newline, and a backslash is doubled."""
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)


def _from_json(text: str) -> Iterator[Report]:
    if not text.strip():
        return
    for attempt in (text, _mended(text)):
        try:
            # numbers stay text: qstat makes numbers of names that look like some
            found = json.loads(attempt, strict=False, parse_int=str, parse_float=str, parse_constant=str)
            break
        except json.JSONDecodeError as error:
            problem = error
    else:
        raise ValueError(f"not JSON: {problem}")
    jobs = found.get("Jobs", {}) if isinstance(found, dict) else None
    if not isinstance(jobs, dict) or not all(isinstance(job, dict) for job in jobs.values()):
        raise ValueError(f"no jobs in it: {text[:200]!r}")
    for job, attributes in jobs.items():
        yield Report(job, dict(_flat(attributes)))


def _mended(text: str) -> str:
    """The JSON of 23.06.06, where lone backslashes and numbers with leading zeros are printed as they are."""
    text = re.sub(r'(\\\\)|\\(?!["/bfnrt]|u[0-9a-fA-F]{4})', lambda match: match[0] if match[1] else r"\\", text)
    return re.sub(r'(?<=":)\s*([+-]?0[0-9][0-9.eE+-]*)(?=\s*[,}])', r'"\1"', text)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, str(value)


def _from_text(text: str) -> Iterator[Report]:
    job, attributes = "", dict[str, str]()
    last = indent = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"Job Id:\s*(\S+)\s*", line):
            if job:
                yield Report(job, attributes)
            job, attributes, last, indent = match[1], {}, "", ""
        elif line.startswith("\t") and last and indent != "\t":
            attributes[last] += line[1:]  # a long value goes on, cut anywhere
        elif match := re.fullmatch(r"(\s+)([A-Za-z_][\w.]*) = (.*)", line):
            # Torque's commands on top of Slurm begin every attribute with a tab, and cut none
            indent, last = indent or match[1], match[2]
            attributes[last] = match[3]
        elif line.strip() and not job:
            raise ValueError(f"not a job: {line[:200]!r}")
    if job:
        yield Report(job, attributes)
