"""Elastic Python clusters on batch queues, SSH hosts or one machine.

    from hpccluster import SLURMCluster, Client

Everything public is loaded when it is first used (PEP 562), so that a worker's start imports little.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hpccluster.cluster.manager import ClusterManager as ClusterManager
    from hpccluster.errors import HpcClusterError as HpcClusterError
    from hpccluster.runtime.client import Client as Client
    from hpccluster.runtime.futures import Future as Future
    from hpccluster.runtime.futures import as_completed as as_completed
    from hpccluster.runtime.futures import wait as wait
    from hpccluster_local.cluster import LocalCluster as LocalCluster
    from hpccluster_pbs.cluster import PBSCluster as PBSCluster
    from hpccluster_slurm.cluster import SLURMCluster as SLURMCluster
    from hpccluster_ssh.cluster import SSHCluster as SSHCluster

_WHERE = {
    "Client": "hpccluster.runtime.client",
    "ClusterManager": "hpccluster.cluster.manager",
    "Future": "hpccluster.runtime.futures",
    "HpcClusterError": "hpccluster.errors",
    "LocalCluster": "hpccluster_local.cluster",
    "PBSCluster": "hpccluster_pbs.cluster",
    "SLURMCluster": "hpccluster_slurm.cluster",
    "SSHCluster": "hpccluster_ssh.cluster",
    "as_completed": "hpccluster.runtime.futures",
    "wait": "hpccluster.runtime.futures",
}

__all__ = [
    "Client",
    "ClusterManager",
    "Future",
    "HpcClusterError",
    "LocalCluster",
    "PBSCluster",
    "SLURMCluster",
    "SSHCluster",
    "__version__",
    "as_completed",
    "wait",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hpccluster' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
