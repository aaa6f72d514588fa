"""What the entry point ``pbs`` names."""

from __future__ import annotations

from hpccluster.backend.base import BackendPlugin
from hpccluster_pbs.backend import PBSBackend
from hpccluster_pbs.options import PBSOptions

PLUGIN = BackendPlugin(
    name="pbs",
    options_type=PBSOptions,
    make_backend=PBSBackend,
    cluster_type="hpccluster_pbs.cluster:PBSCluster",
    commands=("qsub", "qstat", "qdel"),
    summary="jobs in the queues of OpenPBS, PBS Pro or Torque",
)
