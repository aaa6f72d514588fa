"""Connection files: all that one role needs to join a cluster, and where they lie.

    <state directory>/<cluster's name>/<role>.json      0400 in a directory of 0700

Whoever can read such a file can act in its role, so that a file that others could have read, or written, is refused.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from hpccluster.errors import ClusterNotFound, ConfigError, CredentialError
from hpccluster.paths import expand_path
from hpccluster.protocol.messages import Role

STATE_DIRECTORY_VARIABLE = "HPCCLUSTER_STATE_DIRECTORY"
PLACES = "places"
"""The file in the state directory that lists others, a path a line."""

_SIZE_LIMIT = 64 * 1024
_RETRY_INTERVAL = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFile:
    """What a connection file says. The three PEM texts are empty where the cluster speaks plain tcp."""

    cluster: str
    """The cluster's id."""
    name: str
    """The cluster's name."""
    role: Role
    addresses: tuple[str, ...]
    ca: str = ""
    certificate: str = ""
    key: str = field(default="", repr=False)
    engine: str = "native"
    """What runs tasks on the workers."""
    engine_addresses: tuple[str, ...] = ()
    """Where the scheduler of an engine that is not ours listens; ``addresses`` are the head's all the same."""
    created: datetime
    expires: datetime
    path: str = ""
    """Where it was read from; not stored."""


def state_directory() -> Path:
    """Where clusters are known: ``$HPCCLUSTER_STATE_DIRECTORY``, else the user's state folder.

    It is made where it is missing; `CredentialError` if others could write or look into it.
    """
    if given := os.environ.get(STATE_DIRECTORY_VARIABLE):
        path = expand_path(f"${STATE_DIRECTORY_VARIABLE}", given)
    else:
        import platformdirs  # only where nobody has said where

        path = platformdirs.user_state_path("hpccluster")
    return private_directory(path)


def known_directories() -> list[Path]:
    """The state directories in which this user has, or had, clusters: the usual one first."""
    usual = state_directory()
    try:
        lines = (usual / PLACES).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return [usual]
    others = [Path(line) for line in lines if line.startswith("/")]
    return list(dict.fromkeys([usual, *(place for place in others if place.is_dir())]))


def remember_directory(path: Path) -> None:
    """Have `known_directories` list this state directory, too (``state_directory=``). A help only: it never fails."""
    with suppress(OSError, ConfigError, CredentialError):
        usual = state_directory()
        if path == usual or path in known_directories() or "\n" in str(path):
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(usual / PLACES, flags, 0o600), "w") as file:
            file.write(f"{path}\n")


def check_parent(path: Path) -> None:
    """Refuse a directory in which somebody else could put another in the place of one of ours.

    That is: it, or the link that leads to it, belongs to another user (root may), or everybody may rename what is in it.
    Raises `CredentialError`. One that cannot be looked at is no matter of this function: whoever uses it next will say so.
    """
    for follow in (False, True):
        try:
            status = path.stat(follow_symlinks=follow)
        except OSError:
            return
        if status.st_uid not in (os.geteuid(), 0):
            raise CredentialError(
                f"{path} belongs to user {status.st_uid}, not to you, who could replace what is in it\n  fix: choose another place"
            )
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(status.st_mode)
        raise CredentialError(
            f"everybody may replace what is in {path} (mode {mode:04o})\n  fix: chmod o-w {path}, or choose another place"
        )


def private_directory(path: Path) -> Path:
    """``path`` as a directory of ours with mode 0700, made if need be.

    Raises `ConfigError` where it cannot be made, `CredentialError` where it is not safe.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
            path.chmod(0o700)  # whatever the umask
        except FileExistsError:
            pass
        status = path.lstat()
    except OSError as error:
        raise ConfigError(
            f"cannot make the directory {path}: {error.strerror}\n"
            f"  fix: set state_directory= (or ${STATE_DIRECTORY_VARIABLE}) to one that you can write"
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a directory"
        raise CredentialError(
            f"{path} is {what}: credentials are not put there\n  fix: remove it, or choose another place"
        )
    if status.st_uid != os.geteuid():
        raise CredentialError(f"{path} belongs to user {status.st_uid}, not to you\n  fix: choose another place")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise CredentialError(
            f"{path} is open to others (mode {mode:04o}): credentials are not put there\n  fix: chmod 700 {path}"
        )
    return path


def create_private(path: Path, mode: int = 0o400) -> BinaryIO:
    """A new file for its owner only, to be written. Raises `OSError`: `FileExistsError` for whatever has the name, a link, too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    return os.fdopen(descriptor, "wb")


def write_connection_file(path: Path, file: ConnectionFile) -> None:
    """Write ``file`` for its owner only: others see it whole or not at all, also over NFS. Raises `CredentialError`.

    The directory is made with mode 0700 where it is missing, and refused where it is another's or open to others.
    """
    private_directory(path.parent)
    _refuse_strange(path)
    content = {name: value for name, value in _plain(file).items() if name != "path"}
    data = msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            with create_private(temporary) as out:
                os.fchmod(out.fileno(), 0o400)
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise CredentialError(f"cannot write the {file.role} connection file {path}: {error.strerror}") from error


