"""Plugins by name: built in, of other distributions (real ones, in a folder of the test's), missing, broken, offered twice."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccluster import __version__
from hpccluster.backend import registry
from hpccluster.backend.base import CONTRACT, Backend
from hpccluster.backend.options import JobOptions
from hpccluster.backend.remote import RemoteTarget
from hpccluster.backend.runner import Runner
from hpccluster.errors import BackendNotFound, BackendUnavailable, ConfigError
from support.distributions import install, plugin

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed distributions."""
    before = set(sys.modules)
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    for name in set(sys.modules) - before:
        if name.endswith("_plugin") and "." not in name:
            del sys.modules[name]


def listed() -> dict[tuple[str, str], registry.ListedPlugin]:
    importlib.invalidate_caches()
    return {(item.name, item.offer.distribution): item for item in registry.list_plugins()}


def test_table_equals_the_entry_points() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["entry-points"]
    assert declared[registry.GROUP] == registry.BUILT_IN
    assert declared[registry.RUNNER_GROUP] == registry.BUILT_IN_RUNNERS


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN))
def test_built_in_plugins_load_by_their_name(name: str) -> None:
    found = registry.get_plugin(name)
    assert found.name == name
    assert found.contract == CONTRACT
    assert issubclass(found.options_type, JobOptions)
    assert isinstance(found.make_backend(found.options_type()), Backend), "made without I/O, options or not"


def test_entry_points_are_not_read_for_built_in_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: pytest.fail("read"))
    assert registry.get_plugin("local").name == "local"


def test_foreign_plugin_is_listed_with_its_origin(site: Path) -> None:
    install(site, "their-dist", {"cobalt": plugin("cobalt")})
    assert registry.get_plugin("cobalt").name == "cobalt"
    found = listed()
    assert (found["cobalt", "their-dist"].offer.origin, found["cobalt", "their-dist"].problem) == ("their-dist 2.1", "")
    assert found["local", "hpccluster"].offer.origin == f"hpccluster {__version__}"
    assert found["local", "hpccluster"].plugin is not None


def test_unknown_backend_lists_the_known_ones(site: Path) -> None:
    install(site, "their-dist", {"cobalt": plugin("cobalt")})
    with pytest.raises(BackendNotFound, match=r"no backend 'slrum': installed are cobalt, .*; did you mean 'slurm'\?"):
        registry.get_plugin("slrum")


def test_name_that_two_distributions_offer(site: Path) -> None:
    install(site, "one", {"cobalt": plugin("cobalt")})
    install(site, "other", {"cobalt": plugin("cobalt"), "slurm": plugin("slurm")})
    with pytest.raises(BackendUnavailable, match=r"offered by one 2\.1 and other 2\.1: uninstall all but one"):
        registry.get_plugin("cobalt")
    found = listed()
    assert found["cobalt", "one"].problem == "offered by other 2.1, too: uninstall all but one"
    assert found["cobalt", "other"].problem == "offered by one 2.1, too: uninstall all but one"
    # ours cannot be taken over, nor made unusable
    assert found["slurm", "other"].problem == f"offered by hpccluster {__version__}, too: that one is used"
    assert found["slurm", "hpccluster"].plugin is not None
    assert registry.get_plugin("slurm").cluster_type == "hpccluster_slurm.cluster:SLURMCluster"


