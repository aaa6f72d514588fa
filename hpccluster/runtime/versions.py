"""What two processes must agree on, as both sides of a handshake show it."""

from __future__ import annotations

import platform
from functools import cache

import hpccluster


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    return (("python", platform.python_version()), ("hpccluster", hpccluster.__version__))


def versions() -> dict[str, str]:
    """This process's versions, by name."""
    return dict(_versions())
