"""Starts a head as a process of its own and waits for its one-line answer.

The head gets its specification over a pipe whose write end stays here, and nowhere else: when this process dies, in
whatever way, the pipe closes and the head knows. Must not know what a head does; imports little, so that the head's process is
there before this one has loaded what it needs itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import signal
import subprocess
import sys
import time
import weakref
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Protocol, Self

from hpccluster.errors import ClusterError, ConfigError, LogsUnavailable

if TYPE_CHECKING:
    from hpccluster.head.spec import HeadReady, HeadSpec

START_TIMEOUT = 60.0
"""Seconds for a head to be ready, its first jobs accepted by the batch system included."""

SETTLE_TIMEOUT = 20.0
"""Seconds for a batch system to confirm the end of jobs that a dead head of the same name has left."""

GOING_TIME = 5.0
"""Seconds for a head that is not wanted to go, before it is told again."""

LOG_LINES = 12
"""Of a head that did not start, in the error that says so."""

_MODULE = "hpccluster.head"
_pipes: weakref.WeakSet[HeadProcess] = weakref.WeakSet()


class RunningHead(Protocol):
    """A head that is ready, and belongs to this process."""

    ready: HeadReady

    @property
    def is_running(self) -> bool: ...

    @property
    def ending(self) -> str:
        """How it ended, where that is worth a word: ``killed by SIGKILL``."""

    def wait(self, timeout: float) -> bool:
        """Whether it has ended, waiting for at most so long."""

    def release(self) -> None:
        """Own it no longer: it goes down by itself, unless it is detached. Idempotent."""

    def kill(self) -> None:
        """The last resort."""


class Starting(AbstractContextManager["Starting"], Protocol):
    """A head that is about to be: `finish` makes it one, the end of the block without it is its end."""

    def finish(self, spec: HeadSpec, *, timeout: float) -> RunningHead: ...

    def abandon(self) -> None: ...


class HeadProcess:
    """A head that is ready, as a child of this process."""

    def __init__(self, process: subprocess.Popen[bytes], ready: HeadReady) -> None:
        self.ready = ready
        self._process = process
        _pipes.add(self)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def ending(self) -> str:
        code = self._process.poll()
        if code is None or code == 0:
            return ""
        if code > 0:
            return f"exit code {code}"
        known = -code in signal.valid_signals()
        return f"killed by {signal.Signals(-code).name if known else f'signal {-code}'}"

    def wait(self, timeout: float) -> bool:
        """Whether the head has ended, waiting for at most so long."""
        return _wait(self._process, timeout)

    def release(self) -> None:
        """Close the owner's pipe: the head goes down by itself, unless it is detached. Idempotent."""
        _close(self._process.stdin)

    def kill(self) -> None:
        """The last resort; its workers end by themselves."""
        self._process.kill()
        self._process.wait()


