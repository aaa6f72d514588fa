"""Throughput and round trip of tasks, against peers, interleaved in one run.

    python benchmarks/run.py [--tasks 10000] [--repeats 3] [--peers hpccluster,processpool,dask] [--json FILE]

Throughput: ``tasks`` independent no-op tasks, submitted one by one, all results gathered. Round trip: one task,
submit to result, median and 99th percentile. Every peer has two worker processes with one thread each; ours speaks mutual TLS, as it
does by default. Absolute figures are noise on shared machines: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Submit = Callable[..., Any]


def nothing(number: int) -> int:
    """The no-op task."""
    return number


@dataclass
class Peer:
    """A running peer: how to submit a task, and how to gather results."""

    submit: Submit
    gather: Callable[[list[Any]], list[Any]]


@contextmanager
def hpccluster_peer() -> Iterator[Peer]:
    """This package, with its defaults."""
    from hpccluster import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(2)
        yield Peer(client.submit, client.gather)


@contextmanager
def processpool_peer() -> Iterator[Peer]:
    """concurrent.futures: pipes on one machine, no network, no encryption."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2) as pool:
        yield Peer(pool.submit, lambda futures: [future.result() for future in futures])


@contextmanager
def dask_peer() -> Iterator[Peer]:
    """dask.distributed with its defaults (plain TCP)."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2)

        def submit(function: Callable[..., Any], *args: Any) -> Any:
            return client.submit(function, *args, pure=False)

        yield Peer(submit, client.gather)


PEERS: dict[str, Callable[[], Any]] = {
    "hpccluster": hpccluster_peer,
    "processpool": processpool_peer,
    "dask": dask_peer,
}


def throughput(peer: Peer, tasks: int) -> float:
    """Tasks per second, submit and gather."""
    start = time.perf_counter()
    futures = [peer.submit(nothing, number) for number in range(tasks)]
    results = peer.gather(futures)
    elapsed = time.perf_counter() - start
    assert results == list(range(tasks)), "wrong results"
    return tasks / elapsed


def round_trips(peer: Peer, count: int) -> tuple[float, float]:
    """Median and 99th percentile of one task's round trip, in milliseconds."""
    times = []
    for number in range(count):
        start = time.perf_counter()
        (result,) = peer.gather([peer.submit(nothing, number)])
        times.append((time.perf_counter() - start) * 1e3)
        assert result == number
    times.sort()
    return statistics.median(times), times[int(len(times) * 0.99)]


def measure(names: list[str], tasks: int, repeats: int, trips: int) -> dict[str, dict[str, float]]:
    """Every peer in turn, ``repeats`` times; the medians."""
    raw: dict[str, dict[str, list[float]]] = {
        name: {"tasks_per_s": [], "trip_ms": [], "trip_p99_ms": []} for name in names
    }
    for turn in range(repeats):
        for name in names:
            print(f"turn {turn + 1}/{repeats}: {name}", file=sys.stderr)
            with PEERS[name]() as peer:
                round_trips(peer, 20)  # warm
                # dask needs half a minute for 10,000 tasks: fewer give the same rate, and never a worse one for it
                amount = tasks if name != "dask" else min(tasks, 5000)
                raw[name]["tasks_per_s"].append(throughput(peer, amount))
                median, p99 = round_trips(peer, trips)
                raw[name]["trip_ms"].append(median)
                raw[name]["trip_p99_ms"].append(p99)
    return {name: {key: statistics.median(values) for key, values in rows.items()} for name, rows in raw.items()}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trips", type=int, default=300)
    parser.add_argument("--peers", default="hpccluster,processpool,dask")
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    names = [name for name in options.peers.split(",") if name]
    figures = measure(names, options.tasks, options.repeats, options.trips)
    ours = figures.get("hpccluster")
    print(f"{'peer':<12} {'tasks/s':>10} {'ours is':>9} {'trip ms':>9} {'p99 ms':>8} {'ours is':>9}")
    for name, row in figures.items():
        faster = f"{ours['tasks_per_s'] / row['tasks_per_s']:.1f}x" if ours and name != "hpccluster" else ""
        quicker = f"1/{row['trip_ms'] / ours['trip_ms']:.1f}" if ours and name != "hpccluster" else ""
        print(
            f"{name:<12} {row['tasks_per_s']:>10,.0f} {faster:>9} {row['trip_ms']:>9.3f} {row['trip_p99_ms']:>8.2f} "
            f"{quicker:>9}"
        )
    if options.json:
        report = {"tasks": options.tasks, "repeats": options.repeats, "figures": figures}
        Path(options.json).write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
