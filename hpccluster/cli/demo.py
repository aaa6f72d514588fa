"""`demo`: a small real computation on a cluster of its own, from input files to a table."""

from __future__ import annotations

import contextlib
import importlib.resources
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from hpccluster.cli import stations
from hpccluster.cli.description import Target, description_options, read_values
from hpccluster.cli.output import console, note, progress, say, write_json, write_table

if TYPE_CHECKING:
    from hpccluster.cluster.manager import ClusterManager
    from hpccluster.runtime.client import Client
    from hpccluster.runtime.futures import Future

PARTS = 10
"""Tasks per station."""
RESAMPLES = 100
"""Trends that each of them computes."""
START_TIMEOUT = 600.0


@click.command("demo")
@description_options
@click.option(
    "--workers", type=click.IntRange(min=1), help="How many workers; by default 2, or what the description says."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def demo_command(target: Target, workers: int | None, as_json: bool) -> None:
    """Run a small real computation: how fast eight weather stations get warmer, and how sure that is."""
    from hpccluster.runtime.client import Client

    started = time.monotonic()
    texts = read_files()
    note(f"{len(texts)} files, 30 years of weekly temperatures; {PARTS * RESAMPLES:,} resampled trends a station")
    with progress("starting a cluster"):
        cluster = _make_cluster(target, workers)
    try:
        # Here all come at once; from a queue, the first is enough to begin.
        cluster.wait_for_workers(None if target.resolve().backend == "local" else 1, timeout=START_TIMEOUT)
        info = cluster.info
        note(f"cluster {cluster.name!r} on {info['backend']}: workers {info['workers']}/{info['expected_workers']}")
        with Client(cluster) as client:
            rows = compute(client, texts)
    except KeyboardInterrupt:
        note("interrupted: the cluster is being stopped")
        raise
    finally:
        with progress("stopping the cluster"):
            cluster.close()
    seconds = time.monotonic() - started
    if as_json:
        write_json({"stations": rows, "seconds": round(seconds, 2)})
        return
    write_table(
        ("STATION", "LOWEST", "MEAN", "HIGHEST", "DEGREES/DECADE", "90% OF THEM BETWEEN"),
        [
            (
                row["station"],
                f"{row['lowest']:.1f}",
                f"{row['mean']:.1f}",
                f"{row['highest']:.1f}",
                f"{row['trend']:+.2f}",
                f"{row['low']:+.2f} and {row['high']:+.2f}",
            )
            for row in rows
        ],
        right=("LOWEST", "MEAN", "HIGHEST", "DEGREES/DECADE"),
    )
    say(f"done in {seconds:.1f} s; the cluster is closed")


def read_files() -> dict[str, str]:
    """Per station the text of its file."""
    folder = importlib.resources.files("hpccluster.cli") / "demo_data"
    found = {
        file.name.removesuffix(".csv"): file.read_text() for file in folder.iterdir() if file.name.endswith(".csv")
    }
    return dict(sorted(found.items()))


def compute(client: Client, texts: dict[str, str]) -> list[dict[str, Any]]:
    """Read, resample and summarise all stations on the cluster's workers."""
    from hpccluster.runtime.futures import as_completed

    read = [client.submit(stations.read_station, name, text) for name, text in texts.items()]
    parts: dict[str, list[Future[list[float]]]] = {
        name: [client.submit(stations.resampled_trends, station, seed, RESAMPLES) for seed in range(PARTS)]
        for name, station in zip(texts, read, strict=True)
    }
    every = [part for several in parts.values() for part in several]
    with _bar(len(every)) as advance:
        for _ in as_completed(every):
            advance()
    rows = []
    for station, several in zip(client.gather(read), parts.values(), strict=True):
        low, high = stations.spread([slope for part in client.gather(several) for slope in part])
        rows.append(
            {
                "station": station.name,
                "lowest": station.lowest,
                "mean": round(station.mean, 2),
                "highest": station.highest,
                "trend": round(stations.trend(station.years, station.celsius), 3),
                "low": round(low, 3),
                "high": round(high, 3),
            }
        )
    return sorted(rows, key=lambda row: -float(row["trend"]))


def _make_cluster(target: Target, workers: int | None) -> ClusterManager:
    """A cluster of two workers, unless something else is said."""
    from hpccluster.cluster.manager import ClusterManager

    resolved = target.resolve()
    keywords = read_values(target.values)
    if workers is not None or (resolved.scale is None and resolved.adapt is None):
        keywords["scale"] = {"workers": workers or 2}
    if resolved.backend != "local":
        # what a batch system wants to know; on this machine a job has a core and its share of memory
        keywords |= {key: value for key, value in (("cores", 1), ("memory", "1GB")) if key not in resolved.options}
    if target.is_file:
        assert target.cluster is not None
        return ClusterManager.from_file(target.cluster, **keywords)
    return ClusterManager.from_config(resolved.name, **keywords)


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal; else a line at each quarter."""
    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console(stderr=True), transient=True) as shown:
            task = shown.add_task("tasks", total=total)
            yield lambda: shown.advance(task)
        return
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done * 4 % total < 4:
            note(f"tasks {done}/{total}")

    yield advance
