"""A cluster on this machine, as its user has it: real processes, real connections."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpccluster import Client, ClusterManager, LocalCluster
from hpccluster.errors import (
    ClusterClosed,
    ClusterError,
    ClusterNotFound,
    ConfigError,
    CredentialError,
    JobDied,
    StartTimeout,
)
from hpccluster.head.directory import read_record
from support.cluster_processes import files_of, processes_of, wait_until_gone
from support.deadline import wait_until

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for left-over processes in /proc")


def make(**keywords: Any) -> LocalCluster:
    return LocalCluster(n_workers=1, threads_per_worker=1, **keywords)


def script(text: str, **popen: Any) -> subprocess.Popen[str]:
    """A user's script, in a process of its own, without a main guard."""
    Path("script.py").write_text(text)
    return subprocess.Popen(
        [sys.executable, "script.py"], **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **popen}
    )


def test_log_directory_is_made(state: Path, tmp_path: Path) -> None:
    with make(log_directory=tmp_path / "new" / "logs") as cluster:
        cluster.wait_for_workers(1, timeout=20)
        assert [path.suffix for path in (tmp_path / "new" / "logs").iterdir()] == [".log"]
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"log_directory='.*/file/logs': it cannot be made: Not a directory"):
        make(log_directory=tmp_path / "file" / "logs")


def test_the_first_five_minutes(state: Path) -> None:
    cluster = LocalCluster(n_workers=2, threads_per_worker=2)
    with Client(cluster) as client:
        assert client.submit(pow, 2, 10).result() == 1024
        cluster.wait_for_workers(2, timeout=20)
        assert re.fullmatch(
            r"LocalCluster '[a-z]+-[a-z]+'  tls://127\.0\.0\.1:\d+  workers 2/2  threads 4  memory [\d.]+ GiB",
            repr(cluster),
        )
        data = client.scatter(b"x" * 300_000)
        futures = client.map(len, [data] * 4)
        assert cluster.scale(3).workers == 3
        assert cluster.scale(2).workers == 2
        assert client.gather(futures) == [300_000] * 4
        assert len(client.gather(data)) == 300_000, "no data is lost by scaling down"
        assert [job.state for job in cluster.jobs if job.phase != "over"] == ["RUNNING", "RUNNING"]
        assert len(cluster.workers) == 2
        logs = cluster.get_logs()
        assert "serves at tls://127.0.0.1" in logs["head"]
        assert "-m hpccluster.runtime" in cluster.job_script()
    cluster.close()
    cluster.close()
    assert repr(cluster) == f"LocalCluster {cluster.name!r}  closed"
    assert cluster.status == "closed"
    with pytest.raises(ClusterClosed):
        cluster.scale(1)
    assert processes_of(state) == {}
    assert files_of(state) == []


def test_a_block_that_fails_leaves_nothing(state: Path) -> None:
    with pytest.raises(ZeroDivisionError), make():
        _ = 1 / 0
    assert processes_of(state) == {}
    assert files_of(state) == []


def test_a_script_needs_no_main_guard(state: Path) -> None:
    process = script(
        "from hpccluster import LocalCluster, Client\n"
        "print('imported once')\n"
        "def double(x): return 2 * x\n"
        "cluster = LocalCluster(n_workers=2, threads_per_worker=1)\n"
        "client = Client(cluster)\n"
        "print(sum(client.gather(client.map(double, range(10)))))\n"
    )
    out, errors = process.communicate(timeout=40)
    assert (out, errors, process.returncode) == ("imported once\n90\n", "", 0)
    assert processes_of(state) == {}, "the end of the script is the end of its cluster"
    assert files_of(state) == []


