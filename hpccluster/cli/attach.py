"""`attach`: Python, or any command, beside a cluster that runs. Leaving it leaves the cluster as it is.

What is run replaces this process, so that its terminal, its signals and its exit code are its own.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from hpccluster.cli import complete
from hpccluster.errors import ConfigError, HpcClusterError

if TYPE_CHECKING:
    from hpccluster.cluster.manager import ClusterManager


@click.command("attach", context_settings={"allow_interspersed_args": False})
@click.argument("name", shell_complete=complete.living_cluster)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD...]")
def attach_command(name: str, command: tuple[str, ...]) -> None:
    """Python with `cluster` and `client` joined to NAME; or CMD, whose Client() finds the cluster.

    It is the cluster's own Python. The exit code is that of CMD, or 125 for a failure of ours.
    """
    from hpccluster.cli.running import ask, find_live
    from hpccluster.head.directory import CLIENT_FILE
    from hpccluster.runtime.target import CLUSTER_VARIABLE

    record, directory = find_live(name)
    environment = {**os.environ, **ask(name, "info").get("environment", {})}
    environment[CLUSTER_VARIABLE] = str(directory / CLIENT_FILE)
    command = command[command[:1] == ("--",) :]
    if command:
        program = shutil.which(command[0])
        if program is None:
            raise ConfigError(f"cannot run {command[0]!r}: no such program")
        arguments = list(command)
    else:
        program = record.python if os.access(record.python, os.X_OK) else sys.executable
        start = f"from {__name__} import join\ncluster, client = join({name!r}, {str(directory.parent)!r})\ndel join"
        arguments = [program, "-i", "-c", start]
    sys.stdout.flush()
    os.execve(program, arguments, environment)  # noqa: S606 - the terminal and the exit code are to be its own


def join(name: str, parent: str) -> tuple[ClusterManager, Any]:
    """What the prompt begins with: the cluster, and a client of its engine's kind. Ends the process where there is no such cluster any more: -i would go on."""
    from hpccluster.cli.output import note, write_error
    from hpccluster.cluster.manager import ClusterManager

    try:
        cluster: Any = ClusterManager.attach(name, state_directory=parent)
        client = cluster.get_client()
    except HpcClusterError as error:
        write_error(error)
        sys.stderr.flush()
        os._exit(error.exit_code)
    note(f"{cluster!r}\n`cluster` and `client` are joined to it; leaving (Ctrl-D) leaves it running")
    return cluster, client
