"""What paramiko's runner needs before it connects: the configuration file and the keys."""

from __future__ import annotations

import base64
import binascii
import contextlib
import getpass
import io
import os
import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import paramiko
from paramiko.agent import AgentSSH

from hpccluster.backend.remote import RemoteTarget
from hpccluster_ssh import refusals
from hpccluster_ssh.hop import (
    IDENTITY_FILES,
    Attempts,
    Hop,
    agent_path,
    agent_state,
    agent_time,
    known_hosts_files,
    parse_jumps,
)
from hpccluster_ssh.known_hosts import DEFAULT_PORT

MAX_INCLUDES = 16
"""How deep files may include one another, as in OpenSSH."""
_LISTS = ("userknownhostsfile", "globalknownhostsfile")
_WITH_VARIABLES = ("identityfile", "identityagent", "userknownhostsfile")
_LINE = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.*?)\s*")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_CANONICALIZE = re.compile(r"\s*CanonicalizeHostname\b", re.IGNORECASE)


def resolve(target: RemoteTarget) -> Hop:
    """The target with what the configuration file says; reads files. Raises `BackendUnavailable`."""
    try:
        said = _configuration(target)
        jump = target.proxy_jump if target.proxy_jump is not None else said.get("proxyjump")
        jumps = parse_jumps(target, jump)
        return Hop(
            target=target,
            host=str(said["hostname"]),
            port=target.port or _port(said),
            user=target.user or said.get("user") or getpass.getuser(),
            host_key_alias=said.get("hostkeyalias"),
            known_hosts=known_hosts_files(
                target, _words(said, "userknownhostsfile"), _words(said, "globalknownhostsfile")
            ),
            identity_files=tuple(
                Path(file).expanduser()
                for file in target.identity_files or _identities(said) or IDENTITY_FILES
                if file != "none"
            ),
            identities_named=bool(target.identity_files or _identities(said)),
            identities_only=said.get("identitiesonly", "no").lower() in ("yes", "true"),
            agent=agent_path(said.get("identityagent")),
            jumps=jumps,
            proxy_command=None if jumps or jump == "none" else said.get("proxycommand"),
            takes_certificates=False,
        )
    except (paramiko.SSHException, ValueError, OSError, KeyError) as error:
        raise refusals.unusable(target.name, str(error)) from None


def _configuration(target: RemoteTarget) -> paramiko.SSHConfigDict:
    file = Path(target.config_file or "~/.ssh/config").expanduser()
    wanted = target.config_file is not None or file.exists()
    lines = list(_lines(file, "Host *", 0)) if wanted else []
    # what HostName says is the name to make canonical, which paramiko forgets
    said = _look_up([line for line in lines if not _CANONICALIZE.match(line)], target.host)
    return _look_up(lines, target.host) if said["hostname"] == target.host else said


def _look_up(lines: list[str], host: str) -> paramiko.SSHConfigDict:
    config = paramiko.SSHConfig()
    config.parse(io.StringIO("".join(lines)))
    return config.lookup(host)


def _lines(file: Path, block: str, depth: int) -> Iterator[str]:
    """The lines of a file and of those that it includes, which paramiko itself does not read.

    ``block`` is the Host or Match that holds where the file is included; it holds again after each file that is.
    """
    if depth > MAX_INCLUDES:
        raise ValueError(f"{file}: included too deep")
    for line in file.read_text().splitlines():
        found = _LINE.fullmatch(line)
        word, rest = (found[1].lower(), found[2]) if found is not None else ("", "")
        if word in ("host", "match"):
            block = line
        if word in _WITH_VARIABLES:
            rest = _VARIABLE.sub(lambda name: os.environ.get(name[1], name[0]), rest)
        if word == "include":
            for pattern in shlex.split(rest):
                path = Path(pattern).expanduser()
                path = path if path.is_absolute() else Path("~/.ssh").expanduser() / path
                for included in sorted(path.parent.glob(path.name)):
                    yield from _lines(included, block, depth + 1)
                    yield f"{block}\n"
        elif word in _LISTS:
            yield f'{word} "{rest}"\n'  # paramiko drops the outer quotes, and names of files may need theirs
        elif word in _WITH_VARIABLES:
            yield f"{word} {rest}\n"
        else:
            yield f"{line}\n"


def _port(said: paramiko.SSHConfigDict) -> int:
    port = str(said.get("port", DEFAULT_PORT))
    if not (port.isascii() and port.isdigit()):
        raise ValueError(f"Port {port}: not a number")
    return int(port)


def _words(said: paramiko.SSHConfigDict, key: str) -> list[str] | None:
    value = said.get(key)
    return None if value is None else shlex.split(value)


def _identities(said: paramiko.SSHConfigDict) -> list[str]:
    found = said.get("identityfile")
    return [str(file) for file in found] if isinstance(found, list) else []


# ------------------------------------------------------------------------------------------------------------------- keys


class _Agent(AgentSSH):
    """The agent at a socket of that path; paramiko's own knows only the environment's."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(seconds)
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined]
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        self._close()  # type: ignore[attr-defined]


@contextlib.contextmanager
def find_keys(hop: Hop, attempts: Attempts) -> Iterator[list[tuple[str, paramiko.PKey]]]:
    """The keys to try, in order: the files', then the agent's. ``attempts`` gets what cannot be tried."""
    found: dict[bytes, tuple[str, paramiko.PKey]] = {}
    for path in hop.identity_files:
        try:
            key = paramiko.PKey.from_path(path)
        except FileNotFoundError:
            if hop.identities_named:
                attempts.keys.append(f"{path} (there is no such file)")
        except (paramiko.PasswordRequiredException, TypeError):  # TypeError: cryptography's word for it
            attempts.keys.append(f"{path} (needs a passphrase)")
        except OSError as error:
            attempts.keys.append(f"{path} ({error})")
        except (ValueError, paramiko.SSHException):
            attempts.keys.append(f"{path} (no private key that paramiko can read)")
        else:
            found.setdefault(key.asbytes(), (str(path), key))
    with contextlib.ExitStack() as stack:
        try:
            if not hop.agent:
                raise OSError
            agent = _Agent(hop.agent, agent_time(hop.target))
            stack.callback(agent.close)
        except (OSError, paramiko.SSHException):
            attempts.agent = agent_state(hop.agent)
        else:
            wanted = {data for path in hop.identity_files if (data := _public_half(path))} | found.keys()
            keys = agent.get_keys()
            for item in keys:
                if not hop.identities_only or item.asbytes() in wanted:
                    found.setdefault(item.asbytes(), (f"agent: {getattr(item, 'comment', '')}", item))
            attempts.agent = "" if keys else "the agent has no keys"
        yield list(found.values())


def _public_half(path: Path) -> bytes | None:
    try:
        return base64.b64decode(Path(f"{path}.pub").read_text().split()[1])
    except (OSError, IndexError, binascii.Error):
        return None
