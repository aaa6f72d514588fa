"""Verbs that speak to a running cluster: `jobs`, `workers`, `scale`, `adapt`, `down`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar, get_args, get_type_hints

import click

from hpccluster.cli import complete
from hpccluster.cli.output import JSON, progress, say, write_error, write_json, write_table
from hpccluster.config.schema import AdaptOptions
from hpccluster.errors import CancelFailed, ClusterError, ConfigError, HpcClusterError
from hpccluster.units import format_age, format_bytes, parse_bytes

R = TypeVar("R")


@click.command("jobs")
@click.argument("name", shell_complete=complete.living_cluster)
@JSON
def jobs_command(name: str, as_json: bool) -> None:
    """Show a cluster's jobs, each with why it waits or failed."""
    from hpccluster.cli.running import ask

    with progress("asking"):
        jobs = ask(name, "jobs")
    if as_json:
        write_json(jobs)
    elif not jobs:
        say("no jobs")
    else:
        rows = [
            (
                job["id"] or "-",
                job["name"],
                job["state"],
                job["reason"],
                job["node"],
                format_age(job["age_seconds"]),
                f"{job['workers']}/{job['expected_workers']}" if job["workers"] or job["state"] == "RUNNING" else "-",
                _remark(job),
            )
            for job in jobs
        ]
        titles = ("JOB", "NAME", "STATE", "REASON", "NODE", "AGE", "WORKERS", "")
        write_table(titles, rows, flexible=("REASON", "NODE", ""))


def _remark(job: dict[str, Any]) -> str:
    if job.get("estimated_start") and job["state"] == "PENDING":
        return f"starts about {time.strftime('%H:%M', time.localtime(job['estimated_start']))}"
    return "" if job.get("exit_code") is None or job["state"] == "RUNNING" else f"exit code {job['exit_code']}"


@click.command("workers")
@click.argument("name", shell_complete=complete.living_cluster)
@JSON
def workers_command(name: str, as_json: bool) -> None:
    """Show the workers that are connected."""
    from hpccluster.cli.running import ask

    with progress("asking"):
        workers = ask(name, "workers")
    if as_json:
        write_json(workers)
    elif not workers:
        say("no workers")
    else:
        rows = [
            (
                worker["name"],
                worker["host"],
                str(worker["threads"]),
                format_bytes(worker["memory"]) if worker["memory"] else "-",
                str(worker["executing"]),
                format_bytes(worker["stored"]),
                worker["address"],
            )
            for worker in workers
        ]
        titles = ("WORKER", "HOST", "THREADS", "MEMORY", "RUNNING", "STORED", "ADDRESS")
        write_table(titles, rows, flexible=("HOST", "ADDRESS"), right=("THREADS", "MEMORY", "RUNNING", "STORED"))


@click.command("scale")
@click.argument("name", shell_complete=complete.living_cluster)
@click.argument("workers", type=click.IntRange(min=0), required=False)
@click.option("--jobs", type=click.IntRange(min=0), help="So many jobs.")
@click.option("--cores", type=click.IntRange(min=0), help="So many cores in all, rounded up to whole jobs.")
@click.option("--memory", help="So much memory in all, as 512GB.")
@JSON
def scale_command(
    name: str, workers: int | None, jobs: int | None, cores: int | None, memory: str | None, as_json: bool
) -> None:
    """Change a cluster's size to N workers (rounded up to whole jobs), or to so many jobs."""
    from hpccluster.cli.running import ask

    try:
        size = None if memory is None else parse_bytes(memory)
    except ValueError as error:
        raise ConfigError(f"--memory {memory}: {error}") from error
    given = {
        unit: amount
        for unit, amount in (("workers", workers), ("jobs", jobs), ("cores", cores), ("memory", size))
        if amount is not None
    }
    if len(given) != 1:
        raise click.UsageError("say one of N (workers), --jobs, --cores, --memory", click.get_current_context())
    with progress("changing the size"):
        plan = ask(name, "scale", given, wait=600.0)
    if as_json:
        write_json(plan)
    else:
        say(format_plan(plan))


