"""`submit`: a program with a cluster of its own, which survives logout."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hpccluster.cli.description import Target, description_options, size_of, size_options
from hpccluster.cli.output import JSON, note, progress, say, says_what_goes_on, write_json
from hpccluster.config import ResolvedCluster
from hpccluster.errors import ConfigError, SubmitRefused
from hpccluster.head.spec import HeadReady, HeadSpec, ScaleRequest
from hpccluster.resources import machine_cores

_PYTHON = re.compile(r"python(?:[0-9]+(?:\.[0-9]+)?)?")


@click.command("submit", context_settings={"allow_interspersed_args": False})
@description_options
@click.option("--name", metavar="NAME", help="What the cluster is called; by default a name that can be said.")
@size_options
@click.option(
    "--wait",
    "--follow",
    "wait",
    is_flag=True,
    help="Until it has ended, showing what it writes; the exit code is the program's, 125 for a failure of ours.",
)
@JSON
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
def submit_command(
    target: Target,
    name: str | None,
    jobs: int | None,
    workers: int | None,
    wait: bool,
    as_json: bool,
    command: tuple[str, ...],
) -> int:
    """Run a program with a cluster of its own.

    The program finds its cluster by itself: Client() without arguments. Program and cluster go on when you log out,
    and end together when the program ends. What it writes is kept: hpccluster logs NAME.
    """
    from hpccluster.backend.refusal import with_origin
    from hpccluster.cluster.launch import start_head

    resolved, python = resolve_program(target, command, name=name, size=size_of(jobs, workers))
    spec = make_program_spec(resolved, command)
    try:
        with progress("starting the cluster"):
            ready = start_head(spec, python=python).ready
    except SubmitRefused as error:
        raise with_origin(error, resolved.origins) from error
    with says_what_goes_on(ready.name):
        if as_json:
            write_json(started_facts(spec, ready))
        else:
            # Standard output belongs to the program where it is shown.
            _tell(spec, ready, note if wait else say)
        return _stay(ready, show=not as_json) if wait else 0


def started_facts(spec: HeadSpec, ready: HeadReady) -> dict[str, Any]:
    """What programs are told of a cluster that was just started here."""
    return {
        "name": ready.name,
        "id": ready.id,
        "backend": spec.backend,
        "host": socket.gethostname(),
        "pid": ready.pid,
        "address": ready.address,
        "directory": ready.directory,
        "plan": ready.plan,
    }


def resolve_program(
    target: Target, command: tuple[str, ...], *, name: str | None = None, size: dict[str, int] | None = None
) -> tuple[ResolvedCluster, str]:
    """The description of the program's cluster, and the interpreter for head and workers (empty for this one).

    Raises `ConfigError` for a program that cannot be run.
    """
    program = shutil.which(command[0])
    if program is None:
        raise ConfigError(cannot_run(command[0]))
    if not is_text("".join(command)):
        raise ConfigError(f"the program's arguments are not UTF-8 text: {command!a}")
    python = _interpreter(command[0], program)
    resolved = target.resolve({"scale": size, "name": name})
    if python and "python" not in resolved.options:
        resolved = replace(resolved, options={**resolved.options, "python": python})
    return resolved, python


def is_text(value: str) -> bool:
    """Whether it can be written in UTF-8: arguments and variables may be any bytes, which Python keeps as surrogates."""
    return not any("\ud800" <= sign <= "\udfff" for sign in value)


def cannot_run(word: str) -> str:
    """Why a program is not found by this word."""
    path = Path(word)
    if not path.is_file():
        return f"cannot run {word!r}: no such program"
    how = f"python {word}" if path.suffix == ".py" else f"chmod +x {word}, and then {path.absolute()}"
    return f"cannot run {word!r}: the file is no program that can be run by that word\nfix: {how}"


def make_program_spec(resolved: ResolvedCluster, command: tuple[str, ...]) -> HeadSpec:
    """The specification of a detached head that runs the command."""
    from hpccluster.cluster.describe import make_spec

    environment = {name: value for name, value in os.environ.items() if is_text(name + value)}
    if odd := [ascii(name) for name in os.environ.keys() - environment.keys()]:
        note(f"the program does not get these variables, which are not UTF-8 text: {', '.join(sorted(odd))}")
    spec = make_spec(
        resolved,
        detached=True,
        program=command,
        program_directory=str(Path.cwd()),
        program_environment=environment,
    )
    if spec.scale is None and spec.adapt is None:
        # A program beside which no worker is ever started would wait for ever.
        whole = ScaleRequest(cores=machine_cores()) if spec.backend == "local" else ScaleRequest(jobs=1)
        spec = replace(spec, scale=whole)
    return spec


def _interpreter(word: str, program: str) -> str:
    """The program's own Python, where it is another one than ours: head and workers must be of the program's kind."""
    if not _PYTHON.fullmatch(Path(word).name) or Path(program).parent == Path(sys.executable).parent:
        return ""
    check = subprocess.run(
        [program, "-c", "import hpccluster"], capture_output=True, text=True, timeout=60, check=False
    )
    if check.returncode:
        last = (check.stderr.strip().splitlines() or ["it failed"])[-1]
        raise ConfigError(
            f"the program's Python has no usable hpccluster: {last}\n"
            f"python:  {program}\nfix:     {program} -m pip install hpccluster, or name another Python"
        )
    return check.stdout.strip() or program


def _tell(spec: HeadSpec, ready: HeadReady, tell: Callable[[str], None]) -> None:
    from hpccluster.cli.cluster import format_plan

    host, name = socket.gethostname(), ready.name
    tell(f"submitted {name!r}   program and head: here ({host}, process {ready.pid}), jobs: {spec.backend}")
    if ready.plan is not None:
        tell(f"  {format_plan(ready.plan)}")
    tell(f"  follow: hpccluster logs -f {name}     state: hpccluster status {name}     stop: hpccluster down {name}")
    tell(f"  survives logout; a restart of {host}, or its limits on long-running processes, would end it")


def _stay(ready: HeadReady, *, show: bool) -> int:
    """Wait for the program; its exit code."""
    from hpccluster.cli.logs import follow_file, program_exit_code, wait_for_end, wait_for_program
    from hpccluster.head.directory import PROGRAM_LOG

    directory = Path(ready.directory)
    if show:
        record = follow_file(directory / PROGRAM_LOG, directory)
    else:
        with progress(f"waiting for {ready.name!r}"):
            record = wait_for_program(directory)
    record = wait_for_end(directory, record)
    return program_exit_code(record)
