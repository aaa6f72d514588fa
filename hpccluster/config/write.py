"""YAML for people: single values, and a first configuration file that shows every option with its default.

Must not know any backend: options types are handed in.
"""

from __future__ import annotations

import json
import os
import secrets
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Meta, Struct

from hpccluster.config.load import parse_text
from hpccluster.config.schema import KEYWORD, AdaptOptions, ClusterOptions, ScaleOptions
from hpccluster.errors import ConfigError

WIDTH = 100

_INTRODUCTION = """\
hpccluster.yaml: what hpccluster knows about this site and your clusters.

Everything here is commented out and shows the default: remove the '#' at the beginning of
a line, and of the section that it is in. Lines that begin with '##' are for people only.

Stronger than this file are ./hpccluster.yaml, $HPCCLUSTER_CONFIG, variables such as
HPCCLUSTER_SLURM__QUEUE=short, the command line, and keywords in Python.
Each value with its origin: hpccluster config show. Whether it is right: hpccluster config validate."""

_NAMED = """\
## Named clusters: hpccluster up -c NAME, ClusterManager.from_config("NAME")
#clusters:
#  example:
#    extends: {backend}         # a section above, or another cluster: its values apply first
#    cores: 4
#    memory: 8GB
#    adapt: {{minimum_jobs: 0, maximum_jobs: 10}}
"""


def yaml_value(value: Any) -> str:
    """A value on one line; text is quoted where it could be read as something else."""
    if isinstance(value, str):
        plain = value.isascii() and value.isprintable() and not any(sign in value for sign in "#:{}[],&*!|>'\"%@`")
        if plain and value == value.strip() and parse_text(value, KEYWORD).value == value:
            return value
    return json.dumps(value, ensure_ascii=False)


def plain_default(options_type: Any, name: str) -> Any:
    """The default of an option, as a plain value."""
    item = next(item for item in fields(options_type) if item.name == name)
    made = item.default_factory() if item.default_factory is not MISSING else item.default
    return msgspec.to_builtins(made)


def default_file(options_types: Mapping[str, type[Any]], summaries: Mapping[str, str]) -> str:
    """A configuration file in which everything is commented out. Without the first '#' of each line it says the same."""
    lines = [*(f"## {line}".rstrip() for line in _INTRODUCTION.splitlines()), ""]
    for name, options_type in options_types.items():
        title = f"## {name}: {summaries.get(name, '')} ".rstrip(": ")
        lines += [f"{title} {'-' * max(0, WIDTH - len(title) - 1)}", f"#{name}:"]
        lines += [f"#  {line}".rstrip() for line in _section(options_type)]
        lines += [f"#  {line}".rstrip() for line in _common(options_type)]
        lines.append("")
    backend = "slurm" if "slurm" in options_types else next(iter(options_types))
    return "\n".join(lines) + "\n" + _NAMED.format(backend=backend)


def _section(options_type: Any) -> Iterator[str]:
    """The options of a type, each with its documentation and default."""
    hints = typing.get_type_hints(options_type, include_extras=True)
    for name, default in _defaults(options_type):
        yield from _comment(_description(hints[name]))
        if isinstance(default, Struct):
            yield f"{name}:"
            yield from (f"  {line}" for line in _section(type(default)))
        else:
            yield f"{name}: {yaml_value(msgspec.to_builtins(default))}"


def _common(options_type: Any) -> Iterator[str]:
    """The keys that belong to no backend, where the backend has none of that name."""
    own = {item.name for item in fields(options_type)}
    hints = typing.get_type_hints(ClusterOptions, include_extras=True)
    for name, default in _defaults(ClusterOptions):
        if name in own or name in ("backend", "extends"):
            continue
        yield from _comment(_description(hints[name]))
        inner = {"scale": ScaleOptions, "adapt": AdaptOptions}.get(name)
        if inner is not None:
            for key, hint in typing.get_type_hints(inner, include_extras=True).items():
                yield f"#   {key}: {_description(hint)}"
        yield f"{name}: {yaml_value(default)}"


def _defaults(kind: Any) -> Iterator[tuple[str, Any]]:
    if is_dataclass(kind):
        for item in fields(kind):
            yield item.name, item.default_factory() if item.default_factory is not MISSING else item.default
        return
    value = kind()
    for name in value.__struct_fields__:
        yield name, getattr(value, name)


def _description(hint: Any) -> str:
    notes = (note.description for note in getattr(hint, "__metadata__", ()) if isinstance(note, Meta))
    return next((text for text in notes if text), "")


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 8)]


def sections_file(
    introduction: Sequence[str], sections: Mapping[str, Mapping[str, Any]], clusters: Mapping[str, Mapping[str, Any]]
) -> str:
    """A configuration file of these sections and named clusters, after some lines for people."""
    lines = [*(f"# {line}".rstrip() for line in introduction), ""]
    for name, values in sections.items():
        lines += [f"{name}:", *(f"  {line}" for line in _block(values)), ""]
    if clusters:
        lines.append("clusters:")
        for name, values in clusters.items():
            lines += [f"  {name}:", *(f"    {line}" for line in _block(values)), ""]
    return "\n".join(lines).rstrip() + "\n"


def _block(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, list) and value:
            yield f"{key}:"
            yield from (f"  - {yaml_value(item)}" for item in value)
        else:
            yield f"{key}: {yaml_value(value)}"


def write_new(path: Path, text: str, *, replace: bool = False) -> None:
    """Write a file that its owner alone can change, whole or not at all.

    Raises `ConfigError` where it is there already and is not to be replaced, or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path.parent}: cannot be made: {error.strerror}") from error
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o644)  # whatever the umask: what others can change is not read
                file.write(text)
            if replace:
                temporary.replace(path)
            else:
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists; it is written over only with --force") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
