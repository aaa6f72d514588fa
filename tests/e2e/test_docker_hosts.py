"""What the dockerised Slurm does not demand of the machine that it runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.docker_slurm import DockerSlurm

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


def test_a_node_starts_where_the_host_has_cgroup_v2(docker_slurm: DockerSlurm) -> None:
    """Left to find out which version there is, slurmd would ask for systemd there, and end: in a container there is none."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    unified = next((where for _, where, kind, *_ in mounts if kind == "cgroup2"), None)
    if unified is None:
        pytest.skip("no cgroup v2 is mounted here, not even an empty one")
    with docker_slurm.another_host("n1", volumes=[f"{unified}:/sys/fs/cgroup:ro"]) as host:
        line = "mkdir -p /var/spool/slurmd; ulimit -n 4096; until munge -n; do sleep 0.1; done; timeout 3 slurmd -D"
        said = host.exec_run(["bash", "-c", line]).output
    assert b"slurmd started on" in said, said