def read_connection_file(path: Path, role: Role, *, wait: float = 0.0) -> ConnectionFile:
    """The connection file at ``path``, if it is ours, of ``role``, and still valid; else `CredentialError`.

    A file that is not there yet, or not whole, is looked for again for ``wait`` seconds: shared file systems show it
    late. This blocks: it is meant for a process's start.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            return _read_once(path, role)
        except _NotYet as error:
            if time.monotonic() >= deadline:
                raise CredentialError(error.message, code=error.code) from error.__cause__
        time.sleep(min(_RETRY_INTERVAL, max(deadline - time.monotonic(), 0.01)))
        _look_again(path.parent)


def find_connection_file(where: str, role: Role, directory: Path | None = None) -> Path:
    """The connection file for ``role`` that ``where`` means: a path, a cluster's name, or an address.

    ``directory``: the one state directory that counts, all that are known by default. Raises `ClusterNotFound` that lists the clusters there are, or
    `CredentialError` where the cluster is known but has no file for that role.
    """
    if "://" not in where and (os.sep in where or where.endswith(".json")):
        path = Path(where).expanduser()
        return path / f"{role}.json" if path.is_dir() else path
    places = known_directories() if directory is None else [directory]
    clusters = sorted(path for place in places if place.is_dir() for path in place.iterdir() if path.is_dir())
    if "://" in where:
        found = [path for path in clusters if where.rstrip("/") in _addresses(path)]
    else:
        found = [path for path in clusters if path.name == where]
    if not found:
        known = ", ".join(path.name for path in clusters if (path / f"{role}.json").exists()) or "none that runs"
        fix = ""
        if "://" in where:
            fix = f"\n  fix: copy a file to here (hpccluster credentials export NAME --role {role}), and give its path"
        elif Path(where).is_file():
            fix = f"\n  if the file {where!r} here is meant: say .{os.sep}{where}"
        raise ClusterNotFound(f"no cluster {where!r} is known in {', '.join(map(str, places))}\n  known: {known}{fix}")
    for place in found:
        if (path := place / f"{role}.json").exists():
            return path
    name = found[0].name
    raise CredentialError(
        f"cluster {name} has no connection file for a {role} in {found[0]}; has it ended?\n"
        f"  fix: see hpccluster status {name}; if it runs, hpccluster credentials export {name} --role {role} there"
    )


# ------------------------------------------------------------------------------------------------------------ inside


class _NotYet(CredentialError):
    """It may still come."""


def _read_once(path: Path, role: Role) -> ConnectionFile:
    try:
        # Non-blocking: a pipe in the file's place must not hold us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise _NotYet(
            f"no {role} connection file at {path}\n"
            "  fix: check the path; the cluster may have been closed (its files are removed then)",
            code="HPC-AUTH-NOFILE",
        ) from error
    except OSError as error:
        link = " (symbolic links are not followed)" if path.is_symlink() else ""
        raise _unusable(path, role, f"cannot be opened: {error.strerror}{link}") from error
    try:
        _check_private(path, role, os.fstat(descriptor))
        data = os.read(descriptor, _SIZE_LIMIT + 1)
    finally:
        os.close(descriptor)
    if len(data) > _SIZE_LIMIT:
        raise _unusable(path, role, f"is larger than {_SIZE_LIMIT:,} bytes")
    try:
        file = msgspec.json.decode(data, type=ConnectionFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _NotYet(
            f"the {role} connection file {path} is not whole, or not one: {error}\n  fix: export or copy it again",
            code="HPC-AUTH-FILE",
        ) from error
    return _checked(dataclasses.replace(file, path=str(path)), path, role)


def _check_private(path: Path, role: Role, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _unusable(path, role, "is not a regular file")
    if status.st_uid != os.geteuid():
        raise _unusable(path, role, f"belongs to user {status.st_uid}, not to you", fix="make a copy of your own")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise _unusable(
            path,
            role,
            f"is open to others (mode {mode:04o}): they may have read the key",
            fix=f"chmod 600 {path}, if nobody has; else close the cluster",
        )


def _checked(file: ConnectionFile, path: Path, role: Role) -> ConnectionFile:
    if file.role is not role:
        raise _unusable(path, role, f"is one for a {file.role}", fix=f"use {role}.json of cluster {file.name}")
    if file.expires.tzinfo is None or file.expires <= datetime.now(UTC):
        raise _unusable(path, role, f"has expired on {file.expires:%Y-%m-%d %H:%M}")
    texts = (file.ca, file.certificate, file.key)
    if any(texts) and not all(texts):
        raise _unusable(path, role, "lacks one of CA, certificate and key")
    return file


def _unusable(path: Path, role: Role, reason: str, *, fix: str = "") -> CredentialError:
    fix = fix or f"hpccluster credentials export NAME --role {role} gives a new one"
    return CredentialError(f"the {role} connection file {path} {reason}\n  fix: {fix}", code="HPC-AUTH-FILE")


def _plain(file: ConnectionFile) -> dict[str, object]:
    return {entry.name: getattr(file, entry.name) for entry in dataclasses.fields(file)}


def _addresses(directory: Path) -> set[str]:
    """The addresses of a cluster, by whichever of its files can be read."""
    for role in Role:
        try:
            file = _read_once(directory / f"{role}.json", role)
            return {*file.addresses, *file.engine_addresses}
        except CredentialError:
            continue
    return set()


def _refuse_strange(path: Path) -> None:
    """Nobody but root can have put anything strange into a directory of mode 0700; look all the same."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise CredentialError(f"{path} exists and is not a file of yours: it is not replaced\n  fix: remove it")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _look_again(directory: Path) -> None:
    """Listing a directory makes an NFS client forget that a name was not there (nfs(5), ``lookupcache``)."""
    with suppress(OSError):
        list(directory.iterdir())
