"""What can go wrong, as one tree.

    HpcClusterError
    ├── ConfigError                     a value, key or file of the configuration
    ├── BackendError                    the batch system, or the way to it
    │   ├── BackendNotFound             no plugin of that name
    │   ├── BackendUnavailable          the plugin or its commands are not usable here
    │   ├── SubmitRefused               the batch system said no: there is no job
    │   ├── PolicyRefused               this site's policy said no
    │   ├── PollFailed                  says nothing about any job
    │   ├── CancelFailed                jobs may still be there
    │   ├── LogsUnavailable
    │   └── CommandFailed               a command line ended badly; it may have worked all the same
    ├── JobError
    │   ├── JobUnknown                  no job of that name or id in this cluster
    │   └── JobDied                     a job ended before its workers joined
    ├── CommError
    │   ├── LocalProtocolError          we misused the protocol
    │   ├── RemoteProtocolError         the peer did
    │   ├── CredentialError             a certificate or connection file cannot be used
    │   ├── HandshakeFailed             the peer turned us away, or is not what it should be
    │   │   └── VersionMismatch
    │   └── PeerLost
    ├── TaskError
    │   ├── WorkerDied                  the task's worker died under it, too often
    │   ├── TaskCancelled
    │   ├── DependencyFailed
    │   └── ResultLost                  data that no task can compute again is gone
    └── ClusterError
        ├── ClusterNotFound
        ├── ClusterClosed
        ├── ClusterNameTaken            a live cluster has the name
        └── StartTimeout                which jobs wait, and why; a TimeoutError, too

Each message says what happened, what we were doing, and what the user can do. A user's own exception is never
wrapped: it is raised as itself, with the remote traceback as its cause.
"""

from __future__ import annotations

from collections.abc import Mapping

Detail = str | int | float | bool | None


class HpcClusterError(Exception):
    """Base of all errors that this package raises.

    ``code`` is a stable id such as ``HPC-SUBMIT-PARTITION`` (empty where there is none); ``details`` holds the
    facts behind the message as plain values, so that an error crosses the wire and comes out the same.
    """

    exit_code = 1
    """The exit code of the command line tool for this error."""

    def __init__(self, message: str = "", *, code: str = "", details: Mapping[str, Detail] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details: dict[str, Detail] = dict(details or {})

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self).__name__, self.message, self.code, self.details))


class ConfigError(HpcClusterError):
    """A configuration value, key or file cannot be used; the message names the path and the fix."""

    exit_code = 2


class BackendError(HpcClusterError):
    """The batch system, or the way to it."""

    exit_code = 3


class BackendNotFound(BackendError):
    """No backend of that name is installed."""

    exit_code = 2


class BackendUnavailable(BackendError):
    """The backend exists but cannot be used here: an extra or a command is missing."""


class SubmitRefused(BackendError):
    """The batch system refused a job, in its own words; there is no job."""


class PolicyRefused(BackendError):
    """This site's policy does not allow what was asked."""


class PollFailed(BackendError):
    """The batch system did not tell the state of jobs. This says nothing about any job."""


class CancelFailed(BackendError):
    """Jobs could not be cancelled, or it could not be verified: they may still be there."""


class LogsUnavailable(BackendError):
    """A job's output cannot be read (yet, or from here)."""


class CommandFailed(BackendError):
    """A command line could not be run, ended with an error, or timed out. It may have worked all the same."""


class JobError(HpcClusterError):
    """Something about one job."""

    exit_code = 4


class JobUnknown(JobError):
    """No job of that name or id is, or was, in this cluster."""

    exit_code = 2


class JobDied(JobError):
    """A job ended before its workers joined.

    ``details``: ``job_id``, ``name``, ``state``, ``reason``, ``exit_code``, ``node``, ``log_path``, ``log_tail``, ``hint``.
    """


class CommError(HpcClusterError):
    """Connections between the processes of a cluster."""

    exit_code = 5


class LocalProtocolError(CommError):
    """We misused the protocol: a bug on this side."""


class RemoteProtocolError(CommError):
    """The peer sent what the protocol does not allow."""


class CredentialError(CommError):
    """A certificate, key or connection file is missing, foreign, of the wrong role, expired, or readable by others."""

    exit_code = 6


class HandshakeFailed(CommError):
    """The peer turned us away, or is not the peer that it should be."""

    exit_code = 6


class VersionMismatch(HandshakeFailed):
    """Python or protocol versions differ too much to work together."""


class PeerLost(CommError):
    """The connection to a peer ended, or could not be made."""


class TaskError(HpcClusterError):
    """Something about one task that is not the user's own exception."""

    exit_code = 4


class WorkerDied(TaskError):
    """The worker died while it ran the task, more often than the task is allowed to survive.

    ``details``: ``worker``, ``node``, ``exit_code``, ``signal``, ``peak_memory`` (bytes), ``deaths``.
    """


class TaskCancelled(TaskError):
    """The task was cancelled."""


class DependencyFailed(TaskError):
    """An input of the task was cancelled or released. (Of one that failed, the task raises the very exception.)"""


class ResultLost(TaskError):
    """Data is gone and no task can compute it again (scattered data whose only holder died)."""


class ClusterError(HpcClusterError):
    """A cluster as a whole."""

    exit_code = 5


class ClusterNotFound(ClusterError):
    """No cluster of that name or address is known here."""


class ClusterClosed(ClusterError):
    """The cluster has been closed."""


class ClusterNameTaken(ClusterError):
    """A live cluster has that name."""

    exit_code = 2


class StartTimeout(ClusterError, TimeoutError):
    """Workers did not come in time; the message lists which jobs wait and why. It is a `TimeoutError`, too."""

    exit_code = 124


def _tree(kind: type[HpcClusterError]) -> dict[str, type[HpcClusterError]]:
    found = {kind.__name__: kind}
    for child in kind.__subclasses__():
        found |= _tree(child)
    return found


def from_name(name: str, message: str, code: str = "", details: Mapping[str, Detail] | None = None) -> HpcClusterError:
    """The error of that class name, as it came over the wire; an unknown name gives the base class."""
    kind = _tree(HpcClusterError).get(name, HpcClusterError)
    return kind(message, code=code, details=details)


_rebuild = from_name
