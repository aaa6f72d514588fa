"""From a specification to its backend: the one place where a head looks plugins up. Loads nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from hpccluster.backend import registry
from hpccluster.backend.base import Backend
from hpccluster.backend.options import JobOptions, build_options
from hpccluster.errors import HpcClusterError
from hpccluster.fleet.asking import ask

CLOSE_TIMEOUT = 10.0
"""Seconds for a backend to release what it has."""


class Described(Protocol):
    """A specification, or a record of a cluster: what says how its jobs are reached."""

    @property
    def backend(self) -> str: ...

    @property
    def options(self) -> dict[str, Any]: ...


def make_backend(spec: Described) -> tuple[JobOptions, Backend]:
    """The checked options and the backend. Raises `ConfigError`, `BackendNotFound`, `BackendUnavailable`."""
    plugin = registry.get_plugin(spec.backend)
    options: JobOptions = build_options(plugin.options_type, spec.options)
    return options, registry.make_backend(plugin, options)


@asynccontextmanager
async def opened(spec: Described) -> AsyncIterator[Backend]:
    """Its backend, to be asked something; closed at the end. Raises as `make_backend` does."""
    _, backend = make_backend(spec)
    try:
        yield backend
    finally:
        await close(backend)


async def close(backend: Backend) -> None:
    """Have it release what it has; nothing depends on it any more."""
    with suppress(HpcClusterError):
        await ask(backend.close, doing="close the backend", timeout=CLOSE_TIMEOUT)
