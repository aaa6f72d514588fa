"""Waiting for things outside of this process, which tell nobody when they change: asked again until a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Answer = TypeVar("Answer")

PAUSE = 0.03


def wait_until(question: Callable[[], Answer], what: str, *, timeout: float = 20.0) -> Answer:
    """The first true answer. Fails the test, saying ``what`` did not come, with the last answer."""
    end = time.monotonic() + timeout
    while not (answer := question()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout:g} s (last answer: {answer!r})")
        time.sleep(PAUSE)
    return answer


async def wait_until_async(question: Callable[[], Awaitable[Answer]], what: str, *, timeout: float = 20.0) -> Answer:
    """The same for a question that is awaited."""
    end = time.monotonic() + timeout
    while not (answer := await question()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout:g} s (last answer: {answer!r})")
        await asyncio.sleep(PAUSE)
    return answer
