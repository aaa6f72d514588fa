"""Plugins by name: built in, by entry point, missing, broken, offered twice."""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
import types
from pathlib import Path

import pytest

from hpccluster.backend import registry
from hpccluster.backend.base import Backend, BackendPlugin
from hpccluster.backend.options import JobOptions
from hpccluster.errors import BackendNotFound, BackendUnavailable

ROOT = Path(__file__).resolve().parents[3]


class Point:
    """An entry point of some distribution."""

    def __init__(self, name: str, value: str, distribution: str) -> None:
        self.name, self.value = name, value
        self.dist = types.SimpleNamespace(name=distribution)


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    found: list[Point] = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)
    return found


def make_module(monkeypatch: pytest.MonkeyPatch, name: str, plugin_name: str) -> None:
    module = types.ModuleType(name)

    def make(options: JobOptions) -> Backend:
        raise NotImplementedError

    module.PLUGIN = BackendPlugin(plugin_name, JobOptions, make, "x:Y")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)


def test_table_equals_the_entry_points() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["entry-points"][registry.GROUP]
    assert declared == registry.BUILT_IN


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN))
def test_built_in_plugins_load_by_their_name(name: str) -> None:
    plugin = registry.get_plugin(name)
    assert plugin.name == name
    assert issubclass(plugin.options_type, JobOptions)
    assert isinstance(plugin.make_backend(plugin.options_type()), Backend), "made without I/O, options or not"


def test_entry_points_are_not_read_for_built_in_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: pytest.fail("read"))
    assert registry.get_plugin("local").name == "local"


def test_foreign_plugin(points: list[Point], monkeypatch: pytest.MonkeyPatch) -> None:
    make_module(monkeypatch, "their_plugin", "cobalt")
    points.append(Point("cobalt", "their_plugin:PLUGIN", "their-dist"))
    assert registry.get_plugin("cobalt").name == "cobalt"
    listed = {item.name: item for item in registry.list_plugins()}
    assert listed["cobalt"].distribution == "their-dist"
    assert listed["local"].plugin is not None


def test_unknown_backend_lists_the_known_ones(points: list[Point]) -> None:
    with pytest.raises(
        BackendNotFound, match=r"no backend 'slrum': installed are local, slurm; did you mean 'slurm'\?"
    ):
        registry.get_plugin("slrum")


def test_name_that_two_distributions_offer(points: list[Point], monkeypatch: pytest.MonkeyPatch) -> None:
    make_module(monkeypatch, "their_plugin", "cobalt")
    points += [Point("cobalt", "their_plugin:PLUGIN", "one"), Point("cobalt", "their_plugin:PLUGIN", "other")]
    with pytest.raises(BackendUnavailable, match="offered by one and other"):
        registry.get_plugin("cobalt")
    points.append(Point("slurm", "their_plugin:PLUGIN", "thief"))
    listed = {item.name: item for item in registry.list_plugins()}
    assert "offered by hpccluster and thief" in listed["slurm"].problem
    assert registry.get_plugin("slurm").cluster_type == "hpccluster_slurm.cluster:SLURMCluster"


def test_plugin_that_cannot_be_loaded_names_whose_it_is(
    points: list[Point], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_plugin.py").write_text("1 / 0\n")
    (tmp_path / "needy_plugin.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    make_module(monkeypatch, "other_plugin", "other")
    points += [
        Point("broken", "broken_plugin:PLUGIN", "their-dist"),
        Point("ssh", "needy_plugin:PLUGIN", "hpccluster"),
        Point("misnamed", "other_plugin:PLUGIN", "their-dist"),
    ]
    with pytest.raises(BackendUnavailable, match="'broken' of their-dist cannot be loaded: ZeroDivisionError"):
        registry.get_plugin("broken")
    with pytest.raises(BackendUnavailable, match=r"'ssh' needs more packages: pip install 'hpccluster\[ssh\]'"):
        registry.get_plugin("ssh")
    with pytest.raises(BackendUnavailable, match="not a BackendPlugin of that name"):
        registry.get_plugin("misnamed")
    assert [item.name for item in registry.list_plugins() if item.problem] == ["broken", "misnamed", "ssh"]
