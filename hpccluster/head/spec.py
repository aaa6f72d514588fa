"""What a head is told when it starts, and what it answers: one JSON line each way.

Plain values only. Whoever starts heads (manager, command line) and the head itself share this module, so it must not know
schedulers, fleets or event loops.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from hpccluster import errors
from hpccluster.errors import ClusterError, ConfigError, Detail, HpcClusterError

LINGER_SCRIPT = 0.0
"""Seconds that a cluster outlives a script that was killed."""
LINGER_NOTEBOOK = 600.0
"""Seconds that it outlives a notebook's kernel, which is likely to come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRequest:
    """A wish for a size, in one of four units. ``memory`` is in bytes."""

    workers: int | None = None
    jobs: int | None = None
    cores: int | None = None
    memory: int | None = None

    def arguments(self) -> dict[str, int]:
        """The one unit that was given, as keyword arguments. Raises `ConfigError` unless it is exactly one."""
        units = {"workers": self.workers, "jobs": self.jobs, "cores": self.cores, "memory": self.memory}
        given = {unit: amount for unit, amount in units.items() if amount is not None}
        if len(given) != 1:
            raise ConfigError(
                f"scale takes exactly one of workers, jobs, cores and memory, not {', '.join(given) or 'none'}"
            )
        for unit, amount in given.items():
            if type(amount) is not int:
                raise ConfigError(f"scale({unit}={amount!r}): a size is a whole number")
            if amount < 0:
                raise ConfigError(f"scale({unit}={amount}): a size is not negative")
        return given


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """All that a head needs to know."""

    name: str
    backend: str
    options: dict[str, Any] = field(default_factory=dict)
    """Of the backend, already checked by whoever wrote this; the head converts them once more, strictly."""
    engine: str = "native"
    """What runs tasks on the workers: one of `hpccluster.head.engines.ENGINES`."""
    protocol: Literal["tls", "tcp"] = "tls"
    host: str = ""
    """Address or host name to listen on; empty: the interface's, or what suits the backend."""
    interface: str = ""
    port: int = 0
    contact_host: str = ""
    """What workers and clients connect to, where that differs from where the head listens."""
    state_directory: str = ""
    """The parent of the cluster's directory; empty for the user's own."""
    detached: bool = False
    """Nobody owns the cluster: it lives until it is told to end, or until its program has ended."""
    linger: float = LINGER_SCRIPT
    """Seconds between the proven death of the owner and the end of the cluster."""
    scale: ScaleRequest | None = None
    """The first size; the head is ready only when every job of it was accepted."""
    adapt: dict[str, Any] | None = None
    fleet: dict[str, Any] = field(default_factory=dict)
    """Settings of the fleet that differ from their defaults."""
    program: tuple[str, ...] = ()
    """The command that runs beside the head; the cluster ends when it has ended."""
    program_directory: str = ""
    program_environment: dict[str, str] | None = None
    """Its whole environment; None for the head's own."""
    close_timeout: float = 30.0
    """Seconds that the end of the cluster may take when nobody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadReady:
    """The head's answer: it serves."""

    name: str
    id: str
    address: str
    pid: int
    directory: str
    connection_file: str
    """The client's."""
    plan: Any = None
    """What the first size came to, as plain values; None where none was asked for."""
    ready: Literal[True] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFailed:
    """The other answer: why not. Nothing was left behind."""

    error: str
    """The class name of an `hpccluster.errors` error."""
    message: str
    code: str = ""
    details: dict[str, Detail] = field(default_factory=dict)

    @classmethod
    def from_error(cls, error: HpcClusterError) -> HeadFailed:
        return cls(error=type(error).__name__, message=error.message, code=error.code, details=error.details)

    def to_error(self) -> HpcClusterError:
        return errors.from_name(self.error, self.message, self.code, self.details)


def encode_line(value: HeadSpec | HeadReady | HeadFailed) -> bytes:
    """One line of JSON with its end."""
    return msgspec.json.encode(value) + b"\n"


def decode_spec(line: bytes) -> HeadSpec:
    """The specification in this line. Raises `ConfigError`."""
    try:
        return msgspec.json.decode(line, type=HeadSpec)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"the head's specification cannot be used: {error}") from error


def decode_answer(line: bytes) -> HeadReady:
    """The head's answer. Raises the error that it names, or `ClusterError` for a line that is not an answer."""
    try:
        if b'"ready":true' in line:
            return msgspec.json.decode(line, type=HeadReady)
        failed = msgspec.json.decode(line, type=HeadFailed)
    except msgspec.MsgspecError as error:
        raise ClusterError(f"the head gave an answer that cannot be read: {line[:200]!r}") from error
    raise failed.to_error()
