"""A local job as a process: by its script, or forked ready-made from a launcher.

A signal is only ever sent to a process that we, or our launcher, have started and not yet reaped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hpccluster.backend.base import JobLauncher


class JobProcess(ABC):
    """The process of one job. ``on_end`` is called on the loop when it and what it has left behind are gone."""

    @property
    @abstractmethod
    def returncode(self) -> int | None:
        """As `subprocess.Popen` says it; None while it runs."""

    @abstractmethod
    def signal(self, number: signal.Signals) -> None:
        """Signal the job. Does nothing for one that has ended."""


class ScriptProcess(JobProcess):
    """The job's script, run by ``/bin/sh`` as the leader of a session of its own."""

    def __init__(self, script: Path, *, stdin: int, output: int, directory: str, on_end: Callable[[], None]) -> None:
        """Raises `OSError`; then nothing runs."""
        self.script = script
        self._on_end = on_end
        self._process = subprocess.Popen(
            ["/bin/sh", str(script)],
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory or None,
            start_new_session=True,
        )
        self._watch()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def signal(self, number: signal.Signals) -> None:
        # The leader is reaped only in `_ended`: until then the number of its group is its own.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        if hasattr(os, "pidfd_open"):
            descriptor = os.pidfd_open(self._process.pid)

            def ended() -> None:
                loop.remove_reader(descriptor)
                os.close(descriptor)
                self._ended()

            loop.add_reader(descriptor, ended)
        else:
            # no such thing outside of Linux: a thread waits, and what the job left behind is left to its nanny
            loop.run_in_executor(None, self._process.wait).add_done_callback(lambda _: self._ended())

    def _ended(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()
        self.script.unlink(missing_ok=True)
        self._on_end()


class ForkedProcess(JobProcess):
    """A nanny that was forked from the launcher, which reaps it and ends what it has left behind."""

    def __init__(
        self,
        launcher: JobLauncher,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        output: int,
        directory: str,
        on_end: Callable[[], None],
    ) -> None:
        """Raises `OSError`; then nothing runs."""
        self._launcher = launcher
        self._is_over = False
        self._on_end = on_end
        self._launched = launcher.launch(
            arguments, environment=environment, directory=directory, log=output, on_end=self._ended
        )

    @property
    def returncode(self) -> int | None:
        if not self._is_over:
            return None
        if self._launched.signal is not None:
            return -self._launched.signal
        return 1 if self._launched.exit_code is None else self._launched.exit_code

    def signal(self, number: signal.Signals) -> None:
        self._launcher.signal(self._launched, number)

    def _ended(self) -> None:
        self._is_over = True
        self._on_end()
