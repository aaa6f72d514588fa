"""`ClusterManager`: the remote control of one cluster, as users hold it.

The head is a process of its own; everything here is a message to it. Constructing one starts a head (or joins the running
cluster of that name); closing it ends the cluster and verifies that nothing is left. No user's script is ever imported
again by anything here, so that scripts need no main guard. Most imports are made where they are needed: the head's process
is started first, and loads what it needs at the same time. Must not know any backend.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from hpccluster.cluster.controls import ClusterControls
from hpccluster.cluster.keywords import with_named_keywords
from hpccluster.cluster.launch import START_TIMEOUT, RunningHead, Starting, StartingHead, check_no_worker_imports_this
from hpccluster.errors import (
    CancelFailed,
    ClusterClosed,
    ClusterError,
    ClusterNameTaken,
    CommError,
    HpcClusterError,
    SubmitRefused,
)

if TYPE_CHECKING:
    from hpccluster.config import ResolvedCluster
    from hpccluster.head.spec import HeadSpec
    from hpccluster.runtime.scheduler import Scheduler

__all__ = ["START_TIMEOUT", "ClusterManager"]

CLOSE_TIMEOUT = 30.0
"""Seconds for the batch system to confirm that all jobs are gone."""

ANSWER_TIME = 5.0
"""Seconds that the head may take beyond that."""

_log = logging.getLogger("hpccluster.cluster")


class Done:
    """May be awaited, and is there already."""

    def __await__(self) -> Iterator[None]:
        return iter(())


class SchedulerElsewhere(ClusterError, AttributeError):
    """There is no scheduler in this process: `hasattr` says so, too, which is how dask's client asks."""


