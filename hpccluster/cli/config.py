"""`config`: what holds, where it was said, whether it is right; a first file, and one from another tool."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from hpccluster.cli import complete
from hpccluster.cli.description import Target, is_description
from hpccluster.cli.output import JSON, say, write_json, write_table
from hpccluster.cluster.describe import check_description, configuration, options_of
from hpccluster.config import ResolvedCluster, load, load_config, suggest
from hpccluster.config.check import field_types
from hpccluster.config.schema import ClusterOptions
from hpccluster.config.write import plain_default, write_new, yaml_value
from hpccluster.errors import BackendUnavailable, ConfigError
from hpccluster.paths import expand_path


@click.group("config")
def config_command() -> None:
    """The configuration: what holds, where it was said, whether it is right."""


@config_command.command("show")
@click.argument("name", required=False, shell_complete=complete.section)
@click.option("-c", "--cluster", metavar="FILE|NAME", help="The same for a name; or what a FILE describes, merged.")
@click.option("--all", "with_defaults", is_flag=True, help="The defaults, too.")
@JSON
def show_command(name: str | None, cluster: str | None, with_defaults: bool, as_json: bool) -> None:
    """Show every value with its origin: of all backends and clusters, or of one."""
    config = configuration()
    wanted = cluster or name
    target = Target(wanted, None, ())
    if wanted is not None and target.is_file:
        found = {wanted: config.resolve_file(expand_path("file", wanted))}
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
        lines = [(f"  {key}: {yaml_value(value)}", origin) for key, value, origin in facts]
        width = min(50, max((len(line) for line, _ in lines), default=0))
        for line, origin in lines:
            say(f"{line.ljust(width)}  # {origin}")


def _facts(resolved: ResolvedCluster, *, with_defaults: bool) -> list[tuple[str, Any, str]]:
    """Key, value and origin of everything that holds for a cluster."""
    values: dict[str, Any] = {**resolved.options, **resolved.settings}
    values |= {key: value for key, value in (("scale", resolved.scale), ("adapt", resolved.adapt)) if value is not None}
    facts = [(key, value, str(resolved.origins[key])) for key, value in values.items()]
    if with_defaults:
        kind = options_of(resolved.backend)
        names = [item.name for item in fields(kind) if item.name not in values]
        facts += [(name, plain_default(kind, name), "default") for name in names]
    return facts


@config_command.command("get")
@click.argument("key", shell_complete=complete.key)
@JSON
def get_command(key: str, as_json: bool) -> None:
    """Print one value: slurm.queue, NAME.adapt.maximum_jobs. What nobody has said is the default."""
    section, dot, rest = key.removeprefix("clusters.").partition(".")
    if not dot:
        raise ConfigError(
            f"{key}: say of which section or cluster: {key}.cores, for one; all are shown by: config show"
        )
    facts = {
        name: (value, origin) for name, value, origin in _facts(configuration().resolve(section), with_defaults=True)
    }
    name, *path = rest.replace("-", "_").split(".")
    known = facts.keys() | field_types(ClusterOptions).keys()
    if name not in known:
        raise ConfigError(f"{section}.{name}: unknown key{suggest(name, sorted(known))}")
    value, origin = facts.get(name, (None, "default"))
    for part in path:
        if not isinstance(value, dict) or part not in value:
            raise ConfigError(f"{key}: {name} has no {'.'.join(path)}")
        value = value[part]
    if as_json:
        write_json({"key": key, "value": value, "origin": origin})
    else:
        say(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


@config_command.command("which")
@JSON
def which_command(as_json: bool) -> None:
    """Show where configuration is looked for, the stronger last, and what is there."""
    places: list[dict[str, Any]] = []
    for place, paths in load.places(os.environ):
        files = []
        for path in paths:
            try:
                load.read_file(path)
                problem = ""
            except ConfigError as error:
                problem = str(error)
            files.append({"path": str(path), "problem": problem})
        places.append({"place": place, "files": files})
    if as_json:
        write_json(places)
        return
    rows = []
    for it in places:
        rows += [
            (it["place"], file["path"], f"NOT READ: {file['problem']}" if file["problem"] else "read")
            for file in it["files"]
        ]
        rows += [(it["place"], "", "nothing there")] if not it["files"] else []
    write_table(("PLACE", "FILE", "STATE"), rows, wrapped=("PLACE", "FILE", "STATE"))


@config_command.command("init")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--user", is_flag=True, help="~/.config/hpccluster/hpccluster.yaml: for all you do. This is the default.")
@click.option("--project", is_flag=True, help="./hpccluster.yaml: for what is run here.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@JSON
def init_command(path: Path | None, user: bool, project: bool, force: bool, as_json: bool) -> None:
    """Write a first file, in which every option stands with its documentation and default, commented out.

    PATH in place of --user or --project; - is standard output.
    """
    from hpccluster.backend.registry import list_plugins
    from hpccluster.config.write import default_file

    if (path is not None) + user + project > 1:
        raise click.UsageError("say one of PATH, --user, --project", click.get_current_context())
    plugins = {it.name: it.plugin for it in list_plugins() if it.plugin is not None}
    text = default_file(
        {name: plugin.options_type for name, plugin in plugins.items()},
        {name: plugin.summary for name, plugin in plugins.items()},
    )
    if str(path) == "-":
        say(text.rstrip())
        return
    target = path or (Path("hpccluster.yaml") if project else load.user_folder() / "hpccluster.yaml")
    write_new(target, text, replace=force)
    if as_json:
        write_json({"file": str(target.absolute()), "backends": sorted(plugins)})
    else:
        say(
            f"wrote {load.shown(target.absolute())}: everything is commented out; edit it, then: hpccluster config validate"
        )


@config_command.command("import")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The file to write: by default ~/.config/hpccluster/from-dask.yaml; - is standard output.",
)
@click.option(
    "--as", "named", multiple=True, metavar="NAME=BACKEND", help="Which batch system a section of your own is for."
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@JSON
def import_command(file: Path, output: Path | None, named: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Write what dask-jobqueue's configuration says (~/.config/dask/jobqueue.yaml), with a verdict on each value."""
    from hpccluster.cli.importing import convert_file, report

    sections, text = convert_file(file, named)
    to_stdout = str(output) == "-"
    target = output or load.user_folder() / "from-dask.yaml"
    has_values = any(section.values for section in sections)
    if has_values and not to_stdout:
        write_new(target, text, replace=force)
    written = str(target.absolute()) if has_values and not to_stdout else None
    if as_json:
        write_json(
            {
                "file": written,
                "sections": [
                    {
                        "name": it.name,
                        "backend": it.backend,
                        "problem": it.problem,
                        "values": it.values,
                        "verdicts": [asdict(judged) for judged in it.judged],
                    }
                    for it in sections
                ],
            }
        )
        return
    report(sections, to_stderr=to_stdout)
    if to_stdout:
        say(text.rstrip())
    elif written is None:
        say(f"{file} says nothing that could be taken over; nothing was written")
    else:
        say(f"wrote {load.shown(target.absolute())}; check: hpccluster config validate")


