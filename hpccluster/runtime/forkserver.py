"""The fork server: a process without threads and without a loop from which workers are forked, ready-made.

It is forked by the nanny before that has a loop itself, imports what workers need once, and then does three things on
request: fork a worker, signal one, tell how one has ended. It ends when the nanny does, however that ends, and takes
its workers with it: each has asked the kernel to be killed with its parent, and holds a pipe that tells the same.

Only it may signal workers. It is their parent: as long as it has not taken note of a worker's end, the process id is that
worker's and nobody else's.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypeAlias

import msgspec
from msgspec import Struct

from hpccluster.runtime.exits import EXIT_BUG
from hpccluster.runtime.parent import die_with_parent

REQUEST_LIMIT = 64 * 1024
"""Bytes of one request or report: each is one packet."""


class ForkWorker(Struct, tag=True, array_like=True):
    """Fork worker ``index``; the write end of its stderr comes with the request. Answered by `Forked`."""

    index: int
    argument: str
    """What it is told: for a worker, the address on which it listens for others."""


class SignalWorker(Struct, tag=True, array_like=True):
    """Send this signal to worker ``index``, if it lives."""

    index: int
    signal: int


class Forked(Struct, tag=True, array_like=True):
    """Worker ``index`` is the process ``pid``; 0 if the system could not make one."""

    index: int
    pid: int
    error: str = ""


class Exited(Struct, tag=True, array_like=True):
    """Worker ``index`` has ended."""

    index: int
    pid: int
    exit_code: int | None
    signal: int | None
    peak_memory: int
    """Bytes."""


Request: TypeAlias = ForkWorker | SignalWorker
Report: TypeAlias = Forked | Exited
Become: TypeAlias = Callable[[int, str, int], NoReturn]
"""Is worker ``index`` on ``host``, with the lifeline's descriptor, to the end of its process."""

_requests = msgspec.msgpack.Decoder(Request)
_reports = msgspec.msgpack.Decoder(Report)


class ForkServer:
    """The nanny's side."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self._connection = connection

    @classmethod
    def start(cls, prepare: Callable[[], Become]) -> ForkServer:
        """Fork it. Must be called while this process has one thread and no loop.

        ``prepare`` runs in the fork server: it imports what workers need and returns what a forked worker does.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _serve(theirs, prepare)
        theirs.close()
        ours.setblocking(False)
        return cls(ours, pid)

    def fileno(self) -> int:
        """For `loop.add_reader`."""
        return self._connection.fileno()

    def fork(self, index: int, argument: str) -> int:
        """Ask for worker ``index``; returns the read end of its stderr, which does not block."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        try:
            self.fork_onto(index, argument, write)
        finally:
            os.close(write)
        return read

    def fork_onto(self, index: int, argument: str, stderr: int) -> None:
        """Ask for worker ``index``, which writes its stderr to this descriptor. The caller closes it."""
        self._send(ForkWorker(index, argument), stderr)

    def signal(self, index: int, number: int) -> None:
        """Signal worker ``index``, if it lives."""
        self._send(SignalWorker(index, number))

    def reports(self) -> list[Report] | None:
        """What it has to say now; None if it has ended."""
        found: list[Report] = []
        while True:
            try:
                data = self._connection.recv(REQUEST_LIMIT)
            except BlockingIOError:
                return found
            except ConnectionError:
                data = b""
            if not data:
                return found or None
            found.append(_reports.decode(data))

    def close(self) -> None:
        """End it, and the workers that still live."""
        self._connection.close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _send(self, request: Request, *descriptors: int) -> None:
        with suppress(BrokenPipeError, ConnectionError):  # it has ended: `reports` tells
            socket.send_fds(self._connection, [msgspec.msgpack.encode(request)], descriptors)


# ------------------------------------------------------------------------------------------------- in the fork server


class _Server:
    def __init__(self, connection: socket.socket, become: Become) -> None:
        self._connection = connection
        self._become = become
        self._workers: dict[int, int] = {}
        """The index of each living worker, by process id."""
        self._lifeline, self._lifeline_held = os.pipe()
        """Workers keep the first; only this process has the second, so that the first ends with it."""
        self._wake, wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._waking = wake

    def serve(self) -> None:
        """Until the nanny has gone."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wake in ready:
                with suppress(BlockingIOError):
                    os.read(self._wake, 512)
                self._bury()
            if self._connection.fileno() in ready and not self._take_request():
                return

    def kill_all(self) -> None:
        """What is left of the workers, and of what they have started."""
        for pid in list(self._workers):
            _kill_group(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _take_request(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._connection, REQUEST_LIMIT, 1)
        if not data:
            return False
        match _requests.decode(data):
            case ForkWorker(index, argument):
                self._fork(index, argument, descriptors[0])
            case SignalWorker(index, number):
                for pid, known in self._workers.items():
                    if known == index:
                        os.kill(pid, number)  # not buried yet, so that the id cannot be another's
        return True

    def _fork(self, index: int, argument: str, stderr: int) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._report(Forked(index, 0, str(error)))
            os.close(stderr)
            return
        if pid == 0:
            self._be_worker(index, argument, stderr)
        os.close(stderr)
        self._workers[pid] = index
        self._report(Forked(index, pid))

    def _be_worker(self, index: int, argument: str, stderr: int) -> NoReturn:
        """Never returns, whatever happens."""
        try:
            parent = os.getppid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.setpgid(0, 0)  # so that what its tasks start can be ended with it
            die_with_parent(parent)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a task that asks the terminal would be stopped
            os.dup2(stderr, 2)
            for descriptor in (stderr, self._wake, self._waking, self._lifeline_held):
                os.close(descriptor)
            self._connection.close()
            faulthandler.enable()
            self._become(index, argument, self._lifeline)
        except BaseException:  # noqa: BLE001 - the top of a process: it is shown, and the process ends
            sys.excepthook(*sys.exc_info())
        finally:
            with suppress(Exception):  # a task may have put anything there
                sys.stderr.flush()
            os._exit(EXIT_BUG)

    def _bury(self) -> None:
        """Take note of every worker that has ended, and end what it has left running."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            _kill_group(pid)  # while its id is still reserved by the process that nobody has waited for
            _, status, usage = os.wait4(pid, 0)
            index = self._workers.pop(pid, None)
            if index is None:
                continue
            killer = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
            self._report(Exited(index, pid, code, killer, usage.ru_maxrss * 1024))

    def _report(self, report: Report) -> None:
        with suppress(BrokenPipeError, ConnectionError):
            self._connection.send(msgspec.msgpack.encode(report))


def _serve(connection: socket.socket, prepare: Callable[[], Become]) -> NoReturn:
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the nanny decides, and tells by hanging up
        become = prepare()
        gc.collect()
        gc.freeze()
        server = _Server(connection, become)
        try:
            server.serve()
        finally:
            server.kill_all()
    except BaseException:  # noqa: BLE001 - as above
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _kill_group(leader: int) -> None:
    """Kill the process group of a worker that has not been waited for. Its own, never ours and never everybody's."""
    assert leader > 1
    with suppress(ProcessLookupError, PermissionError):
        if leader != os.getpgrp():
            os.killpg(leader, signal.SIGKILL)
