"""Plans and sizes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from hpccluster.errors import ConfigError
from hpccluster.fleet.sizes import jobs_for, make_plan
from hpccluster.fleet.values import CloseReport, Plan
from hpccluster.resources import JobResources

RESOURCES = JobResources(cores=8, memory=32 * 10**9, processes=4)


@pytest.mark.parametrize(
    ("wish", "jobs"),
    [
        ({"workers": 0}, 0),
        ({"workers": 1}, 1),
        ({"workers": 4}, 1),
        ({"workers": 5}, 2),
        ({"jobs": 3}, 3),
        ({"cores": 17}, 3),
        ({"memory": "64GB"}, 2),
        ({"memory": 64 * 10**9 + 1}, 3),
    ],
)
def test_whole_jobs(wish: dict[str, Any], jobs: int) -> None:
    assert jobs_for(RESOURCES, **wish) == jobs


@pytest.mark.parametrize(
    "wish",
    [{}, {"workers": 1, "jobs": 1}, {"workers": -1}, {"jobs": 1.5}, {"cores": True}, {"memory": "lots"}],
)
def test_wishes_that_make_no_sense(wish: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="scale"):
        jobs_for(RESOURCES, **wish)


def test_memory_needs_jobs_with_memory() -> None:
    with pytest.raises(ConfigError, match="memory"):
        jobs_for(JobResources(cores=1, memory=None, processes=1), memory="1GB")


def test_the_plan_reads_well() -> None:
    assert str(make_plan(RESOURCES, jobs=4)) == "Plan: 4 jobs x 4 workers x 2 threads = 32 cores, 4 x 32 GB"
    small = JobResources(cores=1, memory=2**30, processes=1)
    assert str(make_plan(small, jobs=1)) == "Plan: 1 job x 1 worker x 1 thread = 1 core, 1 x 1 GiB"
    assert str(make_plan(JobResources(cores=2, memory=None, processes=2), jobs=1)).endswith("= 2 cores")
    assert str(make_plan(RESOURCES, jobs=0)) == "Plan: no jobs"
    assert "3 held back" in str(make_plan(RESOURCES, jobs=4, held=3))


def test_the_plan_crosses_the_wire() -> None:
    plan = make_plan(RESOURCES, jobs=4)
    assert Plan.from_plain(json.loads(msgspec.json.encode(plan))) == plan
    assert plan.workers == 16


def test_the_report_reads_well() -> None:
    assert str(CloseReport(cancelled=("a",))) == "1 job ended"
    assert str(CloseReport(unconfirmed=("a", "b"))) == "0 jobs ended; not verified to be gone: a, b"
