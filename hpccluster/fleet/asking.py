"""One way to call a backend, so that neither silence, a plugin's bug nor a broken contract can stop the fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hpccluster.backend.base import Backend
from hpccluster.errors import BackendError, HpcClusterError
from hpccluster.job import JobSpec, JobStatus

T = TypeVar("T")

LET_GO = 1.0
"""Seconds for a backend to end what was cancelled; what goes on all the same is left behind."""


async def ask(
    call: Callable[[], Awaitable[T]],
    *,
    doing: str,
    timeout: float | None,
    check: Callable[[T], str] | None = None,
) -> T:
    """The answer of a backend. ``check`` says what is wrong with it (see `hpccluster.fleet.answers`).

    Raises the backend's own `HpcClusterError`, or a plain `BackendError` if it does not answer in time, or fails or answers
    in a way that its contract does not know.
    """
    task = asyncio.ensure_future(_result(call))
    try:
        await asyncio.wait([task], timeout=timeout)
    except asyncio.CancelledError:
        await _let_go(task)
        raise
    if not task.done():
        await _let_go(task)
        raise BackendError(f"{doing}: no answer within {timeout:g} s", code="HPC-BACKEND-TIMEOUT")
    if task.cancelled():
        raise _bug(doing, "it cancelled itself")
    try:
        answer = task.result()
    except HpcClusterError:
        raise
    except Exception as error:
        raise _bug(doing, f"{type(error).__name__}: {error}") from error
    if check is not None and (problem := check(answer)):
        raise _bug(doing, problem)
    return answer


def explain(backend: Backend, status: JobStatus) -> str:
    """What the backend says of the reason; empty where it fails."""
    try:
        said: object = backend.explain(status)
    except Exception:  # noqa: BLE001 - a plugin's sentence is a help only
        return ""
    return said if isinstance(said, str) else ""


def render(backend: Backend, spec: JobSpec) -> str:
    """The job's script, for people. Raises the backend's own `HpcClusterError`, or a `BackendError` that names its bug."""
    try:
        return backend.render(spec)
    except HpcClusterError:
        raise
    except Exception as error:
        raise _bug("make the job script", f"{type(error).__name__}: {error}") from error


async def _result(call: Callable[[], Awaitable[T]]) -> T:
    try:
        return await call()
    except SystemExit as error:  # it would end the whole process
        raise RuntimeError(f"SystemExit: {error}") from error


async def _let_go(task: asyncio.Future[T]) -> None:
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody waits for it any more
    await asyncio.wait([task], timeout=LET_GO)


def _bug(doing: str, what: str) -> BackendError:
    return BackendError(f"{doing}: the backend breaks its contract: {what}", code="HPC-BACKEND-BUG")
