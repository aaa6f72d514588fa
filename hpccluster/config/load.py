"""From files and the environment to nodes with origins. The only place that imports yaml, and only its safe loader.

Files are small and the user's own, or they are refused: what is written here ends up in job scripts. The YAML is built
from parser events, so that nothing nests, expands or constructs beyond our limits; scalars are read as in YAML 1.2
(``no`` and ``10:00:00`` are text).
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hpccluster.config.schema import Node, Origin
from hpccluster.errors import ConfigError
from hpccluster.paths import expand_path

FILE_LIMIT = 1024 * 1024
NODE_LIMIT = 20_000
"""Values in one file, each alias counted as what it stands for."""
DEPTH_LIMIT = 20

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")
_KNOWN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq"))


def shown(path: Path) -> str:
    """A path as people write it: relative to here, or with ``~``."""
    for base, prefix in ((_here(), ""), (Path.home(), "~/")):
        if path.is_absolute() and path.is_relative_to(base):
            return prefix + str(path.relative_to(base))
    return str(path)


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it has been removed: nothing lies in it
        return Path()


def default_paths(environ: Mapping[str, str]) -> list[Path]:
    """The files that there are, later ones stronger.

    Raises `ConfigError` where ``$HPCCLUSTER_CONFIG`` names no file.
    """
    found = [path for _, paths in places(environ) for path in paths]
    if (named := environ.get("HPCCLUSTER_CONFIG")) and not found[-1].exists():
        raise ConfigError(f"$HPCCLUSTER_CONFIG: no such file: {named}")
    return found


def places(environ: Mapping[str, str]) -> Iterator[tuple[str, list[Path]]]:
    """Where files are looked for, and those that are there, later ones stronger; also one that is named and missing."""
    for folder in (Path("/etc/hpccluster"), Path(sys.prefix) / "etc" / "hpccluster", user_folder()):
        # policy.yaml holds a site's limits; it is not a layer of values
        files = [path for path in sorted(folder.glob("*.yaml")) if path.name != "policy.yaml"]
        yield f"{shown(folder)}/*.yaml", files
    project = _here() / "hpccluster.yaml"
    yield "./hpccluster.yaml", [project] if project.exists() else []
    if named := environ.get("HPCCLUSTER_CONFIG"):
        path = expand_path("$HPCCLUSTER_CONFIG", named)
        yield "$HPCCLUSTER_CONFIG", [path]
    else:
        yield "$HPCCLUSTER_CONFIG", []


def user_folder() -> Path:
    """Where the user's own files are."""
    import platformdirs

    return platformdirs.user_config_path("hpccluster")


def read_file(path: Path) -> Node:
    """The nodes of one YAML file: a mapping, empty for an empty file. Raises `ConfigError`, and reads nothing first,
    for a file that is too large, that others can write, or that is not a file."""
    text = _read_text(path)
    root = parse_yaml(text, shown(path))
    if root.value is None:
        return Node({}, root.origin)
    if not isinstance(root.value, dict):
        raise ConfigError(f"{root.origin}: expected 'key: value' lines")
    return root


def _read_text(path: Path) -> str:
    name = shown(path)
    try:
        # Non-blocking, so that a named pipe does not hang us; the checks are made on what was opened.
        if path.is_dir():
            raise ConfigError(f"{name}: not a regular file")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise ConfigError(f"{name}: not a regular file")
        if facts.st_uid not in (os.geteuid(), 0):
            raise ConfigError(f"{name}: belongs to another user (uid {facts.st_uid}), so its values are not used")
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            who = "everybody" if facts.st_mode & stat.S_IWOTH else "its group"
            raise ConfigError(f"{name}: can be changed by {who}, so its values are not used; chmod go-w {name}")
        raw = file.read(FILE_LIMIT + 1)
    if len(raw) > FILE_LIMIT:
        raise ConfigError(f"{name}: larger than 1 MiB, which is no configuration")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} line {raw.count(10, 0, error.start) + 1}: not UTF-8 text") from error


def read_environment(environ: Mapping[str, str]) -> Iterator[tuple[list[str], Node]]:
    """Per variable ``HPCCLUSTER_SLURM__CORES`` its path ``["slurm", "cores"]`` and its value."""
    for name, text in sorted(environ.items()):
        if not name.startswith("HPCCLUSTER_") or "__" not in name:
            continue
        path = name.removeprefix("HPCCLUSTER_").lower().split("__")
        if not all(path):
            raise ConfigError(f"${name}: not of the form HPCCLUSTER_SECTION__KEY")
        yield path, parse_text(text, Origin(f"${name}"))


