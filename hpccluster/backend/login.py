"""A batch system that is reached by SSH: the runner to its login host, and the credentials of jobs on its file system.

The job cannot read the files of a head elsewhere. So its credential is written, over the connection, into a file of a
private directory that the login host and the nodes share, before the job is submitted; it is never in a command line, in
an environment, or in the job script, which only names the file. It is of no use once its job is over.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

from hpccluster.backend.options import BatchOptions, JobOptions
from hpccluster.backend.registry import get_runner
from hpccluster.backend.remote import RemoteTarget
from hpccluster.backend.runner import Runner
from hpccluster.errors import BackendUnavailable
from hpccluster.ids import JobName

CONNECTION_FILE_VARIABLE = "HPCCLUSTER_CONNECTION_FILE"
"""Tells a job's workers where their credential lies."""

_WRITE = """umask 077
mkdir -p "$1" "$3" || exit 1
case $(ls -ld "$1/") in d????-??-*) ;; *) echo "$1: others may write to it (chmod 700)" >&2; exit 1 ;; esac
[ -O "$1" ] || { echo "$1: it belongs to somebody else" >&2; exit 1; }
rm -f "$2.new" && cat >"$2.new" && mv "$2.new" "$2"
"""


@dataclass(frozen=True, slots=True)
class Login:
    """What the options say of the login host, with what follows from it."""

    target: RemoteTarget
    runner: str
    directory: str

    def make_runner(self) -> Runner:
        """The runner to it. Raises `BackendNotFound` or `BackendUnavailable`."""
        return get_runner(self.runner)(self.target)


def login_of(options: JobOptions) -> Login | None:
    """The login host of these options; None: the batch system is used from here."""
    if not isinstance(options, BatchOptions) or options.ssh is None or options.remote_directory is None:
        return None
    target = RemoteTarget.parse(options.ssh, config_file=options.ssh_config)
    return Login(target, options.runner, options.remote_directory.rstrip("/"))


class JobCredentials:
    """The credentials of jobs in a directory on the other side of a runner."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._written: set[JobName] = set()

    def path(self, job: JobName) -> str:
        """Where the credential of a job lies."""
        return f"{self._directory}/{job}.json"

    async def write(self, runner: Runner, job: JobName, credential: bytes, *, log_path: str) -> None:
        """Put it there, and make the directory of the job's output.

        Raises `BackendUnavailable` where a directory cannot be made, or is not ours or not private.
        """
        self._written.add(job)
        logs = os.path.dirname(log_path) or self._directory  # noqa: PTH120 - a path of the other side
        result = await runner.run(
            ("/bin/sh", "-c", _WRITE, "hpccluster", self._directory, self.path(job), logs), stdin=credential.decode()
        )
        if result.returncode != 0:
            said = result.stderr.strip() or f"ended with exit code {result.returncode}"
            raise BackendUnavailable(
                f"the credential of job {job} cannot be written on the login host\n  it said: {said}\n"
                "  fix:     set remote_directory= (and log_directory=, if any) to a directory of your own there, which the "
                "nodes see, too",
                code="HPC-SSH-DIRECTORY",
                details={"said": said, "path": self._directory},
            )

    async def remove(self, runner: Runner, jobs: Collection[JobName] | None = None) -> None:
        """Remove those of these jobs, or all that were written here; what cannot be removed is of no use any more."""
        gone = self._written if jobs is None else self._written & set(jobs)
        if gone:
            await runner.run(("rm", "-f", "--", *(self.path(job) for job in sorted(gone))))
            self._written -= gone
