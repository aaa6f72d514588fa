"""What the entry point ``slurm`` names."""

from __future__ import annotations

from hpccluster.backend.base import BackendPlugin
from hpccluster_slurm.backend import SlurmBackend
from hpccluster_slurm.options import SlurmOptions

PLUGIN = BackendPlugin(
    name="slurm",
    options_type=SlurmOptions,
    make_backend=SlurmBackend,
    cluster_type="hpccluster_slurm.cluster:SLURMCluster",
    commands=("sbatch", "squeue", "scancel"),
    summary="jobs in the queues of Slurm",
)
