"""A cluster's credentials in the form that dask's schedulers, workers and clients take them, and its client."""

from __future__ import annotations

import ssl
from typing import Any

from distributed import Client
from distributed.security import Security

from hpccluster.comm.connection_file import ConnectionFile

_PARTS = ("cert", "key")
_ROLES = ("scheduler", "worker", "client")


def security_of(file: ConnectionFile) -> Security:
    """For whoever has this connection file, in whatever role: what it says, whatever dask's own configuration says.

    The texts stay in memory; dask writes them into a directory of the user's own for the moment in which it loads them.
    """
    names = [f"tls_{role}_{part}" for role in _ROLES for part in _PARTS]
    plain: dict[str, object] = dict.fromkeys((*names, "tls_ciphers", "tls_max_version"))
    if not file.certificate:
        return Security(require_encryption=False, tls_ca_file=None, **plain)
    texts = {"cert": file.certificate, "key": file.key}
    return Security(
        require_encryption=True,
        tls_ca_file=file.ca,
        tls_min_version=ssl.TLSVersion.TLSv1_3,
        **plain | {name: texts[name.rpartition("_")[2]] for name in names},
    )


def client_of(cluster: Any) -> Client:
    """Dask's client of this cluster object."""
    return Client(cluster)
