"""Which processes and files a cluster has left, told by the state directory of the test that started it."""

from __future__ import annotations

import os
from pathlib import Path

from support.deadline import wait_until

VARIABLE = "HPCCLUSTER_STATE_DIRECTORY"


def processes_of(state: Path) -> dict[int, str]:
    """Every process but this one that was started, directly or not, with this state directory: pid and command."""
    mark = f"{VARIABLE}={state}\0".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes() + b"\0":
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has just ended, or is another's
    return found


def files_of(state: Path) -> list[str]:
    """Everything below the state directory."""
    return sorted(str(path.relative_to(state)) for path in state.rglob("*"))


def wait_until_gone(state: Path, timeout: float = 15.0) -> None:
    """Until no process is left."""
    try:
        wait_until(lambda: not processes_of(state), f"the end of all processes of {state}", timeout=timeout)
    except AssertionError as error:
        raise AssertionError(f"{error}: {processes_of(state)}") from None
