"""A command as the text that an SSH server hands to the user's login shell. Pure.

The login shell may be any (bash, dash, zsh, tcsh, fish) and may print greetings when it starts. So all it has to do is
to start ``/bin/sh``, which says a word that nobody else knows and its own process number, waits to be told to go on,
and becomes the command. What came before that word is not the command's; and nothing runs whose number is not known
here. The words of the command arrive unchanged whatever they hold: characters that some shell would interpret even
between quotes are sent as octal numbers.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_KEPT = re.compile(r"[\x20-\x7e]*\Z")  # printable ASCII
_INTERPRETED = re.compile(r"[!\\]")  # csh's history, fish's backslash: also between single quotes

GO = b"\n"
"""To be written to its standard input before anything else."""
MISSING = "missing"
"""Said in place of the process number where there is no such command."""


def remote_command(argv: Sequence[str], changes: Mapping[str, str | None], *, token: str, merge: bool) -> str:
    """The text to execute. ``merge``: standard error goes where standard output goes.

    Raises `ValueError` for what no command can be given.
    """
    if not argv or any("\0" in word for word in argv):
        raise ValueError(f"not a command: {list(argv)!r}")
    script = [*_environment(changes), *(["exec 2>&1"] if merge else [f"echo {token} >&2 || exit 1"])]
    program = shlex.quote(argv[0])
    there = f"[ -f {program} ] && [ -x {program} ]" if "/" in argv[0] else f"command -v {program} >/dev/null 2>&1"
    script += [
        f'{there} || {{ echo "{token} {MISSING} $PATH"; exit 127; }}',
        # where nobody listens any more, nothing is run; `read` takes no byte more than the line
        f'echo "{token} $$" || exit 1',
        'read -r hpccluster_go || { echo "hpccluster: standard input is closed here" >&2; exit 1; }',
        f"exec {shlex.join(argv)}",
    ]
    text = "\n".join(script)
    if "\n" not in text and _KEPT.match(text) and not _INTERPRETED.search(text):
        return f"exec /bin/sh -c {shlex.quote(text)}"
    octal = "".join(_octal(byte) for byte in text.encode(errors="surrogateescape"))
    return f'exec /bin/sh -c \'eval "$(printf "%b" "{octal}")"\''


def _environment(changes: Mapping[str, str | None]) -> list[str]:
    script = []
    for name, value in changes.items():
        if not _NAME.match(name) or (value is not None and "\0" in value):
            raise ValueError(f"not a variable of an environment: {name!r}")
        script.append(f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}")
    return script


def _octal(byte: int) -> str:
    character = chr(byte)
    return (
        character if character.isascii() and (character.isalnum() or character in " /._-=,:@%+") else f"\\0{byte:03o}"
    )


def end_command(pid: int) -> list[str]:
    """What ends a command by force, with all that it has started in its process group."""
    if pid <= 1:
        raise ValueError(f"not the number of a command: {pid}")
    return ["/bin/sh", "-c", 'kill -s KILL -- "-$1" 2>/dev/null || kill -KILL "$1"', "sh", str(pid)]