BROKEN = {
    "raises": ("1 / 0\n", "cannot be loaded: ZeroDivisionError: division by zero"),
    "exits": ("import sys\nsys.exit('no licence')\n", "cannot be loaded: SystemExit: no licence"),
    "typo": ("def f(:\n", "cannot be loaded: SyntaxError: "),
    "needy": (
        "import no_such_module_anywhere\n",
        "(it needs a package that is not installed: reinstall their-dist, or pip install no_such_module_anywhere)",
    ),
    "empty": ("", "cannot be loaded: AttributeError: "),
    "misnamed": (plugin("other"), "name='other' differs from the name of the entry point, 'misnamed'"),
    "number": ("PLUGIN = 5\n", "is no BackendPlugin, but 5"),
    "worded": (plugin("worded", "contract='1'"), "contract='1' is no number"),
    "strung": (plugin("strung", "commands='tsp'"), "commands='tsp' is no tuple of names"),
    "strange": (plugin("strange", "modules=(5,)"), "modules=(5,) is no tuple of names"),
    "unmade": (plugin("unmade").replace("make, ", "None, "), "make_backend=None cannot be called"),
    "classless": (
        plugin("classless").replace("x:Y", "x.Y"),
        "cluster_type='x.Y' is not of the form 'package.module:Class'",
    ),
    "optionless": (plugin("optionless").replace("JobOptions, make", "dict, make"), "is no subclass of JobOptions"),
    "demanding": (
        plugin("demanding")
        .replace(
            "def make",
            "import dataclasses\n\n"
            "@dataclasses.dataclass(frozen=True, kw_only=True)\n"
            "class Options(JobOptions):\n    licence: str\n    site: str = ''\n\ndef make",
        )
        .replace("JobOptions, make", "Options, make"),
        "options without a default: licence (required_options()",
    ),
    "newer": (
        plugin("newer", "contract=2"),
        "is made for version 2 of the contract between hpccluster and its backends, and this one has version 1: upgrade h",
    ),
    "older": (plugin("older", "contract=0"), "upgrade their-dist"),
    "modern": (plugin("modern", "not_known_yet=1"), "unexpected keyword argument 'not_known_yet'"),
}


def test_each_broken_plugin_says_why_and_hurts_no_other(site: Path) -> None:
    install(site, "their-dist", {"cobalt": plugin("cobalt"), **{name: text for name, (text, _) in BROKEN.items()}})
    found = listed()
    for name, (_, words) in BROKEN.items():
        problem = found[name, "their-dist"].problem
        assert words in problem, problem
        assert "\n" not in problem
        with pytest.raises(BackendUnavailable) as caught:
            registry.get_plugin(name)
        assert " ".join(str(caught.value).split()) == f"backend {name!r} of their-dist 2.1 {problem}"
    assert not found["cobalt", "their-dist"].problem
    assert not found["local", "hpccluster"].problem


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("return None", "make_backend returned None, which is no Backend"),
        ("from hpccluster.backend.base import Backend; return Backend()", "Can't instantiate abstract class Backend"),
    ],
)
def test_plugin_that_makes_no_backend_is_named(site: Path, body: str, words: str) -> None:
    install(site, "their-dist", {"cobalt": plugin("cobalt").replace("raise NotImplementedError", body)})
    with pytest.raises(BackendUnavailable, match="cannot be made") as caught:
        registry.make_backend(registry.get_plugin("cobalt"), JobOptions())
    assert caught.value.code == "HPC-BACKEND-BUG"
    assert "fault of its plugin (their_dist_cobalt_plugin)" in str(caught.value)
    assert words in str(caught.value)


def test_what_a_plugin_says_of_itself_is_passed_on(site: Path) -> None:
    body = "from hpccluster.errors import ConfigError; raise ConfigError('no way')"
    install(site, "their-dist", {"cobalt": plugin("cobalt").replace("raise NotImplementedError", body)})
    with pytest.raises(ConfigError, match="no way"):
        registry.make_backend(registry.get_plugin("cobalt"), JobOptions())


def test_cluster_class_of_a_plugin(site: Path) -> None:
    install(site, "their-dist", {"cobalt": plugin("cobalt")})
    with pytest.raises(
        BackendUnavailable, match=r"backend 'cobalt' of their-dist 2.1 cannot be loaded: .*No module named 'x'"
    ):
        registry.get_cluster_type("cobalt")
    assert registry.get_cluster_type("local").__name__ == "LocalCluster"