@config_command.command("validate")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@JSON
def validate_command(file: Path | None, as_json: bool) -> int:
    """Check the whole configuration, or one FILE (exit code 2: something is wrong).

    What only the batch system or the network can tell is not checked.
    """
    problems: list[str] = []
    what = "fine"
    try:
        if file is not None and is_description(file):
            problems += _problems_of(configuration().resolve_file(expand_path("file", file)), is_whole=True)
        else:
            config = configuration() if file is None else load_config(options_of, [expand_path("file", file)], {})
            problems = config.problems()
            if not problems:
                for name in [*config.backends, *config.clusters]:
                    problems += _problems_of(config.resolve(name), is_whole=False)
            files = f"{len(config.files)} file{'' if len(config.files) == 1 else 's'}"
            what = f"fine: {files}, sections {_listed(config.backends)}, clusters {_listed(config.clusters)}"
    except ConfigError as error:
        problems += str(error).splitlines()
    problems = list(dict.fromkeys(problems))
    if as_json:
        write_json({"fine": not problems, "problems": problems})
        return 2 if problems else 0
    if problems:
        raise ConfigError("\n".join(problems))
    say(what if file is None else f"{file}: {what}")
    return 0


def _problems_of(resolved: ResolvedCluster, *, is_whole: bool) -> list[str]:
    """What is wrong with a description that has the right keys and types. ``is_whole``: nothing is to be added to it."""
    from hpccluster.cli.preview import preview_script

    try:
        check_description(resolved)
        with suppress(BackendUnavailable):  # what is used elsewhere can be checked here
            preview_script(resolved)
    except ConfigError as error:
        if error.code == "HPC-CONFIG-MISSING" and not is_whole:
            return []
        return str(error).splitlines()
    return []


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


@config_command.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of hpccluster.yaml, for editors."""
    from hpccluster.backend.registry import list_plugins
    from hpccluster.config.schema import json_schema

    write_json(json_schema({it.name: it.plugin.options_type for it in list_plugins() if it.plugin is not None}))
