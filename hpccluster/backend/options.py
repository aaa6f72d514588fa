"""The options of backends: frozen dataclasses that are the schema, the reference and the checks in one.

A backend's options type subclasses `JobOptions` (any backend) or `BatchOptions` (batch systems). Field types carry their
documentation (`msgspec.Meta`), from which the JSON Schema is made, and, for values that reach a directive line of a job
script, the characters that are safe there (`Safe`). Options are plain values: they cross to the head as JSON.

This module must not know any batch system, nor where a value came from.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import shlex
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from hpccluster.backend.remote import RemoteTarget
from hpccluster.errors import ConfigError, Detail
from hpccluster.resources import JobResources, make_resources
from hpccluster.units import parse_bytes, parse_duration


@dataclass(frozen=True, slots=True)
class Safe:
    """What the text of an option may consist of, because it is put into a directive line or a shell word."""

    pattern: str
    """A regular expression that the whole text must match; it admits neither newlines nor quotes."""
    explanation: str

    def check(self, option: str, value: str) -> str:
        """The value, where it matches. Raises `ConfigError` that names the option, the value and what is allowed."""
        if re.fullmatch(self.pattern, value) is None:
            raise bad_value(option, value, f"allowed: {self.explanation}")
        return value


NAME = Safe(r"[A-Za-z0-9_][A-Za-z0-9_.,:@%+=/-]*", "letters, digits and _ . , : @ % + = / - (not first)")
PATH = Safe(r"[\w.,:@%+=/~(){}$ -]+", "a path of letters, digits, blanks and _ . , : @ % + = ~ ( ) { } $ -")
DIRECTIVE = Safe(r"-[^\x00-\x1f\x7f\x85\u2028\u2029]*", "one directive on one line, beginning with '-'")
DIRECTIVE_NAME = Safe(
    r"--?[A-Za-z0-9][A-Za-z0-9_-]*[= ]?[^\x00-\x1f\x7f\x85\u2028\u2029]*", "a directive's name, such as '--mem' or '-p'"
)
LINE = Safe(r"[^\x00-\x1f\x7f\x85\u2028\u2029]*", "printable text on one line")
SHEBANG = Safe(r"#![^\x00-\x1f\x7f\x85\u2028\u2029]+", "one line that begins with '#!'")
SHELL_LINES = Safe(r"[^\x00\r]*", "lines of shell without carriage returns")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What a job is made of, whatever backend runs it."""

    cores: Annotated[int | None, Meta(description="CPU cores of a job, shared by its workers")] = None
    memory: Annotated[
        str | int | None,
        Meta(description="Memory of a job, shared by its workers: '32GB', '32GiB' or a number of bytes"),
        LINE,
    ] = None
    processes: Annotated[
        int | None,
        Meta(description="Workers per job; by default cores up to 4, else the smallest factor of cores >= its root"),
    ] = None
    gpus: Annotated[int, Meta(description="GPUs of a job")] = 0
    walltime: Annotated[
        str | int | float | None,
        Meta(description="Time limit of a job: '01:00:00', '1-12:00:00', '20min', '2h' or seconds"),
        LINE,
    ] = None
    python: Annotated[
        str | None,
        Meta(
            description="The interpreter on the compute nodes, or a command that ends in one "
            "('apptainer exec image.sif python'), quoted as for a shell; by default the one that runs this program"
        ),
        LINE,
    ] = None
    shebang: Annotated[str, Meta(description="First line of the job script"), SHEBANG] = "#!/usr/bin/env bash"
    job_script_prologue: Annotated[
        tuple[str, ...], Meta(description="Lines of shell that run before the workers, verbatim"), SHELL_LINES
    ] = ()
    job_script_epilogue: Annotated[
        tuple[str, ...], Meta(description="Lines of shell that run after the workers, verbatim"), SHELL_LINES
    ] = ()
    env: Annotated[
        dict[str, str | int | float],
        Meta(description="Environment variables of the workers; never put secrets here"),
        LINE,
    ] = field(default_factory=dict)
    worker_extra_args: Annotated[
        tuple[str, ...], Meta(description="More arguments for the worker command, a word each"), LINE
    ] = ()
    interface: Annotated[str | None, Meta(description="Network interface of workers and head, such as 'ib0'"), NAME] = (
        None
    )
    local_directory: Annotated[
        str | None,
        Meta(
            description="Directory on the node for temporary files ($TMPDIR of tasks); '~' and '$VARS' are those of the node"
        ),
        LINE,
    ] = None
    log_directory: Annotated[
        str | None, Meta(description="Directory for the output of jobs; must be visible to the nodes"), PATH
    ] = None
    death_timeout: Annotated[
        str | int | float | None, Meta(description="How long workers without a head stay before they end"), LINE
    ] = None
    template: Annotated[str | None, Meta(description="A job-script template of your own"), LINE] = None

    def __post_init__(self) -> None:
        check_values(self)

    def required_options(self) -> tuple[str, ...]:
        """Options that must be given before a job can be made."""
        return ("cores",)

    def resources(self) -> JobResources:
        """The resources of one job. Raises `ConfigError`, which names all that is missing at once."""
        names = [name for name in self.required_options() if getattr(self, name) is None]
        if names or self.cores is None:
            raise ConfigError(
                f"missing: {', '.join(names)} (each job needs to know its {' and '.join(names)}; "
                f"give {', '.join(f'{name}=' for name in names)})",
                code="HPC-CONFIG-MISSING",
                details={"options": ", ".join(names)},
            )
        memory = None if self.memory is None else parse_bytes(self.memory)
        return make_resources(self.cores, memory, self.processes, self.gpus)

    def first_jobs(self) -> int | None:
        """Jobs of a cluster of whose size nobody has said anything, and the most when it adapts, where places are counted;
        None where they are not: then it begins without any.
        """
        return None

    def walltime_seconds(self) -> float | None:
        """The walltime in seconds; None where it is left to the batch system."""
        return None if self.walltime is None else parse_duration(self.walltime)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions(JobOptions):
    """What all batch systems have in common."""

    queue: Annotated[str | None, Meta(description="Queue or partition"), NAME] = None
    account: Annotated[str | None, Meta(description="Account or project that is charged"), NAME] = None
    job_cpu: Annotated[
        int | None, Meta(description="CPUs to ask of the batch system, where they differ from cores")
    ] = None
    job_memory: Annotated[
        str | int | None,
        Meta(description="Memory to ask of the batch system, where it differs from memory; 0 is all of a node"),
        LINE,
    ] = None
    job_mem: Annotated[str | int | None, Meta(description="The same as job_memory"), LINE] = None
    job_extra_directives: Annotated[
        tuple[str, ...],
        Meta(description="More directives, a line each, without the '#SBATCH' or the like; they replace ours"),
        DIRECTIVE,
    ] = ()
    job_directives_skip: Annotated[
        tuple[str, ...],
        Meta(description="Directives of ours to leave out, each by its whole name, such as '--mem' or '-n'"),
        DIRECTIVE_NAME,
    ] = ()

    ssh: Annotated[
        str | None,
        Meta(
            description="Login host whose commands are used, by SSH: '[user@]host[:port]', or an alias of ~/.ssh/config"
        ),
        LINE,
    ] = None
    ssh_config: Annotated[str | None, Meta(description="SSH configuration file, in place of ~/.ssh/config"), LINE] = (
        None
    )
    runner: Annotated[str, Meta(description="What speaks SSH: 'asyncssh' or 'paramiko'"), NAME] = "asyncssh"
    remote_directory: Annotated[
        str | None,
        Meta(
            description="With ssh: an absolute directory there, yours alone and visible to the nodes, "
            "for the credentials and the output of jobs"
        ),
        PATH,
    ] = None

    def __post_init__(self) -> None:
        JobOptions.__post_init__(self)
        if self.ssh is None:
            return
        try:
            RemoteTarget.parse(self.ssh)
        except ValueError as error:
            raise bad_value("ssh", self.ssh, str(error)) from None
        for name in ("remote_directory", "log_directory"):
            value = getattr(self, name)
            if (value is None and name == "remote_directory") or (value is not None and not value.startswith("/")):
                raise bad_value(name, value, "with ssh=, an absolute directory on the login host is needed")

    def required_options(self) -> tuple[str, ...]:
        return ("cores", "memory")

    def requested_memory(self) -> int | None:
        """Bytes to ask of the batch system for one job; 0 asks for all of a node's, None for its default."""
        for value in (self.job_memory, self.job_mem, self.memory):
            if value is not None:
                return parse_bytes(value)
        return None

    def requested_cpus(self) -> int:
        """CPUs to ask of the batch system for one job."""
        return self.job_cpu if self.job_cpu is not None else self.resources().cores