class StartingHead:
    """A head's process that gets ready while its specification is still being made."""

    def __init__(self, python: str = "") -> None:
        """``python``: the interpreter, this one if empty."""
        interpreter = python or sys.executable
        if not interpreter:
            raise ConfigError(
                "this program does not know its Python interpreter; set python= to one that has hpccluster"
            )
        self._process = subprocess.Popen(
            # -P: a module in the current directory must not replace one of the standard library in the head.
            [interpreter, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self._is_told = self._is_ready = self._is_detached = False

    def finish(self, spec: HeadSpec, *, timeout: float = START_TIMEOUT) -> HeadProcess:
        """Tell it what it is, and wait until it is ready.

        *Success*: it serves, and every job of its first size was accepted. *An error that the head names* is raised as
        itself; *`ClusterError`*: it died without a word, or was not ready in time. After an error or an interrupt it is
        going down or gone.
        """
        from hpccluster.head.spec import decode_answer

        process = self._process
        try:
            _settle_former(spec)
            self._is_told, self._is_detached = True, spec.detached
            line = _converse(process, spec, time.monotonic() + timeout)
            head = HeadProcess(process, decode_answer(line))
        except BaseException:
            self.abandon()
            raise
        self._is_ready = True
        _close(process.stdout)
        _close(process.stderr)
        if spec.detached:
            head.release()
        return head

    def abandon(self) -> None:
        """Let it go, and make sure that it goes. Idempotent; does nothing once `finish` was successful."""
        process = self._process
        if self._is_ready:
            return
        if not self._is_told:
            process.kill()  # it has done nothing yet
        elif self._is_detached:
            process.terminate()  # the end of the pipe says nothing to one that has no owner
        _close(process.stdin)
        if not _wait(process, GOING_TIME):
            process.terminate()
            if not _wait(process, GOING_TIME):
                process.kill()
                process.wait()
        _close(process.stdout)
        _close(process.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()


def start_head(spec: HeadSpec, *, python: str = "", timeout: float = START_TIMEOUT) -> HeadProcess:
    """Start a head and wait until it is ready; errors as of `StartingHead.finish`."""
    return StartingHead(python).finish(spec, timeout=timeout)


def _settle_former(spec: HeadSpec) -> None:
    """Do what the last head of that name has left undone, for the new one's record takes the place of its own."""
    directory = Path(spec.state_directory) / spec.name
    # not Path.exists: what cannot be looked at is the new head's to tell
    if not spec.state_directory or not os.path.exists(directory / "head.json"):  # noqa: PTH110
        return
    from hpccluster.cluster.aftermath import put_in_order
    from hpccluster.head.directory import look_for_head, read_record

    record = read_record(directory)
    if record is None or (record.state == "ended" and not record.unconfirmed) or look_for_head(record) != "gone":
        return
    left = put_in_order(record, directory, reason="its head has died", timeout=SETTLE_TIMEOUT)
    if left:
        logging.getLogger("hpccluster.cluster").warning(
            "jobs of a former cluster %r may still be there: %s", spec.name, ", ".join(sorted(left))
        )


def _converse(process: subprocess.Popen[bytes], spec: HeadSpec, deadline: float) -> bytes:
    """Tell the specification, get the answer."""
    from hpccluster.head.spec import encode_line

    assert process.stdin is not None
    assert process.stdout is not None
    try:
        rest = memoryview(encode_line(spec))
        while rest:
            rest = rest[process.stdin.write(rest) :]
    except BrokenPipeError:
        raise _died(process, spec) from None
    answer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not answer.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise ClusterError(
                    f"the head of {spec.name!r} was not ready in time{_tail(_head_log(spec))}", code="HPC-HEAD-SLOW"
                )
            part = process.stdout.read(65536)
            if not part:
                raise _died(process, spec)
            answer += part
    return answer


def _died(process: subprocess.Popen[bytes], spec: HeadSpec) -> ClusterError:
    """The error for a head that ended without an answer."""
    code = process.returncode if _wait(process, GOING_TIME) else "unknown"
    said = process.stderr.read(65536) if process.stderr is not None else b""
    text = said.decode(errors="replace")
    return ClusterError(
        f"the head of {spec.name!r} ended before it was ready (exit code {code}){_indented(text) or _tail(_head_log(spec))}",
        code="HPC-HEAD-DIED",
    )


def _head_log(spec: HeadSpec) -> Path:
    from hpccluster.comm.connection_file import state_directory

    parent = Path(spec.state_directory) if spec.state_directory else state_directory()
    return parent / spec.name / "head.log"


def _tail(log: Path) -> str:
    from hpccluster.backend.runner import read_tail

    try:
        text = read_tail(str(log), LOG_LINES)
    except (OSError, LogsUnavailable):
        return ""
    return f"\nlog: {log}{_indented(text)}"


def _indented(text: str) -> str:
    return "".join(f"\n | {line}" for line in text.strip().splitlines()[-LOG_LINES:])


def _wait(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Whether it has ended. `Popen.wait` with a timeout sleeps up to 50 ms at a time; the kernel knows at once."""
    if process.poll() is None and hasattr(os, "pidfd_open"):
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            pass
        else:
            try:
                poller = select.poll()
                poller.register(descriptor, select.POLLIN)
                poller.poll(timeout * 1000)
            finally:
                os.close(descriptor)
            timeout = 0.0
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        return False
    return True


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):
            pipe.close()


def _close_in_child() -> None:
    """A forked child (multiprocessing) must not keep its parent's clusters alive."""
    for head in _pipes:
        head.release()


os.register_at_fork(after_in_child=_close_in_child)


def check_no_worker_imports_this() -> None:
    """A module that starts a cluster when it is imported, and whose functions are run as tasks, would start one in every
    worker, whose workers would start theirs. Raises `ClusterError`.
    """
    frame: FrameType | None = sys._getframe(1)
    module, is_import = "", False
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            module = module or frame.f_globals["__name__"]
        is_import = is_import or frame.f_code.co_filename == "<frozen importlib._bootstrap>"
        if is_import and frame.f_globals.get("__name__") == "hpccluster.runtime.executor":
            raise ClusterError(
                f"a worker has imported the module {module!r}, which starts a cluster at its top level\n  fix: run {module} "
                "as the program itself, or start the cluster in a function or under 'if __name__ == \"__main__\"'"
            )
        frame = frame.f_back
