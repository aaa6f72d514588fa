"""The entry point: which verbs there are, help, and how errors become exit codes.

A verb's module is imported when the verb is used. Must not know what the verbs do.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from hpccluster.cli.output import note, say, write_error
from hpccluster.errors import HpcClusterError

USAGE = 2
OURS = 125
"""The exit code of any failure of ours where 0 to 124 are the program's."""
INTERRUPTED = 130

_VERBS = {
    "adapt": "cluster",
    "attach": "attach",
    "backends": "describe",
    "cleanup": "cleanup",
    "completion": "help",
    "config": "config",
    "credentials": "byhand",
    "demo": "demo",
    "down": "cluster",
    "help": "help",
    "jobs": "cluster",
    "logs": "logs",
    "scale": "cluster",
    "scheduler": "byhand",
    "script": "describe",
    "status": "status",
    "submit": "submit",
    "up": "up",
    "wait": "logs",
    "worker": "byhand",
    "workers": "cluster",
}
"""Each verb and the module of `hpccluster.cli` that has it."""


class Verbs(click.Group):
    """The verbs, loaded one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"hpccluster.cli.{_VERBS[cmd_name]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _VERBS:
            near = difflib.get_close_matches(args[0], _VERBS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "; see: hpccluster help"
            raise click.UsageError(f"there is no verb {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from hpccluster.cli.help import FIRST_SCREEN

        formatter.write(FIRST_SCREEN)


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from hpccluster import __version__

        say(f"hpccluster {__version__} (Python {sys.version.partition(' ')[0]})")
        context.exit(0)


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version)
@click.pass_context
def cli(context: click.Context) -> None:
    """Run Python on batch queues, SSH hosts or this machine."""
    if context.invoked_subcommand is None:
        say(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    own = _own_words(arguments)
    debug = "--debug" in own
    if debug:
        arguments = [argument for argument in own if argument != "--debug"] + list(arguments[len(own) :])
    # With --wait the codes belong to the program, so that ours must not be mistaken for one.
    waits = (own[:1] == ["submit"] and ("--wait" in own or "--follow" in own)) or (
        own[:1] == ["attach"] and "--" in arguments
    )
    try:
        result: Any = cli.main(list(arguments), prog_name="hpccluster", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        note("interrupted")
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:  # a group alone: its message is its help
        note(error.format_message())
        return USAGE
    except click.UsageError as error:
        if debug:
            raise
        write_error(_worded(error))
        return OURS if waits else USAGE
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except Exception as error:  # noqa: BLE001 - the top of the tool: whatever it is, it becomes one message and a code
        if debug:
            import traceback

            traceback.print_exc()
        else:
            write_error(error)
        return OURS if waits else error.exit_code if isinstance(error, HpcClusterError) else 1
    return result if isinstance(result, int) else 0


def _own_words(arguments: Sequence[str]) -> list[str]:
    """The words that are ours: before ``--``, and before the program of `submit`, whose own may look like ours."""
    words = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    if words[:1] != ["submit"]:
        return words
    from hpccluster.cli.submit import submit_command

    valued = {
        name for it in submit_command.params if isinstance(it, click.Option) and not it.is_flag for name in it.opts
    }
    place = 1
    while place < len(words) and words[place].startswith("-"):
        place += 2 if words[place] in valued else 1
    return words[:place]


def _worded(error: click.UsageError) -> click.ClickException:
    where = f"\nsee: {error.ctx.command_path} --help" if error.ctx is not None and error.ctx.parent is not None else ""
    text = error.format_message()
    return click.ClickException(f"{text[:1].lower()}{text[1:]}{where}")


def _open_streams() -> None:
    """Give the three standard streams a file where they were closed: the next one to be opened would take their place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")


def main() -> None:
    """``hpccluster``."""
    _open_streams()
    sys.exit(run(sys.argv[1:]))
