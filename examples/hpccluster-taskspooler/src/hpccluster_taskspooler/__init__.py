"""hpccluster on task-spooler: a backend as others would write one. It imports hpccluster's plugin API only."""

from hpccluster_taskspooler.cluster import TaskSpoolerCluster

__all__ = ["TaskSpoolerCluster"]
