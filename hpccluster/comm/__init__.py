"""Bytes, then messages, between processes; and who may join.

What is named here is loaded when it is first used, so that reading a connection file does not load the event loop;
`connect` and `listen` are in the modules of these names. The certificate authority (`hpccluster.comm.authority`) is not named: it needs `cryptography`, which only heads do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpccluster.comm.channel import Channel as Channel
    from hpccluster.comm.connect import connect_data as connect_data
    from hpccluster.comm.connection_file import ConnectionFile as ConnectionFile
    from hpccluster.comm.data import DataConnection as DataConnection
    from hpccluster.comm.listen import Listener as Listener
    from hpccluster.comm.tls import Security as Security

_WHERE = {
    "Channel": "channel",
    "ConnectionFile": "connection_file",
    "DataConnection": "data",
    "Listener": "listen",
    "Security": "tls",
    "connect_data": "connect",
}

__all__ = [
    "Channel",
    "ConnectionFile",
    "DataConnection",
    "Listener",
    "Security",
    "connect_data",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hpccluster.comm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hpccluster.comm.{_WHERE[name]}"), name)
