"""Which engine runs a cluster's tasks: the one place that knows them all by name. Loads only the one that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpccluster.errors import ConfigError

if TYPE_CHECKING:
    from hpccluster.comm.connection_file import ConnectionFile
    from hpccluster.engine.base import Engine
    from hpccluster.protocol.messages import Role
    from hpccluster.runtime.scheduler import Scheduler

NATIVE = "native"
ENGINES = (NATIVE, "dask")
DASK_AT_LEAST = (2024, 8)


def check_engine(name: str) -> None:
    """Whether it can be used here. Raises `ConfigError` with what to install."""
    if name not in ENGINES:
        raise ConfigError(f"engine={name!r}: the engines are {', '.join(ENGINES)}")
    if name == NATIVE:
        return
    from importlib.metadata import PackageNotFoundError, version

    needed, fix = ".".join(map(str, DASK_AT_LEAST)), "pip install 'hpccluster[dask]'"
    try:
        found = version("distributed")
    except PackageNotFoundError:
        raise ConfigError(
            f"engine='dask' needs the package 'distributed' {needed} or newer, which is not installed here\n  fix: {fix}",
            code="HPC-ENGINE-MISSING",
        ) from None
    if tuple(int(part) for part in found.split(".")[:2] if part.isdigit()) < DASK_AT_LEAST:
        raise ConfigError(
            f"engine='dask' needs 'distributed' {needed} or newer, and {found} is installed\n  fix: {fix}",
            code="HPC-ENGINE-MISSING",
        )


def control_port(engine: str, port: int) -> int:
    """Where the head itself listens, when ``port`` is the one that was asked for: it is for the workers, whose scheduler it is."""
    return port if engine == NATIVE else 0


def make_engine(
    name: str,
    scheduler: Scheduler,
    *,
    connection_file: Callable[[str], str] | None,
    credential: Callable[[Role], ConnectionFile] | None = None,
    directory: Path | None = None,
    host: str = "",
    port: int = 0,
    contact_host: str | None = None,
    on_end: Callable[[str], None] | None = None,
) -> Engine:
    """The engine of that name. ``scheduler`` is the head's own; the rest is for engines that bring one of theirs.

    Raises `ConfigError` where it cannot be used here. Starts nothing.
    """
    check_engine(name)
    if name == NATIVE:
        from hpccluster.engine.native import NativeEngine

        return NativeEngine(scheduler, connection_file=connection_file)
    from hpccluster.engine.dask import DaskEngine

    return DaskEngine(
        connection_file=connection_file,
        credential=credential,
        directory=directory,
        host=host,
        port=port,
        contact_host=contact_host,
        on_end=on_end,
    )
