"""What a cluster can be asked and told: each question and order is one message to its head.

Must not know how a cluster comes to be or ends.
"""

from __future__ import annotations

import asyncio
import html
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any

from hpccluster.errors import ClusterClosed, CommError, HpcClusterError, SubmitRefused

if TYPE_CHECKING:
    from hpccluster.cluster.control import OnNotice
    from hpccluster.cluster.launch import RunningHead
    from hpccluster.cluster.views import Jobs, Logs, Workers
    from hpccluster.fleet.values import Plan
    from hpccluster.head.directory import HeadRecord


class Status(str):
    """A word that also equals the member of that value of an enumeration: dask's clients compare it with theirs."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other.value if isinstance(other, Enum) else other)


def asks_asynchronously(caller: FrameType) -> bool:
    """Whether that is a method of dask's client which passes our answer on to a coroutine that awaits it."""
    client: Any = caller.f_locals.get("self")
    return type(client).__module__.partition(".")[0] == "distributed" and bool(client.asynchronous)


class ClusterControls:
    """The part of a `ClusterManager` that speaks to the head."""

    _origins: Mapping[str, object] = MappingProxyType({})
    """Where each option was said: ``hpccluster.yaml line 4``."""

    def _connect(
        self,
        name: str,
        address: str,
        directory: Path,
        *,
        head: RunningHead | None = None,
        on_notice: OnNotice | None = None,
    ) -> None:
        """Speak to the head at this address, which is ``head`` where it belongs to this process."""
        from hpccluster.cluster.remote import Remote

        self._name = name
        self._address = address
        self._directory = directory
        self._head = head
        self._closed = False
        self._is_closing = False
        """`close` is under way here."""
        self._remote = Remote(self.connection_file, on_notice=on_notice)

    # ------------------------------------------------------------------------------------------------------- facts

    @property
    def name(self) -> str:
        """What people call the cluster."""
        return self._name

    @property
    def scheduler_address(self) -> str:
        """Where its scheduler listens, ``tls://host:port``: the head's own, or that of another engine."""
        return self._address

    @property
    def engine(self) -> str:
        """What runs tasks on the workers: ``native`` or ``dask``."""
        return str(self._ask("info")["engine"])

    @property
    def dashboard_link(self) -> str | None:
        """The address of the engine's own dashboard; None where it has none."""
        link = self._ask("info")["dashboard"]
        return None if link is None else str(link)

    @property
    def security(self) -> Any:
        """What `dask.distributed.Client` needs to be let in, of a cluster whose engine is dask.

        Raises `ConfigError` for any other: it is no scheduler of dask's.
        """
        from hpccluster.cluster import dask_client

        return dask_client.security(self.connection_file)

    def get_client(self) -> Any:
        """A new client of this cluster: ours, or dask's where dask is its engine."""
        from hpccluster.cluster import dask_client

        return dask_client.get_client(self, self.engine)

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
        """``running``, ``closing``, ``closed``, ``lost`` where its head has died, or ``unreachable``."""
        return Status(self._find_status())

    def _find_status(self) -> str:
        if self.is_closed:
            return "lost" if not self._closed and self._has_died() else "closed"
        if self._is_closing:
            return "closing"  # not asked for: dask's client wants to know it just when the head is on its way out
        try:
            return str(self._ask("status")["state"])
        except CommError:
            return "unreachable"
        except ClusterClosed:
            return "lost" if self._has_died() else "closed"

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
        results and go, without being waited for. *`SubmitRefused`*: in the batch system's words.
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
        max_pending: int | None = None,
    ) -> None:
        """Let the size follow the work, between bounds in workers, jobs, cores or memory. `scale` ends it."""
        given = {key: value for key, value in locals().items() if key != "self" and value is not None}
        self._ask("adapt", **given)

    def wait_for_workers(self, n_workers: int | None = None, timeout: float | str | None = None) -> Any:
        """Wait until ``n_workers`` are connected (all that are expected, where it is left out); ``timeout``: 60, "1min".

        Raises `JobDied` with the cause where a job has ended before its workers came, and `StartTimeout` that lists
        which jobs wait and why.
        """
        if asks_asynchronously(sys._getframe(1)):
            return asyncio.to_thread(self.wait_for_workers, n_workers, timeout)
        from hpccluster.cluster.describe import parse_timeout
        from hpccluster.cluster.remote import wait_with_progress

        self._check_open()
        try:
            self._remote.run(wait_with_progress(self._remote, n_workers, parse_timeout(timeout)))
            return None
        except CommError as error:
            raise self._explain(error) from error
        except SubmitRefused as error:
            raise self._where_said(error) from None

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

    # -------------------------------------------------------------------------------------------------- inner parts

    def _ask(self, operation: str, **arguments: Any) -> Any:
        self._check_open()
        try:
            return self._remote.ask(operation, **arguments)
        except CommError as error:
            raise self._explain(error) from error
        except SubmitRefused as error:
            raise self._where_said(error) from None

    def _where_said(self, error: SubmitRefused) -> SubmitRefused:
        """The refusal with the place of the option that it is about: the head does not know where that was said."""
        from hpccluster.backend.refusal import with_origin

        return with_origin(error, self._origins)

    def _check_open(self) -> None:
        if self._closed:
            raise ClusterClosed(f"cluster {self._name!r} is closed")

    def _explain(self, error: CommError) -> HpcClusterError:
        """What a lost connection means, where that is known."""
        from hpccluster.head.directory import is_alive, tell_end

        ending = ""
        if self._head is not None:
            has_ended, ending = self._head.wait(1.0), self._head.ending
        else:
            record = self._record()
            has_ended = record is None or not is_alive(record)
        return ClusterClosed(tell_end(self._record(), self._directory, ending=ending)) if has_ended else error

    def _record(self) -> HeadRecord | None:
        """What our head has written down of itself, where that is still there."""
        from hpccluster.head.directory import read_record

        record = read_record(self._directory)
        is_ours = record is not None and (self._head is None or record.id == self._head.ready.id)
        return record if is_ours else None

    def _has_died(self) -> bool:
        """Whether our head's process is gone and has not put its affairs in order."""
        if self._head is None or self._head.is_running:
            return False
        record = self._record()
        return record is not None and record.state != "ended"

    def __repr__(self) -> str:
        if self.is_closed:
            end = f"{self._how_it_ended()}; log: {self._directory / 'head.log'}" if self.status == "lost" else "closed"
            return f"{type(self).__name__} {self._name!r}  {end}"
        from hpccluster.cluster.views import format_summary

        try:
            return format_summary(type(self).__name__, self._remote.ask("info", wait=2.0))
        except CommError as error:
            explained = self._explain(error)
            end = "ended" if isinstance(explained, ClusterClosed) else f"not reachable: {explained}"
        except HpcClusterError as error:
            end = f"not reachable: {error}"
        return f"{type(self).__name__} {self._name!r}  {self._address}  {end}"

    def _how_it_ended(self) -> str:
        ending = self._head.ending if self._head is not None else ""
        return f"its head has died ({ending})" if ending else "its head has died"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"
