"""From what a user says to what a head is told."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from hpccluster import LocalCluster, SLURMCluster
from hpccluster.cluster import describe
from hpccluster.config import ResolvedCluster
from hpccluster.errors import ConfigError
from hpccluster.head.spec import ScaleRequest
from hpccluster.ids import is_cluster_name


def make(settings: dict[str, object], **more: object) -> ResolvedCluster:
    return ResolvedCluster(name="slurm", backend="slurm", settings=settings, **more)  # type: ignore[arg-type]


def test_a_description_becomes_a_specification(tmp_path: Path) -> None:
    resolved = make(
        {"name": "sweep", "state_directory": str(tmp_path), "port": 8786, "linger": "10min"},
        options={"cores": 2, "interface": "ib0"},
        scale={"memory": "8GB"},
    )
    spec = describe.make_spec(resolved, detached=True, program=["python", "x.py"], program_environment={"A": "b"})
    assert (spec.name, spec.backend, spec.port, spec.linger) == ("sweep", "slurm", 8786, 600.0)
    assert (spec.interface, spec.options["cores"]) == ("ib0", 2)
    assert spec.scale == ScaleRequest(memory=8 * 10**9)
    assert (spec.detached, spec.program, spec.program_environment) == (True, ("python", "x.py"), {"A": "b"})
    assert spec.state_directory == str(tmp_path)


def test_a_cluster_without_a_name_gets_one_that_is_free(tmp_path: Path) -> None:
    spec = describe.make_spec(make({"state_directory": str(tmp_path)}))
    assert is_cluster_name(spec.name)
    assert list(tmp_path.iterdir()) == []


def test_the_state_directory_may_use_what_shells_expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    assert describe.parent_directory("$SCRATCH/hpc") == tmp_path / "hpc"
    monkeypatch.setenv("HPCCLUSTER_STATE_DIRECTORY", str(tmp_path / "state"))
    assert describe.parent_directory() == tmp_path / "state"


@pytest.mark.parametrize("keywords", [{"workers": 1, "jobs": 1}, {}, {"memory": "much"}, {"jobs": -1}], ids=str)
def test_a_size_that_is_none_is_refused(keywords: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        describe.make_scale(**keywords)


@pytest.mark.parametrize("amount", ["3", 2.5, True])
def test_a_size_is_a_whole_number(amount: Any) -> None:
    with pytest.raises(ConfigError, match="a size is a whole number"):
        describe.make_scale(workers=amount)


def test_n_workers_is_a_way_to_say_scale() -> None:
    assert describe.with_size({"cores": 1}, 3) == {"cores": 1, "scale": {"workers": 3}}
    assert describe.with_size({"cores": 1}, None) == {"cores": 1}
    with pytest.raises(ConfigError, match="excludes"):
        describe.with_size({"adapt": {"maximum": 3}}, 3)


def test_a_script_does_not_linger() -> None:
    assert describe.linger_of(make({})) == 0.0
    with pytest.raises(ConfigError, match="linger"):
        describe.linger_of(make({"linger": "a while"}))


def test_a_keyword_that_is_unknown_or_called_otherwise_here_is_named() -> None:
    with pytest.raises(ConfigError, match=r"SLURMCluster: unknown keyword 'coress'; did you mean 'cores'"):
        SLURMCluster(coress=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="'project'; here it is called 'account'"):
        SLURMCluster(project="x")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"LocalCluster: unknown keyword 'n_wrokers'; did you mean 'n_workers'"):
        LocalCluster(n_wrokers=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigError) as caught:
        LocalCluster(foo=1, bar=2, time=3)  # type: ignore[call-arg]
    assert str(caught.value).count("known are: ") == 1
    assert "walltime" in inspect.signature(SLURMCluster).parameters
