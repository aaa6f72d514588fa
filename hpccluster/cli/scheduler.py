"""A scheduler by hand: no fleet, no jobs; workers are started by people. What `hpccluster scheduler` runs."""

from __future__ import annotations

import asyncio
import random
import signal
import time
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hpccluster.cli.output import note, say
from hpccluster.comm.connection_file import state_directory
from hpccluster.comm.tls import Security
from hpccluster.engine.native import worker_info
from hpccluster.errors import CommError, ConfigError
from hpccluster.head.credentials import Credentials
from hpccluster.head.directory import ClusterDirectory, make_record
from hpccluster.head.listening import choose_hosts
from hpccluster.ids import make_cluster_name
from hpccluster.runtime.scheduler import Scheduler
from hpccluster.state.scheduler.records import WorkerRecord
from hpccluster.units import format_bytes

USUAL_PORT = 8786
BY_HAND = "by hand"
"""What stands in place of a backend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerOptions:
    """What the command line said; empty texts for what it did not say."""

    name: str = ""
    host: str = ""
    port: int | None = None
    interface: str = ""
    contact_host: str = ""
    plain: bool = False


async def run_scheduler(options: SchedulerOptions) -> str:
    """Serve until SIGINT, SIGTERM or ``hpccluster down``; why it ended. Afterwards its files are gone."""
    over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, _end, over, number.name)
    identity = uuid.uuid4().hex
    parent = state_directory()
    async with AsyncExitStack() as undo:
        directory = ClusterDirectory.claim(
            parent, make_record(options.name or _free_name(parent), identity, backend=BY_HAND)
        )
        undo.callback(directory.remove, reason="the scheduler has ended")
        credentials = Credentials(identity, directory, plain=options.plain)
        scheduler = await _start(options, identity, directory.record.name, credentials.security)
        undo.push_async_callback(scheduler.close, "the scheduler has ended")
        _add_operations(scheduler, directory, over)
        credentials.write_roles(scheduler.addresses)
        directory.update(state="running", address=scheduler.address)
        scheduler.on_worker = _tell_worker
        _tell(directory, scheduler, plain=options.plain)
        return await over


def _end(over: asyncio.Future[str], reason: str) -> None:
    if not over.done():
        over.set_result(reason)


def _free_name(parent: Path) -> str:
    chooser = random.SystemRandom()
    while (parent / (name := make_cluster_name(chooser.choice))).exists():
        pass
    return name


async def _start(options: SchedulerOptions, identity: str, name: str, security: Security | None) -> Scheduler:
    """Listen on the port that was asked for; else on the usual one, or on any."""
    listening, contact = choose_hosts(
        host=options.host, interface=options.interface, contact_host=options.contact_host, runs_here=False
    )
    ports = [USUAL_PORT, 0] if options.port is None else [options.port]
    for port in ports:
        scheduler = Scheduler(
            cluster=identity,
            cluster_name=name,
            security=security,
            host=listening,
            port=port,
            contact_host=contact,
        )
        try:
            await scheduler.start()
        except CommError:
            if port == ports[-1]:
                raise
        else:
            return scheduler
    raise AssertionError


def _add_operations(scheduler: Scheduler, directory: ClusterDirectory, over: asyncio.Future[str]) -> None:
    """What `status`, `workers`, `jobs` and `down` ask of any cluster."""

    async def info(_: dict[str, Any]) -> Any:
        workers = scheduler.state.workers.values()
        return {
            "name": directory.record.name,
            "id": directory.record.id,
            "address": scheduler.address,
            "backend": BY_HAND,
            "workers": len(workers),
            "expected_workers": len(workers),
            "threads": sum(worker.threads for worker in workers),
            "memory": sum(worker.memory for worker in workers),
            "jobs": {},
        }

    async def workers(_: dict[str, Any]) -> Any:
        return [msgspec.to_builtins(worker_info(worker)) for worker in scheduler.state.workers.values()]

    async def jobs(_: dict[str, Any]) -> Any:
        return []

    async def resize(_: dict[str, Any]) -> Any:
        raise ConfigError(
            f"a scheduler by hand starts no workers; do so with: hpccluster worker {directory.record.name}"
        )

    async def close(_: dict[str, Any]) -> Any:
        # A moment later: the answer has been said by then.
        asyncio.get_running_loop().call_later(0.1, _end, over, "it was told to")
        return {"cancelled": [], "unconfirmed": []}

    operations = {"info": info, "workers": workers, "jobs": jobs, "scale": resize, "adapt": resize, "close": close}
    for name, operation in operations.items():
        scheduler.add_operation(name, operation)


def _tell(directory: ClusterDirectory, scheduler: Scheduler, *, plain: bool) -> None:
    name = directory.record.name
    say(f"hpccluster scheduler {name!r}")
    for address in scheduler.addresses:
        say(f"  address      {address}")
    say(f"  connection   {_shown(directory.path)}/   (files readable by you only)")
    say("  start a worker here or on any host that shares your home:")
    say(f"               hpccluster worker {name}")
    say(f'  connect      Client("{name}")  or  Client("{scheduler.address}")')
    if plain:
        note(
            "warning: plain tcp: anyone who reaches this port can run code as you; use it on a network of your own only"
        )


def _tell_worker(worker: WorkerRecord, reason: str | None) -> None:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    memory = f", {format_bytes(worker.memory)}" if worker.memory else ""
    threads = f"{worker.threads} thread{'' if worker.threads == 1 else 's'}"
    what = f"joined  ({threads}{memory})" if reason is None else f"left: {reason}"
    say(f"{stamp}  worker {worker.name}  {worker.address}  {what.removesuffix(': it has left')}")


def _shown(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
