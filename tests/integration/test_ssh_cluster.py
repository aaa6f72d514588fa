"""`SSHCluster` on real hosts: each has an sshd, processes, a network address and files of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from hpccluster import Client, SSHCluster
from hpccluster.errors import HpcClusterError, JobDied, PeerLost, SubmitRefused
from hpccluster.head.directory import read_record
from support.deadline import wait_until
from support.private_sshd import PrivateHosts

pytestmark = pytest.mark.timeout(90)

Start = Callable[..., SSHCluster]


@pytest.fixture
def start(ssh_hosts: PrivateHosts, tmp_path: Path) -> Start:
    """Starts clusters on the hosts of these names (or mappings with them). Nothing of its state is on a shared disk."""

    def start(*hosts: str | dict[str, Any], connect: dict[str, Any] | None = None, **keywords: Any) -> SSHCluster:
        entries: list[Any] = []
        for host in hosts:
            entry = {"host": host} if isinstance(host, str) else dict(host)
            name, _, port = str(entry["host"]).partition(":")
            entry["host"] = ssh_hosts.address(name)
            entries.append({**entry, **({"port": int(port)} if port else {})})
        options = {
            "config_file": str(ssh_hosts.config_file),
            "keepalive": 2,
            "connect_timeout": 5.0,
            **(connect or {}),
        }
        keywords = {"python": ssh_hosts.python, "state_directory": tmp_path / "state", **keywords}
        return SSHCluster(entries, connect_options=options, **keywords)

    return start


def notices(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.name == "hpccluster.cluster")


def where(_: int) -> str:
    return os.uname().nodename


def array_from(number: int) -> tuple[str, int, Any]:
    time.sleep(0.05)
    return os.uname().nodename, number, np.full(100_000, number)


def place_of(made: tuple[str, int, Any]) -> tuple[str, str]:
    assert made[2][-1] == made[1]
    return made[0], os.uname().nodename


def slow_square(number: int) -> int:
    time.sleep(0.3)
    return number * number


def our_processes(hosts: PrivateHosts, name: str) -> list[str]:
    """What runs there for the user, apart from sshd: command lines."""
    found: list[str] = []
    for pid in hosts.processes(name):
        with contextlib.suppress(psutil.Error):  # it has just ended
            process = psutil.Process(pid)
            command = " ".join(process.cmdline())
            if process.username() == hosts.user and command and not command.startswith("sshd:"):
                found.append(command)
    return found


def files_left(hosts: PrivateHosts, name: str) -> str:
    return hosts.run(name, ["sh", "-c", "ls -A /tmp"]).stdout


def wait_until_clean(hosts: PrivateHosts, *names: str, timeout: float = 15.0) -> None:
    """Until nothing of ours runs on these hosts or lies on their disks."""
    end = time.monotonic() + timeout
    for name in names:
        while left := [*our_processes(hosts, name), *files_left(hosts, name).split()]:
            assert time.monotonic() < end, f"left on {name}: {left}"
            time.sleep(0.05)


# ------------------------------------------------------------------------------------------------------------- a good day


def test_a_cluster_on_three_hosts(ssh_hosts: PrivateHosts, start: Start) -> None:
    hosts = [{"host": "host1", "cores": 2, "processes": 2}, {"host": "host2", "cores": 3, "memory": "1GiB"}, "host3"]
    with start(*hosts) as cluster:
        cluster.wait_for_workers(4, timeout=20)
        expected = [
            (ssh_hosts.address("host1"), 2, 2),
            (ssh_hosts.address("host2"), 1, 1),
            (ssh_hosts.address("host3"), 1, 1),
        ]
        wait_until(
            lambda: [(job.node, job.workers, job.expected_workers) for job in cluster.jobs] == expected,
            "each job has its workers",
        )
        workers = sorted((worker.host, worker.threads, worker.memory) for worker in cluster.workers)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        assert workers == [
            ("host1", 1, memory // 2),
            ("host1", 1, memory // 2),
            ("host2", 3, 2**30),
            ("host3", len(os.sched_getaffinity(0)), memory),
        ]
        with Client(cluster) as client:
            assert set(client.gather(client.map(where, range(40)))) == {"host1", "host2", "host3"}
        logs = cluster.get_logs()
        assert sum("hpccluster: stage auth-ok" in text for text in logs.values()) == 3
        assert "PRIVATE" not in cluster.job_script()
    wait_until_clean(ssh_hosts, "host1", "host2", "host3")


def test_credentials_are_seen_by_nobody(ssh_hosts: PrivateHosts, start: Start) -> None:
    with start("host1") as cluster:
        look = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; stat -c '%a %n' /tmp/* /tmp/*/*"
        seen = ssh_hosts.run("host1", ["sh", "-c", look]).stdout
        assert "HPCCLUSTER_CONNECTION_FILE=/tmp/hpccluster-" in seen
        assert "PRIVATE" not in seen
        assert "CERTIFICATE" not in seen
        modes = {line.split()[0] for line in seen.splitlines() if re.match("[0-7]+ /tmp/", line)}
        assert modes == {"700", "600"}
        (name,) = [job.name for job in cluster.jobs]
        assert "PRIVATE" not in cluster.get_logs()[name]
    wait_until_clean(ssh_hosts, "host1")


def leave_a_file(_: int) -> tuple[str, int]:
    Path(tempfile.mkdtemp(), "data").write_text("much")
    old = os.umask(0o22)
    os.umask(old)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    return tempfile.gettempdir(), old


def test_tasks_have_the_users_umask_and_a_directory_that_goes_with_the_job(
    ssh_hosts: PrivateHosts, start: Start
) -> None:
    usual = ssh_hosts.run("host1", ["sh", "-c", "umask"], user=ssh_hosts.user).stdout
    with start("host1", cores=1) as cluster, Client(cluster) as client:
        directory, umask = client.submit(leave_a_file, 0).result()
        assert directory.startswith("/tmp/hpccluster-")
        assert umask == int(usual, 8)
        assert files_left(ssh_hosts, "host1").count("\n") == 1
    wait_until_clean(ssh_hosts, "host1")


def test_scaling_down_hands_results_over_and_ends_sessions(ssh_hosts: PrivateHosts, start: Start) -> None:
    with start("host1", "host2", "host3") as cluster, Client(cluster) as client:
        cluster.wait_for_workers(3, timeout=20)
        arrays = client.map(np.full, [100_000] * 12, range(12))
        sums = client.gather(client.map(np.sum, arrays))
        cluster.scale(jobs=1)
        wait_until(lambda: sum(job.phase != "over" for job in cluster.jobs) == 1, "two jobs are over")
        (left,) = [job for job in cluster.jobs if job.phase != "over"]
        assert [float(array.sum()) for array in client.gather(arrays)] == [float(value) for value in sums]
        gone = [name for name in ("host1", "host2", "host3") if ssh_hosts.address(name) != left.node]
        wait_until_clean(ssh_hosts, *gone)
        cluster.scale(jobs=3)
        cluster.wait_for_workers(3, timeout=20)


def test_names_that_only_the_ssh_configuration_knows(ssh_hosts: PrivateHosts, tmp_path: Path) -> None:
    options = {"config_file": str(ssh_hosts.config_file)}
    with SSHCluster(["host1"], connect_options=options, python=ssh_hosts.python, state_directory=tmp_path) as cluster:
        # the head's address is the one on the way to what the name stands for
        assert ssh_hosts.head in cluster.scheduler_address
        wait_until(lambda: [job.node for job in cluster.jobs] == ["host1"], "its job is seen to run")


def test_adapting_to_the_work(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """As far as there are hosts, without being told."""
    caplog.set_level(logging.INFO, "hpccluster.cluster")
    with start("host1", "host2", "host3", cores=1, adapt={"interval": 0.2, "target_duration": 0.1}) as cluster:
        assert cluster.plan == 0
        with Client(cluster) as client:
            assert client.gather(client.map(slow_square, range(30))) == [number * number for number in range(30)]
            assert len(cluster.jobs) == 3
            assert "HPC-SUBMIT-FULL" not in notices(caplog)


def test_hosts_from_which_no_way_leads_to_the_head(ssh_hosts: PrivateHosts, tmp_path: Path) -> None:
    """Behind a gateway: workers come through the connection, data through the head."""
    options = {"config_file": str(ssh_hosts.config_file)}
    hosts: list[Any] = [{"host": "inner", "tunnel": True}, "host1"]
    with (
        SSHCluster(
            hosts, connect_options=options, python=ssh_hosts.python, state_directory=tmp_path, cores=1
        ) as cluster,
        Client(cluster) as client,
    ):
        cluster.wait_for_workers(2, timeout=20)
        assert set(client.gather(client.map(where, range(20)))) == {"inner", "host1"}
        made = client.map(array_from, range(20))
        read = client.gather(client.map(place_of, made))  # by either of them
        assert {name for pair in read for name in pair} == {"inner", "host1"}
        assert any(maker == "inner" for maker, _, _ in client.gather(made))
    wait_until_clean(ssh_hosts, "inner", "host1")


def test_the_other_runner(ssh_hosts: PrivateHosts, start: Start) -> None:
    pytest.importorskip("hpccluster_ssh.paramiko_runner")
    with start("host1", "host2", runner="paramiko") as cluster, Client(cluster) as client:
        cluster.wait_for_workers(2, timeout=20)
        assert set(client.gather(client.map(where, range(20)))) == {"host1", "host2"}
    wait_until_clean(ssh_hosts, "host1", "host2")


PROGRAM = """
import os, time
from hpccluster import Client

