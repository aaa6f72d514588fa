"""Clusters of this user that run, or have run: found by name, asked over one connection.

What a cluster's record says is known without its head; the rest is asked for. Knows no terminal.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpccluster.comm.connection_file import known_directories
from hpccluster.errors import ClusterClosed, ClusterNotFound, CommError, HpcClusterError, PeerLost
from hpccluster.head.directory import CLIENT_FILE, HeadRecord, is_alive, list_records, read_record, tell_end

LOOK_TIMEOUT = 5.0
"""Seconds that a head has to answer where others do not depend on it."""


Known = tuple[HeadRecord, Path]
"""A cluster's record and directory."""


def known_clusters() -> list[Known]:
    """All clusters of this user that run or have run."""
    return [(record, place / record.name) for place in known_directories() for record in list_records(place)]


def find_cluster(name: str) -> Known:
    """A cluster that runs or has run. Raises `ClusterNotFound` with those that are known."""
    clusters = known_clusters()
    named = [cluster for cluster in clusters if cluster[0].name == name]
    if named:
        return next((cluster for cluster in named if is_alive(cluster[0])), named[0])
    known = [record.name for record, _ in clusters]
    running = [record.name for record, _ in clusters if is_alive(record)]
    near = difflib.get_close_matches(name, known, 1)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif running:
        hint = f"running are: {', '.join(running[-8:])}"
    elif known:
        hint = "none is running; those that have ended: hpccluster status"
    else:
        hint = "you have none; start one with: hpccluster submit -- CMD"
    raise ClusterNotFound(f"no cluster {name!r} in {', '.join(map(str, known_directories()))}\n{hint}")


def find_live(name: str) -> Known:
    """Like `find_cluster`, for one that can be asked. Raises `ClusterClosed` where it has ended."""
    record, directory = find_cluster(name)
    if not is_alive(record):
        raise ClusterClosed(tell_end(record, directory))
    return record, directory


def ask(name: str, operation: str, arguments: dict[str, Any] | None = None, *, wait: float = 30.0) -> Any:
    """The answer of a live cluster's head, within ``wait`` seconds. Raises the error that it answers with."""
    record, directory = find_live(name)
    try:
        return asyncio.run(_ask(directory, operation, arguments or {}, wait))
    except CommError as error:  # also for credentials, which go first
        if not is_alive(read_record(directory) or record):
            raise ClusterClosed(f"cluster {name!r} has just ended") from error
        raise


async def _ask(directory: Path, operation: str, arguments: dict[str, Any], wait: float) -> Any:
    from hpccluster.cluster.control import Control

    try:
        async with asyncio.timeout(wait):
            control = await Control.connect(directory / CLIENT_FILE, timeout=wait)
            try:
                return await control.request(operation, **arguments)
            finally:
                await control.close()
    except TimeoutError:
        raise PeerLost(f"the head of {directory.name!r} did not answer within {wait:g} s") from None


_ASKED = ("engine", "dashboard", "workers", "expected_workers", "threads", "memory", "jobs")


def describe(clusters: Sequence[Known]) -> list[dict[str, Any]]:
    """What is known of these clusters, for `status`: plain values with stable keys. Heads are asked all at once."""
    return asyncio.run(_describe(clusters))


async def _describe(clusters: Sequence[Known]) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(_describe_one(*cluster) for cluster in clusters)))


async def _describe_one(record: HeadRecord, directory: Path) -> dict[str, Any]:
    facts = _from_record(record, directory)
    if record.state == "ended":
        return facts
    if not await asyncio.to_thread(is_alive, record):
        reason = (
            f"its head has died (process {record.pid} on {record.host}); put it in order: hpccluster down {record.name}"
        )
        return facts | {"state": "lost", "reason": reason}
    try:
        info = await _ask(directory, "info", {}, LOOK_TIMEOUT)
    except CommError as error:
        if record.unconfirmed:  # a head that still tries to end its jobs takes no more questions
            return facts | {"state": "closing"}
        return facts | {"state": "unreachable", "reason": str(error).splitlines()[0]}
    except HpcClusterError as error:
        return facts | {"reason": str(error).splitlines()[0]}
    return facts | {key: info.get(key) for key in _ASKED}


def _from_record(record: HeadRecord, directory: Path) -> dict[str, Any]:
    program = record.program
    state: str = record.state
    if state == "ended" and program is not None:
        state = program.state if program.state != "running" else "ended"
    end = record.ended if record.ended is not None else time.time()
    return {
        "name": record.name,
        "id": record.id,
        "state": state,
        "reason": record.reason,
        "backend": record.backend,
        "host": record.host,
        "pid": record.pid,
        "address": record.address,
        "directory": str(directory),
        "detached": record.detached,
        "created": record.created,
        "ended": record.ended,
        "age_seconds": max(0.0, round(end - record.created, 1)),
        "unconfirmed": list(record.unconfirmed),
        "program": None
        if program is None
        else {
            "command": list(program.command),
            "state": program.state,
            "exit_code": program.exit_code,
            "started": program.started,
            "ended": program.ended,
        },
        **dict.fromkeys(_ASKED),
    }
