"""The wheel holds what it must, and works outside of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP = {"hpccluster", "hpccluster_local", "hpccluster_pbs", "hpccluster_slurm", "hpccluster_ssh", "hpccluster_templates"}


@pytest.mark.timeout(300)
def test_the_wheel_holds_the_packages_templates_and_types(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == TOP
    for needed in (
        "hpccluster_templates/slurm.sh",
        "hpccluster_templates/pbs.sh",
        "hpccluster_templates/local.sh",
        *(f"{top}/py.typed" for top in TOP),
    ):
        assert needed in names


@pytest.mark.timeout(300)
def test_the_wheel_runs_a_cluster_outside_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    unpacked = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(unpacked)
    program = (
        "import hpccluster; from hpccluster import LocalCluster, Client\n"
        "with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:\n"
        "    print(hpccluster.__file__, client.submit(pow, 2, 5).result(timeout=30))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "HPCCLUSTER_STATE_DIRECTORY": str(tmp_path / "state")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(unpacked / "hpccluster" / "__init__.py"), "32"]