with Client() as client:
    client.wait_for_workers(2, timeout=30)
    print(sorted(set(client.gather(client.map(lambda _: (time.sleep(0.05), os.uname().nodename)[1], range(40))))))
"""


def test_by_a_description_and_the_command_line(ssh_hosts: PrivateHosts, tmp_path: Path) -> None:
    description, program = tmp_path / "hosts.yaml", tmp_path / "program.py"
    description.write_text(
        f"backend: ssh\nhosts: [host1]\npython: {ssh_hosts.python}\n"
        f"connect_options: {{config_file: {ssh_hosts.config_file}}}\n"
    )
    program.write_text(PROGRAM)
    command = ["submit", "-c", str(description), "--set", "hosts=[host3, {host: host2, cores: 1}]", "--wait", "--"]
    done = subprocess.run(
        [sys.executable, "-m", "hpccluster", *command, sys.executable, str(program)],
        env={**os.environ, "HPCCLUSTER_STATE_DIRECTORY": str(tmp_path / "state")},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['host2', 'host3']\n"
    wait_until_clean(ssh_hosts, "host1", "host2", "host3")


# --------------------------------------------------------------------------------------------------------------- bad hosts


def test_bad_hosts_are_told_and_the_good_ones_work(
    ssh_hosts: PrivateHosts, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hpccluster.cluster")
    known = tmp_path / "known_hosts"
    lines = [line for line in ssh_hosts.known_hosts.read_text().splitlines() if ssh_hosts.address("host2") not in line]
    known.write_text("\n".join(lines) + "\n")
    bad = ["host2", {"host": "host3", "python": "/nowhere/bin/python"}, "jump:5"]
    with start("host1", *bad, connect={"known_hosts": str(known)}) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(1)
        assert client.submit(where, 0).result() == "host1"
        codes = ["HPC-SSH-HOSTKEY-UNKNOWN", "HPC-JOB-PYTHON-MISSING", "HPC-SSH-UNREACHABLE"]
        wait_until(lambda: all(code in notices(caplog) for code in codes), f"notices of {codes}")
        assert "HPC-POOL-PAUSED" not in notices(caplog)
        wait_until(lambda: sum(job.phase != "over" for job in cluster.jobs) == 1, "the others are over")
        states = {job.node.partition(":")[0]: (job.state, job.exit_code) for job in cluster.jobs}
        assert states == {
            ssh_hosts.address("host1"): ("RUNNING", None),
            ssh_hosts.address("host2"): ("NODE_FAIL", None),
            ssh_hosts.address("host3"): ("FAILED", 127),
            ssh_hosts.address("jump"): ("NODE_FAIL", None),
        }
        # whoever waits for what cannot be is told at once, with every cause
        with contextlib.suppress(JobDied, SubmitRefused):  # the last death, if nobody was told of it yet
            cluster.wait_for_workers(2, timeout=30)
        with pytest.raises(SubmitRefused) as caught:
            cluster.wait_for_workers(2, timeout=30)
        assert all(ssh_hosts.address(name) in str(caught.value) for name in ("host2", "host3", "jump"))
        for cause in ("its host key is not known", "cannot be reached"):
            assert notices(caplog).count(cause) == 1, "told once"
        assert "the job ran '/nowhere/bin/python'" in notices(caplog)
        assert client.submit(where, 0).result() == "host1"


def test_what_a_host_lacks_is_told_with_its_fix(ssh_hosts: PrivateHosts, start: Start) -> None:
    def why(*hosts: str | dict[str, Any], **keywords: Any) -> JobDied:
        with pytest.raises(JobDied) as caught:
            start(*hosts, **keywords)
        return caught.value

    for runner in ("asyncssh", "paramiko"):
        ssh_hosts.run("host1", ["sh", "-c", "mount -o remount,size=64k /tmp; head -c 99999 /dev/zero >/tmp/full"])
        try:
            error = why("host1", runner=runner)
        finally:
            ssh_hosts.run("host1", ["sh", "-c", "rm /tmp/full; mount -o remount,size=50% /tmp"])
        assert error.code == "HPC-SSH-DIRECTORY"
        assert "No space left on device" in str(error)
        error = why({"host": "host1", "python": "/usr/bin/env"}, runner=runner)
        assert "/usr/bin/env" in str(error)
        assert ssh_hosts.python not in str(error), "its own interpreter, not that of the others"
    assert why({"host": "host1", "user": "enclosed", "tunnel": True}).code == "HPC-SSH-TUNNEL"
    error = why({"host": "host1", "tunnel": True}, runner="paramiko")
    assert error.code == "HPC-SSH-TUNNEL"
    assert "runner='asyncssh'" in str(error)
    wait_until_clean(ssh_hosts, "host1")


def test_a_host_that_was_mended_is_used_when_it_is_asked_for(ssh_hosts: PrivateHosts, start: Start) -> None:
    ssh_hosts.crash("host2")
    with start("host1", "host2", scale={"jobs": 2}) as cluster:
        wait_until(lambda: any(job.state == "NODE_FAIL" for job in cluster.jobs), "host2 is told to be down")
        ssh_hosts.up("host2")
        cluster.scale(jobs=2)
        cluster.wait_for_workers(2, timeout=20)
        assert {worker.host for worker in cluster.workers} == {"host1", "host2"}


def test_workers_that_do_not_reach_the_head_say_so(start: Start) -> None:
    with pytest.raises(JobDied, match="tunnel=True") as caught:
        start("host1", host="127.0.0.1")  # which is another host for each
    assert caught.value.code == "HPC-NET-UNREACHABLE"


def test_no_usable_host_at_all_is_an_error_at_once(ssh_hosts: PrivateHosts, start: Start) -> None:
    begun = time.monotonic()
    with pytest.raises(HpcClusterError, match="HPC-SSH-AUTH") as caught:
        start("host1", "host2", connect={"identity_file": str(ssh_hosts.key("stranger"))})
    assert time.monotonic() - begun < 15
    assert ssh_hosts.address("host1") in str(caught.value) or ssh_hosts.address("host2") in str(caught.value)
    wait_until_clean(ssh_hosts, "host1", "host2")


# ------------------------------------------------------------------------------------------------------------------- faults


def test_nothing_outlives_a_start_that_fails(
    ssh_hosts: PrivateHosts, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(_: SSHCluster) -> int:
        wait_until(lambda: our_processes(ssh_hosts, "host1"), "its job runs")
        raise PeerLost("the head does not answer")

    monkeypatch.setattr(SSHCluster, "plan", property(plan))
    with pytest.raises(PeerLost):
        start("host1")
    wait_until_clean(ssh_hosts, "host1")


def test_nothing_outlives_a_killed_head(ssh_hosts: PrivateHosts, start: Start) -> None:
    cluster = start("host1", "host2")
    try:
        cluster.wait_for_workers(2, timeout=20)
        record = read_record(cluster.directory)
        assert record is not None
        assert our_processes(ssh_hosts, "host1")
        os.kill(record.pid, signal.SIGKILL)
        wait_until_clean(ssh_hosts, "host1", "host2")
    finally:
        cluster.close()


def test_a_host_that_crashes_under_work_is_replaced(ssh_hosts: PrivateHosts, start: Start) -> None:
    with start("host1", "host2", "host3", scale={"jobs": 2}, cores=2) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(2, timeout=20)
        futures = client.map(slow_square, range(40))
        wait_until(lambda: any(future.done() for future in futures), "the work has begun")
        ssh_hosts.crash("host1")
        assert client.gather(futures) == [number * number for number in range(40)]
        lost = next(job for job in cluster.jobs if job.node == ssh_hosts.address("host1"))
        wait_until(
            lambda: (
                {job.node for job in cluster.jobs if job.phase == "running" and job.workers}
                == {ssh_hosts.address("host2"), ssh_hosts.address("host3")}
            ),
            "the third host takes over",
        )
        assert "stage auth-ok" in cluster.get_logs()[lost.name]


@pytest.mark.slow
def test_a_host_that_is_cut_off_under_work_is_replaced_and_ends_by_itself(
    ssh_hosts: PrivateHosts, start: Start
) -> None:
    with (
        start(
            "host1", "host2", "host3", scale={"jobs": 2}, cores=2, death_timeout=40, connect={"keepalive": 1}
        ) as cluster,
        Client(cluster) as client,
    ):
        cluster.wait_for_workers(2, timeout=20)
        futures = client.map(slow_square, range(40))
        wait_until(lambda: any(future.done() for future in futures), "the work has begun")
        ssh_hosts.cut("host1")
        assert client.gather(futures) == [number * number for number in range(40)]
        lost = next(job for job in cluster.jobs if job.node == ssh_hosts.address("host1"))
        wait_until(
            lambda: next(job for job in cluster.jobs if job.id == lost.id).state == "NODE_FAIL", "the loss is told"
        )
        # nobody can tell it anything: it ends since it hears nothing any more
        wait_until_clean(ssh_hosts, "host1", timeout=20.0)
        ssh_hosts.mend("host1")


def test_jobs_of_a_head_that_is_stopped_end_and_say_so(ssh_hosts: PrivateHosts, start: Start) -> None:
    """As for a host behind a cut network, but the log can still be told."""
    with start("host1", connect={"keepalive": 1}) as cluster:
        cluster.wait_for_workers(1, timeout=20)
        (job,) = cluster.jobs
        record = read_record(cluster.directory)
        assert record is not None
        os.kill(record.pid, signal.SIGSTOP)
        try:
            wait_until_clean(ssh_hosts, "host1")
        finally:
            os.kill(record.pid, signal.SIGCONT)
        wait_until(lambda: "nothing is heard any more" in cluster.get_logs()[job.name], "the job's last words")
