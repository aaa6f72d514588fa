"""The head as a process: what it is told, what it answers, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpccluster import ClusterManager
from hpccluster.cluster.launch import GOING_TIME, start_head
from hpccluster.errors import BackendNotFound, ClusterError, ConfigError, HpcClusterError
from hpccluster.head.directory import HeadRecord, read_record
from hpccluster.head.spec import HeadReady, HeadSpec, ScaleRequest
from support.cluster_processes import files_of, processes_of, wait_until_gone
from support.deadline import wait_until

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for left-over processes in /proc")


def make_spec(**changes: object) -> HeadSpec:
    values: dict[str, object] = {"name": "sweep", "backend": "local", "options": {"cores": 1, "processes": 1}}
    return HeadSpec(**{**values, **changes})  # type: ignore[arg-type]


def run_program(command: list[str], **changes: object) -> HeadReady:
    spec = make_spec(detached=True, program=tuple(command), program_directory=str(Path.cwd()), **changes)
    return start_head(spec).ready


def wait_until_ended(ready: HeadReady) -> HeadRecord:
    directory = Path(ready.directory)

    def ended() -> HeadRecord | None:
        record = read_record(directory)
        return record if record is not None and record.state == "ended" else None

    record = wait_until(ended, "the end of the cluster", timeout=30)
    assert record is not None
    return record


def test_a_program_finds_its_cluster_and_its_exit_code_is_kept(state: Path) -> None:
    program = (
        "from hpccluster import Client\n"
        "import sys\n"
        "client = Client()\n"
        "print('sum', sum(client.gather(client.map(abs, range(-5, 5)))))\n"
        "sys.exit(7)\n"
    )
    ready = run_program([sys.executable, "-c", program], scale=ScaleRequest(workers=1))
    record = wait_until_ended(ready)
    assert record.program is not None
    assert (record.program.state, record.program.exit_code) == ("finished", 7)
    assert record.program.ended is not None
    assert "exit code 7" in record.reason
    assert (Path(ready.directory) / "program.log").read_text() == "sum 25\n"
    assert "head.log" in files_of(state / "sweep")
    assert not [name for name in files_of(state) if name.endswith(("client.json", "worker.json"))]
    wait_until_gone(state)


def test_a_program_is_killed_with_its_cluster(state: Path) -> None:
    ready = run_program(["sh", "-c", "echo up; sleep 1000"])
    assert ready.plan is None
    ClusterManager.attach("sweep").close()
    record = wait_until_ended(ready)
    assert record.program is not None
    assert (record.program.state, record.program.exit_code) == ("killed", 143)
    wait_until_gone(state)


def test_a_program_that_cannot_be_run_leaves_nothing(state: Path) -> None:
    with pytest.raises(ClusterError, match="the program cannot be run"):
        run_program(["no-such-program"], scale=ScaleRequest(workers=1))
    assert processes_of(state) == {}
    assert files_of(state) == []


def test_a_detached_head_survives_whoever_started_it(state: Path, tmp_path: Path) -> None:
    code = (
        "from hpccluster.cluster.launch import GOING_TIME, start_head\n"
        "from hpccluster.head.spec import HeadSpec\n"
        "start_head(HeadSpec(name='sweep', backend='local', options={'cores': 1}, detached=True))\n"
    )
    starter = subprocess.run([sys.executable, "-c", code], start_new_session=True, capture_output=True, text=True)
    assert (starter.stdout, starter.stderr, starter.returncode) == ("", "", 0)
    manager = ClusterManager.attach("sweep")
    record = read_record(manager.directory)
    assert record is not None
    os.kill(record.pid, signal.SIGHUP)
    assert manager.status == "running"
    manager.close()
    wait_until_gone(state)
    record = read_record(manager.directory)
    assert record is not None
    assert (record.state, record.reason) == ("ended", "it was told to")


def test_a_signal_leads_to_the_same_teardown(state: Path) -> None:
    head = start_head(make_spec(scale=ScaleRequest(workers=1)))
    os.kill(head.pid, signal.SIGTERM)
    assert head.wait(15)
    assert processes_of(state) == {}
    assert files_of(state) == []


def test_the_owner_is_gone_when_its_pipe_closes(state: Path) -> None:
    head = start_head(make_spec(scale=ScaleRequest(workers=1)))
    begun = time.monotonic()
    head.release()
    assert head.wait(15)
    assert time.monotonic() - begun < 10
    assert processes_of(state) == {}
    assert files_of(state) == []


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"backend": "slrum"}, BackendNotFound, "slrum"),
        ({"options": {"coers": 1}}, ConfigError, "coers"),
        ({"options": {"cores": 3, "processes": 2}}, ConfigError, "evenly"),
        ({"name": "../x"}, ConfigError, "cannot name a cluster"),
        ({"host": "203.0.113.7"}, HpcClusterError, "203.0.113.7"),
        ({"interface": "ib77"}, ConfigError, "ib77"),
        ({"adapt": {"maximal": 3}}, ConfigError, "maximal"),
    ],
)
def test_what_is_wrong_is_one_error_and_leaves_nothing(
    state: Path, changes: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        start_head(make_spec(**changes))
    assert processes_of(state) == {}
    assert files_of(state) == []


def test_a_name_is_taken_while_its_cluster_lives(state: Path) -> None:
    head = start_head(make_spec())
    with pytest.raises(ClusterError, match="running already") as caught:
        start_head(make_spec())
    assert caught.value.code == "HPC-CLUSTER-NAME-TAKEN"
    os.kill(head.pid, signal.SIGKILL)
    assert head.wait(5)
    again = start_head(make_spec())
    again.release()
    assert again.wait(15)


def test_a_head_that_says_nothing_is_shown_with_its_words(state: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named hpccluster' >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(ClusterError, match=r"(?s)exit code 3.*\| No module named hpccluster"):
        start_head(make_spec(), python=str(python))


def test_an_owner_that_does_not_wait_is_an_end_like_any_other(state: Path) -> None:
    with pytest.raises(ClusterError, match="not ready in time"):
        start_head(make_spec(), timeout=0.0)
    wait_until_gone(state)
    assert files_of(state) == []


def test_a_state_directory_that_cannot_be_looked_at_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot make the directory .*File name too long"):
        start_head(make_spec(state_directory=f"/tmp/{'a' * 300}", detached=True))


def test_a_detached_head_that_nobody_waits_for_is_told_to_end(state: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ClusterError, match="not ready in time"):
        start_head(make_spec(detached=True), timeout=0.0)
    assert time.monotonic() - began < GOING_TIME  # the end of its pipe alone would tell it nothing
    wait_until_gone(state)
