"""`LocalCluster(engine="dask")`: dask's own scheduler, workers and client, in a cluster of ours. Everything is real."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import hpccluster
from hpccluster import ClusterManager, LocalCluster
from hpccluster.comm.authority import Authority
from hpccluster.comm.connection_file import read_connection_file, write_connection_file
from hpccluster.errors import ClusterError, CommError, ConfigError, JobDied, StartTimeout
from hpccluster.fleet.diagnose import Stage, reached
from hpccluster.head.directory import read_record
from hpccluster.protocol.messages import Role
from support.cluster_processes import files_of, processes_of, wait_until_gone
from support.deadline import wait_until

distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

pytestmark = [
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for left-over processes in /proc"),
    pytest.mark.timeout(120),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One cluster of two workers for the tests that leave it as it was."""
    directory = tmp_path_factory.mktemp("dask") / "state"
    with make(n_workers=2, state_directory=directory) as cluster:
        yield cluster


@pytest.fixture
def client(shared: LocalCluster) -> Iterator[Any]:
    with distributed.Client(shared) as client:
        yield client


def make(**keywords: Any) -> LocalCluster:
    return LocalCluster(
        **{"n_workers": 1, "threads_per_worker": 1, "memory_limit": "1GiB", "engine": "dask", **keywords}
    )


def held(client: Any, address: str) -> int:
    """How many results that worker has."""
    return len(client.has_what()[address])


# ------------------------------------------------------------------------------------------------------------- daily work


def test_dasks_client_and_collections(shared: LocalCluster, client: Any) -> None:
    import dask.array
    import dask.dataframe
    import pandas as pd

    assert client.submit(pow, 2, 10).result() == 1024
    assert dask.array.arange(10_000, chunks=500).sum().compute() == 49_995_000
    frame = dask.dataframe.from_pandas(pd.DataFrame({"site": ["a", "b"] * 500, "mm": range(1000)}), npartitions=4)
    assert frame.groupby("site").mm.sum().compute().to_dict() == {"a": 249_500, "b": 250_000}
    shuffled = frame.set_index("mm", npartitions=3)  # data goes from worker to worker
    assert shuffled.loc[998].compute().site.tolist() == ["a"]


def test_what_the_manager_says_of_it(shared: LocalCluster, client: Any) -> None:
    assert shared.engine == "dask"
    assert shared.scheduler_address == client.scheduler.address
    assert [worker.memory for worker in shared.workers] == [2**30] * 2
    assert {worker.job for worker in shared.workers} == {job.name for job in shared.jobs}
    assert {worker.name for worker in shared.workers} == {
        w["name"] for w in client.scheduler_info()["workers"].values()
    }
    assert "workers 2/2  threads 2  memory 2.0 GiB" in repr(shared)
    assert client.dashboard_link == shared.dashboard_link
    with (
        shared.get_client() as other,
        ClusterManager.attach(shared.name, state_directory=shared.directory.parent) as same,
    ):
        assert other.submit(sum, [1, 2]).result() == 3
        assert same.engine == "dask"
    text = shared.get_logs()
    assert "Register worker" in text["head"]
    assert all("Registered to" in log for job, log in text.items() if job != "head")
    assert "-m hpccluster.engine.dask_worker" in shared.job_script()


def test_the_manager_is_of_use_to_asynchronous_clients(shared: LocalCluster) -> None:
    async def use() -> int:
        async with distributed.Client(shared, asynchronous=True) as client:
            await client.wait_for_workers(2, timeout="30s")
            with pytest.raises(StartTimeout):
                await client.wait_for_workers(3, timeout=0.1)
            return int(await client.submit(pow, 2, 3))

    assert asyncio.run(use()) == 8
    assert shared.wait_for_workers(n_workers=2, timeout="30s") is None
    with pytest.raises(ConfigError, match="timeout='soon'"):
        shared.wait_for_workers(2, "soon")


