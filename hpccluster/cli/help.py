"""The first screen, the rest of the help, and shell completion. Only what works is listed."""

from __future__ import annotations

import click

from hpccluster.cli import complete
from hpccluster.cli.output import say

FIRST_SCREEN = """\
hpccluster: run Python on batch queues, SSH hosts or this machine

Start   demo             a small real computation, here
Run     submit -- CMD    a program with a cluster of its own; survives logout
        up, down NAME    start one; stop it, cancel its jobs and verify
        scale, adapt     change its size; let it follow the work
        attach NAME      Python, or any command, beside it
Look    status [NAME]    all clusters, or one
        jobs, workers    each with why it waits or failed; who is connected
        logs NAME        -f, --job ID
Tidy    cleanup          find and remove what was left behind
Set up  config, script, backends
By hand scheduler, worker

  hpccluster submit --name sweep -- python sweep.py
  hpccluster logs -f sweep
  hpccluster status --json

'hpccluster VERB --help' says more on a verb, 'hpccluster help --all' lists all.
"""

_REST = """\
More verbs
        wait NAME        until its program has ended; exits with its code
        credentials      a connection file for a host that shares none with us
        completion       for bash, zsh or fish
        help [VERB]      this

Everywhere
  -c FILE|NAME           a cluster's description: a file, or a configured name
  --backend NAME         in place of that: a backend's values
  --set KEY=VALUE        a value on top: queue=short, adapt.maximum_jobs=9
  --json                 for programs: with every verb that says something
  --debug                the whole traceback of an error
  --version

Configuration, the stronger one last
  /etc/hpccluster/*.yaml, <prefix>/etc/hpccluster/*.yaml,
  ~/.config/hpccluster/*.yaml, ./hpccluster.yaml, $HPCCLUSTER_CONFIG,
  variables such as HPCCLUSTER_SLURM__CORES=8, the command line
  config init            a first file: every option, commented out
  config show, get       values with their origins
  config which           where files are looked for, and what is there
  config validate        what a start would refuse
  config schema          the JSON Schema, for editors
  config import FILE     dask-jobqueue's, with a verdict on each value

Exit codes
  0 fine   1 anything else   2 wrong usage or configuration; name taken
  3 refused by the batch system   4 a job or worker died
  5 no such cluster, or not reachable   6 not allowed (credentials)
  124 timed out   130 interrupted
  'submit --wait' and 'attach NAME -- CMD' return the program's own code,
  and 125 for any failure of ours.

Environment
  HPCCLUSTER_STATE_DIRECTORY   where clusters keep their files; by default
                               ~/.local/state/hpccluster
  HPCCLUSTER_CLUSTER           what Client() joins; set by submit and attach
  NO_COLOR                     no colours
"""


def _tool(context: click.Context) -> tuple[click.Context, click.Group]:
    tool = context.find_root()
    assert isinstance(tool.command, click.Group)
    return tool, tool.command


@click.command("help")
@click.argument("verb", required=False, shell_complete=complete.verb)
@click.option("--all", "everything", is_flag=True, help="All verbs, configuration, exit codes.")
@click.pass_context
def help_command(context: click.Context, verb: str | None, everything: bool) -> None:
    """Say what there is."""
    if verb is None:
        say(FIRST_SCREEN.rstrip() if not everything else f"{FIRST_SCREEN}\n{_REST}".rstrip())
        return
    tool, verbs = _tool(context)
    _, command, _ = verbs.resolve_command(tool, [verb])
    assert command is not None
    with click.Context(command, info_name=verb, parent=tool) as inner:
        say(command.get_help(inner))


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print a completion script; for bash: eval "$(hpccluster completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    say(kind(_tool(context)[1], {}, "hpccluster", "_HPCCLUSTER_COMPLETE").source())