class ClusterManager(ClusterControls):
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
        inside: bool = False,
        **keywords: Any,
    ) -> None:
        """``keywords``: the backend's options and those that all clusters have (``name``, ``scale``, ``adapt``, ``host``,
        ``port``, ``protocol``, ``state_directory``, ``linger``, ...); None stands for "not said". A ``name`` means get or
        create. ``inside``: no processes, head and workers run in this one.
        """
        check_no_worker_imports_this()
        # The head's process gets ready while we find out what it is to be.
        with _start_inside() if inside else StartingHead() as head:
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
        from hpccluster.backend.registry import get_cluster_type
        from hpccluster.cluster import describe
        from hpccluster.comm.connection_file import known_directories

        parents = [describe.parent_directory(state_directory)] if state_directory else known_directories()
        record, parent = describe.find_running(name, parents)
        manager: ClusterManager = object.__new__(get_cluster_type(record.backend))
        manager._set(name, record.address, parent / name)
        manager._remote.ask("info")
        return manager

    @classmethod
    def _make(cls, resolved: ResolvedCluster, start_timeout: float) -> ClusterManager:
        from hpccluster.backend.registry import get_cluster_type

        check_no_worker_imports_this()
        manager: ClusterManager = object.__new__(get_cluster_type(resolved.backend))
        with StartingHead() as head:
            manager._open(resolved, start_timeout, head)
        return manager

    def __init_subclass__(cls, **rest: Any) -> None:
        """A subclass names its keywords, for people and type checkers; a wrong one is told what it should be."""
        super().__init_subclass__(**rest)
        if "__init__" in vars(cls):
            setattr(cls, "__init__", with_named_keywords(vars(cls)["__init__"]))  # noqa: B010

    def _open(self, resolved: ResolvedCluster, start_timeout: float, head: Starting) -> None:
        """Make this head the one of this description, or join the running cluster of its name."""
        from hpccluster.cluster import describe

        spec = describe.make_spec(resolved)
        parent = Path(spec.state_directory)
        if "name" in resolved.settings and (running := describe.find_own(spec.name, spec.backend, parent)) is not None:
            head.abandon()
            self._set(spec.name, running.address, parent / spec.name)
            self._take_over(spec)
            return
        self._origins = resolved.origins
        try:
            started = head.finish(spec, timeout=start_timeout)
        except SubmitRefused as error:
            raise self._where_said(error) from None
        ready = started.ready
        self._set(ready.name, ready.address, Path(ready.directory), head=started, linger=spec.linger)
        self._own()

    def _set(
        self, name: str, address: str, directory: Path, *, head: RunningHead | None = None, linger: float = 0.0
    ) -> None:
        self._connect(name, address, directory, head=head, on_notice=_show)
        self._linger = linger
        self._is_owner = False
        self._process = os.getpid()

    def _own(self) -> None:
        """From now on the end of this process is the end of the cluster (the reference keeps it until then)."""
        self._is_owner = True
        atexit.register(self._at_exit)

    def _take_over(self, spec: HeadSpec) -> None:
        """Become the owner of a cluster whose owner has gone."""
        from hpccluster.cluster import describe

        info = self._remote.ask("info")
        if info["engine"] != spec.engine:
            raise ClusterNameTaken(
                f"a cluster named {self._name!r} is running already, with engine={info['engine']!r}, not {spec.engine!r}\n"
                f"choose another name=, or end it with: hpccluster down {self._name}",
                code="HPC-CLUSTER-NAME-TAKEN",
            )
        pid, start = describe.this_process()
        if self._remote.ask("take_over", pid=pid, start=start, linger=spec.linger):
            self._linger = spec.linger
            self._own()
        _show(
            "warning",
            f"joined {self._name!r}, which runs already: workers {info['workers']}/{info['expected_workers']}",
        )

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler itself, of a cluster inside this process (``LocalCluster(processes=False)``): to look into.

        Raises `SchedulerElsewhere` for any other, whose scheduler lives in the process of its head.
        """
        scheduler = getattr(self._head, "scheduler", None)
        if scheduler is None:
            raise SchedulerElsewhere(
                "the scheduler runs in the head's process; LocalCluster(processes=False) has it in this one"
            )
        return cast("Scheduler", scheduler)

    def close(self, timeout: float | None = None) -> Any:
        """End the cluster: cancel all its jobs, verify that they are gone, end its processes. Idempotent.

        *`CancelFailed`*: the cluster is closed, but the jobs that it names may still be there; its head goes on trying.
        In a coroutine it may be awaited, as dask's client does, and does the same.
        """
        self._close(timeout)
        return Done() if sys._getframe(1).f_code.co_flags & inspect.CO_COROUTINE else None

    def _close(self, timeout: float | None) -> None:
        if self._closed or self._process != os.getpid():
            return
        self._is_closing = True
        limit = CLOSE_TIMEOUT if timeout is None else timeout
        unconfirmed: list[str] = []
        problem = ""
        try:
            report = self._remote.ask("close", timeout=limit, wait=limit + ANSWER_TIME)
            unconfirmed, problem = list(report["unconfirmed"]), report["problem"]
        except (CommError, ClusterClosed) as error:
            # It has gone, or is going: what counts is that it ends.
            _log.debug("close: %s", error)
        finally:
            self.disconnect()
            self._is_closing = False
        goes_on = "the head goes on trying for some minutes"
        if self._has_died():
            goes_on = self._how_it_ended()
            unconfirmed = self._put_in_order(limit)
        if unconfirmed:
            raise CancelFailed(
                f"cluster {self._name!r} is closed, but the batch system has not confirmed the end of "
                f"{len(unconfirmed)} of its jobs: {', '.join(unconfirmed)}\n"
                + (f"it said: {problem}\n" if problem else "")
                + f"{goes_on} (log: {self._directory / 'head.log'}); a job that starts and finds no head ends by itself\n"
                "fix: see later whether anything is left: hpccluster cleanup; "
                "a job on a node that hangs can be ended by the administrators",
                details={"unconfirmed": ", ".join(unconfirmed)},
            )
        if self._head is not None and not self._head.wait(limit + ANSWER_TIME):
            self._head.kill()
            raise ClusterError(f"the head of cluster {self._name!r} did not end within {limit:g} s and was killed")

    def _put_in_order(self, timeout: float) -> list[str]:
        """Do what our dead head has not done; the jobs that may still be there."""
        from hpccluster.cluster.aftermath import put_in_order

        record = self._record()
        if record is None or record.state == "ended":
            return []
        return sorted(put_in_order(record, self._directory, reason=self._how_it_ended(), timeout=timeout))

    def disconnect(self) -> None:
        """Leave the cluster to itself: its owner, or its linger, decides. Idempotent."""
        if self._closed or self._process != os.getpid():
            return
        self._closed = True
        atexit.unregister(self._at_exit)
        self._remote.close()
        if self._head is not None:
            self._head.release()

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


def _start_inside() -> Starting:
    from hpccluster.cluster.inside import StartingInside

    return StartingInside()


def _show(level: str, text: str) -> None:
    """A notice of the head, to whoever listens to our logger; warnings reach the terminal by Python's default."""
    _log.log({"error": logging.ERROR, "warning": logging.WARNING}.get(level, logging.INFO), "%s", text)
