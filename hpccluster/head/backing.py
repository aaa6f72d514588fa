"""From a specification to its backend: the one place where a head looks plugins up. Loads nothing else."""

from __future__ import annotations

from hpccluster.backend.base import Backend
from hpccluster.backend.options import JobOptions, build_options
from hpccluster.backend.registry import get_plugin
from hpccluster.head.spec import HeadSpec


def make_backend(spec: HeadSpec) -> tuple[JobOptions, Backend]:
    """The checked options and the backend. Raises `ConfigError`, `BackendNotFound`, `BackendUnavailable`."""
    plugin = get_plugin(spec.backend)
    options: JobOptions = build_options(plugin.options_type, spec.options)
    return options, plugin.make_backend(options)
