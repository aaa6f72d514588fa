"""`cleanup`: what clusters that are over have left behind is shown, and removed when that is wanted."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from hpccluster.cli import complete
from hpccluster.cli.output import JSON, note, progress, say, write_facts, write_json
from hpccluster.errors import CancelFailed, ConfigError, HpcClusterError
from hpccluster.units import format_age, format_bytes, parse_duration

if TYPE_CHECKING:
    from hpccluster.cluster.leftovers import Kept, Leftover, Removal, UnknownJobs

NAMES_SHOWN = 6


@click.command("cleanup")
@click.argument("names", nargs=-1, metavar="[NAME...]", shell_complete=complete.any_cluster)
@click.option("-y", "--yes", is_flag=True, help="Remove what is found, without asking.")
@click.option(
    "--older-than",
    default="30d",
    show_default=True,
    metavar="TIME",
    help="Directories (with logs) of clusters that ended so long ago go, too; 0 for all.",
)
@click.option(
    "--gone", multiple=True, metavar="NAME", help="You know that the host of this cluster's head is gone for good."
)
@click.option(
    "--unknown-jobs", is_flag=True, help="Cancel jobs with names of ours that are of no cluster known here, too."
)
@click.option("--timeout", default=60.0, show_default=True, help="Seconds for the batch system to confirm.")
@JSON
def cleanup_command(
    names: tuple[str, ...],
    yes: bool,
    older_than: str,
    gone: tuple[str, ...],
    unknown_jobs: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Find what clusters that are over left behind: jobs, credentials, directories. Shows it first.

    Clusters that live, or may live, are left alone.
    """
    from hpccluster.cli.running import find_cluster
    from hpccluster.cluster.leftovers import cancel_unknown_jobs, look, look_for_unknown_jobs, remove
    from hpccluster.comm.connection_file import known_directories

    try:
        age = parse_duration(older_than)
    except ValueError as error:
        raise ConfigError(f"--older-than {older_than}: {error}") from error
    for name in (*names, *gone):
        find_cluster(name)
    only = {*names, *gone} if names else set()
    with progress("looking"):
        places = known_directories()
        found, kept = look(places, older_than=age, only=only, gone=gone)
        unknown = [] if names else look_for_unknown_jobs(_batch_systems(), places)
    # A batch system whose commands are merely installed may be silent; one that the user uses may not.
    used = (
        {it.record.backend for it in found}
        | {it.record.backend for it in kept}
        | {it.backend for it in unknown if it.options}
    )
    if not as_json:
        _show(found, kept)
        _show_unknown([it for it in unknown if it.jobs or it.backend in used], to_cancel=unknown_jobs)
        if not found and not any(it.jobs for it in unknown):
            say("nothing is left behind")
    removed: list[Removal] = []
    left: list[str] = []
    unreached = [f"{it.backend}: {it.problem}" for it in unknown if it.problem and unknown_jobs and it.backend in used]
    to_cancel = [it for it in unknown if it.jobs and unknown_jobs]
    is_wanted = bool(found or to_cancel) and (yes or (not as_json and _is_wanted()))
    if is_wanted:
        for it in to_cancel:
            try:
                with progress("cancelling jobs"):
                    remains = cancel_unknown_jobs(it, timeout=timeout)
            except HpcClusterError as error:  # the other batch systems are tidied up all the same
                unreached.append(f"{it.backend}: {str(error).splitlines()[0]}")
                continue
            left += remains
            if not as_json:
                say(f"{it.backend}: {len(it.jobs) - len(remains)} jobs of unknown clusters verified gone")
        for leftover in found:
            with progress(f"cleaning up {leftover.record.name!r}"):
                removal = remove(leftover, timeout=timeout, gone=gone)
            removed.append(removal)
            if not as_json:
                say(f"{leftover.record.name!r}: {_outcome(leftover, removal)}")
    if as_json:
        write_json(_answer(found, kept, unknown, removed) | {"removed": is_wanted})
    left += sorted(name for removal in removed for name in removal.unconfirmed)
    problems = [f"the batch system did not confirm the end of these jobs: {', '.join(left)}"] if left else []
    problems += [f"jobs of unknown clusters may still be there, in {it}" for it in unreached]
    if problems:
        raise CancelFailed("\n".join([*problems, "try again: hpccluster cleanup"]))


def _is_wanted() -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        note("nothing was changed; with --yes it is removed")
        return False
    if click.confirm("remove this?"):
        return True
    note("nothing was changed")
    return False


