"""One way to call a backend, so that neither silence nor a plugin's bug can stop the fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from hpccluster.errors import BackendError, HpcClusterError

T = TypeVar("T")


async def ask(call: Awaitable[T], *, doing: str, timeout: float | None) -> T:
    """The answer of a backend.

    Raises the backend's own `HpcClusterError`, or a plain `BackendError` if it does not answer in time, or fails in a way
    that its contract does not know.
    """
    try:
        async with asyncio.timeout(timeout):
            return await call
    except HpcClusterError:
        raise
    except TimeoutError as error:
        raise BackendError(f"{doing}: no answer within {timeout:g} s", code="HPC-BACKEND-TIMEOUT") from error
    except Exception as error:
        raise BackendError(f"{doing}: {type(error).__name__}: {error}", code="HPC-BACKEND-BUG") from error
