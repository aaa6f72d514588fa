"""Sockets: their options, and how several addresses of one peer are tried."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from hpccluster.comm.address import Address
from hpccluster.errors import PeerLost

USER_TIMEOUT = 20.0
"""Seconds that sent bytes may stay unacknowledged before the kernel gives the connection up (tcp(7))."""
BACKLOG = 4096
STAGGER = 0.3
"""Seconds before the next address is tried while one is still silent (RFC 8305)."""

_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))


def configure(sock: Any) -> None:
    """No delay, and a dead host is noticed. ``sock`` is a socket, or what a transport gives out as one."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):  # macOS has them under other names; its defaults will do
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(USER_TIMEOUT * 1000))


def describe(error: OSError) -> str:
    """An operating system error in its own words, with its name: ``Connection refused (ECONNREFUSED)``."""
    number = error.errno or 0
    if name := errno.errorcode.get(number):
        return f"{os.strerror(number)} ({name})"  # asyncio puts words of its own into ``strerror``
    return error.strerror or str(error) or type(error).__name__


async def dial(
    addresses: Sequence[Address], failures: list[str]
) -> AsyncGenerator[tuple[Address, socket.socket], None]:
    """Connected sockets, the first that came about first; the caller owns each it is given.

    The addresses are tried in order, the next one as soon as the one before it has failed or been silent for `STAGGER`
    seconds. What fails is noted in ``failures``. To be used in `contextlib.aclosing`: attempts that are still under
    way when the generator is closed are given up.
    """
    waiting = list(addresses)
    attempts: dict[asyncio.Task[socket.socket], Address] = {}
    try:
        while waiting or attempts:
            if waiting:
                address = waiting.pop(0)
                attempts[asyncio.create_task(_connect(address), name=f"connect {address}")] = address
            timeout = STAGGER if waiting else None
            done, _ = await asyncio.wait(attempts, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                address = attempts.pop(task)
                try:
                    sock = task.result()
                except OSError as error:
                    failures.append(f"{address}: {describe(error)}")
                    continue
                yield address, sock
    finally:
        for task in attempts:
            task.cancel()
        for result in await asyncio.gather(*attempts, return_exceptions=True):
            if isinstance(result, socket.socket):
                result.close()
        failures.extend(f"{address}: no answer" for address in attempts.values())


async def _connect(address: Address) -> socket.socket:
    """Raises `OSError`. A name's addresses are tried one after the other."""
    last: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    for family, kind, protocol, _, peer in await _resolve(address):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await _connect_socket(sock, peer)
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise last


# uvloop's own ways to resolve and to connect start libuv's threads, which libuv joins when the process ends: a child that
# the program has forked, and that has none of them, crashes there.


async def _resolve(address: Address) -> list[Any]:
    """What `socket.getaddrinfo` says, in a thread where that may take long."""
    ask = functools.partial(socket.getaddrinfo, address.host, address.port, type=socket.SOCK_STREAM)
    try:
        return ask(flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await asyncio.to_thread(ask)


async def _connect_socket(sock: socket.socket, peer: Any) -> None:
    """Connect a socket that does not block. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    result = sock.connect_ex(peer)
    if result == errno.EINPROGRESS:
        writable = asyncio.Event()
        loop.add_writer(sock, writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(sock)
        result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if result:
        raise OSError(result, os.strerror(result))


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; ``port`` 0 is any. Raises `PeerLost` with the system's words and the address."""
    address = f"{host or '*'} port {port}"
    sock: socket.socket | None = None
    try:
        family, kind, protocol, _, name = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(name)
        sock.listen(BACKLOG)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise PeerLost(f"cannot listen on {address}: {describe(error)}", code="HPC-NET-LISTEN") from error
    return sock
