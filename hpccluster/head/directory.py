"""A cluster's directory: who owns its name, where its logs and connection files lie, and what is known when it is over.

``<state directory>/<name>/`` belongs to one cluster at a time and can be read by its user only:

    head.json                   the record: which process on which host, its address, its state, its program's exit code
    client.json, worker.json    connection files; removed when the cluster ends
    head.log, program.log, <job>.log

The record is claimed with a hard link, which is atomic on network file systems, too; nothing here depends on locks or on
modification times. It stays readable after the end, so that "did it work?" has an answer the next morning.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from hpccluster.comm.connection_file import check_parent, create_private, private_directory, remember_directory
from hpccluster.errors import ClusterNameTaken, ConfigError, Detail
from hpccluster.ids import is_cluster_name

RECORD = "head.json"
CLIENT_FILE = "client.json"
WORKER_FILE = "worker.json"
JOB_FILES = "credentials"
"""The folder of the connection files of jobs."""
HEAD_LOG = "head.log"
PROGRAM_LOG = "program.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRecord:
    """The program that runs, or ran, beside the head."""

    command: tuple[str, ...]
    state: Literal["running", "finished", "killed"]
    started: float
    """Seconds since the epoch, like every time here: for people only."""
    ended: float | None = None
    exit_code: int | None = None
    """As a shell would say it: 128 + signal where a signal ended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecord:
    """What is known of a cluster without asking it."""

    name: str
    id: str
    backend: str
    host: str
    pid: int
    process_start: str
    """Tells this process from a later one with the same number (see `process_start`)."""
    created: float
    state: Literal["starting", "running", "closing", "ended"] = "starting"
    address: str = ""
    detached: bool = False
    python: str = ""
    """The head's interpreter: what speaks to the cluster should be of its kind."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the backend: how its jobs can be reached when the head is gone."""
    ended: float | None = None
    reason: str = ""
    """Why it ended."""
    unconfirmed: tuple[str, ...] = ()
    """Jobs whose end could not be verified."""
    program: ProgramRecord | None = None


def process_start(pid: int) -> str | None:
    """What tells a process from every other that had or will have its number; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return _process_start_elsewhere(pid)
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def _process_start_elsewhere(pid: int) -> str | None:
    """`process_start` where there is no /proc (macOS), or no such process."""
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return None


def is_alive(record: HeadRecord) -> bool:
    """Whether the head of this record may still run. Only what is *known* to be gone counts as gone."""
    return look_for_head(record) != "gone"


def look_for_head(record: HeadRecord) -> Literal["there", "gone", "unknown"]:
    """Whether the head of this record still runs.

    On another host it is known to be gone only where the host itself says that nobody listens at the head's address.
    """
    if record.state == "ended":
        return "gone"
    if record.host == socket.gethostname():
        return "there" if process_start(record.pid) == record.process_start else "gone"
    host, _, port = record.address.partition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except ConnectionRefusedError:
        return "gone"
    except (OSError, ValueError):
        return "unknown"
    return "there"


def tell_end(record: HeadRecord | None, directory: Path, *, ending: str = "") -> str:
    """How the cluster of this record came to an end, for whoever asks for it; ``ending``: how the head's process ended."""
    if record is None:
        return f"cluster {directory.name!r} has ended, and its files are gone (they were in {directory})"
    if record.state == "ended":
        why = f": {record.reason}" if record.reason else ""
        return f"cluster {record.name!r} has ended{why}\nits logs: {directory}"
    how = f", {ending}" if ending else ""
    return (
        f"the head of cluster {record.name!r} has died (process {record.pid} on {record.host}{how})\n"
        f"its workers end by themselves; what else it left: hpccluster cleanup; its log: {directory / HEAD_LOG}"
    )


