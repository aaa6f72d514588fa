"""What `dask.distributed.Client` looks for in a cluster object. Imports dask's packages only where they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpccluster.comm.connection_file import read_connection_file
from hpccluster.errors import ConfigError
from hpccluster.protocol.messages import Role


def security(connection_file: Path) -> Any:
    """The client's credential as `distributed.Security`. Raises `ConfigError` where the cluster is not one of dask's."""
    file = read_connection_file(connection_file, Role.CLIENT)
    if file.engine != "dask":
        raise ConfigError(
            f"cluster {file.name!r} runs the engine {file.engine}, which dask's client cannot speak to\n"
            "  fix: hpccluster.Client(cluster), or make the cluster with engine='dask'"
        )
    from hpccluster.engine.dask_security import security_of

    return security_of(file)


def get_client(cluster: Any, engine: str) -> Any:
    """A client of the kind that the engine has."""
    if engine == "dask":
        from hpccluster.engine.dask_security import client_of

        return client_of(cluster)
    from hpccluster.runtime.client import Client

    return Client(cluster)
