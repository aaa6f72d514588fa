"""What a cluster shows at a prompt."""

from __future__ import annotations

from hpccluster.cluster.views import Jobs, Logs, Workers, format_summary, format_waiting
from hpccluster.fleet.views import format_time

PLAIN = {
    "id": "",
    "phase": "",
    "reason": "",
    "meaning": "",
    "node": "",
    "exit_code": None,
    "workers": 0,
    "expected_workers": 4,
    "estimated_start": None,
}
ROWS = [
    PLAIN
    | {
        "name": "hpc-calm-otter-0a1f",
        "id": "481516",
        "state": "RUNNING",
        "node": "n017",
        "age_seconds": 72.0,
        "workers": 4,
        "more": "than we know",
    },
    PLAIN
    | {
        "name": "hpc-calm-otter-0a20",
        "id": "481517",
        "state": "PENDING",
        "reason": "Priority",
        "age_seconds": 72.0,
        "estimated_start": 5000.0,
    },
    PLAIN | {"name": "<b>", "state": "FAILED", "exit_code": 127, "age_seconds": 2.0},
]


def test_jobs_are_a_table() -> None:
    start = format_time(5000.0)
    assert repr(Jobs.from_plain(ROWS)).splitlines() == [
        "JOB     NAME                 STATE    REASON    NODE  AGE    WORKERS",
        "481516  hpc-calm-otter-0a1f  RUNNING            n017  1m12s  4/4",
        f"481517  hpc-calm-otter-0a20  PENDING  Priority        1m12s  -        starts about {start}",
        "-       <b>                  FAILED                   2s     -        exit code 127",
    ]
    assert repr(Jobs()) == "JOB  NAME  STATE  REASON  NODE  AGE  WORKERS"


def test_nothing_is_put_into_html_unescaped() -> None:
    assert "<b>" not in Jobs.from_plain(ROWS)._repr_html_()
    assert "<b>" not in Logs({"<b>": "<b>"})._repr_html_()


def test_workers_are_a_table() -> None:
    row = {"name": "a-0", "job": "", "pid": 7, "host": "n1", "address": "tls://h:1", "threads": 2, "memory": 2**30}
    assert repr(Workers.from_plain([row | {"stored": 2048}])).splitlines()[1].split() == [
        *("a-0", "n1", "tls://h:1", "2", "1.0", "GiB", "0", "2.0", "KiB"),
    ]


def test_a_cluster_is_one_line() -> None:
    info = {
        "name": "calm-otter",
        "address": "tls://127.0.0.1:41235",
        "workers": 2,
        "expected_workers": 2,
        "threads": 4,
        "memory": 8375186227,
    }
    assert (
        format_summary("LocalCluster", info)
        == "LocalCluster 'calm-otter'  tls://127.0.0.1:41235  workers 2/2  threads 4  memory 7.8 GiB"
    )
    assert format_summary("X", info | {"memory": 0, "jobs": {"PENDING": 3}}).endswith("threads 4  jobs pending 3")


def test_waiting_says_for_what() -> None:
    jobs = Jobs.from_plain(ROWS[:2])
    assert (
        format_waiting(4, 8, jobs) == "waiting for workers  4/8   jobs: 1 running, 1 pending "
        f"(Priority; first start about {format_time(5000.0)})"
    )
    assert format_waiting(0, 2, Jobs()) == "waiting for workers  0/2"
