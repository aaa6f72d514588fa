"""The backend contract against the local backend, and what only it promises: no job outlives its process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hpccluster.backend.base import Backend
from hpccluster.errors import SubmitRefused
from hpccluster.ids import JobId
from hpccluster.job import JobState
from hpccluster.testing.backend_contract import BackendContract
from hpccluster_local.backend import LocalBackend
from hpccluster_local.options import LocalOptions
from hpccluster_local.processes import ScriptProcess
from support.deadline import wait_until


class TestLocalBackend(BackendContract):
    patience = 15.0
    unknown_id = "local-4000000"

    @pytest.fixture
    def backend(self) -> Backend:
        backend = LocalBackend(LocalOptions())
        backend.grace = 0.5
        return backend

    @pytest.fixture
    def refused_backend(self, monkeypatch: pytest.MonkeyPatch) -> Backend:
        backend = LocalBackend(LocalOptions())
        submit = backend.submit

        async def without_directory(spec, credential=None):  # type: ignore[no-untyped-def]
            return await submit(type(spec)(name=spec.name, cluster=spec.cluster, command=spec.command,
                                           resources=spec.resources, log_path="/nowhere/x.log"))  # fmt: skip

        monkeypatch.setattr(backend, "submit", without_directory)
        return backend

    async def submitted_text(self, backend: Backend, job: JobId) -> str:
        assert isinstance(backend, LocalBackend)
        process = backend._jobs[job].process
        assert isinstance(process, ScriptProcess)
        return process.script.read_text()

    def test_job_reaches_its_walltime(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            job = await backend.submit(self.spec(directory, "sleep 60", walltime=0.2))
            await self.until_state(backend, job, JobState.TIMEOUT)

        self.run(backend, scenario)

    def test_what_a_job_leaves_behind_ends_with_it(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            spec = self.spec(directory, "sleep 71.5 & echo $!")
            job = await backend.submit(spec)
            await self.until_state(backend, job, JobState.COMPLETED)
            pid = int((await backend.logs(job, spec.log_path)).split("\n")[2])
            wait_until(lambda: not _runs(pid), "the process that the job started has ended")

        self.run(backend, scenario)

    def test_files_are_removed_and_output_is_private(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            spec = self.spec(directory, "true")
            job = await backend.submit(spec)
            await self.until_state(backend, job, JobState.COMPLETED)
            assert [path.name for path in directory.iterdir()] == [f"{spec.name}.log"]
            assert Path(spec.log_path).stat().st_mode & 0o777 == 0o600

        self.run(backend, scenario)

    def test_link_in_place_of_the_log_is_not_followed(self, backend: Backend, directory: Path) -> None:
        async def scenario(backend: Backend) -> None:
            spec = self.spec(directory, "true")
            Path(spec.log_path).symlink_to(directory / "victim")
            with pytest.raises(SubmitRefused):
                await backend.submit(spec)
            assert not (directory / "victim").exists()

        self.run(backend, scenario)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


OWNER = """
import asyncio, sys
from pathlib import Path
from hpccluster.testing.backend_contract import BackendContract
from hpccluster_local.backend import LocalBackend
from hpccluster_local.options import LocalOptions
from hpccluster_local.processes import ScriptProcess

async def main():
    backend = LocalBackend(LocalOptions())
    spec = BackendContract().spec(Path(sys.argv[1]), sys.argv[2])
    await backend.submit(spec)
    print(spec.log_path, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "command", ["echo pid $$; exec sleep 72.5", "trap '' TERM; echo pid $$; while :; do sleep 1; done"]
)
def test_no_job_outlives_its_process(tmp_path: Path, command: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path), command], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        log = Path(owner.stdout.readline().strip())
        text = wait_until(lambda: "pid " in log.read_text() and log.read_text(), "the job runs")
        assert isinstance(text, str)
        pid = int(text.split("pid ")[1].split()[0])
        assert _runs(pid)
    finally:
        owner.kill()
        owner.wait()
    wait_until(lambda: not _runs(pid), "the job has ended after its owner was killed", timeout=10.0)


def test_exit_code_survives_signals_to_the_job(tmp_path: Path) -> None:
    """Signals while the shell waits for its child neither end the job nor change its code."""

    async def scenario() -> None:
        contract = TestLocalBackend()
        backend = LocalBackend(LocalOptions())
        command = "trap 'n=$((n+1))' TERM; n=0; echo ready; while [ $n -lt 3 ]; do sleep 0.05; done; exit 9"
        spec = contract.spec(tmp_path, command)
        job = await backend.submit(spec)
        await contract.until_log(backend, job, spec, "ready")
        process = backend._jobs[job].process
        assert isinstance(process, ScriptProcess)
        for _ in range(12):
            if process.returncode is None:
                os.kill(process.pid, signal.SIGTERM)
            await asyncio.sleep(0.1)
        status = await contract.until_state(backend, job, JobState.FAILED)
        assert status.exit_code == 9

    asyncio.run(scenario())
