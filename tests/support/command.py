"""The ``hpccluster`` command as a user runs it: a process of its own, into pipes or at a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from support.deadline import wait_until

COMMAND = [sys.executable, "-c", "from hpccluster.cli.main import main; main()"]
TIMEOUT = 50.0


@dataclass
class Commands:
    """Runs the command in a home, a state directory and a working directory of the test's own."""

    home: Path
    state: Path
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def below(cls, path: Path) -> Commands:
        home, state, work = (path / name for name in ("home", "state", "work"))
        for folder in (home, state, work):
            folder.mkdir(mode=0o700, parents=True)
        return cls(home, state, work)

    def variables(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HPCCLUSTER_", "XDG_")) and k != "NO_COLOR"}
        own = {"HOME": str(self.home), "HPCCLUSTER_STATE_DIRECTORY": str(self.state), "TERM": "xterm-256color"}
        return kept | own | self.environment

    def run(self, *arguments: str, code: int | None = 0, timeout: float = TIMEOUT) -> subprocess.CompletedProcess[str]:
        """Run to the end, into pipes; the test fails where the exit code is not ``code``."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.directory,
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if code is not None and done.returncode != code:
            raise AssertionError(
                f"hpccluster {' '.join(arguments)}: exit code {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def out(self, *arguments: str) -> str:
        """What it writes to stdout."""
        return self.run(*arguments).stdout

    def err(self, *arguments: str, code: int) -> str:
        """What it writes to stderr when it fails with that code."""
        return self.run(*arguments, code=code).stderr

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[Started]:
        """Run beside the test; killed at the end of the block if it is still there."""
        out = self.directory / f"out-{time.monotonic_ns()}"
        with out.open("wb") as file:
            process = subprocess.Popen(
                [*COMMAND, *arguments],
                cwd=self.directory,
                env=self.variables(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield Started(process, out)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def at_terminal(
        self, *arguments: str, columns: int = 80, typed: str = "", timeout: float = TIMEOUT
    ) -> tuple[int, str]:
        """Run at a terminal of that width, on which something is typed: exit code, and all that was shown on it."""
        process, terminal = pty.fork()
        if process == 0:
            os.chdir(self.directory)
            os.execve(COMMAND[0], [*COMMAND, *arguments], self.variables())
        termios.tcsetwinsize(terminal, (24, columns))
        os.write(terminal, typed.encode())
        shown = b""
        end = time.monotonic() + timeout
        while select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0]:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # how Linux says that the other side has ended
                break
            if not part:
                break
            shown += part
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        os.close(terminal)
        return code, shown.decode().replace("\r\n", "\n")


@dataclass
class Started:
    """A command that runs."""

    process: subprocess.Popen[bytes]
    file: Path

    @property
    def output(self) -> str:
        """What it has written so far, to stdout and stderr."""
        return self.file.read_text()

    def wait_for(self, text: str, timeout: float = 20.0) -> str:
        """All output, once ``text`` is in it."""

        def look() -> str:
            output = self.output
            if text not in output and self.process.poll() is not None and text not in self.output:
                raise AssertionError(f"ended with {self.process.returncode} without saying {text!r}:\n{self.output}")
            return output if text in output else ""

        return wait_until(look, repr(text), timeout=timeout)

    def wait(self, timeout: float = 20.0) -> int:
        """Its exit code."""
        return self.process.wait(timeout)
