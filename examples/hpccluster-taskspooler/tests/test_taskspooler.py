"""The task-spooler backend against a real task-spooler: the contract that hpccluster ships, and what is special here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpccluster import Client
from hpccluster.backend.base import Backend
from hpccluster.backend.dialect import CommandResult
from hpccluster.errors import BackendUnavailable, CommandFailed, ConfigError, PollFailed, SubmitRefused
from hpccluster.ids import JobId
from hpccluster.job import JobState
from hpccluster.testing.backend_contract import BackendContract
from hpccluster_taskspooler import TaskSpoolerCluster
from hpccluster_taskspooler.backend import TaskSpoolerBackend
from hpccluster_taskspooler.dialect import TaskSpoolerDialect
from hpccluster_taskspooler.options import TaskSpoolerOptions

pytestmark = pytest.mark.skipif(shutil.which("tsp") is None, reason="no tsp: apt-get install task-spooler")


@dataclass
class Queue:
    """A queue of the test's own."""

    socket: str

    def tsp(self, *arguments: str) -> str:
        variables = {**os.environ, "TS_SOCKET": self.socket, "TMPDIR": str(Path(self.socket).parent)}  # also its output
        done = subprocess.run(
            ["tsp", *arguments], env=variables, capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    def backend(self, **options: object) -> TaskSpoolerBackend:
        return TaskSpoolerBackend(TaskSpoolerOptions(cores=1, socket=self.socket, **options))  # type: ignore[arg-type]


@pytest.fixture
def queue() -> Iterator[Queue]:
    # not in pytest's directory: the path of a socket is short
    with tempfile.TemporaryDirectory(prefix="hpc-tsp-") as directory:
        queue = Queue(f"{directory}/socket")
        queue.tsp("-S", "4")
        try:
            yield queue
        finally:
            for number in re.findall(r"^(\d+) +running", queue.tsp("-l"), re.MULTILINE):
                with contextlib.suppress(subprocess.CalledProcessError):  # it has just ended
                    queue.tsp("-k", number)
            queue.tsp("-K")


class TestTaskSpooler(BackendContract):
    unknown_id = "hpc-contract-nobody"

    @pytest.fixture
    def backend(self, queue: Queue) -> Backend:
        return queue.backend()

    @pytest.fixture
    def pending_backend(self, queue: Queue) -> Backend:
        return queue.backend(slots=99)

    async def submitted_text(self, backend: Backend, job: JobId) -> str:
        assert isinstance(backend, TaskSpoolerBackend)
        listed = await backend.runner.run(("tsp", "-l"), environment=backend.dialect.query_environment())
        script = re.search(rf"\[{job}\]sh (\S+)", listed.stdout)
        assert script is not None
        return Path(script[1]).read_text()

    def test_walltime_is_kept(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            job = await backend.submit(self.spec(directory, "sleep 60", walltime=0.3))
            await self.until_state(backend, job, JobState.TIMEOUT)

        self.run(backend, scenario)

    def test_jobs_of_others_in_the_queue_are_left_alone(self, queue: Queue, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            running = queue.tsp("-L", "theirs", "sleep", "60")
            queue.tsp("sh", "-c", "true\n7 running stdout [hpc-contract-fake]sh x")
            assert (await backend.poll([JobId("hpc-contract-fake")])).keys() == {"hpc-contract-fake"}
            job = await backend.submit(self.spec(directory, "sleep 60"))
            await self.until_gone(backend, job)
            assert queue.tsp("-s", running) == "running"

        self.run(queue.backend(), scenario)

    def test_files_are_private(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            spec = self.spec(directory, "true")
            await self.until_state(backend, await backend.submit(spec), JobState.COMPLETED)
            assert {path.name for path in directory.iterdir()} == {f"{spec.name}.log", f"{spec.name}.sh"}
            assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}

        self.run(backend, scenario)


def test_what_proves_that_there_is_no_job(queue: Queue, tmp_path: Path) -> None:
    async def scenario() -> None:
        contract = TestTaskSpooler()
        with pytest.raises(SubmitRefused) as refused:
            await queue.backend().submit(contract.spec(tmp_path / "nowhere", "true"))
        assert refused.value.code == "HPC-SUBMIT-SCRIPT"
        assert "nowhere" in str(refused.value)
        lost = TaskSpoolerBackend(TaskSpoolerOptions(cores=1, socket=str(tmp_path / "nowhere" / "socket")))
        with pytest.raises(BackendUnavailable, match="didn't come up"):
            await lost.submit(contract.spec(tmp_path, "true"))
        with pytest.raises(PollFailed, match="didn't come up"):
            await lost.poll([JobId("hpc-a-0001")])
        assert list(tmp_path.iterdir()) == []

    asyncio.run(scenario())


def test_a_full_queue_is_a_limit_and_anything_unclear_is_no_refusal() -> None:
    dialect, options = TaskSpoolerDialect(None, "here"), TaskSpoolerOptions(cores=1)
    full = dialect.submit_error(CommandResult(("sh",), 2, "", "Error, queue full\n"), "", options)
    assert isinstance(full, SubmitRefused)
    assert full.code == "HPC-SUBMIT-LIMIT"
    assert full.details["said"] == "Error, queue full"
    unclear = dialect.submit_error(CommandResult(("sh",), 255, "", "Error calling recv_msg\n"), "", options)
    assert type(unclear) is CommandFailed


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="slots=0: at least 1"):
        TaskSpoolerOptions(cores=1, slots=0)
    with pytest.raises(ConfigError, match="socket="):
        TaskSpoolerOptions(cores=1, socket="a\nb")
    with pytest.raises(ConfigError, match="queue"):
        TaskSpoolerCluster(queue="short")  # type: ignore[call-arg]


LISTED = """\
ID   State      Output               E-Level  Times(r/u/s)   Command [run=1/2]
3    running    stdout                                       [hpc-a-0003]sh /logs/hpc-a-0003.sh
4    queued     stdout                                       [hpc-a-0004]sh /logs/hpc-a-0004.sh
5    queued     (file)                                       [q3]sleep 31
0    finished   stdout               3        0.00/0.00/0.00 [hpc-a-0000]sh /logs/hpc-a-0000.sh
7    finished   stdout               -113     0.01/0.00/0.00 [hpc-a-0007]sh /logs/hpc-a-0007.sh
2    finished   stdout               -1       12.50/0.00/0.01 [hpc-a-0002]sh /logs/hpc-a-0002.sh
6    finished   /tmp/ts-out.RjydI1   0        0.00/0.00/0.00 [hpc-a-2]sh2 -c echo a
5 running x
"""


def test_listing_is_read() -> None:
    dialect = TaskSpoolerDialect(None, "here")
    found = {status.id: status for status in dialect.parse_poll(CommandResult(("tsp", "-l"), 0, LISTED, ""))}
    assert {job: (it.state, it.exit_code, it.node) for job, it in found.items()} == {
        "hpc-a-0003": (JobState.RUNNING, None, "here"),
        "hpc-a-0004": (JobState.PENDING, None, ""),
        "hpc-a-0000": (JobState.FAILED, 3, "here"),
        "hpc-a-0007": (JobState.CANCELLED, 143, "here"),
        "hpc-a-0002": (JobState.FAILED, None, "here"),
    }
    waits = found[JobId("hpc-a-0004")]
    assert waits.reason == "1 of 2 slots are in use"
    assert "tsp -S N" in dialect.explain(waits)
    for said in ("", "ID State"):
        with pytest.raises(PollFailed):
            dialect.parse_poll(CommandResult(("tsp", "-l"), 0, said, "no server"))


def test_cluster_does_work_and_leaves_nothing(queue: Queue) -> None:
    with TaskSpoolerCluster(cores=1, socket=queue.socket, n_workers=2) as cluster:
        cluster.wait_for_workers(2, timeout=40)
        with Client(cluster) as client:
            assert sum(client.gather(client.map(abs, range(-50, 50)))) == 2500
        assert "registered with" in cluster.get_logs()[cluster.jobs[0].name]
    assert not re.search(r"running|queued", queue.tsp("-l"))