def _adapt_options(command: Callable[..., R]) -> Callable[..., R]:
    """An option for each key of ``adapt:`` in a description; the command gets what was said as keywords."""
    for name, hint in reversed(get_type_hints(AdaptOptions, include_extras=True).items()):
        kind, note = get_args(hint)
        is_text = str in get_args(kind)
        metavar = "N" if not is_text else "SIZE" if name.endswith("memory") else "TIME"
        option = click.option(
            f"--{name.replace('_', '-')}",
            name,
            type=str if is_text else click.IntRange(min=0),
            metavar=metavar,
            help=note.description,
        )
        command = option(command)
    return command


@click.command("adapt")
@click.argument("name", shell_complete=complete.living_cluster)
@_adapt_options
@JSON
def adapt_command(name: str, as_json: bool, **wishes: int | str | None) -> None:
    """Let a cluster's size follow its work, between bounds; `scale` ends that."""
    from hpccluster.cli.running import ask

    given = {key: value for key, value in wishes.items() if value is not None}
    with progress("changing the bounds"):
        limits = ask(name, "adapt", given, wait=600.0)
    if as_json:
        write_json(limits)
    else:
        most = "any number of" if limits["maximum"] is None else limits["maximum"]
        say(f"{name!r} follows its work: {limits['minimum']} to {most} jobs")


def format_plan(plan: Any) -> str:
    """A plan as the head tells it, in a line."""
    from hpccluster.fleet.values import Plan

    return str(Plan.from_plain(plan))


@click.command("down")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete.living_cluster)
@click.option("--timeout", default=60.0, show_default=True, help="Seconds for the batch system to confirm.")
@JSON
def down_command(names: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Stop a cluster and its program; cancel its jobs and verify that they are gone."""
    reports: dict[str, Any] = {}
    errors: list[HpcClusterError] = []
    left: list[str] = []
    for name in names:
        try:
            with progress(f"stopping {name!r}"):
                report = reports[name] = _stop(name, timeout)
        except HpcClusterError as error:  # the others are stopped all the same
            errors.append(error)
            continue
        cancelled = report.get("cancelled", [])
        left += report.get("unconfirmed", [])
        if not as_json:
            count = f"{len(cancelled)} job{'' if len(cancelled) == 1 else 's'} cancelled and gone"
            what = "its head had died; put in order" if report["lost"] else "stopped"
            say(f"{what} {name!r}: {count if cancelled else 'no jobs were left'}")
    if as_json:
        write_json(reports)
    if left:
        problems = dict.fromkeys(report["problem"] for report in reports.values() if report.get("problem"))
        said = "".join(f"\nit said: {problem}" for problem in problems)
        raise CancelFailed(
            f"the batch system did not confirm the end of these jobs: {', '.join(left)}{said}\n"
            "fix: see later whether anything is left: hpccluster cleanup"
        )
    for earlier in errors[:-1]:
        write_error(earlier)
    if errors:
        raise errors[-1]


def _stop(name: str, timeout: float) -> dict[str, Any]:
    """End a cluster; or, where its head has died, do what that has not done."""
    from hpccluster.cli.running import ask, find_cluster
    from hpccluster.cluster.leftovers import look, remove
    from hpccluster.head.directory import look_for_head

    record, directory = find_cluster(name)
    if record.state == "ended" or look_for_head(record) != "gone":
        report = ask(name, "close", {"timeout": timeout}, wait=timeout + 10.0)
        return {"lost": False} | dict(report)
    (leftover, *_), _ = look([directory.parent], older_than=math.inf, only={name})
    removal = remove(leftover, timeout=timeout)
    if removal.problem:
        raise ClusterError(f"cluster {name!r}: {removal.problem}")
    return {"lost": True, "cancelled": sorted(removal.gone), "unconfirmed": sorted(removal.unconfirmed), "problem": ""}
