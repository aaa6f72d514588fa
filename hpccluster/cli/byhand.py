"""Verbs for a cluster by hand: `scheduler`, `worker`, `credentials`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from hpccluster.cli import complete
from hpccluster.cli.output import note, say
from hpccluster.errors import ConfigError, CredentialError
from hpccluster.protocol.messages import Role


@click.command("scheduler")
@click.option("--name", metavar="NAME", help="What it is called; by default a name that can be said.")
@click.option(
    "--host", metavar="ADDRESS", help="Where to listen; by default the address by which this host reaches others."
)
@click.option("--port", type=click.IntRange(0, 65535), help="The port; by default 8786, or any if that is taken.")
@click.option("--interface", metavar="IF", help="The network interface to listen on, such as ib0.")
@click.option("--contact-host", metavar="ADDRESS", help="What others connect to, where it differs.")
@click.option(
    "--protocol", type=click.Choice(["tls", "tcp"]), default="tls", show_default=True, help="tcp: no protection."
)
def scheduler_command(
    name: str | None, host: str | None, port: int | None, interface: str | None, contact_host: str | None, protocol: str
) -> None:
    """Start a scheduler here, in the foreground; Ctrl-C ends it and its workers."""
    from hpccluster.cli.scheduler import SchedulerOptions, run_scheduler

    options = SchedulerOptions(
        name=name or "",
        host=host or "",
        port=port,
        interface=interface or "",
        contact_host=contact_host or "",
        plain=protocol == "tcp",
    )
    reason = asyncio.run(run_scheduler(options))
    note(f"scheduler ended: {reason}")
    if reason == "SIGINT":
        raise KeyboardInterrupt


@click.command("worker")
@click.argument("where", metavar="NAME|ADDRESS", required=False, shell_complete=complete.living_cluster)
@click.option(
    "--connection-file", type=click.Path(path_type=Path), metavar="PATH", help="The file that a worker needs to join."
)
@click.option(
    "--plain", is_flag=True, help="Without protection; the scheduler must have been started with --protocol tcp."
)
@click.option("--nworkers", type=click.IntRange(min=1), default=1, show_default=True, help="Worker processes.")
@click.option("--nthreads", type=click.IntRange(min=1), help="Threads of each; by default this host's cores, shared.")
@click.option("--memory-limit", metavar="SIZE", help="Memory of each, as 8GiB.")
@click.option("--name", metavar="NAME", help="The beginning of the workers' names; by default this host's, and unique.")
@click.option("--death-timeout", metavar="TIME", help="How long to stay without a scheduler.")
@click.option(
    "--local-directory", type=click.Path(path_type=Path), metavar="DIR", help="For temporary files: $TMPDIR of tasks."
)
@click.option("--interface", metavar="IF", help="The network interface to listen on.")
@click.option("--host", metavar="ADDRESS", help="The address to listen on.")
@click.option("--no-nanny", is_flag=True, help="One worker, without a process that watches and restarts it.")
def worker_command(where: str | None, connection_file: Path | None, **options: Any) -> int:
    """Start workers here, in the foreground, for a scheduler: by its name, its address, or a connection file."""
    from hpccluster.cli.worker import WorkerOptions, run_workers_here

    if (where is None) == (connection_file is None):
        raise click.UsageError("say either NAME|ADDRESS or --connection-file", click.get_current_context())
    return run_workers_here(WorkerOptions(where=where, connection_file=connection_file, **options))


@click.group("credentials")
def credentials_command() -> None:
    """Connection files: all that one role needs to join a cluster."""


@credentials_command.command("export")
@click.argument("name", shell_complete=complete.living_cluster)
@click.option("--role", type=click.Choice(["worker", "client"]), required=True, help="Whom the file is for.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="A new file that only you can read."
)
def export_command(name: str, role: str, output: Path | None) -> None:
    """Print the connection file of a cluster for one role, to copy to a host that shares no files with this one.

    It holds a private key: whoever reads it can join the cluster, and so run code as you.
    """
    from hpccluster.comm.connection_file import create_private, find_connection_file, read_connection_file

    path = find_connection_file(name, Role(role))
    read_connection_file(path, Role(role))
    text = path.read_text()
    if output is None:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        if not sys.stdout.isatty():
            note("this is a key: chmod 600 the file, or write it with -o FILE")
        return
    try:
        with create_private(output) as file:
            file.write(text.encode())
    except FileExistsError as error:
        raise CredentialError(f"{output} exists; it is not written over") from error
    except OSError as error:
        raise ConfigError(f"{output}: {error.strerror}") from error
    say(f"{output}: {role} of {name!r}, readable by you only")
