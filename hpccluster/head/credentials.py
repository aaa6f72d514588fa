"""A cluster's credentials: the certificates of its authority, and the connection files that carry them.

The authority's key lives in this process's memory only. Scheduler, clients and workers by hand have a certificate for their
role; every job has one of its own, which names the job and is of no use once the job is over. Nothing here opens a
connection.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpccluster.comm.connection_file import ConnectionFile, write_connection_file
from hpccluster.comm.tls import Security
from hpccluster.head.directory import ClusterDirectory
from hpccluster.protocol.messages import Role

if TYPE_CHECKING:
    from hpccluster.comm.authority import Authority

PLAIN_LIFETIME = timedelta(days=90)
"""How long the connection files of a cluster without certificates are taken for good."""


class Credentials:
    """What the peers of one cluster prove themselves with. ``plain``: the cluster speaks plain tcp, nobody proves anything."""

    def __init__(self, cluster: str, directory: ClusterDirectory, *, plain: bool) -> None:
        self._cluster = cluster
        self._directory = directory
        self._authority: Authority | None = None
        self._where: dict[str, Any] = {"addresses": ()}
        self.security: Security | None = None
        """The scheduler's own."""
        if plain:
            return
        from hpccluster.comm.authority import Authority

        self._authority = Authority(cluster)
        own = self._authority.issue(Role.SCHEDULER, Role.SCHEDULER.value)
        self.security = Security.from_pem(
            ca=self._authority.ca_pem,
            certificate=own.certificate_pem,
            key=own.key_pem,
            role=Role.SCHEDULER,
            cluster=cluster,
        )

    def write_roles(
        self, addresses: tuple[str, ...], *, engine: str = "native", engine_addresses: tuple[str, ...] = ()
    ) -> None:
        """Write the files for clients and for workers by hand. ``addresses``: where the head listens.

        ``engine_addresses``: where the scheduler of an ``engine`` that is not ours listens.
        """
        self._where = {"addresses": addresses, "engine": engine, "engine_addresses": engine_addresses}
        for role, path in ((Role.CLIENT, self._directory.client_file), (Role.WORKER, self._directory.worker_file)):
            write_connection_file(path, self.make(role, role.value))

    def write_job(self, job: str) -> Path:
        """Write the file for the workers of one job; its path."""
        path = self._directory.job_file(job)
        write_connection_file(path, self.make(Role.WORKER, job))
        return path

    def remove_jobs(self, is_over: Callable[[str], bool]) -> None:
        """Remove the files of jobs that are over."""
        for path in self._directory.job_files():
            if is_over(path.stem):
                path.unlink(missing_ok=True)

    def make(self, role: Role, token: str) -> ConnectionFile:
        """A new credential, written nowhere. ``token``: whose it is, a job's name or the role."""
        created = datetime.now(UTC)
        name = self._directory.record.name
        if self._authority is None:
            return ConnectionFile(
                cluster=self._cluster,
                name=name,
                role=role,
                **self._where,
                created=created,
                expires=created + PLAIN_LIFETIME,
            )
        issued = self._authority.issue(role, token)
        return ConnectionFile(
            cluster=self._cluster,
            name=name,
            role=role,
            **self._where,
            ca=self._authority.ca_pem,
            certificate=issued.certificate_pem,
            key=issued.key_pem,
            created=created,
            expires=issued.expires,
        )
