"""The end of a cluster whose batch system does not answer."""

from __future__ import annotations

import json
import textwrap

import pytest

from support.deadline import wait_until
from support.private_slurm import PrivateSlurm

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(120)]

OWNER = """
import json, sys, time
from hpccluster import SLURMCluster
from hpccluster.errors import CancelFailed

cluster = SLURMCluster(cores=2, processes=1, memory="300MB", walltime="10min", name="frozen")
cluster.scale(jobs=2)
cluster.wait_for_workers(2, timeout=60)
print("up", flush=True)
sys.stdin.readline()
begun = time.monotonic()
try:
    cluster.close(timeout=3)
except CancelFailed as error:
    print(json.dumps([str(error), error.details, time.monotonic() - begun]), flush=True)
"""


def test_close_says_what_it_cannot_confirm_and_the_head_goes_on_trying(slurm: PrivateSlurm) -> None:
    owner = slurm.popen_as_user([slurm.python, "-c", textwrap.dedent(OWNER)])
    assert owner.stdout is not None
    assert owner.stdin is not None
    assert owner.stdout.readline() == "up\n"
    slurm.freeze_controller()
    try:
        owner.stdin.write("\n")
        owner.stdin.flush()
        message, details, seconds = json.loads(owner.stdout.readline())
        assert "not confirmed the end of 2 of its jobs" in message
        assert details["unconfirmed"].count("hpc-frozen-") == 2
        assert seconds < 15
        owner.communicate(timeout=20)
        assert owner.returncode == 0
        record = slurm.home / ".local/state/hpccluster/frozen/head.json"
        assert json.loads(record.read_text())["state"] == "closing"
    finally:
        slurm.resume_controller()
    wait_until(lambda: not slurm.job_ids(), "an empty queue", timeout=30)
    wait_until(lambda: json.loads(record.read_text())["state"] == "ended", "the end of the head", timeout=40)
    assert json.loads(record.read_text())["unconfirmed"] == []
    assert not (record.parent / "client.json").exists()


WITHOUT_A_DISK = """
import shutil, subprocess
from hpccluster import SLURMCluster

cluster = SLURMCluster(cores=2, processes=1, memory="300MB", walltime="10min", n_workers=2)
cluster.wait_for_workers(2, timeout=60)
shutil.rmtree(cluster.directory)
cluster.close()
print(subprocess.run(["squeue", "--me", "-h"], capture_output=True, text=True, check=True).stdout)
"""


def test_a_directory_that_cannot_be_written_is_no_reason_to_leave_jobs_behind(slurm: PrivateSlurm) -> None:
    """As when its disk is full: the head cannot write down that it ends, and ends its jobs all the same."""
    done = slurm.run_as_user([slurm.python, "-c", textwrap.dedent(WITHOUT_A_DISK)], timeout=90)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n"
    assert not slurm.job_ids()