def parse_text(text: str, origin: Origin) -> Node:
    """A value from a place without types: read as YAML where it can be, with its raw text kept."""
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ConfigError(f"{origin}: not UTF-8 text: {text!a}")
    try:
        node = parse_yaml(text, origin.source)
    except ConfigError:
        return Node(text, origin, text)
    return replace(node, origin=origin, text=text)


@dataclass(slots=True)
class _Open:
    """A mapping or sequence that is being read."""

    value: dict[str, Node] | list[Node]
    line: int
    anchor: str | None
    size: int = 1
    key: str | None = None
    key_line: int = 0
    where: dict[str, int] = field(default_factory=dict)


def parse_yaml(text: str, source: str) -> Node:
    """YAML text to nodes. Raises `ConfigError` with the line for whatever is not plain, small and unambiguous."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    builder = _Builder(source)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.feed(type(event).__name__, event)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(f"{Origin(source, line)}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {str(error).splitlines()[0]}") from error
    return builder.root or Node(None, Origin(source))


class _Builder:
    """Puts parser events together to nodes, iteratively and within limits."""

    def __init__(self, source: str) -> None:
        self.root: Node | None = None
        self._source = source
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._total = 0

    def feed(self, kind: str, event: Any) -> None:
        line = event.start_mark.line + 1
        tag = getattr(event, "tag", None)
        if tag is not None and tag not in _KNOWN_TAGS:
            raise self._error(line, f"the tag {tag!r} is not allowed; only plain values are")
        match kind:
            case "ScalarEvent":
                self._add_scalar(event, line)
            case "AliasEvent":
                if self._awaits_key():
                    raise self._error(line, "a key is plain text")
                if event.anchor not in self._anchors:
                    raise self._error(line, f"*{event.anchor} stands for nothing yet, or for itself")
                node, size = self._anchors[event.anchor]
                self._add(node, line, size, None)
            case "MappingStartEvent" | "SequenceStartEvent":
                if len(self._stack) >= DEPTH_LIMIT:
                    raise self._error(line, f"nested deeper than {DEPTH_LIMIT} levels")
                if self._awaits_key():
                    raise self._error(line, "a key is plain text")
                self._stack.append(_Open({} if kind == "MappingStartEvent" else [], line, event.anchor))
            case "MappingEndEvent" | "SequenceEndEvent":
                done = self._stack.pop()
                self._add(Node(done.value, Origin(self._source, done.line)), done.line, done.size, done.anchor)
            case "DocumentStartEvent" if self.root is not None:
                raise self._error(line, "a second document in one file")

    def _add_scalar(self, event: Any, line: int) -> None:
        if self._awaits_key():
            opened = self._stack[-1]
            assert isinstance(opened.value, dict)
            if event.value == "<<":
                raise self._error(line, "'<<' is not read; a cluster takes over another one's values by 'extends'")
            if event.value in opened.value:
                raise self._error(line, f"{event.value!r} is said twice (first in line {opened.where[event.value]})")
            opened.key, opened.key_line = event.value, line
            return
        value = _scalar(event.value) if event.implicit[0] and event.style in (None, "") else event.value
        if event.tag is not None and event.tag.endswith(":str"):
            value = event.value
        self._add(Node(value, Origin(self._source, line)), line, 1, event.anchor)

    def _add(self, node: Node, line: int, size: int, anchor: str | None) -> None:
        self._total += 1
        if anchor is not None:
            self._anchors[anchor] = (node, size)
        if not self._stack:
            self.root = node
            return
        opened = self._stack[-1]
        opened.size += size
        if max(opened.size, self._total) > NODE_LIMIT:
            raise self._error(line, f"more than {NODE_LIMIT:,} values, aliases counted; this is no configuration")
        if isinstance(opened.value, list):
            opened.value.append(node)
            return
        assert opened.key is not None
        opened.value[opened.key] = replace(node, origin=Origin(self._source, opened.key_line))
        opened.where[opened.key] = opened.key_line
        opened.key = None

    def _awaits_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None

    def _error(self, line: int, text: str) -> ConfigError:
        return ConfigError(f"{Origin(self._source, line)}: {text}")


def _scalar(text: str) -> Any:
    """A plain scalar by the rules of YAML 1.2's core schema; what is no number, boolean or null is text."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and not text.lstrip("+-").isdigit():
        return float(text)
    return text
