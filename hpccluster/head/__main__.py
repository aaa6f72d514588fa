"""``python -m hpccluster.head``: one line of specification on standard input, one line of answer on standard output.

Standard input stays open for as long as the owner lives. Everything else that is said goes to the cluster's ``head.log``,
never to a terminal. This module knows processes: descriptors, signals, the event loop; the cluster is `Head`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import select
import signal
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

# A short-lived burst of imports makes no garbage that is worth looking for.
gc.disable()

from hpccluster.errors import HpcClusterError  # noqa: E402
from hpccluster.head.spec import HeadFailed, HeadReady, HeadSpec, decode_spec, encode_line  # noqa: E402

if TYPE_CHECKING:
    from hpccluster.backend.base import Backend
    from hpccluster.backend.options import JobOptions

SPEC_LIMIT = 16 * 1024 * 1024
FILE_LIMIT = 65536
EXIT_FAILED = 1


def main() -> int:
    """The exit code: 0 after a cluster's ordered end, 1 where it could not start or its jobs' end is unconfirmed."""
    owner = os.getppid()
    answer = os.dup(1)
    pipe = os.dup(0)  # the copies are not inherited by what we start
    _point_at(Path(os.devnull), 0, os.O_RDONLY)
    os.dup2(2, 1)
    if not select.select([pipe], [], [], 0)[0]:
        _load()  # while whoever started us still thinks about the specification
    line = _read_line(pipe)
    if not line:
        return 0  # it was thought better of
    try:
        return _run(decode_spec(line), pipe, owner, answer)
    except HpcClusterError as error:
        _say(answer, HeadFailed.from_error(error))
        return EXIT_FAILED


def _load() -> None:
    """Import what takes long."""
    import hpccluster.comm.authority
    import hpccluster.head.server  # noqa: F401


def _run(spec: HeadSpec, pipe: int, owner: int, answer: int) -> int:
    from hpccluster.head.backing import make_backend
    from hpccluster.runtime.sync import new_loop

    options, backend = make_backend(spec)
    with ExitStack() as ending:
        if backend.ends_with_head:
            # Forked before there are threads or a loop; it loads what nannies need while we load what a head needs.
            from hpccluster.runtime.launcher import Launcher

            launcher = Launcher.start(close=(pipe, answer))
            ending.callback(launcher.close)
            backend.use_launcher(launcher)
        _load()
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(_serve(spec, options, backend, pipe=pipe, owner=owner, answer=answer))


async def _serve(spec: HeadSpec, options: JobOptions, backend: Backend, *, pipe: int, owner: int, answer: int) -> int:
    from hpccluster.head.server import Head

    head = Head(spec, options, backend)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, head.request_end, f"it got {number.name}")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a logout is not the end of a cluster
    head.claim()
    _log_to(head.directory.head_log)
    _raise_file_limit()
    if spec.detached:
        os.close(pipe)
    else:
        head.lease.watch_pipe(pipe, owner)
    ready = await head.start()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    gc.enable()
    _say(answer, ready)
    report = await head.serve()
    return EXIT_FAILED if report.unconfirmed else 0


def _read_line(descriptor: int) -> bytes:
    """Up to the end of the first line; nothing of what may follow is taken. Blocks."""
    line = b""
    while not line.endswith(b"\n") and len(line) < SPEC_LIMIT:
        part = os.read(descriptor, 65536)
        if not part:
            break
        line += part
    return line


def _say(descriptor: int, message: HeadReady | HeadFailed) -> None:
    """The one answer. Nobody may be there to hear it."""
    with suppress(OSError):
        os.write(descriptor, encode_line(message))
    with suppress(OSError):
        os.close(descriptor)


def _log_to(path: Path) -> None:
    """Everything that is said from now on, by us or by a library that prints, goes to this file."""
    for number in (1, 2):
        _point_at(path, number, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s  %(levelname)-7s  %(name)s  %(message)s"
    )


def _point_at(path: Path, number: int, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    os.dup2(descriptor, number)
    os.close(descriptor)


def _raise_file_limit() -> None:
    """A thousand workers are a thousand descriptors; the soft limit of most systems is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILE_LIMIT if hard == resource.RLIM_INFINITY else min(hard, FILE_LIMIT)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
