"""Verbs that start nothing: `config`, `script`, `backends`."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click

from hpccluster.cli.description import Target, check_values, configuration, description_options
from hpccluster.cli.output import JSON, say, write_json, write_table
from hpccluster.config import ResolvedCluster
from hpccluster.errors import BackendNotFound, BackendUnavailable, ConfigError


@click.group("config")
def config_command() -> None:
    """The configuration: what holds, where it was said, whether it is right."""


@config_command.command("show")
@click.argument("name", required=False)
@click.option("-c", "--cluster", metavar="FILE|NAME", help="The same for a name; or what a FILE describes, merged.")
@click.option("--all", "with_defaults", is_flag=True, help="The defaults, too.")
@JSON
def show_command(name: str | None, cluster: str | None, with_defaults: bool, as_json: bool) -> None:
    """Show every value with its origin: of all backends and clusters, or of one."""
    config = configuration()
    wanted = cluster or name
    target = Target(wanted, None, ())
    if wanted is not None and target.is_file:
        found = {wanted: config.resolve_file(Path(wanted).expanduser())}
    else:
        names = [wanted] if wanted is not None else [*config.backends, *config.clusters]
        found = {name: config.resolve(name) for name in names}
    shown = {name: _facts(resolved, with_defaults=with_defaults) for name, resolved in found.items()}
    if as_json:
        write_json(
            {
                "files": [str(path) for path in config.files],
                "clusters": {
                    name: {
                        "backend": found[name].backend,
                        "values": {key: {"value": v, "origin": o} for key, v, o in facts},
                    }
                    for name, facts in shown.items()
                },
            }
        )
        return
    for path in config.files:
        say(f"# {path}")
    if not shown:
        say("# nothing is configured" if not config.files else "# no values")
    for name, facts in shown.items():
        own = "" if found[name].backend == name else f"   # on {found[name].backend}"
        say(f"{name}:{own}")
        lines = [(f"  {key}: {_yaml(value)}", origin) for key, value, origin in facts]
        width = min(50, max((len(line) for line, _ in lines), default=0))
        for line, origin in lines:
            say(f"{line.ljust(width)}  # {origin}")


def _facts(resolved: ResolvedCluster, *, with_defaults: bool) -> list[tuple[str, Any, str]]:
    """Key, value and origin of everything that holds for a cluster."""
    values: dict[str, Any] = {**resolved.options, **resolved.settings}
    values |= {key: value for key, value in (("scale", resolved.scale), ("adapt", resolved.adapt)) if value is not None}
    facts = [(key, value, str(resolved.origins[key])) for key, value in values.items()]
    if with_defaults:
        from hpccluster.cluster.describe import options_of

        for item in fields(options_of(resolved.backend)):
            if item.name not in values:
                made = item.default_factory() if item.default_factory is not MISSING else item.default
                facts.append((item.name, list(made) if isinstance(made, tuple) else made, "default"))
    return facts


def _yaml(value: Any) -> str:
    """A value as a line of YAML; text is quoted where it could be read as something else."""
    if isinstance(value, str):
        from hpccluster.config.load import parse_text
        from hpccluster.config.schema import KEYWORD

        plain = value.isascii() and value.isprintable() and not any(sign in value for sign in "#:{}[],&*!|>'\"%@`")
        if plain and value == value.strip() and parse_text(value, KEYWORD).value == value:
            return value
    return json.dumps(value, ensure_ascii=False)


@config_command.command("validate")
@click.argument("file", required=False, type=click.Path())
def validate_command(file: str | None) -> None:
    """Check the whole configuration, or one FILE that describes a cluster (exit code 2: something is wrong)."""
    from hpccluster.cli.preview import preview_script

    config = configuration()
    if file is not None:
        resolved = config.resolve_file(Path(file).expanduser())
        check_values(resolved)
        with suppress(BackendUnavailable):  # what is used elsewhere can be checked here
            preview_script(resolved)
        say(f"{file}: fine")
        return
    problems = config.problems()
    if not problems:
        for name in [*config.backends, *config.clusters]:
            try:
                check_values(config.resolve(name))
            except ConfigError as error:
                problems += str(error).splitlines()
    if problems:
        raise ConfigError("\n".join(problems))
    files = f"{len(config.files)} file{'' if len(config.files) == 1 else 's'}"
    say(f"fine: {files}, sections {_listed(config.backends)}, clusters {_listed(config.clusters)}")


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


@config_command.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of hpccluster.yaml, for editors."""
    from hpccluster.backend.registry import list_plugins
    from hpccluster.config.schema import json_schema

    write_json(json_schema({it.name: it.plugin.options_type for it in list_plugins() if it.plugin is not None}))


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
