"""What fakes of batch systems share: programs on PATH that hand their arguments to one controller, faults, real processes.

The controller lives in the test's process, keeps the table of jobs and runs them as processes of its own. It signals only
processes that it started and has not reaped; an id is looked up in its table and never used as a process number.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import msgspec

_CLIENT = """#!{python} -IS
import json, os, socket, sys
text = sys.stdin.read() if os.path.basename(sys.argv[0]) == {submit!r} else ""
call = dict(command=os.path.basename(sys.argv[0]), arguments=sys.argv[1:], stdin=text, environment=dict(os.environ), directory=os.getcwd())
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({socket!r})
    connection.sendall(json.dumps(call).encode())
    connection.shutdown(socket.SHUT_WR)
    with connection.makefile("rb") as file:
        answer = json.loads(file.read() or b'{{"returncode": 1, "stdout": "", "stderr": "the controller hung up"}}')
sys.stdout.write(answer["stdout"])
sys.stderr.write(answer["stderr"])
sys.stdout.flush()
sys.exit(answer["returncode"])
"""


class Call(msgspec.Struct):
    """One use of a command."""

    command: str
    arguments: list[str]
    stdin: str
    environment: dict[str, str]
    directory: str


class Answer(msgspec.Struct):
    """What the command prints and how it ends."""

    returncode: int = 0
    stdout: str = ""
    stderr: str = ""


@dataclass(slots=True)
class Fault:
    """What goes wrong with the next uses of a command."""

    command: str
    answer: Answer
    times: int = 1
    delay: float = 0.0
    """Seconds before the answer."""
    happens: bool = False
    """The command does its work all the same."""


class RunningJob(Protocol):
    """What the shared part knows of a job."""

    process: subprocess.Popen[bytes] | None
    timer: threading.Timer | None


Job = TypeVar("Job", bound=RunningJob)


@dataclass
class FakeSystem(ABC, Generic[Job]):
    """A controller and its commands. Use it as a context manager."""

    commands: ClassVar[tuple[str, ...]]
    """The programs on PATH."""
    submit_command: ClassVar[str]
    """The one of them that reads its standard input."""

    slots: int = 4
    """Jobs that run at a time; the others wait."""
    jobs: dict[str, Job] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    """All uses of commands so far."""
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._next = 100
        self._waiters: list[threading.Thread] = []

    # ---------------------------------------------------------------------------------------------------------------- life

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="hpccluster-fake-"))
        self.bin = self.directory / "bin"
        self.bin.mkdir()
        address = str(self.directory / "socket")
        for command in self.commands:
            path = self.bin / command
            path.write_text(_CLIENT.format(python=sys.executable, socket=address, submit=self.submit_command))
            path.chmod(0o755)
        controller = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                call = msgspec.json.decode(self.rfile.read(), type=Call)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(msgspec.json.encode(controller._answer(call)))

        self._server = socketserver.ThreadingUnixStreamServer(address, Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            self.slots = 0
            for job in self.jobs.values():
                if job.timer is not None:
                    job.timer.cancel()
                self._signal(job, signal.SIGKILL)
        for thread in self._waiters:
            thread.join()
        shutil.rmtree(self.directory, ignore_errors=True)

    def environment(self, **more: str) -> dict[str, str]:
        """The environment in which these commands are found first."""
        return {**os.environ, "PATH": f"{self.bin}:{os.environ.get('PATH', '/usr/bin:/bin')}", **more}

    # -------------------------------------------------------------------------------------------------------------- faults

    def fail(
        self,
        command: str,
        *,
        stderr: str = "",
        returncode: int = 1,
        times: int = 1,
        delay: float = 0.0,
        happens: bool = False,
    ) -> None:
        """Let the next ``times`` uses of a command end like this; with ``happens`` they do their work all the same."""
        self.faults.append(Fault(command, Answer(returncode, "", stderr), times, delay, happens))

    def delay(self, command: str, seconds: float, *, times: int = 1) -> None:
        """Let the next uses of a command take longer; they work."""
        self.faults.append(Fault(command, Answer(-1), times, seconds, happens=True))

    def _answer(self, call: Call) -> Answer:
        with self._lock:
            self.calls.append(call)
            fault = next((item for item in self.faults if item.command == call.command), None)
            if fault is not None:
                fault.times -= 1
                if fault.times == 0:
                    self.faults.remove(fault)
        if fault is not None:
            if fault.happens:
                answer = self._perform(call)
            time.sleep(fault.delay)
            return answer if fault.answer.returncode < 0 else fault.answer
        return self._perform(call)

    def _perform(self, call: Call) -> Answer:
        with self._lock:
            return self.handlers()[call.command](call)

    @abstractmethod
    def handlers(self) -> Mapping[str, Callable[[Call], Answer]]:
        """What each command does; called with the lock held."""

    # ---------------------------------------------------------------------------------------------------------------- jobs

    @abstractmethod
    def ended(self, job: Job, code: int) -> None:
        """The job's process and its group have ended, with this return code; called with the lock held."""

    def _watch(self, job: Job, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a process that was just started."""
        job.process = process
        thread = threading.Thread(target=self._wait, args=(job, process), daemon=True)
        self._waiters.append(thread)
        thread.start()

    def _wait(self, job: Job, process: subprocess.Popen[bytes]) -> None:
        # see the end without reaping, so that the number of the process group stays its own until all of it has ended
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._signal(job, signal.SIGKILL)
            code = process.wait()
            job.process = None
            if job.timer is not None:
                job.timer.cancel()
            self.ended(job, code)

    def _kill_later(self, job: Job, seconds: float) -> None:
        """KILL it after a while, if it is still there."""
        job.timer = threading.Timer(seconds, self._kill, args=(job,))
        job.timer.start()

    def _kill(self, job: Job) -> None:
        with self._lock:
            self._signal(job, signal.SIGKILL)

    def _signal(self, job: Job, number: signal.Signals) -> None:
        if job.process is not None and job.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process.pid, number)
