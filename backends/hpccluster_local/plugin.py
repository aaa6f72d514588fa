"""What the entry point ``local`` names."""

from __future__ import annotations

from hpccluster.backend.base import BackendPlugin
from hpccluster_local.backend import LocalBackend
from hpccluster_local.options import LocalOptions

PLUGIN = BackendPlugin(
    name="local",
    options_type=LocalOptions,
    make_backend=LocalBackend,
    cluster_type="hpccluster_local.cluster:LocalCluster",
    summary="processes of this machine",
)