def read_record(directory: Path) -> HeadRecord | None:
    """The record in this cluster directory; None where there is none that can be read, or that is ours."""
    try:
        with os.fdopen(os.open(directory / RECORD, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            # What it says is acted upon, and a state directory may be one that others can write.
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return None
            return msgspec.json.decode(file.read(), type=HeadRecord)
    except (OSError, msgspec.MsgspecError):
        return None


def list_records(parent: Path) -> list[HeadRecord]:
    """The records of all clusters in a state directory, by name."""
    try:
        names = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    return [record for name in names if (record := read_record(parent / name)) is not None]


def job_file(directory: Path, job: str) -> Path:
    """Where the connection file of one job's workers lies."""
    return directory / JOB_FILES / f"{job}.json"


def make_record(name: str, identity: str, *, backend: str, **more: Any) -> HeadRecord:
    """The record of a cluster whose head this process is."""
    start = process_start(os.getpid())
    assert start is not None
    return HeadRecord(
        name=name,
        id=identity,
        backend=backend,
        host=socket.gethostname(),
        pid=os.getpid(),
        process_start=start,
        created=time.time(),
        python=sys.executable,
        **more,
    )


def check_cluster_name(name: str) -> None:
    """Raises `ConfigError` for what cannot name a cluster."""
    if not is_cluster_name(name):
        raise ConfigError(
            f"name={name!r} cannot name a cluster: use lower-case letters, digits and inner hyphens, at most 40"
        )


class ClusterDirectory:
    """The directory of one cluster, held by its head."""

    def __init__(self, path: Path, record: HeadRecord, *, is_fresh: bool) -> None:
        self.path = path
        self.record = record
        self.is_fresh = is_fresh
        """No former cluster had the name: whatever is here is ours to remove."""

    @classmethod
    def claim(cls, parent: Path, record: HeadRecord) -> ClusterDirectory:
        """Take the name.

        *Success*: the directory is there, 0700, and its record is ours; what a former cluster of the name has left of its
        credentials is gone, its logs stay. *`ClusterNameTaken`*: a live cluster has the name. *`ConfigError`*: the name
        cannot be one, or nothing can be written. *`CredentialError`*: the directory is not ours alone. After an error
        nothing has changed.
        """
        check_cluster_name(record.name)
        path = parent / record.name
        is_fresh = not os.path.exists(path)  # noqa: PTH110 - says no, too, where it may not look: the next lines tell why
        check_parent(path.parent)
        private_directory(path)
        remember_directory(parent)
        try:
            _take_record(path, record)
        except OSError as error:
            raise ConfigError(
                f"the cluster's directory {path} cannot be used: {error.strerror}\n"
                "set state_directory= (or $HPCCLUSTER_STATE_DIRECTORY) to a directory that you can write"
            ) from error
        directory = cls(path, record, is_fresh=is_fresh)
        directory.remove_credentials()
        for log in (HEAD_LOG, PROGRAM_LOG):
            with contextlib.suppress(FileNotFoundError):
                (path / log).replace(path / f"{log}.old")
        return directory

    @property
    def client_file(self) -> Path:
        return self.path / CLIENT_FILE

    @property
    def worker_file(self) -> Path:
        return self.path / WORKER_FILE

    @property
    def credentials(self) -> Path:
        """Where the credentials lie that are not for one role: those of jobs, and what an engine needs."""
        return self.path / JOB_FILES

    def job_file(self, job: str) -> Path:
        """The connection file of one job's workers."""
        return job_file(self.path, job)

    def job_files(self) -> list[Path]:
        """Those that are there."""
        return sorted((self.path / JOB_FILES).glob("*.json"))

    @property
    def head_log(self) -> Path:
        return self.path / HEAD_LOG

    @property
    def program_log(self) -> Path:
        return self.path / PROGRAM_LOG

    def update(self, **changes: object) -> None:
        """Change the record, here and on disk, at once or not at all. Raises `OSError` where it cannot be written: then it is
        changed here only, and written with the next change.
        """
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]
        temporary = _write_new(self.path, self.record)
        temporary.replace(self.path / RECORD)

    def remove_credentials(self) -> None:
        """Remove the connection files. Idempotent."""
        for file in (self.client_file, self.worker_file, *self.job_files(), *self.credentials.glob("*.pem")):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (self.path / JOB_FILES).rmdir()

    def remove(self, *, reason: str) -> None:
        """Remove everything, but what a former cluster of the name has left: then the record says how ours ended.

        Idempotent.
        """
        self.remove_credentials()
        if self.is_fresh:
            shutil.rmtree(self.path, ignore_errors=True)
        elif self.record.state != "ended":
            with contextlib.suppress(OSError):  # a full disk: then it looks like a head that has died
                self.update(state="ended", ended=time.time(), reason=reason)


def _write_new(path: Path, record: HeadRecord) -> Path:
    """The record in a new file of its own."""
    temporary = path / f".{RECORD}.{uuid.uuid4().hex}"
    try:
        with create_private(temporary, 0o600) as file:
            file.write(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _take_record(path: Path, record: HeadRecord) -> None:
    """Put our record in place unless a live cluster's is there."""
    temporary = _write_new(path, record)
    try:
        while True:
            try:
                os.link(temporary, path / RECORD)
            except FileExistsError:
                former = read_record(path)
                if former is not None and is_alive(former):
                    raise taken(former, former.name) from None
                _put_aside(path, former)
            else:
                return
    finally:
        temporary.unlink(missing_ok=True)


def _put_aside(path: Path, former: HeadRecord | None) -> None:
    """Remove the record of a cluster that is gone, and only that one: another head may be doing the same just now."""
    aside = path / f".{RECORD}.{uuid.uuid4().hex}"
    try:
        (path / RECORD).rename(aside)
    except FileNotFoundError:
        return
    try:
        moved = msgspec.json.decode(aside.read_bytes(), type=HeadRecord)
    except msgspec.MsgspecError:
        moved = None
    if moved != former and moved is not None:
        with contextlib.suppress(FileExistsError):
            os.link(aside, path / RECORD)
        aside.unlink()
        raise taken(moved, moved.name)
    aside.unlink()


def taken(record: HeadRecord | None, name: str) -> ClusterNameTaken:
    """The error for a name that the live cluster of this record has, where the record can be read."""
    facts: dict[str, Detail] = {"name": name}
    where = ""
    if record is not None:
        facts |= {"host": record.host, "pid": record.pid, "backend": record.backend}
        where = f" (process {record.pid} on {record.host})"
    return ClusterNameTaken(
        f"a cluster named {name!r} is running already{where}\n"
        f"join it with ClusterManager.attach({name!r}) or: hpccluster attach {name}; end it with: hpccluster down {name}; "
        "or choose another name",
        code="HPC-CLUSTER-NAME-TAKEN",
        details=facts,
    )
