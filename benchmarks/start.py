"""Imports, fresh clusters and idle workers, against dask, interleaved in one run.

    python benchmarks/start.py [--repeats 5]

Measured are: time of the import; time from nothing to the first result of a fresh cluster with two workers of one thread each (the
import not counted); time to shut down; resident memory of an idle worker. Each turn is a process of its own. Ours
speaks mutual TLS, as it does by default.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

COMMON = """
import json, os, sys, time
start = time.perf_counter()
{imports}
imported = time.perf_counter()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if __name__ == "__main__":
    {cluster}
    client = Client(cluster)
    assert client.submit(pow, 2, 10).result(timeout=60) == 1024
    first = time.perf_counter()
    memory = client.submit(resident).result(timeout=60)
    before = time.perf_counter()
    client.close()
    cluster.close()
    closed = time.perf_counter()
    print(json.dumps(dict(import_s=imported - start, first_s=first - imported, close_s=closed - before,
                          worker_mb=memory / 1e6)))
"""
PEERS = {
    "hpccluster": COMMON.format(
        # what is loaded when it is first used belongs to the import
        imports="from hpccluster import Client, LocalCluster",
        cluster="cluster = LocalCluster(n_workers=2, threads_per_worker=1)",
    ),
    "dask": COMMON.format(
        imports="from distributed import Client, LocalCluster",
        cluster='cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")',
    ),
}
BARE = {
    "hpccluster": "import hpccluster",
    "dask": "import distributed",
}


# A package that is installed has its bytecode compiled; a checkout gets it in the first turn, unless that is forbidden.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def import_time(statement: str) -> float:
    """Seconds of one import in a fresh interpreter."""
    program = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    return float(done.stdout)


def turn(program: str) -> dict[str, float]:
    """One fresh process's figures."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120, env=ENVIRONMENT
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    raw: dict[str, list[dict[str, float]]] = {name: [] for name in PEERS}
    for program in PEERS.values():
        turn(program)  # warm
    for _ in range(options.repeats):
        for name, program in PEERS.items():
            raw[name].append(turn(program) | {"bare_import_s": import_time(BARE[name])})
    keys = ("bare_import_s", "import_s", "first_s", "close_s", "worker_mb")
    figures = {name: {key: statistics.median(row[key] for row in rows) for key in keys} for name, rows in raw.items()}
    print(f"{'':<22}" + "".join(f"{name:>12}" for name in PEERS) + f"{'ours is':>10}")
    titles = {
        "bare_import_s": "import alone, s",
        "import_s": "import of both, s",
        "first_s": "to first result, s",
        "close_s": "close, s",
        "worker_mb": "idle worker, MB",
    }
    for key in keys:
        row = [figures[name][key] for name in PEERS]
        print(f"{titles[key]:<22}" + "".join(f"{value:>12.3f}" for value in row) + f"{row[0] / row[1]:>9.2f}x")


if __name__ == "__main__":
    main()
