"""Merged values against the types that they should have. Every problem names its origin, its path and what is expected.

It must not know files, nor any backend: the options type is handed in.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

from hpccluster.config.schema import (
    KEYWORD,
    AdaptOptions,
    ClusterOptions,
    Node,
    Origin,
    ResolvedCluster,
    ScaleOptions,
)
from hpccluster.errors import ConfigError

PROBLEMS_SHOWN = 8

_RECORDS: dict[str, type[Any]] = {"scale": ScaleOptions, "adapt": AdaptOptions}

_RENAMED = {
    "project": "account",
    "contact_address": "contact_host",
    "env_extra": "job_script_prologue",
    "extra": "worker_extra_args",
    "header_skip": "job_directives_skip",
    "job_extra": "job_extra_directives",
    "job_memory": "job_mem",
    "job_name": "name",
    "ip": "host",
    "mem": "memory",
    "memory_limit": "memory",
    "n_workers": "scale",
    "ncpus": "job_cpu",
    "partition": "queue",
    "scheduler_port": "port",
    "time": "walltime",
}
"""What users of other packages write, and what it is called here."""

_NOT_HERE = {
    "asynchronous": "calls wait for their answer; in an event loop, make them in a thread",
    "dashboard_address": "only dask's engine has a dashboard, and chooses its address (engine='dask')",
    "config_name": "a description of that name in the configuration: ClusterManager.from_config(NAME)",
    "job_cls": "jobs are made by the backend; what is submitted comes from template=",
    "loop": "there is nothing to say: calls wait for their answer",
    "nanny": "every job has one",
    "resources": "worker_extra_args=['--resources', 'GPU=1'] with engine='dask'",
    "scheduler_cls": "the scheduler runs in the head's process; engine='dask' has dask's own",
    "scheduler_kwargs": "host, port, interface and protocol are keywords of their own",
    "scheduler_options": "host, port, interface and protocol are keywords of their own",
    "security": "TLS is always on and needs no files; protocol='tcp' is without",
    "shared_temp_directory": "credentials lie in state_directory=, readable by you only",
    "silence_logs": "nothing is logged to the terminal; get_logs() shows what head and jobs have written",
    "worker_class": "workers are those of the engine: engine='native' or 'dask'",
    "worker_command": "workers are those of the engine: engine='native' or 'dask'",
    "worker_dashboard_address": "workers have no dashboard of their own",
}
"""What they also write, and why there is nothing like it here."""

_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping (key: value)",
}


def check(name: str, backend: str, merged: Mapping[str, tuple[str, Node]], options_type: type[Any]) -> ResolvedCluster:
    """The checked description. ``merged``: per key its path (``slurm.cores``) and node.

    Raises one `ConfigError` that lists all unknown keys and wrong values.
    """
    own, common = field_types(options_type), field_types(ClusterOptions)
    problems: list[str] = []
    values = _check_keys(merged, common | own, problems)
    if problems:
        more = [f"... and {len(problems) - PROBLEMS_SHOWN} more"] if len(problems) > PROBLEMS_SHOWN else []
        raise ConfigError("\n".join(problems[:PROBLEMS_SHOWN] + more))
    return ResolvedCluster(
        name=name,
        backend=backend,
        options={key: value for key, value in values.items() if key in own},
        scale=values.get("scale"),
        adapt=values.get("adapt"),
        settings={key: value for key, value in values.items() if key not in own and key not in _RECORDS},
        origins={key: merged[key][1].origin for key in values},
    )


def field_types(options_type: type[Any]) -> dict[str, Any]:
    """The fields of an options dataclass and their types."""
    hints = typing.get_type_hints(options_type, include_extras=True)
    return {item.name: hints[item.name] for item in fields(options_type) if item.init}


def show(value: Any) -> str:
    """A value in an error, short."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = {"True": "true", "False": "false", "None": "null"}.get(repr(value), repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def suggest(key: str, known: Collection[str]) -> str:
    """What to write in place of an unknown key: the end of an error's line."""
    if _RENAMED.get(key) in known:
        return f"; here it is called {_RENAMED[key]!r}"
    if key in _NOT_HERE:
        return f"; {_NOT_HERE[key]}"
    if near := difflib.get_close_matches(key, known, 1, cutoff=0.6):
        return f"; did you mean {near[0]!r}?"
    return f"; known are: {', '.join(sorted(known))}"


