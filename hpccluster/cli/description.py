"""A cluster's description from the command line: ``-c FILE|NAME``, ``--backend``, ``--set KEY=VALUE``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from hpccluster.cli import complete
from hpccluster.config import Origin, ResolvedCluster
from hpccluster.config.load import parse_text
from hpccluster.config.schema import Node
from hpccluster.errors import ConfigError
from hpccluster.paths import expand_path

R = TypeVar("R")

DEFAULT_BACKEND = "local"


@dataclass(frozen=True, slots=True)
class Target:
    """What the options say, not yet looked up."""

    cluster: str | None
    backend: str | None
    values: tuple[str, ...]

    @property
    def is_file(self) -> bool:
        """Whether ``-c`` names a file."""
        return self.cluster is not None and ("/" in self.cluster or self.cluster.endswith((".yaml", ".yml")))

    def resolve(self, keywords: dict[str, Any] | None = None) -> ResolvedCluster:
        """The checked description. Raises `ConfigError`."""
        said = read_values(self.values) | {k: v for k, v in (keywords or {}).items() if v is not None}
        if self.cluster is not None and self.backend is not None:
            raise ConfigError("-c says which backend it is; leave --backend out")
        from hpccluster.cluster.describe import check_description, configuration

        config = configuration()
        name = self.cluster or self.backend or DEFAULT_BACKEND
        resolved = config.resolve_file(expand_path("-c", name), said) if self.is_file else config.resolve(name, said)
        check_description(resolved)
        return resolved


def description_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds the options; the command gets them as ``target``."""

    @click.option(
        "-c",
        "--cluster",
        metavar="FILE|NAME",
        shell_complete=complete.description,
        help="A cluster's description: a file, or a name in the configuration.",
    )
    @click.option(
        "--backend",
        metavar="NAME",
        shell_complete=complete.backend,
        help="A backend with the values that the configuration has for it.",
    )
    @click.option(
        "--set", "values", multiple=True, metavar="KEY=VALUE", help="A value on top: queue=short, adapt.maximum_jobs=9."
    )
    @functools.wraps(command)
    def wrapped(cluster: str | None, backend: str | None, values: tuple[str, ...], **rest: Any) -> R:
        return command(target=Target(cluster, backend, values), **rest)

    return wrapped


def size_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds ``--jobs`` and ``--workers``, the size at the start; see `size_of`."""
    for option in (
        click.option("--workers", type=click.IntRange(min=0), metavar="N", help="Start with N workers."),
        click.option(
            "--jobs", type=click.IntRange(min=0), metavar="N", help="Start with N jobs, whatever the description says."
        ),
    ):
        command = option(command)
    return command


def size_of(jobs: int | None, workers: int | None) -> dict[str, int] | None:
    """What the size options say, as ``scale`` of a description."""
    if jobs is not None and workers is not None:
        raise click.UsageError("--jobs and --workers exclude each other", click.get_current_context())
    return {"jobs": jobs} if jobs is not None else {"workers": workers} if workers is not None else None


def is_description(path: Path) -> bool:
    """Whether a file describes one cluster; else it has sections. Raises `ConfigError` where it cannot be read."""
    from hpccluster.config.load import read_file

    return not {"backend", "extends"}.isdisjoint(read_file(expand_path("file", path)).value)


def read_values(values: Sequence[str]) -> dict[str, Any]:
    """``["queue=short", "adapt.maximum_jobs=9"]`` as values whose origin is known."""
    found: dict[str, Any] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {text}: write it as KEY=VALUE")
        origin = Origin("--set")
        outer, dot, inner = key.strip().replace("-", "_").partition(".")
        node = parse_text(value.strip(), origin)
        if not dot:
            found[outer] = node
            continue
        holder = found.setdefault(outer, Node({}, origin))
        if not isinstance(holder.value, dict):
            raise ConfigError(f"--set {text}: {outer} has a value already")
        holder.value[inner] = node
    return found