Options = TypeVar("Options", bound=JobOptions)

RENAMED = {
    "extra": "worker_extra_args",
    "env_extra": "job_script_prologue",
    "job_extra": "job_extra_directives",
    "header_skip": "job_directives_skip",
    "project": "account",
    "partition": "queue",
    "time": "walltime",
    "ncpus": "job_cpu",
    "mem": "job_memory",
    "memory_limit": "memory",
}
"""Keywords of other tools that have another name here: an error says which."""


# ------------------------------------------------------------------------------------------------------------- building


def build_options(
    options_type: type[Options], keywords: Mapping[str, Any], *, origins: Mapping[str, str] | None = None
) -> Options:
    """Checked options from keywords; a value of None means "not given".

    Raises `ConfigError` for unknown keywords (all of them at once, each with a suggestion) and for values of the wrong
    type or form. ``origins`` says where each keyword came from ("hpccluster.yaml line 4"), for the message.
    """
    known = {item.name for item in fields(options_type)}
    values: dict[str, Any] = {}
    unknown: list[str] = []
    for key, value in keywords.items():
        name = key.replace("-", "_")
        if name not in known:
            unknown.append(key)
        elif value is not None:
            values[name] = _plain(value)
    places = {key.replace("-", "_"): place for key, place in (origins or {}).items()}
    if unknown:
        raise _unknown_keywords(unknown, sorted(known), places)
    try:
        return msgspec.convert(values, options_type, strict=True)
    except msgspec.ValidationError as error:
        raise _wrong_type(error, values, places) from None
    except ConfigError as error:
        place = places.get(str(error.details.get("option", "")))
        if place is None:
            raise
        raise ConfigError(
            f"{error.message} ({place})", code=error.code, details={**error.details, "origin": place}
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _unknown_keywords(unknown: list[str], known: list[str], places: Mapping[str, str]) -> ConfigError:
    lines = []
    for key in unknown:
        name = key.replace("-", "_")
        where = f" ({places[name]})" if name in places else ""
        if RENAMED.get(name) in known:
            lines.append(f"unknown option {key!r}{where}: it is called {RENAMED[name]!r} here")
        elif close := difflib.get_close_matches(name, known, n=1, cutoff=0.6):
            lines.append(f"unknown option {key!r}{where}: did you mean {close[0]!r}?")
        else:
            lines.append(f"unknown option {key!r}{where}: the options are {', '.join(known)}")
    return ConfigError("\n".join(lines), code="HPC-CONFIG-UNKNOWN", details={"options": ", ".join(unknown)})


def _wrong_type(error: msgspec.ValidationError, values: Mapping[str, Any], places: Mapping[str, str]) -> ConfigError:
    text, _, path = str(error).partition(" - at `$.")
    name = re.split(r"[.\[`]", path, maxsplit=1)[0]
    value = values.get(name)
    fix = f'; write it as a list: ["{value}"]' if isinstance(value, str) and "array" in text else ""
    where = f" ({places[name]})" if name in places else ""
    details: dict[str, Detail] = {"option": name, "value": repr(value)}
    if name in places:
        details["origin"] = places[name]
    return ConfigError(
        f"{name}={value!r}{where}: {text[:1].lower()}{text[1:]}{fix}", code="HPC-CONFIG-VALUE", details=details
    )


# ------------------------------------------------------------------------------------------------------------- checking


@functools.cache
def _rules(options_type: Any) -> dict[str, Safe]:
    hints: dict[str, Any] = typing.get_type_hints(options_type, include_extras=True)
    return {
        name: note
        for name, hint in hints.items()
        for note in getattr(hint, "__metadata__", ())
        if isinstance(note, Safe)
    }


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)


