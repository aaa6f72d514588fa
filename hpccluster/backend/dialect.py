"""The pure half of a batch backend: builds command lines, parses what they print. Runs nothing, waits for nothing.

A dialect is tested with recorded outputs of the real commands. What comes from outside is parsed, never asserted: an
unknown word becomes `JobState.UNKNOWN` with the raw text kept, and output that makes no sense is a `PollFailed`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from hpccluster.backend.options import JobOptions
from hpccluster.backend.template import TemplateContext
from hpccluster.errors import BackendError
from hpccluster.ids import JobId, JobName
from hpccluster.job import JobSpec, JobStatus

AnyOptions = TypeVar("AnyOptions", bound=JobOptions)

NO_CHANGES: Mapping[str, str | None] = {}


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended. A negative return code is the number of the signal that ended it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


class Dialect(ABC, Generic[AnyOptions]):
    """How one batch system is spoken to."""

    system: ClassVar[str]
    """Its name, for people: ``Slurm``."""
    template: ClassVar[str]
    """The shipped template: ``slurm.sh``, or ``package:file`` for one in a package of another distribution."""

    @abstractmethod
    def context(self, spec: JobSpec, options: AnyOptions) -> TemplateContext:
        """The values of the job script. Raises `ConfigError` for one that cannot be put safely where it belongs."""

    @abstractmethod
    def check_id(self, job: JobId) -> None:
        """Raises `ValueError` for a text that cannot be a job's id: it must never get near a cancel command."""

    # ------------------------------------------------------------------------------------------------------------ submit

    @abstractmethod
    def submit_command(self, spec: JobSpec, options: AnyOptions) -> Sequence[str]:
        """The argv that reads the job script from standard input."""

    def submit_environment(self, context: TemplateContext) -> Mapping[str, str | None]:
        """Changes to the environment of the submit command: what would override the script's directives."""
        return NO_CHANGES

    @abstractmethod
    def parse_submit(self, result: CommandResult) -> JobId:
        """The id of the job that a successful submit command printed. Raises `ValueError`."""

    @abstractmethod
    def submit_error(self, result: CommandResult, script: str, options: AnyOptions) -> BackendError:
        """What a failed submit command means: `SubmitRefused` only where there certainly is no job, else `CommandFailed`."""

    # -------------------------------------------------------------------------------------------------------------- poll

    @abstractmethod
    def poll_command(self, ids: Collection[JobId]) -> Sequence[str]:
        """One command for all jobs."""

    def query_environment(self) -> Mapping[str, str | None]:
        """Changes to the environment of all other commands, so that the user's settings do not change their output."""
        return NO_CHANGES

    @abstractmethod
    def parse_poll(self, result: CommandResult) -> list[JobStatus]:
        """The jobs that are listed (others of the user may be among them). Raises `PollFailed`."""

    def history_command(self, ids: Collection[JobId]) -> Sequence[str] | None:
        """One command about jobs that the poll does not list any more; None where there is none."""
        return None

    def parse_history(self, result: CommandResult) -> list[JobStatus] | None:
        """What the history tells; None where it is switched off for good. Anything else that fails gives ``[]``."""
        return None

    @abstractmethod
    def find_command(self, names: Collection[JobName]) -> Sequence[str]:
        """One command that lists this user's live jobs of these names (others may be among them)."""

    def find_all_command(self) -> Sequence[str] | None:
        """One command that lists all of this user's live jobs, in the form of `find_command`; None where there is none."""
        return None

    def parse_find(self, result: CommandResult) -> list[JobStatus]:
        """Jobs with their names. Raises `PollFailed`."""
        return self.parse_poll(result)

    # ------------------------------------------------------------------------------------------------------------ cancel

    @abstractmethod
    def cancel_command(self, ids: Collection[JobId]) -> Sequence[str]:
        """One command for all jobs; ids have been checked."""

    def cancel_problem(self, result: CommandResult) -> str:
        """Why the cancel command as a whole failed; empty where it worked or the jobs are gone already."""
        return "" if result.returncode == 0 else (result.stderr or result.stdout).strip()

    def explain(self, status: JobStatus) -> str:
        """A sentence on what the batch system's reason means and what to do about it; empty if there is nothing to add."""
        return ""
