"""From layers of nodes to one checked description of a cluster.

Weakest first: defaults, files, environment, keywords. Within a layer: the backend's section, then the chain of named
clusters from the base to the one that was asked for. A value replaces a value; lists and mappings are replaced whole;
``null`` goes back to the default; ``scale`` and ``adapt`` replace each other.

It must not know YAML, nor any backend: the options type of a backend is handed in.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpccluster.config import load
from hpccluster.config.check import check, show, suggest
from hpccluster.config.schema import KEYWORD, Node, Origin, ResolvedCluster
from hpccluster.errors import BackendNotFound, ConfigError
from hpccluster.paths import expand_path

OptionsOf = Callable[[str], type[Any]]
"""A backend's name -> its options type. Raises `BackendNotFound`."""

Values = dict[str, Node]


@dataclass(slots=True)
class _Layer:
    """All files together, or the environment."""

    sections: dict[str, Values] = field(default_factory=dict)
    clusters: dict[str, Values] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    """Where each section begins."""

    def add(self, part: str, values: Node, path: str) -> None:
        if part == "clusters":
            for name, cluster in _mapping(values, "clusters").items():
                _merge(self.clusters.setdefault(name, {}), _keys(_mapping(cluster, f"clusters.{name}"), name))
        else:
            self.origins.setdefault(part, values.origin)
            _merge(self.sections.setdefault(part, {}), _keys(_mapping(values, path), path))


@dataclass(frozen=True, slots=True)
class Config:
    """The user's configuration. Made by `load_config`; `resolve` checks what it is asked for and no more."""

    options_of: OptionsOf
    files: tuple[Path, ...]
    _file_layer: _Layer
    _environment: _Layer

    @property
    def clusters(self) -> list[str]:
        """The names of the clusters that are described."""
        return sorted(self._file_layer.clusters)

    @property
    def backends(self) -> list[str]:
        """The backends that have a section."""
        return sorted(self._file_layer.sections.keys() | self._environment.sections.keys())

    def resolve(self, name: str, keywords: Mapping[str, Any] | None = None) -> ResolvedCluster:
        """The description of the cluster or backend ``name``, with ``keywords`` on top (None: not said).

        Raises `ConfigError` that lists each unknown key and wrong value with its origin.
        """
        return self._resolve(name, None, keywords or {})

    def resolve_file(self, path: Path, keywords: Mapping[str, Any] | None = None) -> ResolvedCluster:
        """The description of the one cluster in a flat file (``backend: slurm`` at the top)."""
        root = load.read_file(path)
        name = load.shown(path)
        if "backend" not in root.value and "extends" not in root.value:
            raise ConfigError(
                f"{name}: describes no single cluster: it needs 'backend: NAME' at the top. "
                f"For a file of sections: HPCCLUSTER_CONFIG={name}, and the cluster's name with -c"
            )
        return self._resolve(name, _keys(root.value, ""), keywords or {})

    def problems(self) -> list[str]:
        """What is wrong with any section or cluster, as messages; empty if nothing is."""
        found: list[str] = []
        for name in [*self.backends, *self.clusters]:
            try:
                self.resolve(name)
            except (ConfigError, BackendNotFound) as error:
                found += [line for line in str(error).splitlines() if line not in found]
        return found

    def _resolve(self, name: str, flat: Values | None, keywords: Mapping[str, Any]) -> ResolvedCluster:
        self._check_sections()
        chain, backend = self._chain(name, flat)
        options_type = self.options_of(backend)
        merged: dict[str, tuple[str, Node]] = {}
        for layer in (self._file_layer, self._environment):
            parts = [(backend, layer.sections.get(backend, {}))]
            parts += [(f"clusters.{part}", layer.clusters.get(_match(part, layer.clusters), {})) for part in chain]
            if flat is not None and layer is self._file_layer:
                parts.append(("", flat))
            for path, values in parts:
                _overlay(merged, values, path)
        said = {
            key.replace("-", "_"): value if isinstance(value, Node) else _keyword(value)
            for key, value in keywords.items()
            if value is not None
        }
        _overlay(merged, said, "")
        return check(name, backend, merged, options_type)

    def _chain(self, name: str, flat: Values | None) -> tuple[list[str], str]:
        """The named clusters from the base to ``name``, and the backend they stand on."""
        chain: list[str] = []
        stated: list[tuple[str, str]] = []
        """Every backend that is named on the way, and where."""
        current = name
        values = flat if flat is not None else self._file_layer.clusters.get(name)
        while values is not None:
            chain.append(current)
            backend, base = (_text(values, key) for key in ("backend", "extends"))
            if backend is not None:
                stated.append((backend, f"{values['backend'].origin}: "))
            if base is None:
                break
            current, where = base, f"{values['extends'].origin}: "
            if current in chain:
                circle = " -> ".join([*chain[chain.index(current) :], current])
                raise ConfigError(f"{where}clusters.{chain[-1]} extends itself: {circle}")
            if (values := self._file_layer.clusters.get(current)) is None:
                stated.append((current, where))
        if not chain:
            stated.append((name, ""))
        if not stated:
            raise ConfigError(f"{name}: says neither 'backend' nor 'extends'")
        for backend, where in stated:
            self._check_backend(backend, where)
            if backend != stated[0][0]:
                raise ConfigError(f"{stated[0][1]}backend {stated[0][0]!r}, but {where}{backend!r}")
        return (chain if flat is None else chain[1:])[::-1], stated[0][0]

    def _check_backend(self, name: str, prefix: str) -> None:
        try:
            self.options_of(name)
        except BackendNotFound as error:
            near = difflib.get_close_matches(name, self.clusters, 1)
            hint = f" (or the cluster {near[0]!r}?)" if near else ""
            if file := next((it for it in (name, f"{name}.yaml", f"{name}.yml") if Path(it).is_file()), None):
                hint = f" (if the file {file!r} here is meant: ./{file})"
            raise ConfigError(f"{prefix}no cluster or backend {name!r} is described{hint}: {error}") from error

    def _check_sections(self) -> None:
        for layer in (self._file_layer, self._environment):
            for section in layer.sections:
                try:
                    self.options_of(section)
                except BackendNotFound as error:
                    where = str(layer.origins[section])
                    near = "; did you mean 'clusters'?" if difflib.get_close_matches(section, ["clusters"]) else ""
                    raise ConfigError(f"{where}: {section}: {error}{near}") from error
        for cluster, values in self._environment.clusters.items():
            if cluster not in {_match(name, self._environment.clusters) for name in self._file_layer.clusters}:
                where = next((str(node.origin) for node in values.values()), "environment")
                raise ConfigError(f"{where}: no cluster {cluster!r} is described{suggest(cluster, self.clusters)}")


