"""The errors of connecting by SSH: one layout for both runners. Pure.

Each names the host, what was said, and what to do.
"""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Sequence

from hpccluster.backend.remote import RemoteTarget
from hpccluster.errors import BackendUnavailable, CommandFailed, Detail
from hpccluster_ssh.hop import Attempts, Hop
from hpccluster_ssh.known_hosts import DEFAULT_PORT, KnownHost, KnownKey, Verdict, fingerprint

START_FILES = (
    "its start files (~/.bashrc, /etc/profile, ...) must come to an end: where nobody sits at a terminal they may\n"
    "neither wait, nor become another program (exec), nor throw their output away"
)


def _unavailable(what: str, code: str, fields: Sequence[tuple[str, str]], **details: Detail) -> BackendUnavailable:
    lines = [f"{what} ({code})"]
    width = max(len(label) for label, _ in fields) + 1
    for label, text in fields:
        first, *rest = text.splitlines() or [""]
        lines += [f"  {label + ':' if label else '':<{width}} {first}", *(f"  {'':<{width}} {line}" for line in rest)]
    return BackendUnavailable("\n".join(lines), code=code, details=details)


def host_key(hop: Hop, known: KnownHost, kind: str, data: bytes) -> BackendUnavailable:
    """The key that the host has shown is not one that we know."""
    verdict, lines = known.judge(data)
    shown = ("it shows", f"{kind} {fingerprint(data)}")
    details: dict[str, Detail] = {"host": hop.name, "key": kind, "fingerprint": fingerprint(data)}
    if verdict is Verdict.REVOKED:
        return revoked(hop, lines, shown)
    if verdict is Verdict.CHANGED:
        return changed(hop, lines, shown, details, _authority(hop, known))
    files = ", ".join(map(str, hop.known_hosts)) or "no file"
    port = "" if hop.port == DEFAULT_PORT else f"-p {hop.port} "
    fields = [shown, ("looked in", files)]
    fields += _authority(hop, known)
    fields.append(("fix", "compare the fingerprint with the one that the host's administrators tell, then type"))
    if hop.jumps:
        fix = (
            f"ssh {'' if hop.target.config_file is None else f'-F {shlex.quote(hop.target.config_file)} '}{_typed(hop)}"
        )
    else:
        fix = f"ssh-keyscan {port}-t {_short(kind)} {shlex.quote(hop.host)} >> {_first_file(hop)}"
    fields.append(("", fix))
    return _unavailable(f"{hop.name}: its host key is not known", "HPC-SSH-HOSTKEY-UNKNOWN", fields, **details)


def _authority(hop: Hop, known: KnownHost) -> list[tuple[str, str]]:
    """Why an authority that is trusted does not help."""
    if not known.authorities:
        return []
    where = known.authorities[0].where
    if hop.takes_certificates:
        return [("note", f"{where} trusts an authority, which has not signed this key")]
    return [("note", f"{where} trusts an authority, but paramiko knows no certificates; runner='asyncssh' does")]


def changed(
    hop: Hop,
    lines: Sequence[KnownKey],
    shown: tuple[str, str],
    details: dict[str, Detail],
    notes: Sequence[tuple[str, str]] = (),
) -> BackendUnavailable:
    """The host has another key than the one that is known."""
    name = hop.host_key_alias or (hop.host if hop.port == DEFAULT_PORT else f"[{hop.host}]:{hop.port}")
    expected = "\n".join(f"{key.kind} {fingerprint(key.data)}  ({key.where})" for key in lines)
    fields = [
        shown,
        ("known is", expected),
        *notes,
        ("meaning", "somebody may be in between, or the host was installed anew"),
        ("fix", "only if you know why it has changed, remove the old key and accept the new one:"),
        ("", f"ssh-keygen -f {shlex.quote(str(lines[0].file))} -R {shlex.quote(name)}"),
    ]
    return _unavailable(
        f"{hop.name}: its host key has changed",
        "HPC-SSH-HOSTKEY-CHANGED",
        fields,
        **{"host": hop.name, "file": str(lines[0].file), "line": lines[0].line, **details},
    )


def revoked(hop: Hop, lines: Sequence[KnownKey], shown: tuple[str, str]) -> BackendUnavailable:
    """The host uses a key, or an authority's, that was revoked."""
    fields = [
        shown,
        ("revoked by", ", ".join(key.where for key in lines)),
        ("fix", "none from here: ask the host's administrators for its new key"),
    ]
    return _unavailable(f"{hop.name}: its host key is revoked", "HPC-SSH-HOSTKEY-REVOKED", fields, host=hop.name)


def not_logged_in(hop: Hop, said: str, attempts: Attempts) -> BackendUnavailable:
    """The host does not let us in."""
    fields = [("it said", said), ("tried", "\n".join(attempts.lines()))]
    if attempts.refused and attempts.waiting:
        fix = "fewer keys than the host cares to see (MaxAuthTries): name the one to use (identity_file)"
    elif attempts.waiting and attempts.offered:
        fields.append(("it takes", f"no keys, but: {', '.join(attempts.offered)}"))
        fix = "nobody is asked for a password here: the host must take a key of this user (PubkeyAuthentication)"
    elif any("passphrase" in key for key in attempts.keys):
        fix = "put the key into an agent (ssh-add), or name one without a passphrase (identity_file)"
    else:
        fix = "name the key (identity_file) or the user, or add the public key to ~/.ssh/authorized_keys there"
    fields += [("fix", fix), ("", f"try: {_typed_line(hop)}")]
    return _unavailable(
        f"{hop.name}: user {hop.user!r} could not log in",
        "HPC-SSH-AUTH",
        fields,
        host=hop.name,
        user=hop.user,
        said=said,
    )


