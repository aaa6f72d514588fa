"""The command line of a job's workers, whatever the engine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hpccluster.errors import ConfigError
from hpccluster.resources import machine_cores, machine_memory
from hpccluster.runtime.exits import EXIT_USAGE
from hpccluster.runtime.settings import DEATH_TIMEOUT, GRACE, VALIDATE_VARIABLE, WorkerSettings

JOB_VARIABLE = "HPCCLUSTER_JOB"
CONNECTION_FILE_VARIABLE = "HPCCLUSTER_CONNECTION_FILE"
"""Set by jobs that get their credential over standard input or in their script: where they have put it."""


class ArgumentParser(argparse.ArgumentParser):
    """One whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def make_arguments(
    connection_file: str | None, *, job: str, processes: int, threads: int, memory: int | None
) -> Sequence[str]:
    """The words of one job's workers; ``memory``: bytes for all of them. Without a file, they are told of it (see above)."""
    return [
        *([] if connection_file is None else ["--connection-file", connection_file]),
        *("--job", job),
        *("--nworkers", str(processes)),
        *("--nthreads", str(threads)),
        *([] if memory is None else ["--memory-limit", str(memory)]),
    ]


def check_extra_arguments(words: Sequence[str]) -> None:
    """Whether workers take these beside those that every job gives them. Raises `ConfigError`."""
    _parse(["worker", *words], is_told=True)


def parse_arguments(arguments: Sequence[str]) -> WorkerSettings:
    """The settings that a command line means; a wrong one ends the process with code 2."""
    told = os.environ.get(CONNECTION_FILE_VARIABLE)
    try:
        return _settings(_parse(arguments, is_told=bool(told)), told)
    except ConfigError as error:
        parser = _parser(is_told=bool(told))
        parser.print_usage(sys.stderr)
        parser.exit(EXIT_USAGE, f"{parser.prog}: error: {error}\n")


def _parse(arguments: Sequence[str], *, is_told: bool) -> argparse.Namespace:
    parser = _parser(is_told=is_told)
    given = parser.parse_args(arguments)
    if given.address and not given.plain:
        parser.error("--address is for plain tcp: say --plain, too, or give a --connection-file")
    if given.no_nanny and given.nworkers != 1:
        parser.error("--no-nanny is for one worker")
    return given


def _settings(given: argparse.Namespace, told: str | None) -> WorkerSettings:
    memory = machine_memory() // given.share if given.memory_limit is None else given.memory_limit
    file = given.connection_file or (Path(told) if told and not given.address else None)
    return WorkerSettings(
        connection_file=file,
        addresses=tuple(given.address or ()),
        nworkers=given.nworkers,
        nthreads=given.nthreads or max(1, machine_cores() // (given.nworkers * given.share)),
        memory_limit=max(0, memory),
        name=given.name,
        job=given.job,
        death_timeout=given.death_timeout,
        grace=given.grace,
        local_directory=given.local_directory,
        host=given.host,
        interface=given.interface,
        nanny=not given.no_nanny,
        validate=given.validate or os.environ.get(VALIDATE_VARIABLE) == "1",
    )


def _parser(*, is_told: bool) -> argparse.ArgumentParser:
    """``is_told``: the environment says where the connection file is."""
    parser = ArgumentParser(prog="python -m hpccluster.runtime", description="Start the workers of a job.")
    worker = parser.add_subparsers(dest="verb", required=True).add_parser("worker")
    where = worker.add_mutually_exclusive_group(required=not is_told)
    where.add_argument(
        "--connection-file",
        type=Path,
        metavar="PATH",
        help=f"all that is needed to join (or: ${CONNECTION_FILE_VARIABLE})",
    )
    where.add_argument("--address", action="append", metavar="TCP://HOST:PORT", help="a plain cluster's scheduler")
    worker.add_argument("--plain", action="store_true", help="yes, without any protection; goes with --address")
    worker.add_argument("--nworkers", type=_positive, default=1, metavar="N", help="worker processes (default: 1)")
    worker.add_argument(
        "--nthreads", type=_positive_or_auto, metavar="T", help="threads of each (default, or auto: all cores, shared)"
    )
    worker.add_argument(
        "--memory-limit",
        type=_bytes_or_auto,
        default=0,
        metavar="BYTES",
        help="of all workers together; auto: this host's",
    )
    worker.add_argument(
        "--share",
        type=_positive,
        default=1,
        metavar="N",
        help="jobs like this on this host: auto is a share (default: 1)",
    )
    worker.add_argument("--name", default="", help="the beginning of the workers' names (default: the job's name)")
    worker.add_argument("--job", default=os.environ.get(JOB_VARIABLE, ""), metavar="NAME", help="the job this runs in")
    worker.add_argument(
        "--death-timeout", type=float, default=DEATH_TIMEOUT, metavar="S", help="seconds without a head"
    )
    worker.add_argument("--grace", type=float, default=GRACE, metavar="S", help="seconds to hand over after a signal")
    worker.add_argument("--local-directory", type=Path, metavar="DIR", help="for temporary files of tasks")
    worker.add_argument(
        "--host",
        type=_address_or_auto,
        default="",
        metavar="ADDRESS",
        help="listen on this address of this host; auto: the one by which it reaches others (default: on the way to the head)",
    )
    worker.add_argument("--interface", default="", metavar="IF", help="listen on this interface's address")
    worker.add_argument("--no-nanny", action="store_true", help="one worker that nobody watches or restarts")
    worker.add_argument("--validate", action="store_true", help="check invariants after each step (slow)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 up")
    return number


def _positive_or_auto(text: str) -> int | None:
    return None if text == "auto" else _positive(text)


def _address_or_auto(text: str) -> str:
    if text != "auto":
        return text
    from hpccluster.comm.address import primary_address

    return primary_address()


def _bytes_or_auto(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes")
    return int(text)
