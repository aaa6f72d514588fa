"""Which keys of a host are known, from OpenSSH's known_hosts files (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"). Pure but for `read`.

Both runners ask here, so that both say the same of an unknown, changed or revoked key, with the file and line it depends on.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

DEFAULT_PORT = 22


class Verdict(StrEnum):
    """What the files say of a key that a host has shown."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One line of a file."""

    hosts: str
    kind: str
    """``ssh-ed25519``"""
    data: bytes
    file: Path
    line: int
    marker: str = ""
    """``@revoked``, ``@cert-authority`` or nothing."""

    @property
    def where(self) -> str:
        return f"{self.file} line {self.line}"


@dataclass(frozen=True, slots=True)
class KnownHost:
    """What is known of one host."""

    keys: tuple[KnownKey, ...] = ()
    """Its own keys."""
    authorities: tuple[KnownKey, ...] = ()
    """Who may vouch for it."""
    revoked: tuple[KnownKey, ...] = ()
    """Keys that nobody may use any more."""
    elsewhere: tuple[KnownKey, ...] = ()
    """Keys of the same host on SSH's usual port: taken, as OpenSSH does, where no key is listed for this one."""

    @property
    def kinds(self) -> list[str]:
        """The types of keys to ask the host for first."""
        return list(dict.fromkeys(key.kind for key in self.keys or self.elsewhere))

    def judge(self, data: bytes) -> tuple[Verdict, tuple[KnownKey, ...]]:
        """The verdict on a key, and the lines it stands on."""
        if revoked := tuple(key for key in self.revoked if key.data == data):
            return Verdict.REVOKED, revoked
        if known := tuple(key for key in self.keys or self.elsewhere if key.data == data):
            return Verdict.KNOWN, known
        return (Verdict.CHANGED, self.keys) if self.keys else (Verdict.UNKNOWN, ())


def read(files: Iterable[Path]) -> list[KnownKey]:
    """All lines of the files; a file that is not there or cannot be read knows nothing."""
    found = []
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if (key := _parse(line, file, number)) is not None:
                found.append(key)
    return found


def _parse(line: str, file: Path, number: int) -> KnownKey | None:
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    marker = words.pop(0) if words[0].startswith("@") else ""
    if len(words) < 3 or marker not in ("", "@revoked", "@cert-authority"):
        return None
    try:
        data = base64.b64decode(words[2], validate=True)
    except binascii.Error:
        return None
    return KnownKey(words[0], words[1], data, file, number, marker)


def look_up(known: Iterable[KnownKey], host: str, port: int) -> KnownHost:
    """What the lines say of a host (its name, not its address, as OpenSSH has it since 8.5)."""
    name = host.lower()
    here = name if port == DEFAULT_PORT else f"[{name}]:{port}"
    keys: list[KnownKey] = []
    authorities: list[KnownKey] = []
    revoked: list[KnownKey] = []
    elsewhere: list[KnownKey] = []
    for key in known:
        if matches(key.hosts, here):
            {"": keys, "@cert-authority": authorities, "@revoked": revoked}[key.marker].append(key)
        elif port != DEFAULT_PORT and matches(key.hosts, name):
            {"": elsewhere, "@cert-authority": authorities, "@revoked": revoked}[key.marker].append(key)
    return KnownHost(tuple(keys), tuple(authorities), tuple(revoked), tuple(elsewhere))


def matches(hosts: str, name: str) -> bool:
    """Whether a line's hosts (patterns, or one hashed name) are meant by that name."""
    if hosts.startswith("|"):
        return _matches_hash(hosts, name)
    found = False
    for pattern in hosts.lower().split(","):
        # only * and ? mean something here: [ is the beginning of [host]:port
        negated, glob = pattern.startswith("!"), pattern.removeprefix("!").replace("[", "[[]")
        if fnmatch.fnmatchcase(name, glob):
            if negated:
                return False
            found = True
    return found


def _matches_hash(hosts: str, name: str) -> bool:
    fields = hosts.split("|")
    if len(fields) != 4 or fields[1] != "1":
        return False
    try:
        salt, digest = base64.b64decode(fields[2]), base64.b64decode(fields[3])
    except binascii.Error:
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def fingerprint(data: bytes) -> str:
    """A key's fingerprint as OpenSSH prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
