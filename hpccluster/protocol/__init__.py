"""Messages and how they become bytes. Pure: no sockets, no clock."""