LEAST_MEMORY = 1 << 20
"""Bytes; no worker fits into less."""


def check_values(options: JobOptions) -> None:
    """Refuse what could not be put safely into a job script, and sizes, times and numbers that are none.

    Raises `ConfigError` that names the option, its value and what is allowed.
    """
    options_type: Any = type(options)
    for name, rule in _rules(options_type).items():
        for text in _texts(getattr(options, name)):
            rule.check(name, text)
    for name in options.env:
        if VARIABLE.fullmatch(name) is None:
            raise bad_value("env", name, "not the name of an environment variable")
    for name in ("memory", "job_memory", "job_mem"):
        check_memory(name, getattr(options, name, None))
    for name in ("walltime", "death_timeout"):
        _check_parsed(name, getattr(options, name), parse_duration)
    if options.walltime is not None and parse_duration(options.walltime) <= 0:
        raise bad_value("walltime", options.walltime, "more than nothing; leave it out for the queue's own limit")
    if options.python is not None:
        try:
            words = shlex.split(options.python)
        except ValueError as error:
            raise bad_value("python", options.python, str(error)) from None
        if not words:
            raise bad_value("python", options.python, "no command")
    for name in ("cores", "processes", "job_cpu"):
        number = getattr(options, name, None)
        if number is not None and number < 1:
            raise bad_value(name, number, "at least 1")
    if options.gpus < 0:
        raise bad_value("gpus", options.gpus, "not negative")


def check_memory(name: str, value: str | float | None) -> None:
    """Refuse what is no size, and a size so small that its unit was forgotten. Raises `ConfigError`."""
    _check_parsed(name, value, parse_bytes)
    if value is not None and 0 < parse_bytes(value) < LEAST_MEMORY:
        raise bad_value(name, value, f"that is {parse_bytes(value)} bytes; write the unit, as in {name}='32GB'")


def _check_parsed(name: str, value: str | float | None, parse: Callable[[str | float], float]) -> None:
    if value is not None:
        try:
            parse(value)
        except ValueError as error:
            raise bad_value(name, value, str(error)) from None


def bad_value(name: str, value: object, why: str) -> ConfigError:
    """The error for an option's value that cannot be used."""
    return ConfigError(
        f"{name}={value!r}: {why}", code="HPC-CONFIG-VALUE", details={"option": name, "value": repr(value)}
    )
