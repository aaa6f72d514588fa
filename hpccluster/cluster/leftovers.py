"""What clusters that are over have left: jobs, credentials, directories. Found, shown by others, and removed.

Nothing that lives is touched: a cluster counts as gone only where that is known, and everything is looked at again right
before it is removed. Knows no terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hpccluster.cluster.aftermath import FIRST_PAUSE, job_names, put_in_order
from hpccluster.errors import ClusterNameTaken, HpcClusterError
from hpccluster.fleet import answers
from hpccluster.fleet.asking import ask
from hpccluster.head.backing import opened
from hpccluster.head.directory import (
    CLIENT_FILE,
    RECORD,
    WORKER_FILE,
    ClusterDirectory,
    HeadRecord,
    list_records,
    look_for_head,
    make_record,
    read_record,
)
from hpccluster.head.reaper import reap
from hpccluster.ids import JobName
from hpccluster.runtime import sync

ASK_TIMEOUT = 30.0
"""Seconds for a batch system to tell which jobs there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """What one cluster that is over has left."""

    record: HeadRecord
    directory: Path
    is_lost: bool
    """Its head died without putting its affairs in order."""
    names: frozenset[JobName]
    """Jobs that may still be there."""
    jobs: dict[str, str] = field(default_factory=dict)
    """Those that the batch system lists: name and id."""
    problem: str = ""
    """Why the batch system did not tell."""
    credentials: int = 0
    """Connection files."""
    is_old: bool = False
    """Its directory, with its logs, goes."""
    size: int = 0
    """Bytes in its directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A cluster that is left alone."""

    record: HeadRecord
    directory: Path
    is_alive: bool
    """False: its host does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What became of a `Leftover`."""

    gone: frozenset[str] = frozenset()
    """Names of jobs that are verified to be gone."""
    unconfirmed: frozenset[str] = frozenset()
    removed_directory: bool = False
    problem: str = ""
    """Why nothing was done."""


def look(
    parents: Sequence[Path], *, older_than: float, only: Collection[str] = (), gone: Collection[str] = ()
) -> tuple[list[Leftover], list[Kept]]:
    """What there is to remove, and what is left alone.

    ``older_than``: seconds since the end of a cluster after which its directory goes. ``only``: names of clusters, all if
    empty. ``gone``: names whose heads the caller knows to be gone, though nobody can tell from here.
    """
    over: list[tuple[HeadRecord, Path]] = []
    kept: list[Kept] = []
    for parent in parents:
        for record in list_records(parent):
            directory = parent / record.name
            life = look_for_head(record)
            if life == "gone" or (life == "unknown" and record.name in gone):
                over.append((record, directory))
            else:
                kept.append(Kept(record=record, directory=directory, is_alive=life == "there"))
    looked = [_inspect(*it, older_than) for it in over if not only or it[0].name in only]
    found = [it for it in looked if it.is_lost or it.names or it.credentials or it.is_old]
    return sync.run(_ask_all(found)), kept


def _inspect(record: HeadRecord, directory: Path, older_than: float) -> Leftover:
    is_lost = record.state != "ended"
    files = ClusterDirectory(directory, record, is_fresh=False)
    credentials = (directory / CLIENT_FILE, directory / WORKER_FILE, *files.job_files())
    over = time.time() if is_lost else record.ended or record.created
    return Leftover(
        record=record,
        directory=directory,
        is_lost=is_lost,
        names=job_names(record, directory),
        credentials=sum(path.exists() for path in credentials),
        is_old=time.time() - over >= older_than,
        size=sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir()),
    )


async def _ask_all(found: Sequence[Leftover]) -> list[Leftover]:
    return list(await asyncio.gather(*(_ask(leftover) for leftover in found)))


