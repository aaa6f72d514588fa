"""How the fake PBS reads a job script: its directives, and what a real one would refuse."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

_FLAGS = "hVz"
_WITH_VALUE = "aAcCeJjklmMNopPqrSuvW"
_RESOURCES = {"select", "nodes", "walltime", "mem", "ncpus", "place", "nodect", "cput"}
_CHUNK = {"ncpus", "mem", "mpiprocs", "host", "ompthreads"}
_MAX_WALLTIME = 100 * 3600


class Refused(Exception):
    """What qsub says, and its exit code."""

    def __init__(self, returncode: int, said: str) -> None:
        super().__init__(said)
        self.returncode = returncode


@dataclass(slots=True)
class Submission:
    """What a script asks for."""

    options: dict[str, str] = field(default_factory=dict)
    """By their letters; flags are empty."""
    resources: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    umask: str = "077"

    @property
    def ncpus(self) -> int:
        text = self.resources.get("select", self.resources.get("nodes", ""))
        match = re.search(r"(?:ncpus|ppn)=([0-9]+)", text)
        return int(match[1]) if match else 1

    @property
    def walltime(self) -> float | None:
        text = self.resources.get("walltime")
        if text is None:
            return None
        total = 0
        for part in text.split(":"):
            total = total * 60 + int(part)
        return float(total)


def read_script(script: str, prefix: str, flavour: str, queues: Mapping[str, str]) -> Submission:
    """What the script asks for. Raises `Refused` as PBS would."""
    if "\r" in script:
        raise Refused(1, "script contains cr, lf")
    submission = Submission()
    for line in script.splitlines():
        if line.startswith(prefix):
            _directive(line.removeprefix(prefix).strip(), submission)
        elif line.strip() and not line.startswith("#"):
            break
    _check(submission, flavour, queues)
    return submission


def _directive(text: str, submission: Submission) -> None:
    words = shlex.split(text)
    while words:
        word = words.pop(0)
        letter = word[1:2]
        if not word.startswith("-") or not letter:
            raise Refused(1, f"directive error: {text} ")
        if letter in _FLAGS:
            submission.options[letter] = ""
            continue
        if letter not in _WITH_VALUE:
            raise Refused(1, f"invalid option -- '{letter}'\nqsub: directive error: {text} ")
        value = word[2:] or (words.pop(0) if words else "")
        match letter:
            case "l":
                submission.resources |= _pairs(value)
            case "v":
                submission.variables = dict(_pairs(value))
            case "W":
                submission.umask = _pairs(value).get("umask", submission.umask)
            case _:
                submission.options[letter] = value


def _pairs(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(","))
    return {name: value for name, _, value in pairs}


def _check(submission: Submission, flavour: str, queues: Mapping[str, str]) -> None:
    queue = submission.options.get("q", "workq")
    is_torque = flavour == "torque"
    if queue not in queues:
        raise Refused(170, "submit error (Unknown queue MSG=cannot locate queue)" if is_torque else "Unknown queue")
    if queues[queue] == "not enabled":
        raise Refused(173, "submit error (Queue is not enabled)" if is_torque else "Queue is not enabled")
    if re.search(r"[,:]", submission.options.get("o", "")):
        raise Refused(2, "illegal -o value\nusage: qsub [-a date_time] [-A account_string] [-c interval]")
    if (keep := submission.options.get("k")) and re.fullmatch(
        r"[oen]+" if is_torque else r"[oed]*[oe][oed]*|n", keep
    ) is None:
        raise Refused(2, "illegal -k value\nusage: qsub [-a date_time] [-A account_string] [-c interval]")
    unknown = submission.resources.keys() - _RESOURCES
    if unknown:
        raise Refused(187, f"Unknown resource Resource_List.{min(unknown)}")
    for name in ("walltime", "mem"):
        pattern = r"[0-9]+(:[0-9]+){0,2}" if name == "walltime" else r"[0-9]+([kmgt]?b)?"
        if re.fullmatch(pattern, submission.resources.get(name, "1")) is None:
            raise Refused(166, f"Illegal attribute or resource value Resource_List.{name}")
    if not is_torque:
        _check_select(submission.resources)
    if (submission.walltime or 0) > _MAX_WALLTIME:
        raise Refused(188, "Job violates queue and/or server resource limits")


def _check_select(resources: Mapping[str, str]) -> None:
    select = resources.get("select")
    if select is None:
        if "place" in resources and "nodes" not in resources:
            raise Refused(7, 'Cannot have "place" without "select"')
        return
    for name in ("ncpus", "mem"):
        if name in resources:
            raise Refused(5, f'"-lresource=" cannot be used with "select" or "place", resource is: {name}')
    for chunk in select.split("+"):
        for part in chunk.split(":"):
            name, equals, value = part.partition("=")
            if not equals:
                if re.fullmatch(r"[1-9][0-9]*", part) is None:
                    raise Refused(166, "Illegal attribute or resource value Resource_List.select")
            elif name not in _CHUNK:
                raise Refused(187, f"Unknown resource: {name}")
            elif name in ("ncpus", "mpiprocs") and re.fullmatch(r"[0-9]+", value) is None:
                raise Refused(166, f"Illegal attribute or resource value select.{name}")