def unreachable(hop: Hop, said: str | OSError, via: Hop | None = None) -> BackendUnavailable:
    """There is no way to the host, or nobody answers there."""
    if isinstance(said, OSError):
        number = 0 if isinstance(said, socket.gaierror) else said.errno or 0
        said = os.strerror(number) if number > 0 else said.strerror or str(said)
    way = f" (through {via.name})" if via is not None else ""
    fields = [("ssh said", said)]
    if hop.proxy_command:
        fields.append(("it ran", f"ProxyCommand {hop.proxy_command}"))
    fields += [("fix", f"check name, port and network; try: {_typed_line(hop)}")]
    return _unavailable(f"{hop.name}: cannot be reached{way}", "HPC-SSH-UNREACHABLE", fields, host=hop.name, said=said)


def lost_at_once(host: str) -> BackendUnavailable:
    """Each connection was lost as soon as it was made."""
    fields = [
        ("ssh said", "the connection was lost as soon as it was made, again and again"),
        ("fix", f"the host's sshd may tell why in its log; try: {_typed_name(host)}"),
    ]
    return _unavailable(f"{host}: cannot be reached", "HPC-SSH-UNREACHABLE", fields, host=host)


def no_answer(hop: Hop, via: Hop | None = None) -> BackendUnavailable:
    """Nothing came back in time."""
    return unreachable(hop, f"no answer within {hop.target.connect_timeout:g} s (connect_timeout)", via)


def unusable(target_name: str, said: str) -> BackendUnavailable:
    """The configuration file, or what it says of this host, makes no sense."""
    return _unavailable(
        f"{target_name}: the SSH configuration cannot be used", "HPC-SSH-CONFIG", [("problem", said)], host=target_name
    )


def no_shell(host: str, said: str, code: int | None) -> BackendUnavailable:
    """The log-in worked, but no command was run."""
    ended = "" if code is None else f" and ended with exit code {code}"
    fields = [
        ("it said", (said.strip() or "nothing") + ended),
        ("fix", f"let the user's log-in shell there run commands; try: {_typed_name(host)}"),
    ]
    return _unavailable(f"{host}: the log-in shell runs no commands", "HPC-SSH-SHELL", fields, host=host)


def no_answer_of_shell(host: str, what: str, heard: str, seconds: float) -> CommandFailed:
    """The log-in worked, but the log-in shell did not come to our command in time."""
    fields = [
        ("it said", heard.strip() or "nothing"),
        ("fix", f"{START_FILES}; try: {_typed_name(host)}"),
    ]
    error = _unavailable(f"{host}: the log-in shell did not start {what} within {seconds:g} s", "HPC-SSH-SHELL", fields)
    return CommandFailed(str(error), code=error.code, details={"command": what, "host": host})


def no_place(host: str, said: str) -> BackendUnavailable:
    """The host has no place for the few files of a job."""
    fields = [
        ("it said", said.strip().partition("\n")[0] or "nothing"),
        (
            "fix",
            "the user needs a directory there with room in it: /tmp, or another one that $TMPDIR of the log-in names",
        ),
    ]
    return _unavailable(f"{host}: no place for the files of a job", "HPC-SSH-DIRECTORY", fields, host=host, said=said)


def no_sessions(host: str, said: str) -> BackendUnavailable:
    """The server opens no session at all."""
    fields = [("it said", said), ("fix", "the server must allow sessions (MaxSessions in sshd_config)")]
    return _unavailable(f"{host}: the server opens no session", "HPC-SSH-SHELL", fields, host=host)


def no_tunnel(host: str, said: str | None = None) -> BackendUnavailable:
    """The server forwards no port of its own to us, or (None) this library cannot ask for it."""
    if said is None:
        fields = [("fix", "this runner forwards no ports: runner='asyncssh' does")]
    else:
        fields = [("it said", said), ("fix", "the server must allow it (AllowTcpForwarding in sshd_config)")]
    return _unavailable(f"{host}: no tunnel for its workers", "HPC-SSH-TUNNEL", fields, host=host)


def missing_command(host: str, command: str, path: str) -> BackendUnavailable:
    """There is no such command on the host."""
    where = "" if "/" in command else f"; PATH of commands by SSH there is {path}"
    return BackendUnavailable(
        f"{host}: {command}: no such command{where}",
        code="HPC-BACKEND-COMMAND",
        details={"command": command, "host": host},
    )


def lost(host: str, what: str, said: str) -> CommandFailed:
    """The connection broke under a command."""
    because = f" ({said})" if said else ""
    return CommandFailed(
        f"{host}: the connection was lost{because} under {what}; it may still run there, or have done its work",
        code="HPC-CONNECTION-LOST",
        details={"host": host, "command": what, "said": said},
    )


def _short(kind: str) -> str:
    return next((name for name in ("ed25519", "ecdsa", "rsa") if name in kind), kind)


def _first_file(hop: Hop) -> str:
    return shlex.quote(str(hop.known_hosts[0])) if hop.known_hosts else "~/.ssh/known_hosts"


def _typed(hop: Hop) -> str:
    options = f"-p {hop.target.port} " if hop.target.port else ""
    options += f"-J {shlex.quote(hop.target.proxy_jump)} " if hop.target.proxy_jump else ""
    user = f"{hop.target.user}@" if hop.target.user else ""
    return options + shlex.quote(user + hop.target.host)


def _typed_name(host: str) -> str:
    """For a host as people write it."""
    target = RemoteTarget.parse(host)
    port = f"-p {target.port} " if target.port else ""
    return f"ssh {port}{shlex.quote(f'{target.user}@{target.host}' if target.user else target.host)} true"


def _typed_line(hop: Hop) -> str:
    config = f"-F {shlex.quote(hop.target.config_file)} " if hop.target.config_file else ""
    return f"ssh {config}{_typed(hop)} true"
