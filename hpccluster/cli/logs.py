"""`logs` and `wait`: what a program or job has written, and how it ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import click

from hpccluster.cli import complete
from hpccluster.cli.output import JSON, note, progress, says_what_goes_on, write_json
from hpccluster.errors import ClusterClosed, ConfigError, LogsUnavailable, StartTimeout
from hpccluster.head.directory import HEAD_LOG, PROGRAM_LOG, HeadRecord, is_alive, read_record, tell_end

LOOK_INTERVAL = 0.2
"""Seconds between looks at a file that grows; files on network file systems tell nobody that they do."""
END_TIMEOUT = 60.0
"""Seconds for a cluster to cancel its jobs after the end of its program, and to verify that."""
ALIVE_INTERVAL = 5.0
"""Seconds between looks whether the head still lives, while its record says so."""


@click.command("logs")
@click.argument("name", shell_complete=complete.any_cluster)
@click.option("-f", "--follow", is_flag=True, help="Go on until the program has ended.")
@click.option(
    "--job",
    metavar="ID",
    shell_complete=complete.job,
    help="The output of this job, by its name or the batch system's id.",
)
@click.option("--head", "of_head", is_flag=True, help="The log of the cluster's head.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="The last N lines only.")
@click.option("--json", "as_json", is_flag=True, help="For programs: {source: text}.")
def logs_command(name: str, follow: bool, job: str | None, of_head: bool, tail: int | None, as_json: bool) -> None:
    """Show what a cluster's program has written; what its head or one of its jobs has."""
    from hpccluster.cli.running import find_cluster

    if job is not None and of_head:
        raise click.UsageError("--job and --head exclude each other", click.get_current_context())
    record, directory = find_cluster(name)
    if job is not None:
        if follow:
            raise ConfigError("-f follows a program or a head; a job's output is shown as it is now")
        source, text = job, _job_log(name, record, directory, job, tail)
    else:
        of_head = of_head or record.program is None
        if record.program is None and not (directory / HEAD_LOG).exists():
            raise LogsUnavailable(f"{name!r} keeps no log: it writes to its terminal")
        source, path = ("head", directory / HEAD_LOG) if of_head else ("program", directory / PROGRAM_LOG)
        if follow and not as_json:
            with says_what_goes_on(name):
                follow_file(path, directory, tail=tail, until=_head_is_over if of_head else program_is_over)
            return
        text = _last_lines(_read(path), tail)
    if as_json:
        write_json({source: text})
    elif text:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


@click.command("wait")
@click.argument("name", shell_complete=complete.any_cluster)
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Exit code 124 after so long.")
@JSON
def wait_command(name: str, timeout: float | None, as_json: bool) -> int:
    """Wait until a cluster's program has ended; the exit code is the program's."""
    from hpccluster.cli.running import find_cluster

    record, directory = find_cluster(name)
    if record.program is None and record.state != "ended":
        raise ConfigError(f"cluster {name!r} has no program to wait for; it lives until: hpccluster down {name}")
    with says_what_goes_on(name), progress(f"waiting for {name!r}"):
        record = wait_for_end(directory, wait_for_program(directory, timeout))
    if as_json:
        program = record.program
        write_json(
            {
                "name": name,
                "state": program.state if program is not None else record.state,
                "exit_code": program.exit_code if program is not None else None,
                "reason": record.reason,
                "unconfirmed": list(record.unconfirmed),
            }
        )
    return program_exit_code(record)


def _job_log(name: str, record: HeadRecord, directory: Path, job: str, tail: int | None) -> str:
    from hpccluster.cli.running import ask

    if record.state != "ended" and is_alive(record):
        return str(ask(name, "logs", {"job": job, "tail": tail})[job])
    path = directory / f"{job}.log"
    if "/" in job or not path.is_file():
        logs = sorted(file.stem for file in directory.glob("*.log") if file.name not in (HEAD_LOG, PROGRAM_LOG))
        raise LogsUnavailable(f"no output of a job {job!r} in {directory}\nthere is: {', '.join(logs) or 'none'}")
    return _last_lines(_read(path), tail)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise LogsUnavailable(f"{path}: {error.strerror}") from error


