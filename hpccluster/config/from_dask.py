"""dask-jobqueue's configuration -> ours, with a verdict on each value.

Names and meanings of its keys: https://jobqueue.dask.org/en/latest/configuration-setup.html and its jobqueue.yaml. What is
written here is only what this package's own checks accept. Must not know YAML, nor any backend: options types are handed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hpccluster.config.check import field_types, show
from hpccluster.config.schema import Node
from hpccluster.errors import ConfigError

Verdict = Literal["kept", "renamed", "changed", "dropped", "by hand"]

TryOut = Callable[[str, Mapping[str, Any]], None]
"""A backend's name and values -> None. Raises `ConfigError` for values that cannot be used."""

_SAME = (
    "cores memory processes python interface death_timeout local_directory worker_extra_args job_script_prologue "
    "job_script_epilogue job_extra_directives job_directives_skip log_directory shebang queue walltime account "
    "resource_spec job_cpu"
).split()

_RENAMED = {
    "project": "account",
    "job_mem": "job_memory",
    "env_extra": "job_script_prologue",
    "job_extra": "job_extra_directives",
    "header_skip": "job_directives_skip",
    "extra": "worker_extra_args",
}

_DROPPED = {
    "name": "jobs are named after their cluster",
    "shared_temp_directory": "credentials lie in the state directory, readable by you only",
    "worker_command": "workers are this package's own; dask's are started by engine: dask",
    "nanny": "every job has a nanny",
    "silence_logs": "logs go to files: hpccluster logs",
    "scheduler_options": "see its parts",
}

_WORKER_DROPPED = {
    "--lifetime": "automatic here: the end of walltime costs no task, and a new job replaces the old",
    "--lifetime-stagger": "automatic here",
    "--lifetime-restart": "automatic here",
    "--dashboard-address": "workers have no dashboard of their own",
    "--no-dashboard": "workers have no dashboard of their own",
    "--nanny": "every job has a nanny",
}
_WORKER_OF_DASK = {"--resources", "--preload"}
_WORKER_KEPT = {"--grace", "--host", "--interface", "--local-directory", "--death-timeout"}

_SCHEDULER = {"host": "host", "port": "port", "interface": "interface", "contact_address": "contact_host"}

