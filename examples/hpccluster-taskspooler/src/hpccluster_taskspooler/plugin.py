"""What the entry point ``taskspooler`` names."""

from __future__ import annotations

from hpccluster.backend.base import BackendPlugin
from hpccluster_taskspooler.backend import TaskSpoolerBackend
from hpccluster_taskspooler.options import TaskSpoolerOptions

PLUGIN = BackendPlugin(
    name="taskspooler",
    options_type=TaskSpoolerOptions,
    make_backend=TaskSpoolerBackend,
    cluster_type="hpccluster_taskspooler.cluster:TaskSpoolerCluster",
    commands=("tsp", "timeout", "pkill"),
    summary="jobs in a queue of task-spooler on this machine",
    contract=1,
)
