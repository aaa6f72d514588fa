"""The contract of a backend: the whole of what the fleet knows about a batch system.

Every method's docstring says what holds after success, after an error and after cancellation; the shipped suite
`hpccluster.testing.backend_contract.BackendContract` checks it against real and fake systems alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from hpccluster.ids import JobId, JobName
from hpccluster.job import CancelReport, JobSpec, JobStatus

CONTRACT = 1
"""The version of this contract. It grows when a backend that keeps the old one would not do any more."""

CredentialWay = Literal["shared", "stdin", "inline", "copied"]
"""How a job gets the credential of its workers: by a file of the head's that the nodes can read, over standard input, inside
the submitted text, or by a file that the backend writes where the nodes can read it. In all ways but the first, the job
tells the path of a private file to the workers by the environment variable ``HPCCLUSTER_CONNECTION_FILE``."""


class JobLauncher(Protocol):
    """Starts local jobs without the start of an interpreter: `hpccluster.runtime.launcher.Launcher`."""

    def launch(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: str,
        log: int,
        on_end: Callable[[], None],
    ) -> LaunchedJob:
        """Run ``python -m hpccluster.runtime`` with these arguments. Raises `OSError`."""

    def signal(self, launched: Any, number: int) -> None:
        """Signal its leader, if it lives. What it has started ends with it."""


class LaunchedJob(Protocol):
    """A job that was started by a launcher."""

    exit_code: int | None
    signal: int | None


class Backend(ABC):
    """Submits, polls, cancels jobs and fetches their logs. Knows nothing of tasks."""

    credential_way: CredentialWay = "shared"

    runs_here: ClassVar[bool] = False
    """Its jobs run on this very host: the head listens on loopback."""

    ends_with_head: ClassVar[bool] = False
    """Its jobs are processes of the head, and end with it however it ends: none has to be looked for after a head that was
    killed, and nothing is kept when all has ended well."""

    places_jobs: bool = False
    """It chooses the host of each job itself, and lets those rest whose jobs were of no use. So the fleet takes the early
    death of a job as something about one host: it neither pauses for it, nor bothers those whose workers come all the same.
    Where it has no host for one more job it refuses with the code ``HPC-SUBMIT-FULL``: the job is tried again later, and
    whoever waits for its workers is told."""

    poll_interval: float = 5.0
    """Seconds between polls while something can change: what this system and its admins can bear."""

    poll_slowest: float = 30.0
    """The same while nothing has changed for a while."""

    @property
    def towards(self) -> Sequence[str]:
        """Hosts on which its jobs run, where they are known before: the head listens on the address on the way there."""
        return ()

    async def route(self, job: JobName, host: str, port: int) -> tuple[str, int]:
        """Host and port by which the head reaches this port of a worker of that job: another one where there is a tunnel.

        Raises `BackendUnavailable`.
        """
        return host, port

    def forgive(self) -> None:
        """The user asks for jobs anew: hosts that rest may be mended, and are tried at once."""

    def use_launcher(self, launcher: JobLauncher) -> None:
        """Jobs may be started by this; only said to a backend that says `ends_with_head`. May be ignored."""

    @abstractmethod
    def render(self, spec: JobSpec) -> str:
        """The text that `submit` hands to the batch system, for this specification. Pure.

        Raises `ConfigError` for a value that cannot be put safely where it belongs.
        """

    @abstractmethod
    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        """Queue one job.

        *Success*: a job of the name ``spec.name`` is queued or running. *`SubmitRefused`, `PolicyRefused`, `ConfigError`,
        `BackendUnavailable`*: there is no job and never will be one (the batch system or the site said no, the script cannot
        be made, nothing could be sent). *Any other error, or cancellation*: there may be one, now or later; look for its
        name with `find`. ``credential`` is the content, for all ways but ``shared``.
        """

    @abstractmethod
    async def poll(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        """The status of every id in ``ids``, by one conversation with the batch system.

        *Success*: each id is in the answer; one that the system does not list is ABSENT, never COMPLETED. *`PollFailed`*:
        nothing is known about any job. No side effects.
        """

    @abstractmethod
    async def find(self, names: Collection[JobName]) -> dict[JobName, JobId]:
        """Jobs of this user by name, as far as the system lists them now. Raises `PollFailed` like `poll`."""

    async def find_all(self) -> dict[JobName, JobId]:
        """This user's live jobs that have names of ours (`is_job_name`), whatever cluster they are of: for
        ``hpccluster cleanup``. Raises `PollFailed`. Optional: a backend that cannot tell says nothing.
        """
        return {}

    @abstractmethod
    async def cancel(self, ids: Collection[JobId]) -> CancelReport:
        """Ask for the end of these jobs and look once whether they are gone.

        Idempotent: an id that is unknown, finished or already cancelled is ``gone``. *Success*: every id is in exactly one of
        the report's sets. *`CancelFailed`*: the system could not be asked. An id that cannot be a job's (empty, zero,
        negative, not of this system's form) raises `ValueError` before any command is run.
        """

    @abstractmethod
    async def logs(self, job: JobId, log_path: str, tail: int | None = None) -> str:
        """What the job has written so far (its last ``tail`` lines), without removing anything.

        Empty for a job that has not started; raises `LogsUnavailable` where the output of a started job cannot be read.
        """

    async def close(self) -> None:
        """Release connections and the like. Cancels no job."""

    def explain(self, status: JobStatus) -> str:
        """A sentence on what the batch system's reason means and what to do about it; empty if there is nothing to add."""
        return ""


@dataclass(frozen=True, slots=True)
class BackendPlugin:
    """What a plugin's entry point (group ``hpccluster.backends``) names. The entry point's name is the backend's name."""

    name: str
    options_type: type[Any]
    """A frozen dataclass: the schema of the backend's options, a subclass of `hpccluster.backend.options.BatchOptions`
    or `JobOptions`."""
    make_backend: Callable[[Any], Backend]
    """Options -> backend. Does no I/O; raises `BackendUnavailable` only when used."""
    cluster_type: str
    """``package.module:Class`` of its `ClusterManager`, as a string: the head never imports it."""
    commands: tuple[str, ...] = ()
    """Programs that must be on PATH for it to be usable."""
    summary: str = ""
    modules: tuple[str, ...] = ()
    """Modules that must be installed for it to be usable and are not imported before it is used."""
    extra: str = ""
    """The extra of its distribution that installs them."""
    contract: int = 1
    """The `CONTRACT` that it was written for: a number, so that it stays what it was when the contract goes on."""
