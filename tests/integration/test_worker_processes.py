"""Nanny, fork server and workers as real processes: what they leave behind, whichever of them is killed and how."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpccluster.protocol.messages import (
    Dependency,
    Leave,
    Leaving,
    NannyHeartbeat,
    Role,
    StopWorkers,
    TasksDone,
    TasksReturned,
    WorkerExited,
)
from hpccluster.protocol.payload import collect, load_frames
from hpccluster.runtime.nanny import IMPATIENCE
from support.deadline import wait_until_async
from support.scripted_scheduler import Credentials
from support.worker_processes import Job, Site, site, until_gone

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[Site], Coroutine[Any, Any, None]]], None]:
    def run(scene: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with site(tmp_path) as given:
                await scene(given)

        asyncio.run(main())

    return run


Play = Callable[[Callable[[Site], Coroutine[Any, Any, None]]], None]


class Input:
    """Stands for the first future among a task's arguments."""

    def __reduce__(self) -> Any:
        return collect(self)


class TestLife:
    def test_tasks_data_and_a_quiet_end(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            job = await site.start("--nworkers", "2", "--memory-limit", str(2 * 10**9))
            nanny = await site.scheduler.nanny()
            first, second = await site.scheduler.worker(), await site.scheduler.worker()
            assert (nanny.hello.name, nanny.hello.job) == ("hpc-otter-0001", "hpc-otter-0001")
            assert {first.name, second.name} == {"hpc-otter-0001-0", "hpc-otter-0001-1"}
            assert {first.hello.memory, first.hello.job} == {10**9, "hpc-otter-0001"}
            assert first.hello.address.startswith("tls://")
            first.run(1, lambda: (print("printed by a task"), bytes(5_000_000))[1])
            await first.next(TasksDone)
            there = Dependency(1, None, 5_000_000, [first.hello.address])
            second.run(2, len, Input(), inputs=(there,))
            assert await second.result(2) == 5_000_000
            fetcher = site.scheduler.fetcher(security=site.credentials.security(Role.CLIENT))
            assert len(load_frames((await fetcher.fetch(first.hello.address, [1]))[1])) == 5_000_000
            await fetcher.close()
            first.run(4, lambda: os.read(0, 100))
            assert await first.result(4) == b""
            nanny.send(StopWorkers("the cluster has closed"))
            assert await job.wait() == 0
            exits = [await nanny.next(WorkerExited), await nanny.next(WorkerExited)]
            assert all(told.expected and not told.restarting and told.signal == signal.SIGTERM for told in exits)
            assert job.stages == ["python-ok", "import-ok", "net-ok", "auth-ok"]
            assert "printed by a task" in job.log
            name, address, at = first.name, first.hello.address, site.scheduler.address
            assert f"worker {name}  {address}  registered with {at}  (1 thread, 953.7 MiB)" in job.log

        play(scene)

    def test_retired_workers_are_not_started_again(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            job, nanny, worker = await site.job()
            worker.send(Leave("retired"))
            told = await nanny.next(WorkerExited)
            assert (told.expected, told.restarting, told.exit_code) == (True, False, 0)
            assert await job.wait() == 0

        play(scene)

    def test_a_scheduler_that_says_goodbye(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            job, _, _ = await site.job()
            await site.scheduler.close()
            assert await job.wait() == 0

        play(scene)

    def test_without_a_nanny(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            job = await site.start("--no-nanny", "--name", "lonely")
            worker = await site.scheduler.worker()
            assert worker.name == "lonely-0"
            worker.run(1, os.getpid)
            assert await worker.result(1) == job.pid
            worker.send(Leave("done"))
            assert await job.wait() == 0

        play(scene)

    def test_a_worker_is_small(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            _, _, worker = await site.job()
            assert psutil.Process(worker.hello.pid).memory_info().rss < 45e6
            worker.run(1, lambda: [name for name in __import__("sys").modules if "." not in name])
            loaded = set(await worker.result(1))
            assert not loaded & {"yaml", "jinja2", "click", "rich", "psutil", "cryptography", "platformdirs", "numpy"}
            worker.run(2, lambda: sorted(n for n in __import__("sys").modules if n.startswith("hpccluster.")))
            parts = {name.split(".")[1] for name in await worker.result(2)}
            assert parts == {"comm", "errors", "paths", "protocol", "resources", "runtime", "state", "units"}

        play(scene)


class TestDeaths:
    @pytest.mark.parametrize(
        ("deed", "code", "number"),
        [
            ("os.kill(os.getpid(), 9)", None, signal.SIGKILL),
            ("os.abort()", None, signal.SIGABRT),
            ("os._exit(3)", 3, None),
            ("os._exit(0)", 0, None),
            ("os._exit(75)", 75, None),
            ("__import__('ctypes').string_at(0)", None, signal.SIGSEGV),
        ],
        ids=["killed", "abort", "exit 3", "exit 0", "exit 75", "segfault"],
    )
    def test_the_nanny_names_cause_and_task_and_starts_another(
        self, play: Play, deed: str, code: int | None, number: int | None
    ) -> None:
        async def scene(site: Site) -> None:
            job, nanny, worker = await site.job()
            worker.run(41, pow, 2, 2)
            await worker.result(41)
            worker.run(42, _doing(f"sys.stderr.write('last words\\n'); sys.stderr.flush(); {deed}"), attempt=3)
            told = await nanny.next(WorkerExited)
            assert (told.worker, told.exit_code, told.signal) == ("hpc-otter-0001-0", code, number)
            assert told.running == [(42, 3)]
            assert "last words" in told.log_tail
            assert told.peak_memory > 10_000_000
            assert (told.expected, told.restarting) == (False, True)
            again = await site.scheduler.worker()
            assert (again.name, again.hello.incarnation) == (worker.name, 1)
            again.run(1, pow, 2, 3)
            assert await again.result(1) == 8
            assert "last words" in job.log
            assert "worker hpc-otter-0001-0  died: " in job.log

        play(scene)

    def test_of_an_idle_worker_the_last_task_is_named_which_the_scheduler_knows_to_be_done(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            _, nanny, worker = await site.job()
            worker.run(1, pow, 2, 3)
            await worker.result(1)
            worker.run(2, pow, 2, 3)
            await worker.result(2)
            os.kill(worker.hello.pid, signal.SIGKILL)
            told = await nanny.next(WorkerExited)
            assert (told.signal, told.running) == (signal.SIGKILL, [(2, 1)])

        play(scene)

    def test_what_a_dead_worker_has_started_ends_with_it(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            _, _, worker = await site.job()
            worker.run(1, lambda: subprocess.Popen(["sleep", "600"]).pid)
            child = psutil.Process(await worker.result(1))
            os.kill(worker.hello.pid, signal.SIGKILL)
            await until_gone([child])

        play(scene)

    def test_a_worker_over_the_jobs_memory_is_killed_with_a_clear_cause(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            _, nanny, worker = await site.job("--memory-limit", str(150 * 2**20))
            worker.run(1, lambda: (bytearray(b"x") * (200 * 2**20), __import__("time").sleep(30))[1])
            told = await nanny.next(WorkerExited)
            assert told.signal == signal.SIGKILL
            assert told.running == [(1, 1)]
            assert "out of memory" in told.log_tail.splitlines()[-1]
            assert "of 150.0 MiB" in told.log_tail
            assert told.peak_memory > 150 * 2**20

        play(scene)

    def test_workers_that_cannot_start_are_given_up(self, play: Play, tmp_path: Path) -> None:
        async def scene(site: Site) -> None:
            place = tmp_path / "place"
            job, nanny, worker = await site.job("--local-directory", str(place))
            place.rmdir()
            place.write_text("no directory any more")
            worker.run(1, _doing("os.kill(os.getpid(), 9)"))
            exits = [await nanny.next(WorkerExited) for _ in range(4)]
            assert [told.restarting for told in exits] == [True, True, True, False]
            assert "cannot be made here" in exits[3].log_tail
            assert await job.wait() == 1

        play(scene)

    def test_a_local_directory_that_cannot_be_made_is_an_error_before_anything_starts(
        self, play: Play, tmp_path: Path
    ) -> None:
        async def scene(site: Site) -> None:
            blocked = tmp_path / "file"
            blocked.write_text("no directory")
            job = await site.start("--local-directory", str(blocked / "below"))
            assert await job.wait() == 2
            assert f"local_directory='{blocked}/below' cannot be made here" in job.log

        play(scene)


def _doing(text: str) -> Callable[[], None]:
    """A task that does that. It is a local function, so that it goes to the workers by value."""

    def do() -> None:
        exec(f"import os, sys; {text}", {})

    return do


class TestEnds:
    def test_sigterm_hands_over_and_ends_with_zero(self, play: Play, tmp_path: Path) -> None:
        async def scene(site: Site) -> None:
            job, nanny, worker = await site.job()
            begun, go = str(tmp_path / "begun"), str(tmp_path / "go")
            worker.run(1, _doing(f"os.mkfifo({go!r}); os.mkdir({begun!r}); open({go!r}).read()"))
            await wait_until_async(lambda: asyncio.to_thread(Path(begun).exists), "a running task")
            worker.run(2, pow, 2, 2)
            job.signal(signal.SIGTERM)
            assert await worker.next(Leaving) == Leaving("SIGTERM")
            worker.run(3, pow, 2, 3)
            returned = [await worker.next(TasksReturned), await worker.next(TasksReturned)]
            assert sorted(task for message in returned for task in message.tasks) == [2, 3]
            Path(go).write_text("go")
            assert await worker.result(1) is None
            worker.send(Leave("handed over"))
            assert await job.wait() == 0
            told = await nanny.next(WorkerExited)
            assert (told.expected, told.signal) == (True, signal.SIGTERM)

        play(scene)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_a_worker_that_leaves_for_a_signal_that_is_not_its_nannys_is_replaced(
        self, play: Play, number: signal.Signals
    ) -> None:
        async def scene(site: Site) -> None:
            _, nanny, worker = await site.job("--grace", "0.3")
            worker.run(1, _doing(f"os.kill(os.getpid(), {number}); import time; time.sleep(600)"))
            assert await worker.next(Leaving) == Leaving(number.name)
            told = await nanny.next(WorkerExited)
            assert (told.signal, told.running, told.expected, told.restarting) == (number, [(1, 1)], False, True)
            again = await site.scheduler.worker()
            again.run(2, pow, 2, 3)
            assert await again.result(2) == 8

        play(scene)

    def test_a_worker_whose_tasks_have_taken_its_streams_away_ends_alone(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            _, nanny, first = await site.job("--nworkers", "2")
            second = await site.scheduler.worker()
            last, other = sorted((first, second), key=lambda worker: worker.hello.pid, reverse=True)
            last.run(1, _doing("sys.stdout = sys.stderr = None"))
            await last.result(1)
            last.send(Leave("retired"))
            told = await nanny.next(WorkerExited)
            assert (told.worker, told.expected, told.exit_code) == (last.name, True, 0)
            other.run(2, pow, 2, 3)
            assert await other.result(2) == 8
            assert not other.lost.done()

        play(scene)

    def test_sigterm_is_bounded_by_the_grace(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            job, _, worker = await site.job("--grace", "0.3")
            worker.run(1, _doing(HOLD_THE_GIL))
            await asyncio.sleep(0)
            began = time.monotonic()
            job.signal(signal.SIGTERM)
            assert await job.wait() == 0
            assert time.monotonic() - began < 4

        play(scene)

    def test_a_signal_to_every_process_of_the_job_is_one_signal(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            job, nanny, worker = await site.job()
            for process in job.family():
                process.send_signal(signal.SIGTERM)
            job.signal(signal.SIGTERM)
            assert await worker.next(Leaving)
            os.kill(worker.hello.pid, signal.SIGTERM)
            worker.run(1, pow, 2, 2)
            assert await worker.next(TasksReturned) == TasksReturned([1], [1])
            assert not worker.lost.done()
            worker.send(Leave("handed over"))
            assert (await nanny.next(WorkerExited)).expected
            assert await job.wait() == 0

        play(scene)

    def test_a_second_ctrl_c_does_not_wait(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            job, _, worker = await site.job("--grace", "600")
            job.signal(signal.SIGINT)
            await worker.next(Leaving)
            await asyncio.sleep(IMPATIENCE + 0.1)
            job.signal(signal.SIGINT)
            assert await job.wait() == 0

        play(scene)

    def test_the_death_of_the_nanny_leaves_no_process(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            job, _, worker = await site.job("--nworkers", "2")
            worker.run(1, lambda: subprocess.Popen(["sleep", "600"]).pid)
            family = [*job.family(), psutil.Process(await worker.result(1))]
            await site.scheduler.worker()
            assert len(set(job.family())) == 5
            job.signal(signal.SIGKILL)
            await until_gone(family)

        play(scene)

    def test_the_death_of_nanny_and_fork_server_leaves_no_process(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            job, _, worker = await site.job()
            worker.run(1, _doing(HOLD_THE_GIL))
            family = job.family()
            job.fork_server().suspend()
            job.signal(signal.SIGKILL)
            job_ends = await job.wait()
            assert job_ends == -signal.SIGKILL
            family[1].kill()
            await until_gone(family)

        play(scene)

    def test_the_death_of_the_fork_server_is_that_of_its_workers(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            job, nanny, _ = await site.job()
            family = job.family()
            job.fork_server().kill()
            told = await nanny.next(WorkerExited)
            assert (told.signal, told.expected, told.restarting) == (signal.SIGKILL, False, False)
            assert "fork server was killed" in told.log_tail
            assert await job.wait() == 1
            await until_gone(family)

        play(scene)

    def test_the_nanny_speaks_when_the_worker_holds_the_gil(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            _, nanny, worker = await site.job()
            worker.run(1, _doing(HOLD_THE_GIL))
            beat = await nanny.next(NannyHeartbeat)
            assert beat.workers == [worker.name]
            assert beat.memory > 10_000_000
            os.kill(worker.hello.pid, signal.SIGKILL)
            assert (await nanny.next(WorkerExited)).running == [(1, 1)]

        play(scene)


HOLD_THE_GIL = "import ctypes; ctypes.PyDLL(None).sleep(60)"


class TestNobodyThere:
    def test_no_head(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            path = site.credentials.connection_file(site.scheduler.address)
            await site.scheduler.stop_listening()
            began = time.monotonic()
            job = await site.start("--death-timeout", "0.5", connection_file=path)
            assert await job.wait() == 75
            assert time.monotonic() - began < 5
            assert job.stages == ["python-ok", "import-ok"]
            _one_error(job, "no head was found within 0.5 s", site.scheduler.address, "refused")

        play(scene)

    def test_no_connection_file(self, play: Play, tmp_path: Path) -> None:
        async def scene(site: Site) -> None:
            job = await site.start("--death-timeout", "0.3", connection_file=tmp_path / "gone" / "worker.json")
            assert await job.wait() == 75
            _one_error(job, "no worker connection file", "gone/worker.json")

        play(scene)

    def test_a_lost_head(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            job = await site.start("--death-timeout", "0.5")
            nanny, worker = await site.scheduler.nanny(), await site.scheduler.worker()
            await site.scheduler.stop_listening()
            nanny.channel.abort()
            worker.channel.abort()
            assert await job.wait() == 75

        play(scene)

    def test_a_head_that_comes_back(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            _, nanny, worker = await site.job()
            nanny.channel.abort()
            worker.channel.abort()
            again = await site.scheduler.worker()
            assert (again.hello.pid, again.hello.incarnation) == (worker.hello.pid, 1)
            nanny = await site.scheduler.nanny()
            os.kill(again.hello.pid, signal.SIGKILL)
            assert (await nanny.next(WorkerExited)).signal == signal.SIGKILL
            assert (await site.scheduler.worker()).hello.incarnation == 2

        play(scene)

    def test_a_credential_of_another_cluster(self, play: Play, tmp_path: Path) -> None:
        async def scene(site: Site) -> None:
            stranger = Credentials(tmp_path / "other", "d" * 32)
            path = stranger.connection_file(site.scheduler.address)
            job = await site.start("--nworkers", "2", connection_file=path)
            assert await job.wait() == 76
            assert job.stages[-1] in ("import-ok", "net-ok")
            _one_error(job)

        play(scene)

    def test_a_credential_of_another_role(self, play: Play) -> None:
        async def scene(site: Site) -> None:
            path = site.credentials.connection_file(site.scheduler.address, role=Role.CLIENT)
            job = await site.start(connection_file=path)
            assert await job.wait() == 76
            assert job.stages == ["python-ok", "import-ok"]
            _one_error(job, "is one for a client", str(path))

        play(scene)

    def test_plain_tcp_must_be_said(self) -> None:
        command = [sys.executable, "-m", "hpccluster.runtime", "worker", "--address", "tcp://127.0.0.1:9"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert ended.returncode == 2
        assert "say --plain" in ended.stderr


def _one_error(job: Job, *texts: str) -> None:
    """The log holds one error, of a few lines and without a traceback, that says all this."""
    lines = [line for line in job.log.splitlines() if not line.startswith("hpccluster: stage")]
    assert len(lines) <= 4, job.log
    assert sum("hpccluster worker: " in line for line in lines) == 1
    for text in texts:
        assert text in "\n".join(lines)
