"""Makes clusters by the name of their backend: what the command line and ``from_config`` stand on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpccluster.cluster import launch
from hpccluster.cluster.manager import ClusterManager
from hpccluster.head.spec import HeadReady, HeadSpec

__all__ = ["make_cluster", "start_head"]


def make_cluster(backend: str, options: Mapping[str, Any] | None = None, **keywords: Any) -> ClusterManager:
    """A cluster on this backend, as its own class would make it from the same keywords."""
    return ClusterManager.from_config(backend, **{**(options or {}), **keywords})


def start_head(spec: HeadSpec, *, timeout: float = launch.START_TIMEOUT) -> HeadReady:
    """Start a head that nobody owns and wait until it is ready: it survives this process, and a logout.

    Raises like `launch.start_head`.
    """
    assert spec.detached, "the head of an owner is started by its manager"
    return launch.start_head(spec, timeout=timeout).ready
