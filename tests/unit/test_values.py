"""Names, resources, errors: the small values that everything stands on."""

from __future__ import annotations

import pickle
import random

import pytest

from hpccluster import errors
from hpccluster.errors import ConfigError, HpcClusterError, JobDied
from hpccluster.ids import is_cluster_name, make_cluster_name, make_job_name
from hpccluster.job import JobState
from hpccluster.resources import default_processes, make_resources


def test_cluster_names_can_be_said_and_used_in_files_and_jobs() -> None:
    names = {make_cluster_name(random.Random(seed).choice) for seed in range(200)}
    assert len(names) > 150
    assert all(is_cluster_name(name) for name in names)
    assert make_job_name("calm-otter", 26) == "hpc-calm-otter-001a"


@pytest.mark.parametrize("name", ["", "Upper", "a b", "../x", "-a", "a-", "a" * 41, "naïve", "a\n"])
def test_other_names_are_refused(name: str) -> None:
    assert not is_cluster_name(name)


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (4, 4), (8, 4), (12, 4), (16, 4), (36, 6), (7, 7), (24, 6)])
def test_workers_per_job_by_default(cores: int, processes: int) -> None:
    assert default_processes(cores) == processes


def test_cores_are_shared_evenly_or_not_at_all() -> None:
    assert make_resources(8, 32, 2).threads == 4
    with pytest.raises(ConfigError, match="choose processes from 1, 2, 4"):
        make_resources(4, None, 3)
    with pytest.raises(ConfigError, match="cores=0"):
        make_resources(0, None)
    with pytest.raises(ConfigError, match="cannot be shared evenly"):
        make_resources(2, None, 4)  # would be no thread at all


def test_a_worker_has_its_share_of_the_memory() -> None:
    assert make_resources(8, 32 * 10**9, 4).worker_memory == 8 * 10**9
    assert make_resources(8, None, 4).worker_memory is None


def test_states_that_are_over_or_live() -> None:
    assert {s for s in JobState if s.is_live} == {JobState.PENDING, JobState.RUNNING}
    assert not JobState.ABSENT.is_over
    assert not JobState.UNKNOWN.is_over
    assert JobState.TIMEOUT.is_over


def test_errors_survive_pickling_and_the_wire() -> None:
    error = JobDied("job 7 ended", code="HPC-JOB-DIED", details={"exit_code": 3, "node": "n1"})
    copy = pickle.loads(pickle.dumps(error))
    again = errors.from_name(type(error).__name__, error.message, error.code, error.details)
    for made in (copy, again):
        assert type(made) is JobDied
        assert (str(made), made.code, made.details) == ("job 7 ended", "HPC-JOB-DIED", {"exit_code": 3, "node": "n1"})


def test_an_unknown_error_name_gives_the_base_class() -> None:
    assert type(errors.from_name("os.system", "x")) is HpcClusterError
