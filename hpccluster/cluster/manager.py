"""`ClusterManager`: the remote control of one cluster, as users hold it.

The head is a process of its own; everything here is a message to it. Constructing one starts a head (or joins the running
cluster of that name); closing it ends the cluster and verifies that nothing is left. No user's script is ever imported
again by anything here, so that scripts need no main guard. Must not know any backend.
"""

from __future__ import annotations

import atexit
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hpccluster.cluster.launch import START_TIMEOUT, HeadProcess, StartingHead
from hpccluster.errors import CancelFailed, ClusterClosed, ClusterError, CommError, HpcClusterError

if TYPE_CHECKING:
    from hpccluster.cluster.views import Jobs, Logs, Workers
    from hpccluster.config import ResolvedCluster
    from hpccluster.fleet.values import Plan

CLOSE_TIMEOUT = 30.0
"""Seconds for the batch system to confirm that all jobs are gone."""

ANSWER_TIME = 5.0
"""Seconds that the head may take beyond that."""

_log = logging.getLogger("hpccluster.cluster")


class ClusterManager:
    """A running cluster. Made by a subclass, by `from_config`, `from_file`, or, for a running one, by `attach`.

    It lives until `close`, the end of its ``with`` block, the end of this process, or, for a notebook, ``linger``
    seconds after the end of its kernel. *After a successful construction* the head serves and every job of the first size
    was accepted; *after an error* nothing is left running.
    """

    backend: ClassVar[str] = ""
    """The backend's name, in subclasses that belong to one."""

    def __init__(
        self,
        backend: str = "",
        *,
        n_workers: int | None = None,
        start_timeout: float = START_TIMEOUT,
        **keywords: Any,
    ) -> None:
        """``keywords``: the backend's options and those that all clusters have (``name``, ``scale``, ``adapt``, ``host``,
        ``port``, ``protocol``, ``state_directory``, ``linger``, ...); None stands for "not said". A ``name`` means get or
        create.
        """
        # The head's process gets ready while we find out what it is to be.
        with StartingHead() as head:
            from hpccluster.cluster import describe

            resolved = describe.resolve(backend or self.backend, describe.with_size(keywords, n_workers))
            self._open(resolved, start_timeout, head)

    @classmethod
    def from_config(
        cls, name: str, *, n_workers: int | None = None, start_timeout: float = START_TIMEOUT, **overrides: Any
    ) -> ClusterManager:
        """The cluster that the configuration describes under this name, with keywords on top."""
        from hpccluster.cluster import describe

        return cls._make(describe.resolve(name, describe.with_size(overrides, n_workers)), start_timeout)

    @classmethod
    def from_file(
        cls, path: str | Path, *, n_workers: int | None = None, start_timeout: float = START_TIMEOUT, **overrides: Any
    ) -> ClusterManager:
        """The cluster that this file describes, with keywords on top."""
        from hpccluster.cluster import describe

        return cls._make(describe.resolve_file(path, describe.with_size(overrides, n_workers)), start_timeout)

    @classmethod
    def attach(cls, name: str, *, state_directory: str | Path | None = None) -> ClusterManager:
        """The running cluster of that name. Its owner stays who it is: leaving this object changes nothing, `close`
        ends the cluster.

        Raises `ClusterNotFound` with the names of those that run.
        """
        from hpccluster.cluster import describe

        parent = describe.parent_directory(state_directory)
        record = describe.find_running(name, parent)
        manager: ClusterManager = object.__new__(describe.manager_type(record.backend))
        manager._set(name, record.address, parent / name)
        manager._remote.ask("info")
        return manager

    @classmethod
    def _make(cls, resolved: ResolvedCluster, start_timeout: float) -> ClusterManager:
        from hpccluster.cluster import describe

        manager: ClusterManager = object.__new__(describe.manager_type(resolved.backend))
        with StartingHead() as head:
            manager._open(resolved, start_timeout, head)
        return manager

    def _open(self, resolved: ResolvedCluster, start_timeout: float, head: StartingHead) -> None:
        """Make this head the one of this description, or join the running cluster of its name."""
        from hpccluster.cluster import describe

        spec = describe.make_spec(resolved)
        parent = Path(spec.state_directory)
        if "name" in resolved.settings and (running := describe.find_own(spec.name, spec.backend, parent)) is not None:
            head.abandon()
            self._set(spec.name, running.address, parent / spec.name)
            self._take_over(spec.linger)
            return
        started = head.finish(spec, timeout=start_timeout)
        ready = started.ready
        self._set(ready.name, ready.address, Path(ready.directory), head=started, linger=spec.linger)
        self._own()

    def _set(
        self, name: str, address: str, directory: Path, *, head: HeadProcess | None = None, linger: float = 0.0
    ) -> None:
        from hpccluster.cluster.remote import Remote

        self._name = name
        self._address = address
        self._directory = directory
        self._head = head
        self._linger = linger
        self._is_owner = False
        self._closed = False
        self._process = os.getpid()
        self._remote = Remote(self.connection_file, on_notice=_show)

    def _own(self) -> None:
        """From now on the end of this process is the end of the cluster (the reference keeps it until then)."""
        self._is_owner = True
        atexit.register(self._at_exit)

    def _take_over(self, linger: float) -> None:
        """Become the owner of a cluster whose owner has gone."""
        from hpccluster.cluster import describe

        pid, start = describe.this_process()
        if self._remote.ask("take_over", pid=pid, start=start, linger=linger):
            self._linger = linger
            self._own()
        info = self._remote.ask("info")
        _show("warning", f"joined {self._name!r}: {info['workers']} workers")

    # ------------------------------------------------------------------------------------------------------- facts

    @property
    def name(self) -> str:
        """What people call the cluster."""
        return self._name

    @property
    def scheduler_address(self) -> str:
        """Where its head listens: ``tls://host:port``."""
        return self._address

    @property
    def dashboard_link(self) -> str | None:
        """None: there is no dashboard yet."""
        return None

    @property
    def connection_file(self) -> Path:
        """What a client needs to connect: ``Client(cluster)`` reads it."""
        return self._directory / "client.json"

    @property
    def directory(self) -> Path:
        """Where its logs lie."""
        return self._directory

    @property
    def is_closed(self) -> bool:
        """Whether it was closed from here, or its head has ended."""
        return self._closed or (self._head is not None and not self._head.is_running)

    @property
    def status(self) -> str:
        """``running``, ``closing``, ``closed``, or ``unreachable``."""
        if self.is_closed:
            return "closed"
        try:
            return str(self._ask("status")["state"])
        except CommError:
            return "closed" if self.is_closed else "unreachable"

    @property
    def info(self) -> dict[str, Any]:
        """Counts of workers, threads, memory and jobs, as plain values."""
        return dict(self._ask("info"))

    @property
    def jobs(self) -> Jobs:
        """The fleet's jobs: a list that shows itself as a table."""
        from hpccluster.cluster.views import Jobs

        return Jobs.from_plain(self._ask("jobs"))

    @property
    def workers(self) -> Workers:
        """The connected workers: a list that shows itself as a table."""
        from hpccluster.cluster.views import Workers

        return Workers.from_plain(self._ask("workers"))

    @property
    def plan(self) -> int:
        """How many workers there are to be."""
        return int(self.info["plan"])

    @property
    def requested(self) -> int:
        """How many workers the jobs that were submitted will have."""
        return int(self.info["requested"])

    @property
    def observed(self) -> int:
        """How many workers are connected."""
        return int(self.info["observed"])

    # ------------------------------------------------------------------------------------------------------ orders

    def scale(
        self,
        n: int | None = None,
        *,
        jobs: int | None = None,
        cores: int | None = None,
        memory: int | str | None = None,
    ) -> Plan:
        """Have ``n`` workers, or as many as that many jobs, cores or that much memory make; whole jobs only.

        *Success*: the batch system has accepted every job that this needed; jobs that are too many hand over their
        results, are cancelled, and verified to be gone. *`SubmitRefused`*: in the batch system's words.
        """
        from hpccluster.cluster import describe
        from hpccluster.fleet.values import Plan

        request = describe.make_scale(workers=n, jobs=jobs, cores=cores, memory=memory)
        return Plan.from_plain(self._ask("scale", **request.arguments()))

    def adapt(
        self,
        minimum: int | None = None,
        maximum: int | None = None,
        *,
        minimum_jobs: int | None = None,
        maximum_jobs: int | None = None,
        minimum_cores: int | None = None,
        maximum_cores: int | None = None,
        minimum_memory: int | str | None = None,
        maximum_memory: int | str | None = None,
        target_duration: float | str | None = None,
        interval: float | str | None = None,
        wait_count: int | None = None,
        idle_timeout: float | str | None = None,
    ) -> None:
        """Let the size follow the work, between bounds in workers, jobs, cores or memory. `scale` ends it."""
        given = {key: value for key, value in locals().items() if key != "self" and value is not None}
        self._ask("adapt", **given)

    def wait_for_workers(self, n: int | None = None, timeout: float | None = None) -> None:
        """Wait until ``n`` workers are connected (all that are expected, where it is left out).

        Raises `JobDied` with the cause where a job has ended before its workers came, and `StartTimeout` that lists
        which jobs wait and why.
        """
        from hpccluster.cluster.remote import wait_with_progress

        self._check_open()
        try:
            self._remote.run(wait_with_progress(self._remote, n, timeout))
        except CommError as error:
            raise self._explain(error) from error

    def get_logs(
        self, cluster: bool = True, scheduler: bool = True, workers: bool = True, *, tail: int | None = None
    ) -> Logs:
        """What the head (``head``: cluster and scheduler are one process) and each job have written."""
        from hpccluster.cluster.views import Logs

        logs = Logs(self._ask("logs", tail=tail, jobs=workers))
        if not (cluster or scheduler):
            logs.pop("head", None)
        return logs

    def logs(self, job: str, *, tail: int | None = None) -> str:
        """What one job, by name or by the batch system's id, has written so far."""
        return str(self._ask("logs", job=job, tail=tail)[job])

    def job_script(self) -> str:
        """Exactly what is submitted for one job."""
        return str(self._ask("job_script"))

    def close(self, timeout: float | None = None) -> None:
        """End the cluster: cancel all its jobs, verify that they are gone, end its processes. Idempotent.

        *`CancelFailed`*: the cluster is closed, but the jobs that it names may still be there; its head goes on trying.
        """
        if self._closed or self._process != os.getpid():
            return
        limit = CLOSE_TIMEOUT if timeout is None else timeout
        unconfirmed: list[str] = []
        try:
            report = self._remote.ask("close", timeout=limit, wait=limit + ANSWER_TIME)
            unconfirmed = list(report["unconfirmed"])
        except (CommError, ClusterClosed) as error:
            # It has gone, or is going: what counts is that it ends.
            _log.debug("close: %s", error)
        finally:
            self.disconnect()
        if unconfirmed:
            raise CancelFailed(
                f"cluster {self._name!r} is closed, but the batch system has not confirmed the end of "
                f"{len(unconfirmed)} of its jobs: {', '.join(unconfirmed)}\n"
                f"the head goes on trying for some minutes (log: {self._directory / 'head.log'}); a job that starts "
                "and finds no head ends by itself",
                details={"unconfirmed": ", ".join(unconfirmed)},
            )
        if self._head is not None and not self._head.wait(limit + ANSWER_TIME):
            self._head.kill()
            raise ClusterError(f"the head of cluster {self._name!r} did not end within {limit:g} s and was killed")

    def disconnect(self) -> None:
        """Leave the cluster to itself: its owner, or its linger, decides. Idempotent."""
        if self._closed or self._process != os.getpid():
            return
        self._closed = True
        atexit.unregister(self._at_exit)
        self._remote.close()
        if self._head is not None:
            self._head.release()

    # -------------------------------------------------------------------------------------------------- inner parts

    def _ask(self, operation: str, **arguments: Any) -> Any:
        self._check_open()
        try:
            return self._remote.ask(operation, **arguments)
        except CommError as error:
            raise self._explain(error) from error

    def _check_open(self) -> None:
        if self._closed:
            raise ClusterClosed(f"cluster {self._name!r} is closed")

    def _explain(self, error: CommError) -> HpcClusterError:
        """What a lost connection means, where that is known."""
        if self._head is not None:
            has_ended = self._head.wait(1.0)
        else:
            from hpccluster.head.directory import is_alive, read_record

            record = read_record(self._directory)
            has_ended = record is None or not is_alive(record)
        return ClusterClosed(f"cluster {self._name!r} has ended (files: {self._directory})") if has_ended else error

    def _at_exit(self) -> None:
        """The end of this process. A notebook's cluster lingers: the kernel is likely to come back."""
        if self._linger > 0:
            self.disconnect()
            return
        try:
            self.close()
        except HpcClusterError as error:
            _log.warning("%s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_owner:
            self.disconnect()
            return
        try:
            self.close()
        except HpcClusterError as failure:
            if error is None:
                raise
            error.add_note(f"while the cluster was closed for this error: {failure}")

    def __repr__(self) -> str:
        if self.is_closed:
            return f"{type(self).__name__} {self._name!r}  closed"
        from hpccluster.cluster.views import format_summary

        try:
            return format_summary(type(self).__name__, self._remote.ask("info", wait=2.0))
        except HpcClusterError as error:
            return f"{type(self).__name__} {self._name!r}  {self._address}  not reachable: {error}"

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(repr(self))}</pre>"


def _show(level: str, text: str) -> None:
    """A notice of the head, to whoever listens to our logger; warnings reach the terminal by Python's default."""
    _log.log({"error": logging.ERROR, "warning": logging.WARNING}.get(level, logging.INFO), "%s", text)