@pytest.mark.parametrize(
    "surroundings",
    [
        "for descriptor in (0, 1, 2): os.close(descriptor)\nsys.stdin = sys.stdout = sys.stderr = None\n",
        "class Tee:\n    def write(self, text): pass\n    def flush(self): pass\nsys.stderr = Tee()\n",
        "os.mkdir('gone')\nos.chdir('gone')\nos.rmdir(os.getcwd())\n",
    ],
    ids=["no standard streams", "an stderr of the program's own", "a working directory that is gone"],
)
def test_a_program_in_odd_surroundings(state: Path, tmp_path: Path, surroundings: str) -> None:
    process = script(
        f"import os, sys\nos.chdir({str(tmp_path)!r})\n{surroundings}"
        "from hpccluster import LocalCluster, Client\n"
        "with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:\n"
        "    assert client.submit(pow, 2, 3).result(timeout=20) == 8\n"
    )
    out, errors = process.communicate(timeout=40)
    assert (out, errors, process.returncode) == ("", "", 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_an_owner_that_is_killed(state: Path, number: signal.Signals) -> None:
    process = script(
        "import time, multiprocessing\n"
        "from hpccluster import LocalCluster, Client\n"
        "cluster = LocalCluster(n_workers=2, threads_per_worker=1)\n"
        "client = Client(cluster)\n"
        "busy = client.submit(time.sleep, 100)\n"
        # A forked child that outlives its parent must not pass for the owner.
        "multiprocessing.get_context('fork').Process(target=time.sleep, args=(40,)).start()\n"
        "print(client.submit(pow, 2, 2).result(), flush=True)\n"
        "time.sleep(100)\n"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "4\n"
    process.send_signal(number)
    process.wait(10)
    wait_until(
        lambda: not [command for command in processes_of(state).values() if "hpccluster" in command],
        "the end of head, nannies and workers",
        timeout=15,
    )
    assert files_of(state) == []
    for pid in processes_of(state):
        os.kill(pid, signal.SIGKILL)  # the forked child


def test_an_owner_that_is_killed_at_any_moment_of_its_start_leaves_nothing(state: Path) -> None:
    text = (
        "from hpccluster import LocalCluster\n"
        "cluster = LocalCluster(n_workers=2, threads_per_worker=1)\n"
        "cluster.scale(3)\n"
        "cluster.close()\n"
    )
    for delay in (0.1, 0.25, 0.4, 0.6, 0.8, 1.0, 1.3):
        process = script(text)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    wait_until_gone(state)
    assert files_of(state) == []


def test_a_death_that_is_raised_is_not_told_a_second_time(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(JobDied, match="HPC-JOB-PYTHON-MISSING"):
        LocalCluster(n_workers=1, python="/no/such/python")
    assert [record.getMessage() for record in caplog.records if "ended before" in record.getMessage()] == []


def test_an_interrupt_ends_the_cluster(state: Path) -> None:
    process = script(
        "import time\n"
        "from hpccluster import LocalCluster\n"
        "with LocalCluster(n_workers=1, threads_per_worker=1) as cluster:\n"
        "    print('up', flush=True)\n"
        "    time.sleep(100)\n"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    assert processes_of(state) == {}
    assert files_of(state) == []


def test_a_long_wait_shows_on_a_terminal_what_it_is_for(state: Path) -> None:
    text = (
        "from hpccluster import LocalCluster\n"
        "from hpccluster.errors import StartTimeout\n"
        "with LocalCluster(n_workers=1, threads_per_worker=1) as cluster:\n"
        "    try:\n"
        "        cluster.wait_for_workers(3, timeout=0.7)\n"
        "    except StartTimeout as error:\n"
        "        print(error)\n"
    )
    ours, terminal = pty.openpty()
    process = script(text, stderr=terminal)
    os.close(terminal)
    out, _ = process.communicate(timeout=30)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert "of 3 workers" in out
    assert "waiting for workers" in shown
    assert shown.endswith("\r\x1b[K"), "it cleans up behind itself"

    process = script(text)
    out, shown = process.communicate(timeout=30)
    assert ("of 3 workers" in out, shown) == (True, ""), "and says nothing to a pipe"


def test_a_client_that_waits_in_vain_hears_the_same(state: Path) -> None:
    with make() as cluster, Client(cluster) as client:
        client.wait_for_workers(1, timeout=20)
        with pytest.raises(StartTimeout, match="1 of 3 workers") as caught:
            client.wait_for_workers(3, timeout=0.1)
        assert isinstance(caught.value, TimeoutError), "which is what others' clients raise"


def test_attach_is_another_remote_control(state: Path) -> None:
    with make() as cluster:
        with ClusterManager.attach(cluster.name) as other:
            assert type(other) is LocalCluster
            assert other.scheduler_address == cluster.scheduler_address
            assert other.scale(2).workers == 2
        assert cluster.status == "running", "leaving it changes nothing"
        again = ClusterManager.attach(cluster.name)
        again.close()
        wait_until(lambda: cluster.is_closed, "the end of the head")
        with pytest.raises(ClusterClosed):
            cluster.scale(1)
    assert processes_of(state) == {}
    with pytest.raises(ClusterNotFound, match="running there: none"):
        ClusterManager.attach(cluster.name)


def test_a_name_means_get_or_create(state: Path) -> None:
    with make(name="mine") as cluster:
        with make(name="mine") as same:
            assert same.scheduler_address == cluster.scheduler_address
        assert cluster.status == "running", "its owner lives"


def test_a_cluster_that_another_manager_has_closed_is_shown_as_ended(state: Path) -> None:
    with make(name="mine") as cluster:
        make(name="mine").close()
        assert repr(cluster).endswith("  ended")


def test_a_cluster_that_lingers_is_joined_and_gets_a_new_owner(state: Path) -> None:
    text = (
        "from hpccluster import LocalCluster\n"
        "cluster = LocalCluster(n_workers=1, threads_per_worker=1, name='mine', linger=60)\n"
        "print(cluster.scheduler_address, flush=True)\n"
        "input()\n"
    )
    first = script(text, stdin=subprocess.PIPE)
    assert first.stdout is not None
    address = first.stdout.readline()
    first.kill()
    first.wait()
    second = script(text, stdin=subprocess.PIPE)
    assert second.stdout is not None
    assert second.stdout.readline() == address
    _, errors = second.communicate("\n", timeout=20)
    assert "joined 'mine', which runs already: workers 1/1" in errors
    assert processes_of(state) != {}, "it lingers again"
    ClusterManager.attach("mine").close()
    wait_until_gone(state)
    assert files_of(state) == []


def test_a_name_that_another_backend_has_is_one_clear_error(state: Path, tmp_path: Path) -> None:
    with make(name="mine"), pytest.raises(ClusterError, match="running already, on the backend local, not slurm"):
        ClusterManager("slurm", cores=1, memory="1GB", name="mine")


def test_a_state_directory_that_cannot_be_used_is_one_clear_error(state: Path) -> None:
    state.write_text("a file")
    with pytest.raises(CredentialError, match="state"):
        make()
    assert processes_of(state) == {}


def test_an_unknown_keyword_is_found_before_anything_is_started(state: Path) -> None:
    with pytest.raises((ConfigError, TypeError), match="n_wokers"):
        LocalCluster(n_wokers=1)  # type: ignore[call-arg]
    assert not state.exists()


def test_a_head_that_dies_is_told_as_what_it_is(state: Path) -> None:
    cluster = make()
    record = read_record(cluster.directory)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    with pytest.raises(ClusterClosed, match=r"has died .*killed by SIGKILL"):
        cluster.scale(2)
    assert cluster.status == "lost"
    assert "its head has died (killed by SIGKILL); log:" in repr(cluster)
    cluster.close()
    wait_until_gone(state)
    ended = read_record(cluster.directory)
    assert ended is not None
    assert (ended.state, cluster.status) == ("ended", "closed")
    assert not cluster.connection_file.exists()


def open_files() -> int:
    """Descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_clusters_in_a_row_leave_nothing_in_this_process(state: Path) -> None:
    with make():
        pass
    before = open_files()
    for _ in range(5):
        with make() as cluster, Client(cluster) as client:
            assert client.submit(pow, 2, 2).result() == 4
    assert open_files() <= before + 1
    assert processes_of(state) == {}
    assert files_of(state) == []


@pytest.mark.parametrize(
    "wrong", [{"n_workers": "a"}, {"n_workers": 1.5}, {"n_workers": -1}, {"threads_per_worker": 0}]
)
def test_a_size_that_is_none_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}=.*a whole number is needed"):
        LocalCluster(**wrong)