def load_config(
    options_of: OptionsOf, paths: Sequence[Path] | None = None, environ: Mapping[str, str] | None = None
) -> Config:
    """Read all layers. ``paths``: the files, later ones stronger, in place of those that are looked for.

    Raises `ConfigError` for a file that cannot be used.
    """
    environ = os.environ if environ is None else environ
    files = tuple(load.default_paths(environ) if paths is None else paths)
    file_layer, environment = _Layer(), _Layer()
    for path in files:
        root = load.read_file(path)
        if (node := root.value.get("backend")) is not None:
            raise ConfigError(
                f"{node.origin}: this file describes one cluster: use it with -c {load.shown(path)}, "
                "or put it below 'clusters: NAME:'"
            )
        for part, values in root.value.items():
            if values.value is not None:
                file_layer.add(part, values, part)
    tree: Values = {}
    for keys, node in load.read_environment(environ):
        if len(keys) < (3 if keys[0] == "clusters" else 2):
            raise ConfigError(f"{node.origin}: not of the form HPCCLUSTER_CLUSTERS__NAME__KEY")
        inner = tree
        for key in keys[:-1]:
            inner = _mapping(inner.setdefault(key, Node({}, node.origin)), key)
        inner[keys[-1]] = node
    for part, values in tree.items():
        environment.add(part, values, part)
    return Config(options_of, files, file_layer, environment)


def load_file(
    path: str | Path,
    options_of: OptionsOf,
    keywords: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> ResolvedCluster:
    """The cluster that a flat file describes, upon the user's configuration."""
    return load_config(options_of, environ=environ).resolve_file(expand_path("file", path), keywords)


# ------------------------------------------------------------------------------------------------------------ merging


def _mapping(node: Node, path: str) -> Values:
    if not isinstance(node.value, dict):
        raise ConfigError(f"{node.origin}: {path}: expected a mapping (key: value), got {show(node.value)}")
    return node.value


def _keys(values: Values, path: str) -> Values:
    """With snake case in place of kebab case."""
    found: Values = {}
    for key, node in values.items():
        name = key.replace("-", "_")
        if name in found:
            raise ConfigError(f"{node.origin}: {path}.{key} is said twice ({found[name].origin})")
        found[name] = node
    if "scale" in found and "adapt" in found and found["scale"].value is not None and found["adapt"].value is not None:
        raise ConfigError(
            f"{found['adapt'].origin}: {path}: 'scale' and 'adapt' exclude each other".replace(": :", ":")
        )
    return found


def _merge(target: Values, values: Values) -> None:
    for one, other in (("scale", "adapt"), ("adapt", "scale")):
        if one in values and values[one].value is not None and other not in values:
            target.pop(other, None)
    target.update(values)


def _overlay(merged: dict[str, tuple[str, Node]], values: Values, path: str) -> None:
    for key, node in values.items():
        if key in ("backend", "extends"):
            continue
        if node.value is None:
            merged.pop(key, None)
            continue
        if key in ("scale", "adapt"):
            merged.pop("adapt" if key == "scale" else "scale", None)
        merged[key] = (f"{path}.{key}" if path else key, node)


def _keyword(value: Any) -> Node:
    if isinstance(value, Mapping):
        return Node({str(key): _keyword(item) for key, item in value.items()}, KEYWORD)
    if isinstance(value, list | tuple):
        return Node([_keyword(item) for item in value], KEYWORD)
    if isinstance(value, Path):
        return Node(str(value), KEYWORD)
    return Node(value, KEYWORD)


def _match(name: str, clusters: Collection[str]) -> str:
    """The name as the environment spells it: lower case, no hyphens."""
    plain = name.lower().replace("-", "_")
    return name if name in clusters else plain


def _text(values: Values, key: str) -> str | None:
    node = values.get(key)
    if node is None or node.value is None:
        return None
    if not isinstance(node.value, str):
        raise ConfigError(f"{node.origin}: {key}: expected text, got {show(node.value)}")
    return node.value
