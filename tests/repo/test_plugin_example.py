"""The example of a third party's backend, as a user gets it: both wheels in a fresh environment, a real task-spooler."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccluster import __version__
from hpccluster.backend.options import JobOptions
from hpccluster.config.schema import ClusterOptions
from support.cluster_processes import VARIABLE, wait_until_gone

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "hpccluster-taskspooler"

pytestmark = pytest.mark.timeout(300)
needs_tsp = pytest.mark.skipif(shutil.which("tsp") is None, reason="no task-spooler here: apt-get install task-spooler")

PROGRAM = """\
from hpccluster import Client, ClusterManager
from hpccluster.errors import ConfigError

with ClusterManager("taskspooler", cores=1, n_workers=1) as cluster, Client(cluster) as client:
    print(type(cluster).__name__, client.submit(pow, 2, 10).result(timeout=30), cluster.jobs[0].id)
try:
    ClusterManager("taskspooler", cores=1, slot=2)
except ConfigError as error:
    print(error)
"""
SUBMITTED = """\
from hpccluster import Client
with Client() as client:
    print("sum", sum(client.gather(client.map(abs, range(-5, 5)))))
"""


class Installed:
    """An environment with both distributions; what they depend on is that of this interpreter."""

    def __init__(self, directory: Path, wheels: dict[str, Path]) -> None:
        self.directory = directory
        self.bin = directory / "venv" / "bin"
        venv.create(directory / "venv", with_pip=False, symlinks=True)
        install = [sys.executable, "-m", "pip", f"--python={self.bin / 'python'}", "install", "-q", "--no-deps"]
        subprocess.run([*install, "--no-index", *map(str, wheels.values())], check=True, timeout=120)
        (site,) = (directory / "venv").glob("lib/python*/site-packages")
        (site / "zz_dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.socket = tempfile.mkdtemp(prefix="hpc-tsp-")  # short, as the path of a socket has to be
        self.environment = {name: text for name, text in os.environ.items() if not name.startswith("HPCCLUSTER_")}
        self.environment |= {VARIABLE: str(directory / "state"), "HOME": str(directory)}
        self.environment["PATH"] = f"{self.bin}:{os.environ['PATH']}"
        self.environment["TS_SOCKET"] = f"{self.socket}/socket"
        if shutil.which("tsp"):  # the queue's server belongs to no cluster
            unmarked = {name: text for name, text in self.environment.items() if name != VARIABLE}
            subprocess.run(["tsp", "-S", "4"], env=unmarked, check=True, timeout=20)

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run one of its programs to a good end."""
        done = subprocess.run(
            command, env=self.environment, cwd=cwd or self.directory, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def close(self) -> None:
        """Nothing may be left; the queue's server ends."""
        try:
            wait_until_gone(self.directory / "state")
        finally:
            if shutil.which("tsp"):
                subprocess.run(["tsp", "-K"], env=self.environment, timeout=20)
            shutil.rmtree(self.socket)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Iterator[Installed]:
    made = Installed(tmp_path_factory.mktemp("plugin"), wheels)
    yield made
    made.close()


def test_the_example_is_listed_with_its_origin(installed: Installed) -> None:
    found = {it["name"]: it for it in json.loads(installed.run("hpccluster", "backends", "--json").stdout)}
    theirs = found["taskspooler"]
    assert (theirs["distribution"], theirs["version"]) == ("hpccluster-taskspooler", "0.1.0")
    assert found["local"]["version"] == __version__
    assert theirs["problem"] == ("" if shutil.which("tsp") else "not on PATH: tsp")
    assert re.search(
        r"^taskspooler +hpccluster-taskspooler 0\.1\.0 ", installed.run("hpccluster", "backends").stdout, re.MULTILINE
    )


def test_its_template_is_found_and_is_shell(installed: Installed) -> None:
    script = installed.run("hpccluster", "script", "--backend", "taskspooler", "--set", "cores=2").stdout
    assert "timeout --foreground --kill-after=5 0 " in script
    path = installed.directory / "script.sh"
    path.write_text(script)
    assert subprocess.run(["dash", "-n", str(path)]).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "--shell=dash", str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@needs_tsp
def test_its_own_tests_pass(installed: Installed) -> None:
    tests = installed.directory / "theirs"
    shutil.copytree(EXAMPLE / "tests", tests / "tests")
    shutil.copy(EXAMPLE / "pyproject.toml", tests)
    done = installed.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=tests)
    assert re.search(r"^\d\d passed, 2 skipped in", done.stdout, re.MULTILINE), done.stdout


@needs_tsp
def test_clusters_by_the_name_of_the_backend(installed: Installed) -> None:
    first, *said = installed.run("python", "-c", PROGRAM).stdout.splitlines()
    assert re.fullmatch(r"ClusterManager 1024 hpc-[a-z]+-[a-z]+-[0-9a-f]{4}", first)
    assert "did you mean 'slots'?" in said[0]


@needs_tsp
def test_a_program_is_submitted_with_a_cluster_of_it(installed: Installed) -> None:
    (installed.directory / "program.py").write_text(SUBMITTED)
    options = ("--backend", "taskspooler", "--set", "cores=1", "--workers", "1", "--name", "sweep", "--wait")
    done = installed.run("hpccluster", "submit", *options, "--", "python", "program.py")
    assert done.stdout == "sum 25\n"
    assert json.loads(installed.run("hpccluster", "status", "sweep", "--json").stdout)["state"] == "finished"


def test_it_imports_the_plugin_api_only() -> None:
    """The page for authors of plugins lists the modules; the example and our own backends keep to it."""
    page = (ROOT / "docs" / "plugins.md").read_text()
    public = set(re.findall(r"^\| `(hpccluster\.[a-z_.]+)`", page, re.MULTILINE))
    assert {"hpccluster.backend.base", "hpccluster.cluster.manager", "hpccluster.testing.backend_contract"} <= public
    for folder in (EXAMPLE / "src", ROOT / "backends" / "hpccluster_slurm"):
        for path in folder.rglob("*.py"):
            used = {name for name in _imports(path) if name.split(".")[0] == "hpccluster"}
            assert used <= public, f"{path.name} imports {used - public}"


def test_its_cluster_class_names_every_keyword() -> None:
    """So that nothing which the backend takes from YAML is refused in Python."""
    names = set(_annotated(EXAMPLE / "src" / "hpccluster_taskspooler" / "options.py"))
    names |= {field.name for kind in (JobOptions, ClusterOptions) for field in dataclasses.fields(kind)}
    init = next(
        node
        for node in ast.walk(ast.parse((EXAMPLE / "src" / "hpccluster_taskspooler" / "cluster.py").read_text()))
        if isinstance(node, ast.FunctionDef)
    )
    given = {argument.arg for argument in init.args.kwonlyargs}
    assert given - {"n_workers", "start_timeout"} == names - {"backend", "extends"}


def _annotated(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