def _show(found: Sequence[Leftover], kept: Sequence[Kept]) -> None:
    for it in found:
        record = it.record
        age = format_age(time.time() - (record.ended or record.created))
        state = (
            f"its head has died (process {record.pid} on {record.host}), started {age} ago"
            if it.is_lost
            else f"ended {age} ago"
        )
        say(f"{record.name!r}   {state}   {record.backend}")
        files = f"{it.credentials} file{'' if it.credentials == 1 else 's'}" if it.credentials else ""
        going = "goes" if it.is_old else "stays, with its logs"
        write_facts(
            {
                "jobs": _jobs(it),
                "credentials": files,
                "directory": f"{it.directory}   ({format_bytes(it.size)}, {going})",
            }
        )
    alive = [it.record.name for it in kept if it.is_alive]
    if alive:
        note(f"left alone, for {'it lives' if len(alive) == 1 else 'they live'}: {', '.join(alive)}")
    for other in kept:
        if not other.is_alive:
            name = other.record.name
            note(
                f"left alone: {name}, for {other.record.host} does not tell whether its head lives; "
                f"if you know that it does not: hpccluster cleanup --gone {name}"
            )


def _batch_systems() -> dict[str, dict[str, Any]]:
    """The batch systems whose commands are here, with the options that the configuration has for them."""
    from hpccluster.backend.registry import list_plugins
    from hpccluster.cluster.describe import configuration

    usable = [it.name for it in list_plugins() if it.plugin is not None and it.plugin.commands and not it.problem]
    try:
        config = configuration()
        return {name: config.resolve(name).options for name in usable}
    except ConfigError:
        return {name: {} for name in usable}  # a broken configuration must not keep anybody from tidying up


def _show_unknown(unknown: Sequence[UnknownJobs], *, to_cancel: bool) -> None:
    for it in unknown:
        if it.problem:
            note(f"{it.backend} does not tell which jobs there are: {it.problem}")
            continue
        jobs = _listed([f"{name} ({job})" for name, job in sorted(it.jobs.items())])
        say(f"{it.backend}: jobs of no cluster that is known here: {jobs}")
        if not to_cancel:
            note(
                "they are left alone: their cluster may be known elsewhere; if it is not: hpccluster cleanup --unknown-jobs"
            )


def _jobs(it: Leftover) -> str:
    if it.problem:
        return f"{_listed(sorted(it.names))}   (not known whether they are there: {it.problem})"
    if not it.jobs:
        return "none is queued or running any more" if it.names else ""
    return f"{_listed([f'{name} ({job})' for name, job in sorted(it.jobs.items())])}   queued or running"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _outcome(it: Leftover, removal: Removal) -> str:
    if removal.problem:
        return removal.problem
    parts = []
    if it.names:
        count = len(removal.gone)
        parts.append(f"{count} job{'' if count == 1 else 's'} verified gone")
    if removal.unconfirmed:
        parts.append(f"not confirmed: {', '.join(sorted(removal.unconfirmed))}")
    if it.credentials:
        parts.append("credentials removed")
    if removal.removed_directory:
        parts.append("directory removed")
    return ", ".join(parts) or "put in order"


def _answer(
    found: Sequence[Leftover], kept: Sequence[Kept], unknown: Sequence[UnknownJobs], removed: Sequence[Removal]
) -> dict[str, Any]:
    return {
        "found": [_plain(it, removed[number] if removed else None) for number, it in enumerate(found)],
        "kept": [
            {"name": it.record.name, "host": it.record.host, "alive": it.is_alive, "directory": str(it.directory)}
            for it in kept
        ],
        "unknown_jobs": [
            {"backend": it.backend, "name": name, "id": job} for it in unknown for name, job in sorted(it.jobs.items())
        ],
    }


def _plain(it: Leftover, removal: Removal | None) -> dict[str, Any]:
    return {
        "name": it.record.name,
        "id": it.record.id,
        "backend": it.record.backend,
        "directory": str(it.directory),
        "host": it.record.host,
        "lost": it.is_lost,
        "ended": it.record.ended,
        "jobs": [{"name": name, "id": it.jobs.get(name)} for name in sorted(it.names)],
        "problem": it.problem if removal is None else removal.problem or it.problem,
        "credentials": it.credentials,
        "removes_directory": it.is_old,
        "bytes": it.size,
        "gone": None if removal is None else sorted(removal.gone),
        "unconfirmed": None if removal is None else sorted(removal.unconfirmed),
        "removed_directory": None if removal is None else removal.removed_directory,
    }
