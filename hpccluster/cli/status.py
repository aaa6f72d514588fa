"""`status`: all clusters, or one."""

from __future__ import annotations

import shlex
import time
from typing import Any

import click

from hpccluster.cli import complete
from hpccluster.cli.output import note, progress, say, write_facts, write_json, write_table
from hpccluster.units import format_age, format_bytes

RECENT = 86400.0
"""Seconds since the end of a cluster after which it is shown only if asked for."""


@click.command("status")
@click.argument("name", required=False, shell_complete=complete.any_cluster)
@click.option("--all", "everything", is_flag=True, help="Those that ended more than a day ago, too.")
@click.option("--json", "as_json", is_flag=True, help="For programs: a list of clusters, or with NAME one.")
def status_command(name: str | None, everything: bool, as_json: bool) -> None:
    """Show your clusters, or one in full."""
    from hpccluster.cli.running import describe, find_cluster, known_clusters

    clusters = known_clusters() if name is None else [find_cluster(name)]
    hidden = 0
    if name is None and not everything:
        recent = [it for it in clusters if it[0].ended is None or time.time() - it[0].ended < RECENT]
        clusters, hidden = recent, len(clusters) - len(recent)
    with progress("asking"):
        found = describe(clusters)
    if hidden:
        note(f"{hidden} that ended more than a day ago: hpccluster status --all; removed by: hpccluster cleanup")
    if as_json:
        write_json(found if name is None else found[0])
    elif name is not None:
        _write_one(found[0])
    elif found:
        rows = [
            (
                facts["name"],
                _outcome(facts) + _since(facts),
                facts["backend"],
                format_age(facts["age_seconds"]),
                _workers(facts),
                _jobs(facts),
                facts["host"],
            )
            for facts in sorted(found, key=lambda facts: float(facts["created"]))
        ]
        write_table(
            ("NAME", "STATE", "BACKEND", "AGE", "WORKERS", "JOBS", "HEAD"),
            rows,
            flexible=("HEAD",),
            wrapped=("STATE", "JOBS"),
        )
    else:
        say("no clusters; start one with: hpccluster submit -- CMD")


def _write_one(facts: dict[str, Any]) -> None:
    say(f"{facts['name']}   {_outcome(facts)}   {format_age(facts['age_seconds'])}   {facts['backend']}")
    program = facts["program"]
    write_facts(
        {
            "program": shlex.join(program["command"]) if program else "",
            "workers": _workers(facts),
            "threads": str(facts["threads"] or ""),
            "memory": format_bytes(facts["memory"]) if facts["memory"] else "",
            "jobs": _jobs(facts),
            "engine": facts["engine"] if facts["engine"] not in (None, "native") else "",
            "dashboard": facts["dashboard"] or "",
            "head": f"process {facts['pid']} on {facts['host']}",
            "address": facts["address"] if facts["ended"] is None else "",
            "files": facts["directory"],
            "end" if facts["ended"] is not None else "why": facts["reason"],
            "careful": f"the end of these jobs was not confirmed: {', '.join(facts['unconfirmed'])}"
            if facts["unconfirmed"]
            else "",
        }
    )


def _outcome(facts: dict[str, Any]) -> str:
    program = facts["program"]
    if program is not None and program["exit_code"] is not None:
        return f"{facts['state']}, exit code {program['exit_code']}"
    return str(facts["state"])


def _since(facts: dict[str, Any]) -> str:
    """How long ago it ended."""
    return "" if facts["ended"] is None else f", {format_age(max(0.0, time.time() - facts['ended']))} ago"


def _workers(facts: dict[str, Any]) -> str:
    return "" if facts["workers"] is None else f"{facts['workers']}/{facts['expected_workers']}"


def _jobs(facts: dict[str, Any]) -> str:
    return ", ".join(f"{count} {state.lower()}" for state, count in (facts["jobs"] or {}).items() if count)
