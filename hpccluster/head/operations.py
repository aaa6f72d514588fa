"""What a head can be asked: each operation with its arguments and its answer, in plain values.

Arguments come from outside and are checked by type before anything is done. Who may ask is the scheduler's business: only
clients get here.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from hpccluster.backend.runner import last_lines
from hpccluster.errors import ConfigError
from hpccluster.head.directory import process_start
from hpccluster.head.spec import ScaleRequest
from hpccluster.state.fleet.adaptive import AdaptSettings
from hpccluster.units import parse_bytes, parse_duration

if TYPE_CHECKING:
    from hpccluster.head.server import Head

A = TypeVar("A", bound="Arguments")

LOG_LIMIT = 4 * 1024 * 1024
"""The most bytes of one log of the head's own that an answer carries: its end."""

_SIZES = ("minimum_memory", "maximum_memory")
_TIMES = ("target_duration", "interval", "idle_timeout")


class Arguments(Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of all arguments; by itself: none."""


class Scale(Arguments):
    """Exactly one of them."""

    workers: int | None = None
    jobs: int | None = None
    cores: int | None = None
    memory: int | None = None


class Logs(Arguments):
    """Of `logs`."""

    job: str | None = None
    """A job's name or id; None for the head and all jobs."""
    tail: int | None = None
    """The last so many lines of each."""
    jobs: bool = True
    """Whether jobs are wanted beside the head."""


class WaitForWorkers(Arguments):
    """Of `wait_for_workers`."""

    n: int | None = None
    """None: all that are expected."""
    timeout: float | None = None


class TakeOver(Arguments):
    """Of `take_over`: the new owner, a process of this host."""

    pid: int
    start: str
    """As `directory.process_start` says it."""
    linger: float = 0.0


class ProgramWait(Arguments):
    """Of `program_wait`."""

    timeout: float | None = None


class Close(Arguments):
    """Of `close`."""

    timeout: float | None = None


class Operations:
    """The operations of one head."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def register(self, add: Callable[[str, Callable[[dict[str, Any]], Awaitable[Any]]], None]) -> None:
        """Make them known: ``add`` is the scheduler's."""
        add("info", _checked("info", Arguments, self.info))
        add("status", _checked("status", Arguments, self.status))
        add("scale", _checked("scale", Scale, self.scale))
        add("adapt", self.adapt)
        add("jobs", _checked("jobs", Arguments, self.jobs))
        add("workers", _checked("workers", Arguments, self.workers))
        add("logs", _checked("logs", Logs, self.logs))
        add("wait_for_workers", _checked("wait_for_workers", WaitForWorkers, self.wait_for_workers))
        add("job_script", _checked("job_script", Arguments, self.job_script))
        add("take_over", _checked("take_over", TakeOver, self.take_over))
        add("program_wait", _checked("program_wait", ProgramWait, self.program_wait))
        add("close", _checked("close", Close, self.close))

    async def info(self, _: Arguments) -> dict[str, Any]:
        """Counts, for a line about the cluster."""
        head = self._head
        workers = head.engine.workers()
        return {
            "name": head.spec.name,
            "id": head.id,
            "address": head.address,
            "backend": head.spec.backend,
            "engine": head.spec.engine,
            "dashboard": head.engine.dashboard_link,
            "state": head.directory.record.state,
            "workers": len(workers),
            "expected_workers": head.fleet.requested,
            "plan": head.fleet.plan,
            "requested": head.fleet.requested,
            "observed": head.fleet.observed,
            "threads": sum(worker.threads for worker in workers),
            "memory": sum(worker.memory for worker in workers),
            "jobs": dict(Counter(str(job.state) for job in head.fleet.jobs())),
            "owner": head.lease.owner if head.lease.is_owned else None,
            "detached": head.spec.detached,
            "environment": dict(head.engine.environment()),
        }

    async def status(self, _: Arguments) -> dict[str, Any]:
        """The record of the cluster, the program's state in it, and what `info` says."""
        record: dict[str, Any] = msgspec.to_builtins(self._head.directory.record)
        return record | await self.info(Arguments())

    async def scale(self, arguments: Scale) -> Any:
        """The plan, once every needed job was accepted."""
        wish = ScaleRequest(**msgspec.structs.asdict(arguments)).arguments()
        return msgspec.to_builtins(await self._head.fleet.scale(**wish))

    async def adapt(self, arguments: dict[str, Any]) -> Any:
        """Follow the load from now on; the limits in whole jobs."""
        return await self._head.adapt(arguments)

    async def jobs(self, _: Arguments) -> list[Any]:
        return [msgspec.to_builtins(job) for job in self._head.fleet.jobs()]

    async def workers(self, _: Arguments) -> list[Any]:
        workers = sorted(self._head.engine.workers(), key=lambda worker: worker.name)
        return [msgspec.to_builtins(worker) for worker in workers]

    async def logs(self, arguments: Logs) -> dict[str, str]:
        """Per ``head`` and job what it has written; of one job under the name that was asked for."""
        head = self._head
        if arguments.job is None:
            texts = {"head": await asyncio.to_thread(_tail, head.directory.head_log, arguments.tail)}
            if head.program is not None:
                texts["program"] = await asyncio.to_thread(_tail, head.directory.program_log, arguments.tail)
            if arguments.jobs:
                texts |= await head.fleet.logs(None, arguments.tail)
            return texts
        (text,) = (await head.fleet.logs(arguments.job, arguments.tail)).values()
        return {arguments.job: text}

    async def wait_for_workers(self, arguments: WaitForWorkers) -> None:
        """Answered when they are connected."""
        fleet = self._head.fleet
        await fleet.wait_for_workers(fleet.requested if arguments.n is None else arguments.n, arguments.timeout)

    async def job_script(self, _: Arguments) -> str:
        """What the next job's submission would be."""
        return self._head.job_script()

    async def take_over(self, arguments: TakeOver) -> bool:
        """Whether the cluster belongs to that process of this host from now on: its former owner is gone."""
        lease = self._head.lease
        if self._head.spec.detached or lease.is_owned or process_start(arguments.pid) != arguments.start:
            return False
        lease.take_over(arguments.pid, arguments.start, arguments.linger)
        return True

    async def program_wait(self, arguments: ProgramWait) -> Any:
        """The program's record once it has ended, or as it is after ``timeout`` seconds; None where there is none."""
        head = self._head
        if head.program is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(arguments.timeout):
                    await head.program_over.wait()
        return msgspec.to_builtins(head.directory.record.program)

    async def close(self, arguments: Close) -> Any:
        """End the cluster: what became of its jobs. Idempotent: everybody who asks gets the one report."""
        return msgspec.to_builtins(await self._head.end("it was told to", arguments.timeout))


def _checked(
    name: str, kind: type[A], operation: Callable[[A], Awaitable[Any]]
) -> Callable[[dict[str, Any]], Coroutine[Any, Any, Any]]:
    async def call(arguments: dict[str, Any]) -> Any:
        try:
            typed = msgspec.convert(arguments, kind, strict=True)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{name}: {_plain_words(error)}") from None
        return await operation(typed)

    return call


def parse_adapt(wishes: Mapping[str, Any]) -> AdaptSettings:
    """Limits and times as users write them. Raises `ConfigError`."""
    known = {field.name for field in fields(AdaptSettings)}
    values: dict[str, Any] = {}
    for key, value in wishes.items():
        if key not in known:
            raise ConfigError(f"adapt: unknown keyword {key!r}; known are: {', '.join(sorted(known))}")
        if value is None:
            continue
        try:
            values[key] = parse_bytes(value) if key in _SIZES else parse_duration(value) if key in _TIMES else value
        except (ValueError, TypeError) as error:
            raise ConfigError(f"adapt: {key}={value!r}: {error}") from None
    try:
        return msgspec.convert(values, AdaptSettings, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"adapt: {_plain_words(error)}") from None


_WORDS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}


def _plain_words(error: msgspec.ValidationError) -> str:
    """msgspec's words with the argument's name in front, as users write it."""
    text, _, path = str(error).partition(" - at `$.")
    text = re.sub(
        "`([^`]*)`", lambda types: " or ".join(_WORDS.get(t, t) for t in types[1].split(" | ") if t != "null"), text
    )
    return f"{path.rstrip('`')}: {text[:1].lower()}{text[1:]}" if path else text


def _tail(path: Path, lines: int | None) -> str:
    """The end of a log of ours; empty where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_LIMIT))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return last_lines(text, lines)