def test_nobody_listens_beyond_this_host(shared: LocalCluster) -> None:
    workers = [psutil.Process(worker.pid) for worker in shared.workers]
    record = read_record(shared.directory)
    assert record is not None
    processes = [psutil.Process(record.pid), *workers, *(nanny for worker in workers if (nanny := worker.parent()))]
    listening = [c.laddr.ip for process in processes for c in process.net_connections() if c.status == "LISTEN"]
    assert len(listening) >= len(processes) == 5
    assert set(listening) == {"127.0.0.1"}


def test_the_dashboard_is_for_those_who_know_where(shared: LocalCluster) -> None:
    pytest.importorskip("bokeh")
    link = shared.dashboard_link
    assert link is not None
    assert link.startswith("http://127.0.0.1:")
    assert link in repr(shared)
    assert fetch(link) == 200
    root = "/".join(link.split("/")[:3])
    for path in ("/", "/status", "/sitemap.json", "/info/main/workers.html", "/statics/css/base.css"):
        assert fetch(root + path) == 404


def fetch(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


# ------------------------------------------------------------------------------------------------------------- who may join


def test_nobody_gets_in_without_the_clusters_credential(shared: LocalCluster, state: Path) -> None:
    host, _, port = shared.scheduler_address.removeprefix("tls://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        assert is_turned_away(plain), "it speaks TLS"
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection((host, int(port)), timeout=5)) as nameless:
        assert is_turned_away(nameless), "it wants to see a certificate"
    with pytest.raises(OSError):
        distributed.Client(shared.scheduler_address, security=distributed.Security.temporary(), timeout=2)
    with distributed.Client(shared) as client:
        assert client.submit(pow, 2, 2).result() == 4


def is_turned_away(connection: socket.socket) -> bool:
    """Whether nothing comes back but the end, or a TLS alert."""
    try:
        connection.sendall(b"x" * 64)
        return connection.recv(64)[:1] in (b"", b"\x15")
    except OSError:
        return True


def test_a_jobs_credential_is_for_its_own_workers(shared: LocalCluster, tmp_path: Path) -> None:
    path = next((shared.directory / "credentials").glob("*.json"))
    assert path.stat().st_mode & 0o077 == 0
    done = start_worker(path, "--name", "hpc-other-0000")
    assert done.returncode == 76, done.stderr
    assert f"the credential is for the workers of job {path.stem} only" in done.stderr
    assert "net-ok" in done.stderr
    assert len(shared.workers) == 2


def start_worker(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "hpccluster.engine.dask_worker",
            "--connection-file",
            str(path),
            "--nthreads",
            "1",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_worker_that_cannot_join_says_why(shared: LocalCluster, tmp_path: Path) -> None:
    path = next((shared.directory / "credentials").glob("*.json"))
    file = read_connection_file(path, Role.WORKER)
    other = Authority("other")
    stranger = other.issue(Role.WORKER, path.stem)
    lost, foreign = tmp_path / "lost" / "job.json", tmp_path / "foreign" / "job.json"
    write_connection_file(lost, replace(file, engine_addresses=("tls://127.0.0.1:1",)))
    write_connection_file(
        foreign, replace(file, ca=other.ca_pem, certificate=stranger.certificate_pem, key=stranger.key_pem)
    )
    done = start_worker(lost, "--death-timeout", "1")
    assert (done.returncode, reached(done.stderr)) == (75, Stage.IMPORT), done.stderr
    # the latter on a machine so busy that not even one try has come to an end
    assert re.search(r"tls://127.0.0.1:1: (nobody listens there|Timed out trying to connect)", done.stderr), done.stderr
    done = start_worker(foreign)
    assert (done.returncode, reached(done.stderr)) == (76, Stage.NETWORK), done.stderr
    done = start_worker(tmp_path / "none.json", "--death-timeout", "0.1")
    assert done.returncode == 75, done.stderr


def test_each_engine_has_clients_of_its_own(shared: LocalCluster, state: Path) -> None:
    for target in (shared, shared.connection_file):
        with pytest.raises(ConfigError, match=r"runs the engine dask.*\n.*dask.distributed.Client"):
            hpccluster.Client(target)
    with LocalCluster(n_workers=1, threads_per_worker=1) as native:
        with pytest.raises(ConfigError, match=r"runs the engine native.*\n.*hpccluster.Client\(cluster\)"):
            distributed.Client(native)
        with native.get_client() as client:
            assert client.submit(pow, 2, 2).result() == 4


def test_a_name_is_joined_by_the_same_engine_only(shared: LocalCluster) -> None:
    where = {"name": shared.name, "state_directory": shared.directory.parent}
    with make(**where) as same:
        assert same.scheduler_address == shared.scheduler_address
    with pytest.raises(ClusterError, match="with engine='dask', not 'native'"):
        make(**where, engine="native")
    assert shared.status == "running"


def test_only_clusters_of_this_engine_load_it() -> None:
    text = (
        "import sys, hpccluster, hpccluster.head.server, hpccluster.engine.native, hpccluster.cli.main, "
        "hpccluster.runtime.process, hpccluster.cluster.manager; print(sorted({'dask', 'distributed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_without_the_extra_it_is_one_clear_error(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "distributed":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ConfigError, match=r"pip install 'hpccluster\[dask\]'"):
        make()
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2023.12.1")
    with pytest.raises(ConfigError, match=r"2024.8 or newer, and 2023.12.1 is installed"):
        make()
    assert not state.exists()


def test_what_cannot_be_is_one_clear_error(state: Path) -> None:
    with pytest.raises(ConfigError, match="dusk"):
        make(engine="dusk")
    with pytest.raises(ConfigError, match="processes=False"):
        make(processes=False)


def test_arguments_of_dasks_workers_are_taken_and_wrong_ones_refused_before_any_job(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    words = ["--resources", "GPU=2,MEM=1e9", "--preload", "json", "--lifetime", "1h"]
    options: dict[str, Any] = {
        "local_directory": "$SCRATCH/$NEXT",
        "env": {"NEXT": "tmp"},
        "log_directory": "$SCRATCH/a/b",
    }
    with make(worker_extra_args=words, **options) as cluster, distributed.Client(cluster) as client:
        assert client.submit(pow, 2, 3, resources={"GPU": 2}).result(timeout=30) == 8
        ((where, resources, lifetime),) = client.run(
            lambda dask_worker: (dask_worker.local_directory, dask_worker.state.total_resources, dask_worker.lifetime)
        ).values()
        assert where.startswith(str(tmp_path / "tmp"))
        assert (resources, lifetime) == ({"GPU": 2, "MEM": 1e9}, 3600)
        assert list((tmp_path / "a" / "b").glob("*.log"))
    for word, why in (("--nanny", "unrecognized arguments: --nanny"), ("--resources=GPU", "'GPU' is not of the form")):
        with pytest.raises(ConfigError, match=f"worker_extra_args=.*{why}"):
            make(worker_extra_args=[word])
    assert files_of(state) == []


def test_a_port_that_is_taken_is_one_clear_error(shared: LocalCluster, state: Path) -> None:
    port = int(shared.scheduler_address.rpartition(":")[2])
    with pytest.raises(CommError, match=f"dask's scheduler cannot start on 127.0.0.1, port {port}.*in use"):
        make(port=port)
    wait_until_gone(state)
    assert files_of(state) == []


def test_the_port_is_the_schedulers_and_the_sites_configuration_is_not_in_the_way(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1")
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TLS__CA_FILE", "/nonexistent")
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TLS__MAX_VERSION", "1.2")
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__IDLE_TIMEOUT", "1 s")
    with make(port=port) as cluster, distributed.Client(cluster) as client:
        assert cluster.scheduler_address == f"tls://127.0.0.1:{port}"
        assert client.submit(pow, 2, 2).result() == 4


# ------------------------------------------------------------------------------------------------------------- size


def test_scaling_down_keeps_every_result(state: Path) -> None:
    with make(n_workers=3) as cluster, distributed.Client(cluster) as client:
        addresses = sorted(worker.address for worker in cluster.workers)
        scattered = [client.scatter(bytes([n]) * 1000, workers=[addresses[n % 3]], hash=False) for n in range(12)]
        runs = client.submit(time.perf_counter_ns, pure=False)
        first = runs.result()
        assert all(held(client, address) for address in addresses)
        assert cluster.scale(1).workers == 1
        wait_until(lambda: len(cluster.workers) == 1, "two workers to go")
        assert [data[0] for data in client.gather(scattered)] == list(range(12)), (
            "scattered data cannot be computed again"
        )
        assert runs.result() == first, "it was not run again"
        assert cluster.scale(0).workers == 0
        wait_until(lambda: not cluster.workers, "the last worker to go")
        wait_until(lambda: not [job for job in cluster.jobs if job.phase != "over"], "the last job to end")
    assert processes_of(state) == {}
    assert files_of(state) == []


def test_a_job_of_several_workers_goes_as_one_and_its_certificate_with_it(state: Path) -> None:
    from hpccluster.engine.dask_security import security_of

    options: dict[str, Any] = {"engine": "dask", "cores": 4, "processes": 2, "memory": "1GiB", "n_workers": 4}
    with ClusterManager("local", **options) as cluster, distributed.Client(cluster) as client:
        cluster.wait_for_workers(4, timeout=40)
        assert [(worker.threads, worker.memory) for worker in cluster.workers] == [(2, 2**29)] * 4
        assert [job.workers for job in cluster.jobs] == [2, 2]
        data = [client.scatter(n, workers=[worker.address], hash=False) for n, worker in enumerate(cluster.workers)]
        files = {
            path.stem: read_connection_file(path, Role.WORKER) for path in cluster.directory.glob("credentials/*.json")
        }
        cluster.scale(jobs=1)
        wait_until(lambda: len(cluster.workers) == 2, "one job to go")
        assert len({worker.job for worker in cluster.workers}) == 1
        assert client.gather(data) == [0, 1, 2, 3]
        (kept,) = {worker.job for worker in cluster.workers}
        (over,) = files.keys() - {kept}
        with distributed.Client(cluster.scheduler_address, security=security_of(files[kept]), timeout=5) as other:
            assert other.submit(pow, 2, 2).result() == 4, "tasks may be clients with their job's certificate"
        with pytest.raises(OSError):
            distributed.Client(cluster.scheduler_address, security=security_of(files[over]), timeout=1)


def test_the_size_follows_the_work(state: Path) -> None:
    with make(
        adapt={"minimum": 0, "maximum": 2, "target_duration": 1, "interval": 0.2, "wait_count": 2, "idle_timeout": 0.5},
        n_workers=None,
    ) as cluster:
        assert cluster.workers == []
        with distributed.Client(cluster) as client:
            futures = client.map(time.sleep, [1.0] * 8, pure=False)
            wait_until(lambda: len(cluster.workers) == 2, "two workers", timeout=30)
            assert client.gather(futures) == [None] * 8
            wait_until(lambda: len(cluster.workers) == 1, "one to go")
            assert client.gather(futures) == [None] * 8, "the one that is left has the results"
            del futures
            wait_until(lambda: not cluster.workers, "the other to go when nobody wants them any more")
            assert client.submit(pow, 2, 3).result(timeout=30) == 8


# ------------------------------------------------------------------------------------------------------------- trouble


def test_a_worker_that_dies_is_replaced_and_its_work_is_done_again(state: Path) -> None:
    with make() as cluster, distributed.Client(cluster) as client:
        kept = client.submit(pow, 3, 3)
        assert kept.result() == 27
        (before,) = cluster.workers
        os.kill(before.pid, signal.SIGKILL)
        wait_until(lambda: [w for w in cluster.workers if w.pid != before.pid], "another worker", timeout=30)
        assert kept.result(timeout=30) == 27
        (after,) = cluster.workers
        assert (after.name, after.job) == (before.name, before.job)
        assert len(cluster.jobs) == 1, "the job lives on"


def test_a_task_that_takes_too_much_memory_fails_alone(state: Path) -> None:
    with make(memory_limit="400MB") as cluster, distributed.Client(cluster) as client:
        greedy = client.submit(bytearray, 2 * 10**9)
        with pytest.raises(distributed.KilledWorker):
            greedy.result(timeout=60)
        assert client.submit(pow, 2, 2).result(timeout=30) == 4
        assert len(cluster.jobs) == 1, "its nanny has ended the worker, not the batch system the job"


def test_a_worker_with_an_actor_is_not_idle(state: Path) -> None:
    class Tally:  # in here, it is pickled as a whole: workers cannot import this module
        sum = 0

        def add(self, number: int) -> int:
            self.sum += number
            return self.sum

    with make(n_workers=2) as cluster, distributed.Client(cluster) as client:
        home, other = (worker.address for worker in cluster.workers)
        tally = client.submit(Tally, actor=True, workers=[home]).result()
        assert tally.add(1).result() == 1
        # not the last holder of results, which would stay for that
        data = client.scatter(bytes(100_000), workers=[other], hash=False)
        cluster.adapt(minimum=0, maximum=2, interval=0.2, wait_count=2, idle_timeout=0.5)
        wait_until(lambda: [worker.address for worker in cluster.workers] == [home], "the other one to go", timeout=30)
        wait_until(lambda: [job.phase for job in cluster.jobs if job.phase != "over"] == ["running"], "its job to go")
        assert tally.add(2).result() == 3
        assert client.gather(data) == bytes(100_000)
        assert "Could not retire" not in cluster.get_logs()["head"]


def test_what_runs_is_not_waited_for(state: Path) -> None:
    with make(n_workers=2) as cluster, distributed.Client(cluster) as client:
        futures = client.map(time.sleep, [60.0, 61.0])
        wait_until(lambda: all(worker.executing for worker in cluster.workers), "both workers to be busy")
        begun = time.monotonic()
        cluster.scale(1)
        wait_until(lambda: len([job for job in cluster.jobs if job.phase != "over"]) == 1, "the end of one job")
        wait_until(lambda: cluster.workers[0].executing == 2, "its task at the other one")
        cluster.close()
        assert time.monotonic() - begun < 10
        del futures


def test_a_job_that_dies_early_is_diagnosed(state: Path, tmp_path: Path) -> None:
    (tmp_path / "distributed.py").write_text("raise ModuleNotFoundError(\"No module named 'distributed'\")\n")
    with pytest.raises(JobDied, match="'distributed' cannot be imported") as caught:
        make(env={"PYTHONPATH": str(tmp_path)})
    assert caught.value.code == "HPC-JOB-IMPORT"
    assert "python ok" in str(caught.value)
    assert processes_of(state) == {}


def test_a_job_that_is_told_to_end_hands_over_first(state: Path) -> None:
    with make(n_workers=2) as cluster, distributed.Client(cluster) as client:
        leaver, stayer = cluster.workers
        data = [client.scatter(n, workers=[worker.address], hash=False) for n, worker in enumerate((leaver, stayer))]
        nanny = psutil.Process(leaver.pid).parent()
        assert nanny is not None
        assert "hpccluster.engine.dask_worker" in nanny.cmdline()
        # What batch systems do: every process of the job hears it.
        for process in (nanny, psutil.Process(leaver.pid)):
            process.terminate()
        wait_until(lambda: leaver.job not in {worker.job for worker in cluster.workers}, "the worker to leave")
        assert client.gather(data) == [0, 1]
        wait_until(lambda: "workers ended with exit code 0" in cluster.logs(leaver.job), "the ordered end of the job")


def test_workers_that_lose_their_connection_come_back(state: Path) -> None:
    with make() as cluster, distributed.Client(cluster) as client:
        future = client.submit(pow, 2, 6)
        assert future.result() == 64
        (before,) = cluster.workers
        client.run_on_scheduler(lambda dask_scheduler: [c.abort() for c in dask_scheduler.stream_comms.values()])
        wait_until(lambda: [w for w in cluster.workers if w.pid != before.pid], "a new worker", timeout=30)
        assert future.result(timeout=30) == 64
        assert [job.name for job in cluster.jobs] == [before.job], "in the same job"
        assert "was lost" in cluster.logs(before.job)


def test_nothing_outlives_an_owner_that_is_killed(state: Path) -> None:
    process = script(
        "import time\n"
        "from hpccluster import LocalCluster\n"
        "from dask.distributed import Client\n"
        # patient: on a machine with much else to do, dask's four processes take long to be there
        "cluster = LocalCluster(n_workers=2, threads_per_worker=1, engine='dask', start_timeout=100)\n"
        "client = Client(cluster)\n"
        "busy = client.submit(time.sleep, 100)\n"
        "print(client.submit(pow, 2, 2).result(), flush=True)\n"
        "time.sleep(100)\n"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "4\n", process.communicate()
    process.kill()
    process.communicate(timeout=20)
    wait_until_gone(state)
    assert files_of(state) == []


def script(text: str) -> subprocess.Popen[str]:
    """A user's script, in a process of its own, without a main guard."""
    Path("script.py").write_text(text)
    return subprocess.Popen([sys.executable, "script.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_workers_leave_a_head_that_is_killed(state: Path) -> None:
    cluster = make()
    record = read_record(cluster.directory)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    wait_until_gone(state)
    assert cluster.status == "lost"
    cluster.close()


def test_a_script_has_a_quiet_end(state: Path) -> None:
    process = script(
        "from hpccluster import LocalCluster\n"
        "from dask.distributed import Client\n"
        "cluster = LocalCluster(n_workers=1, threads_per_worker=1, engine='dask')\n"
        "client = Client(cluster)\n"
        "print(client.submit(pow, 2, 2).result())\n"
    )
    out, errors = process.communicate(timeout=60)
    assert (out, errors, process.returncode) == ("4\n", "", 0)
    assert processes_of(state) == {}


def test_a_worker_that_the_client_retires_is_replaced_without_alarm(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with make(n_workers=2) as cluster, distributed.Client(cluster) as client:
        first = {worker.address for worker in cluster.workers}
        client.retire_workers([min(first)])
        wait_until(
            lambda: len({w.address for w in cluster.workers} - first) == 1, "another one in its place", timeout=60
        )
    assert [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_a_client_may_shut_the_cluster_down(state: Path) -> None:
    with make() as cluster:
        client = distributed.Client(cluster.scheduler_address, security=cluster.security)
        client.shutdown()
        wait_until(lambda: cluster.is_closed, "the end of the head")
    with make() as cluster:
        distributed.Client(cluster).shutdown()
        assert cluster.is_closed
    wait_until_gone(state)
    assert files_of(state) == []


def test_a_program_finds_its_cluster_by_the_environment(state: Path, tmp_path: Path) -> None:
    program = "from dask.distributed import Client; c = Client(); print(c.submit(pow, 2, 5).result(), c.scheduler.address[:3])"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "hpccluster",
            "submit",
            "--wait",
            "--name",
            "sweep",
            "--backend",
            "local",
            "--set",
            "engine=dask",
            "--set",
            "cores=1",
            "--set",
            "scale={workers: 1}",
            "--",
            sys.executable,
            "-c",
            program,
        ],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "32 tls" in (state / "sweep" / "program.log").read_text()
    wait_until_gone(state)
    assert not list((state / "sweep").rglob("*.pem")), "credentials are gone with the cluster"


def test_over_ipv6(state: Path) -> None:
    if not has_ipv6():
        pytest.skip("no IPv6 on loopback here")
    with make(host="::1") as cluster, distributed.Client(cluster) as client:
        assert cluster.scheduler_address.startswith("tls://[::1]:")
        assert [worker.address[:12] for worker in cluster.workers] == ["tls://[::1]:"]
        assert client.submit(pow, 2, 2).result() == 4


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


def test_without_tls_on_request(state: Path) -> None:
    with make(protocol="tcp", interface="lo") as cluster, distributed.Client(cluster) as client:
        assert cluster.scheduler_address.startswith("tcp://")
        assert client.submit(pow, 2, 2).result() == 4
        assert read_connection_file(cluster.connection_file, Role.CLIENT).engine_addresses == (
            cluster.scheduler_address,
        )
        assert [worker.job for worker in cluster.workers] == [job.name for job in cluster.jobs]