def test_distribution_whose_metadata_is_broken(site: Path) -> None:
    install(site, "garbled", {}, points="[hpccluster.backends]\nthis is no entry point\n")
    install(site, "elsewhere", {}, points="[console_scripts]\nnor is this one\n")
    install(site, "incomplete", {}, points="[hpccluster.backends]\ngone = not_there_at_all.plugin:PLUGIN\n")
    install(site, "brief", {}, points="[hpccluster.backends]\nbare = just.a.module\n")
    install(site, "nameless", {"cobalt": plugin("cobalt")})
    (site / "nameless-2.1.dist-info" / "METADATA").unlink()
    found = listed()
    assert "its entry points cannot be read: " in found["?", "garbled"].problem
    assert not any(distribution == "elsewhere" for _, distribution in found)
    assert found["bare", "brief"].problem == "is wrong: its entry point 'just.a.module' is not of the form module:NAME"
    assert "(its distribution is incomplete: reinstall incomplete)" in found["gone", "incomplete"].problem
    assert registry.get_plugin("cobalt").name == "cobalt"
    assert not found["local", "hpccluster"].problem


def test_what_is_missing_is_named(site: Path) -> None:
    install(
        site,
        "their-dist",
        {
            "bare": plugin("bare", "modules=('json', 'no_such.thing'), extra='fast', commands=('sh', 'no-such-cmd')"),
            "plain": plugin("plain", "modules=('no_such_thing',)"),
        },
    )
    found = listed()
    assert found["bare", "their-dist"].problem == (
        "not installed: no_such.thing (pip install 'their-dist[fast]'); not on PATH: no-such-cmd"
    )
    assert found["plain", "their-dist"].problem == "not installed: no_such_thing (pip install 'no_such_thing')"
    assert found["bare", "their-dist"].plugin is not None, "its options can be looked at all the same"


def test_extra_that_the_import_of_ours_needs(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "needy_plugin.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.setitem(registry.BUILT_IN, "ssh", "needy_plugin:PLUGIN")
    with pytest.raises(BackendUnavailable, match=r"\(pip install 'hpccluster\[ssh\]'\)") as caught:
        registry.get_plugin("ssh")
    assert caught.value.code == "HPC-SSH-EXTRA"


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN_RUNNERS))
def test_built_in_runners_are_made_without_io(name: str) -> None:
    assert isinstance(registry.get_runner(name)(RemoteTarget(host="no-such-host.invalid")), Runner)


def test_runner_that_cannot_be_had(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendNotFound, match=r"no runner 'paramico'.*did you mean 'paramiko'\?") as unknown:
        registry.get_runner("paramico")
    assert unknown.value.code == "HPC-RUNNER-UNKNOWN"
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    monkeypatch.delitem(sys.modules, "hpccluster_ssh.asyncssh_runner", raising=False)
    with pytest.raises(BackendUnavailable, match=r"pip install 'hpccluster\[ssh\]'") as extra:
        registry.get_runner("asyncssh")
    assert extra.value.code == "HPC-SSH-EXTRA"
    points = f"[{registry.RUNNER_GROUP}]\ntheirs = their_dist_x_plugin:PLUGIN\n"
    install(site, "their-dist", {"x": "PLUGIN = 5"}, points=points)
    with pytest.raises(BackendUnavailable, match="cannot be called"):
        registry.get_runner("theirs")


def test_hosts_that_no_remote_target_can_have() -> None:
    for host in ("", "-oProxyCommand=x", "a b", "a\nb"):
        with pytest.raises(ValueError, match="no name of a host"):
            RemoteTarget(host=host)
    assert RemoteTarget(host="n1", user="ana", port=2222).name == "ana@n1:2222"
    assert RemoteTarget(host="fe80::1", port=22).name == "[fe80::1]:22"


def test_ssh_without_its_extra_is_listed_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)  # as if it were not installed
    assert listed()["ssh", "hpccluster"].problem == "not installed: asyncssh (pip install 'hpccluster[ssh]')"
    monkeypatch.undo()
    assert listed()["ssh", "hpccluster"].problem == ""