_SLURM_MEMORY = re.compile(r"([0-9]+)([KMGT]?)(?:I?B)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Judged:
    """One value of theirs, and what became of it."""

    key: str
    value: str
    verdict: Verdict
    now: str = ""
    """Our key, where it is another one."""
    why: str = ""


@dataclass(slots=True)
class Section:
    """One section of theirs."""

    name: str
    """What it is called in our file: a backend, or a named cluster."""
    backend: str
    values: dict[str, Any] = field(default_factory=dict)
    judged: list[Judged] = field(default_factory=list)
    problem: str = ""
    """Why nothing of it is taken over."""

    def put(self, key: str, value: Any) -> None:
        """Lists of several sources (``env-extra`` and ``job-script-prologue``) follow one another."""
        former = self.values.get(key)
        self.values[key] = [*former, *value] if isinstance(former, list) and isinstance(value, list) else value


def convert(
    root: Node, *, backends: Mapping[str, type[Any]], named: Mapping[str, str], try_out: TryOut
) -> list[Section]:
    """The sections of a ``jobqueue.yaml``. ``named``: for a section that is no batch system's, the backend that it is for.

    Raises `ConfigError` where the file is none of dask-jobqueue's.
    """
    top = root.value.get("jobqueue")
    if top is None and not root.value:
        return []
    if top is None or not isinstance(top.value, dict | None):
        raise ConfigError(f"{root.origin}: no 'jobqueue:' at the top: this is no configuration of dask-jobqueue")
    return [_section(name, node, backends, named, try_out) for name, node in (top.value or {}).items()]


def _section(
    name: str, node: Node, backends: Mapping[str, type[Any]], named: Mapping[str, str], try_out: TryOut
) -> Section:
    title = name.lower().replace("_", "-")
    backend = named.get(name, title if title in backends else "")
    section = Section(name=title, backend=backend)
    if not backend:
        section.problem = f"no backend {name!r} is installed; if it is a section of your own: --as {name}=BACKEND"
        return section
    if not isinstance(node.value, dict):
        section.problem = "" if node.value is None else "it is no mapping"
        return section
    known = field_types(backends[backend]).keys()
    for key, value in node.value.items():
        for judged, ours in _judge(section, key, value, known):
            section.judged += _tried(section, judged, ours, try_out)
    try:
        try_out(backend, section.values)
    except ConfigError as error:
        section.judged.append(Judged("(together)", "", "by hand", why=error.message.splitlines()[0]))
    return section


def _judge(section: Section, written: str, node: Node, known: Any) -> Iterator[tuple[Judged, Any]]:
    """What becomes of one key: verdicts, each with our value (None: nothing)."""
    key, value = written.replace("-", "_"), node.plain()
    if value is None or value in ([], {}, ""):
        return
    text = show(value) if isinstance(value, dict) else _short(value)
    if key in ("worker_extra_args", "extra"):
        yield from _worker_arguments(written, value)
    elif key == "scheduler_options" and isinstance(value, dict):
        yield from _scheduler_options(written, value, "interface" in section.values)
    elif key in _DROPPED:
        yield Judged(written, text, "dropped", why=_DROPPED[key]), None
    elif key in _SAME or key in _RENAMED:
        now = key if key in known and key in _SAME else _RENAMED.get(key, key)
        if now not in known:
            yield Judged(written, text, "by hand", why=f"the backend {section.backend!r} has no such option"), None
            return
        changed, why = _translated(section.backend, now, value)
        if changed != value and not isinstance(changed, list):
            why = f"{changed}: {why}"
        verdict: Verdict = "changed" if why else "kept" if now == key else "renamed"
        yield Judged(written, text, verdict, now if now != key else "", why), changed
    elif key in known:
        yield Judged(written, text, "kept"), value
    else:
        yield Judged(written, text, "by hand", why="it has no counterpart here"), None


def _worker_arguments(key: str, value: Any) -> Iterator[tuple[Judged, Any]]:
    """Options of dask's workers, one by one: ``--lifetime 1h`` and ``--lifetime=1h``, as one text or as two."""
    words = [word for text in (value if isinstance(value, list) else [value]) for word in str(text).split()]
    while words:
        option, equals, rest = words.pop(0).partition("=")
        given = [rest] if equals else []
        while not equals and words and not words[0].startswith("--"):
            given.append(words.pop(0))
        text = " ".join([option, *given])
        if option in _WORKER_DROPPED:
            yield Judged(key, text, "dropped", why=_WORKER_DROPPED[option]), None
        elif option in _WORKER_KEPT:
            yield Judged(key, text, "kept"), [option, *given]
        elif option in _WORKER_OF_DASK:
            yield Judged(key, text, "by hand", why="for dask's workers: keep it if you add engine: dask"), None
        else:
            yield Judged(key, text, "by hand", why="workers here have no such argument"), None


def _scheduler_options(written: str, options: Mapping[str, Any], has_interface: bool) -> Iterator[tuple[Judged, Any]]:
    for part, value in options.items():
        key, name = f"{written}.{part}", part.replace("-", "_")
        now = _SCHEDULER.get(name)
        if value is None:
            continue
        if now is None:
            why = (
                "dask's dashboard (engine: dask) chooses its address itself"
                if "dashboard" in name
                else "it has no meaning here"
            )
            yield Judged(key, _short(value), "dropped", why=why), None
        elif now == "interface" and has_interface:
            why = "interface is that of workers and head here; where the head's differs, say its address in host"
            yield Judged(key, _short(value), "by hand", why=why), None
        elif now == "contact_host":
            yield Judged(key, _short(value), "renamed", now), re.sub(r"^[a-z]+://|:[0-9]+$", "", str(value))
        else:
            yield Judged(key, _short(value), "renamed", now), value


def _translated(backend: str, key: str, value: Any) -> tuple[Any, str]:
    """The value as it is written here, and why it is another one (empty: it is not)."""
    if key == "walltime":
        text = str(value)
        if re.fullmatch(r"[0-9]+", text) and backend == "slurm":
            return f"{text}min", "a number alone is minutes to Slurm"
        if re.fullmatch(r"[0-9]+:[0-9]{2}", text) and backend in ("slurm", "pbs"):
            minutes, seconds = (int(part) for part in text.split(":"))
            return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}", "two parts are minutes and seconds there"
    if key == "job_memory" and backend == "slurm" and (match := _SLURM_MEMORY.fullmatch(str(value))):
        return f"{match[1]}{(match[2] or 'M').upper()}iB", "Slurm counts in 1024"
    lists = ("job_script_prologue", "job_script_epilogue", "job_extra_directives", "job_directives_skip")
    if key in lists and isinstance(value, str):
        return [value], ""
    if key == "job_directives_skip" and isinstance(value, list):
        return value, "each is a whole directive's name here, no part of a line"
    return value, ""


def _tried(section: Section, judged: Judged, value: Any, try_out: TryOut) -> Iterator[Judged]:
    """Take the value over, as far as this package's own checks accept it: of a list, item by item."""
    now = judged.now or judged.key.replace("-", "_")
    now = "worker_extra_args" if now == "extra" else now
    if value is None or now in ("host", "port", "contact_host"):  # those are the cluster's, and not its backend's
        if value is not None:
            section.put(now, value)
        yield judged
        return
    try:
        try_out(section.backend, {now: value})
    except ConfigError as error:
        if isinstance(value, list) and len(value) > 1:
            for item in value:
                one = replace(judged, value=_short(item))
                yield from _tried(section, one, [item], try_out)
            return
        yield replace(judged, verdict="by hand", why=error.message.splitlines()[0])
    else:
        section.put(now, value)
        yield judged


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