def _last_lines(text: str, tail: int | None) -> str:
    if tail is None:
        return text
    return "".join(text.splitlines(keepends=True)[-tail:]) if tail else ""


# --------------------------------------------------------------------------------------------------------- following


def program_is_over(record: HeadRecord) -> bool:
    """Whether nothing more will be written by the program."""
    return record.state == "ended" or (record.program is not None and record.program.state != "running")


def _head_is_over(record: HeadRecord) -> bool:
    return record.state == "ended"


def wait_for_program(directory: Path, timeout: float | None = None) -> HeadRecord:
    """The record of a cluster whose program has ended.

    Raises `ClusterClosed` if its head disappears, `StartTimeout` after ``timeout`` seconds.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    watch = _Watch(directory, program_is_over)
    while not watch.is_over():
        if deadline is not None and time.monotonic() >= deadline:
            raise StartTimeout(f"the program of {directory.name!r} has not ended within {timeout:g} s; it goes on")
        time.sleep(LOOK_INTERVAL)
    return watch.record


def wait_for_end(directory: Path, record: HeadRecord) -> HeadRecord:
    """The record once the cluster has gone after its program, so that its name is free; not longer than that may take."""
    deadline = time.monotonic() + END_TIMEOUT
    while record.state != "ended" and is_alive(record) and time.monotonic() < deadline:
        time.sleep(LOOK_INTERVAL)
        record = read_record(directory) or record
    if record.unconfirmed:
        note(f"warning: the end of these jobs of {record.name!r} was not confirmed: {', '.join(record.unconfirmed)}")
    return record


def program_exit_code(record: HeadRecord) -> int:
    """The program's own exit code. Raises `ClusterClosed` where it has none of its own: it was stopped."""
    if record.program is not None and record.program.exit_code is not None:
        return record.program.exit_code
    why = f": {record.reason}" if record.reason else ""
    if record.program is None:
        raise ClusterClosed(f"cluster {record.name!r} had no program, and has ended{why}")
    raise ClusterClosed(f"the program of {record.name!r} was stopped before its end{why}")


def follow_file(
    path: Path,
    directory: Path,
    *,
    tail: int | None = None,
    until: Callable[[HeadRecord], bool] = program_is_over,
) -> HeadRecord:
    """Write what is in a file, and what comes to it, to stdout until the cluster's record says that this was all."""
    watch = _Watch(directory, until)
    out = sys.stdout.buffer
    file: BinaryIO | None = None
    try:
        while True:
            over = watch.is_over()  # first the question, then the last look: nothing is missed
            if file is None and path.exists():
                file = path.open("rb")
                if tail is not None:
                    out.write(_last_lines(file.read().decode(errors="replace"), tail).encode())
            if file is not None:
                while part := file.read(65536):
                    out.write(part)
            out.flush()
            if over:
                return watch.record
            time.sleep(LOOK_INTERVAL)
    finally:
        if file is not None:
            file.close()


class _Watch:
    """Looks at a cluster's record, and now and then whether its head lives."""

    def __init__(self, directory: Path, until: Callable[[HeadRecord], bool]) -> None:
        record = read_record(directory)
        if record is None:
            raise ClusterClosed(f"the record of {directory.name!r} is gone")
        self.record = record
        self._directory = directory
        self._until = until
        self._alive_next = 0.0

    def is_over(self) -> bool:
        self.record = read_record(self._directory) or self.record
        if self._until(self.record):
            return True
        now = time.monotonic()
        if now >= self._alive_next:
            self._alive_next = now + ALIVE_INTERVAL
            if not is_alive(self.record):
                # It may have ended properly between the two looks.
                self.record = read_record(self._directory) or self.record
                if self._until(self.record):
                    return True
                raise ClusterClosed(tell_end(self.record, self._directory))
        return False
