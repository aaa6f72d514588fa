"""Bytes, then messages, between processes; and who may join.

The certificate authority is not imported here: it needs `cryptography`, which only heads do.
"""

from hpccluster.comm.address import Address, interface_address, is_address, parse_address, route_towards
from hpccluster.comm.channel import Channel
from hpccluster.comm.connect import connect, connect_data
from hpccluster.comm.connection_file import (
    ConnectionFile,
    find_connection_file,
    read_connection_file,
    remove_connection_files,
    state_directory,
    write_connection_file,
)
from hpccluster.comm.data import DataConnection
from hpccluster.comm.listen import Listener, listen
from hpccluster.comm.tls import Security

__all__ = [
    "Address",
    "Channel",
    "ConnectionFile",
    "DataConnection",
    "Listener",
    "Security",
    "connect",
    "connect_data",
    "find_connection_file",
    "interface_address",
    "is_address",
    "listen",
    "parse_address",
    "read_connection_file",
    "remove_connection_files",
    "route_towards",
    "state_directory",
    "write_connection_file",
]