async def _ask(leftover: Leftover) -> Leftover:
    """With the jobs that its batch system lists."""
    if not leftover.names:
        return leftover
    try:
        async with opened(leftover.record) as backend:
            if backend.ends_with_head:
                return replace(leftover, names=frozenset())
            found = await ask(
                partial(backend.find, leftover.names),
                doing="look for jobs",
                timeout=ASK_TIMEOUT,
                check=answers.found(leftover.names),
            )
    except HpcClusterError as error:
        return replace(leftover, problem=str(error).splitlines()[0])
    return replace(leftover, jobs={str(name): str(job) for name, job in found.items()})


def remove(leftover: Leftover, *, timeout: float, gone: Collection[str] = ()) -> Removal:
    """Cancel its jobs and verify, remove its credentials, and its directory if that is old.

    *Afterwards* its record says that it is over, and names the jobs whose end was not confirmed; then its directory stays.
    Nothing is done where the cluster is not the one any more that was looked at.
    """
    record, directory = leftover.record, leftover.directory
    now = read_record(directory)
    is_gone = now == record and (record.name in gone or look_for_head(record) == "gone")
    if not is_gone:
        return Removal(problem="it has changed meanwhile: left alone")
    reason = f"its head has died (process {record.pid} on {record.host}); what it left was removed"
    left = put_in_order(record, directory, reason=reason, timeout=timeout)
    if not leftover.is_old or left:
        return Removal(gone=leftover.names - left, unconfirmed=left)
    try:
        _remove_directory(directory, record)
    except (ClusterNameTaken, OSError) as error:
        return Removal(gone=leftover.names, problem=str(error).splitlines()[0])
    return Removal(gone=leftover.names, removed_directory=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownJobs:
    """Jobs in one batch system that have names of ours, but are of no cluster that is known here.

    Their clusters may live all the same, and be known elsewhere: in another state directory, on another host.
    """

    backend: str
    options: dict[str, Any]
    jobs: dict[str, str] = field(default_factory=dict)
    """Name and id."""
    problem: str = ""
    """Why the batch system did not tell."""


def look_for_unknown_jobs(backends: Mapping[str, dict[str, Any]], parents: Sequence[Path]) -> list[UnknownJobs]:
    """What each of these backends lists beyond the jobs of known clusters. ``backends``: name and options."""
    known = {name for parent in parents for it in list_records(parent) for name in job_names(it, parent / it.name)}
    asked = [UnknownJobs(backend=name, options=options) for name, options in backends.items()]
    return [it for it in sync.run(_ask_for_all(asked, known)) if it.jobs or it.problem]


async def _ask_for_all(asked: Sequence[UnknownJobs], known: Collection[str]) -> list[UnknownJobs]:
    async def look_in(it: UnknownJobs) -> UnknownJobs:
        try:
            async with opened(it) as backend:
                found = await ask(
                    backend.find_all, doing="look for jobs", timeout=ASK_TIMEOUT, check=answers.found_of_any_name
                )
        except HpcClusterError as error:
            return replace(it, problem=str(error).splitlines()[0])
        return replace(it, jobs={str(name): str(job) for name, job in found.items() if name not in known})

    return list(await asyncio.gather(*(look_in(it) for it in asked)))


def cancel_unknown_jobs(unknown: UnknownJobs, *, timeout: float) -> frozenset[JobName]:
    """Cancel them and verify; those whose end was not confirmed."""

    async def cancel() -> frozenset[JobName]:
        async with opened(unknown) as backend:
            names = [JobName(name) for name in unknown.jobs]
            return await reap(backend, names, duration=timeout, first_pause=FIRST_PAUSE)

    return sync.run(cancel())


def _remove_directory(directory: Path, record: HeadRecord) -> None:
    """Raises `ClusterNameTaken` where a new cluster has just taken the name, and then removes nothing."""
    # While we hold the name, no head can take it and find its files removed.
    ClusterDirectory.claim(directory.parent, make_record(record.name, uuid.uuid4().hex, backend=record.backend))
    for path in directory.iterdir():
        if path.name != RECORD:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (directory / RECORD).unlink()
    with contextlib.suppress(OSError):  # somebody has put something there just now
        directory.rmdir()
