"""Which cluster a program means, and what its workers must know of the program."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpccluster.comm.connection_file import ConnectionFile, find_connection_file, read_connection_file
from hpccluster.errors import ClusterClosed, ClusterNotFound, ConfigError
from hpccluster.protocol.messages import Role

CLUSTER_VARIABLE = "HPCCLUSTER_CLUSTER"
"""Names the connection file (or name, or address) of the cluster that `Client()` joins."""

_EPOCH = datetime.fromtimestamp(0, UTC)


def module_paths() -> list[str]:
    """Directories from which this program imports modules and that a worker's interpreter would not know."""
    standard = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    paths = [str(Path(path or ".").resolve()) for path in sys.path]
    return [path for path in dict.fromkeys(paths) if Path(path).is_dir() and not path.startswith(standard)]


def connection_of(target: Any) -> ConnectionFile:
    """The connection file that a user's way of naming a cluster means."""
    where = getattr(target, "connection_file", target)
    if getattr(target, "is_closed", False) and not Path(where).exists():  # a forked child holds its cluster closed
        raise ClusterClosed(f"cluster {target.name!r} is closed")
    if where is None:
        where = os.environ.get(CLUSTER_VARIABLE)
        if not where:
            raise ClusterNotFound(
                "Client() needs to know its cluster: Client(cluster), Client(name), or a program started by "
                "'hpccluster submit'\n  running clusters: hpccluster status     a new one here: LocalCluster()"
            )
    if isinstance(where, ConnectionFile):
        return where
    if not isinstance(where, str | os.PathLike):
        kind = type(where).__name__
        raise TypeError(f"Client() takes a cluster, its name or address, or the path of a connection file, not {kind}")
    text = str(where)
    if text.startswith("tcp://"):  # plain on purpose: nothing to find
        return ConnectionFile(cluster="", name="", role=Role.CLIENT, addresses=(text,), created=_EPOCH, expires=_EPOCH)
    file = read_connection_file(find_connection_file(text, Role.CLIENT), Role.CLIENT)
    if file.engine != "native":
        raise ConfigError(
            f"cluster {file.name!r} runs the engine {file.engine}, which has clients of its own\n"
            f"  fix: {file.engine}.distributed.Client(cluster), or cluster.get_client()",
            code="HPC-ENGINE-CLIENT",
        )
    return file