def _check_keys(nodes: Mapping[str, tuple[str, Node]], types: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, (path, node) in nodes.items():
        if key not in types:
            word = "keyword" if node.origin == KEYWORD else "key"
            problems.append(f"{_prefix(node.origin)}{path}: unknown {word}{suggest(key, types.keys())}")
        elif key not in _RECORDS:
            try:
                values[key] = convert(node, types[key], path)
            except ConfigError as error:
                problems.append(str(error))
        elif not isinstance(node.value, dict):
            problems.append(
                f"{_prefix(node.origin)}{path}: expected a mapping such as {{jobs: 4}}, got {show(node.value)}"
                if key == "scale"
                else f"{_prefix(node.origin)}{path}: expected a mapping such as {{maximum_jobs: 10}}, got {show(node.value)}"
            )
        else:
            inner = {
                name.replace("-", "_"): (f"{path}.{name}", item)
                for name, item in node.value.items()
                if item.value is not None
            }
            values[key] = _check_keys(inner, field_types(_RECORDS[key]), problems)
            if key == "scale" and len(values[key]) > 1:
                problems.append(f"{_prefix(node.origin)}{path}: {' and '.join(values[key])} exclude one another")
    return values


def convert(node: Node, kind: Any, path: str) -> Any:
    """The plain value, checked against a type. Raises `ConfigError`.

    A value without a type of its own (environment, ``--set``) is taken as text where it does not fit otherwise.
    """
    value = node.plain()
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        if node.text is not None and _fits(node.text, kind):
            return node.text
        raise ConfigError(f"{_prefix(node.origin)}{_explain(str(error), path, value, kind)}") from error
    return value


def _fits(text: str, kind: Any) -> bool:
    try:
        msgspec.convert(text, kind, strict=True)
    except msgspec.ValidationError:
        return False
    return True


def _explain(problem: str, path: str, value: Any, kind: Any) -> str:
    """msgspec's words in ours: ``slurm.cores: expected a whole number, got 'eight'``."""
    match = re.fullmatch(r"(.*?)(?: - at `\$(.*)`)?", problem, re.DOTALL)
    assert match is not None
    text, where = match[1], match[2] or ""
    for step in re.findall(r"\[(\d+)\]", where):
        value = value[int(step)] if isinstance(value, list) else value
    if expected := re.match(r"Expected `([^`]+)`(.*?)(?:, got `[^`]+`)?$", text):
        words = [_WORDS.get(word, word) for word in expected[1].split(" | ") if word != "null"]
        text = f"expected {' or '.join(words)}{expected[2]}"
        if "array" in expected[1].split(" | ") and isinstance(value, str):
            hint = f'; write it as a list: ["{value}"]' if len(value) < 60 else "; write it as a list"
        else:
            hint = "; quote it" if "str" in expected[1].split(" | ") and isinstance(value, int | float) else ""
        return f"{path}{where}: {text}, got {show(value)}{hint}"
    if text.startswith("Invalid enum value"):
        return f"{path}{where}: {show(value)} is none of {', '.join(_choices(kind))}"
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text):
        return f"{path}{where}: unknown key {unknown[1]!r}{suggest(unknown[1], _keys(kind))}"
    return f"{path}{where}: {text[:1].lower()}{text[1:]}" + ("" if "got" in text else f", got {show(value)}")


def _choices(kind: Any) -> list[str]:
    """The values that a type of a few values allows."""
    if typing.get_origin(kind) is typing.Literal:
        return [str(choice) for choice in typing.get_args(kind)]
    return [choice for part in typing.get_args(kind) for choice in _choices(part)]


def _keys(kind: Any) -> list[str]:
    """The keys of the mappings that a type has in it."""
    own = [item.name for item in fields(kind)] if isinstance(kind, type) and is_dataclass(kind) else []
    own += getattr(kind, "__struct_fields__", ())
    return own + [key for part in typing.get_args(kind) for key in _keys(part)]


def _prefix(origin: Origin) -> str:
    return "" if origin == KEYWORD else f"{origin}: "
