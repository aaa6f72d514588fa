"""From a specification to its backend: the one place where a head looks plugins up. Loads nothing else."""

from __future__ import annotations

from typing import Any, Protocol

from hpccluster.backend.base import Backend
from hpccluster.backend.options import JobOptions, build_options
from hpccluster.backend.registry import get_plugin


class Described(Protocol):
    """A specification, or a record of a cluster: what says how its jobs are reached."""

    @property
    def backend(self) -> str: ...

    @property
    def options(self) -> dict[str, Any]: ...


def make_backend(spec: Described) -> tuple[JobOptions, Backend]:
    """The checked options and the backend. Raises `ConfigError`, `BackendNotFound`, `BackendUnavailable`."""
    plugin = get_plugin(spec.backend)
    options: JobOptions = build_options(plugin.options_type, spec.options)
    return options, plugin.make_backend(options)
