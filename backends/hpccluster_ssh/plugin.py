"""What the entry point ``ssh`` names."""

from __future__ import annotations

from hpccluster.backend.base import BackendPlugin
from hpccluster_ssh.backend import SSHBackend
from hpccluster_ssh.options import SSHOptions

PLUGIN = BackendPlugin(
    name="ssh",
    options_type=SSHOptions,
    make_backend=SSHBackend,
    cluster_type="hpccluster_ssh.cluster:SSHCluster",
    summary="hosts that are reached by SSH",
    modules=("asyncssh",),
    extra="ssh",
)
