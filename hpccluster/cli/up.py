"""`up`: a cluster without a program, which survives logout. By name, it is got or made."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

import click

from hpccluster.cli.description import Target, description_options, size_of, size_options
from hpccluster.cli.output import JSON, progress, say, write_json
from hpccluster.cli.submit import started_facts
from hpccluster.errors import ClusterNameTaken, SubmitRefused
from hpccluster.head.directory import HeadRecord
from hpccluster.head.spec import HeadReady, HeadSpec, ScaleRequest
from hpccluster.resources import machine_cores

OTHERS_START = 60.0
"""Seconds for a cluster of the name that somebody else is just starting."""
LOOK_INTERVAL = 0.2


@click.command("up")
@description_options
@click.option("--name", metavar="NAME", help="What it is called: the running cluster of that name, or a new one.")
@size_options
@JSON
def up_command(target: Target, name: str | None, jobs: int | None, workers: int | None, as_json: bool) -> None:
    """Start a cluster that runs until it is told to end: hpccluster down NAME.

    With --name (or a name in its description) a cluster of that name that runs already is left as it is.
    """
    from hpccluster.backend.refusal import with_origin
    from hpccluster.cluster.describe import make_spec
    from hpccluster.cluster.factory import start_head

    resolved = target.resolve({"scale": size_of(jobs, workers), "name": name})
    spec = make_spec(resolved, detached=True)
    if spec.scale is None and spec.adapt is None and spec.backend == "local":
        spec = replace(spec, scale=ScaleRequest(cores=machine_cores()))  # what LocalCluster() does
    is_named = "name" in resolved.settings
    running = _running(spec) if is_named else None
    if running is None:
        try:
            with progress("starting the cluster"):
                ready = start_head(spec)
        except SubmitRefused as error:
            raise with_origin(error, resolved.origins) from error
        except ClusterNameTaken:  # another was quicker
            if not is_named:
                raise
            running = _wait_for(spec)
        else:
            _report_new(spec, ready, as_json=as_json)
            return
    _report_running(spec, running, as_json=as_json)


def _running(spec: HeadSpec) -> HeadRecord | None:
    from hpccluster.cluster.describe import find_own

    return find_own(spec.name, spec.backend, Path(spec.state_directory))


def _wait_for(spec: HeadSpec) -> HeadRecord:
    """The cluster of that name that is about to start. Raises `ClusterNameTaken` where it does not get ready."""
    from hpccluster.head.directory import is_alive, read_record, taken

    end = time.monotonic() + OTHERS_START
    while True:
        if (running := _running(spec)) is not None:
            return running
        record = read_record(Path(spec.state_directory) / spec.name)
        if record is None or record.state != "starting" or not is_alive(record) or time.monotonic() > end:
            raise taken(record, spec.name)
        time.sleep(LOOK_INTERVAL)


def _report_new(spec: HeadSpec, ready: HeadReady, *, as_json: bool) -> None:
    if as_json:
        write_json(started_facts(spec, ready) | {"created": True})
        return
    from hpccluster.cli.cluster import format_plan

    host, name = socket.gethostname(), ready.name
    say(f"started {name!r}   head: here ({host}, process {ready.pid}), jobs: {spec.backend}")
    if ready.plan is not None:
        say(f"  {format_plan(ready.plan)}")
    elif spec.adapt is None:
        say(f"  no jobs yet:  hpccluster scale {name} N")
    _tell_use(name)
    say(f"  survives logout; a restart of {host}, or its limits on long-running processes, would end it")


def _report_running(spec: HeadSpec, record: HeadRecord, *, as_json: bool) -> None:
    directory = Path(spec.state_directory) / record.name
    if as_json:
        write_json(
            {
                "name": record.name,
                "id": record.id,
                "created": False,
                "backend": record.backend,
                "host": record.host,
                "pid": record.pid,
                "address": record.address,
                "directory": str(directory),
                "plan": None,
            }
        )
        return
    say(f"{record.name!r} runs already, and is left as it is   head: {record.host}, process {record.pid}")
    _tell_use(record.name)


def _tell_use(name: str) -> None:
    say(f'  use:   Client("{name}")   hpccluster attach {name}   hpccluster attach {name} -- CMD')
    say(f"  size:  hpccluster scale {name} N     state: hpccluster status {name}     stop: hpccluster down {name}")
