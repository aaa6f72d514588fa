"""Verbs that start nothing: `script`, `backends`."""

from __future__ import annotations

import click

from hpccluster.cli.description import Target, description_options
from hpccluster.cli.output import JSON, say, write_json, write_table
from hpccluster.errors import BackendNotFound, BackendUnavailable, ConfigError


@click.command("backends")
@JSON
def backends_command(as_json: bool) -> None:
    """Show the backends that are installed, whose they are, and whether they can be used here."""
    from hpccluster.backend.registry import list_plugins

    found = list_plugins()
    if as_json:
        write_json(
            [
                {
                    "name": it.name,
                    "usable": not it.problem,
                    "problem": it.problem,
                    "summary": "" if it.plugin is None else it.plugin.summary,
                    "distribution": it.offer.distribution,
                    "version": it.offer.version,
                }
                for it in found
            ]
        )
        return
    rows = [
        (
            it.name,
            it.offer.origin,
            "no" if it.problem else "yes",
            it.problem or (it.plugin.summary if it.plugin else ""),
        )
        for it in found
    ]
    write_table(("BACKEND", "FROM", "USABLE", "WHAT, OR WHY NOT"), rows, flexible=("WHAT, OR WHY NOT",))


@click.command("script")
@description_options
@JSON
def script_command(target: Target, as_json: bool) -> None:
    """Print the job script that would be submitted, and submit nothing."""
    from hpccluster.cli.preview import preview_script

    resolved = target.resolve()
    try:
        text = preview_script(resolved)
    except (BackendNotFound, BackendUnavailable) as error:
        raise ConfigError(str(error)) from error
    if as_json:
        write_json({"backend": resolved.backend, "script": text})
    else:
        say(text.rstrip("\n"))
