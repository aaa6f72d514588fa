"""The text for a log-in shell, given to the shells that are here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hpccluster.testing.runner_contract import HOSTILE_WORDS
from hpccluster_ssh.command_line import GO, end_command, remote_command

SHELLS = [
    name for name in ("sh", "dash", "bash", "zsh", "ksh", "mksh", "busybox", "tcsh", "fish") if shutil.which(name)
]


def run(shell: str, text: str, stdin: bytes = GO, **environment: str) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which(shell)
    assert program is not None
    argv = [program, *(["sh"] if shell == "busybox" else []), "-c", text]
    variables = {"PATH": "/usr/bin:/bin", "HOME": "/", **environment}
    return subprocess.run(argv, input=stdin, capture_output=True, timeout=20, env=variables)


@pytest.mark.parametrize("shell", SHELLS)
def test_words_and_environment_arrive_unchanged(shell: str) -> None:
    changes = {"GIVEN": "'a' \\ !b\n$HOME ü", "HOME": None}
    command = ("sh", "-c", 'printf "%s|" "${HOME-gone}" "$GIVEN" "$@"; cat', *HOSTILE_WORDS)
    for argv in (command, *(("printf", "<%s>", word) for word in HOSTILE_WORDS)):
        done = run(shell, remote_command(argv, changes, token="T", merge=False), GO + b"not a byte more is read")
        assert done.stdout.startswith(b"T "), done.stderr
        assert done.stderr == b"T\n"
        here = subprocess.run(
            argv,
            input=b"not a byte more is read",
            capture_output=True,
            env={"PATH": "/usr/bin:/bin", "GIVEN": changes["GIVEN"] or ""},
        )
        assert done.stdout.partition(b"\n")[2] == here.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_the_number_is_the_commands_own_and_errors_can_be_merged(shell: str) -> None:
    done = run(shell, remote_command(("sh", "-c", "echo $$; echo error >&2; exit 3"), {}, token="T", merge=True))
    word, number, pid, said = done.stdout.split()
    assert (word, number, said) == (b"T", pid, b"error")
    assert (done.stderr, done.returncode) == (b"", 3)


@pytest.mark.parametrize("shell", SHELLS)
def test_missing_commands_are_told_with_the_path(shell: str) -> None:
    for command in ("no-such-command", "/no/such", "/etc", "/etc/passwd", "-x", "it's", ""):
        done = run(shell, remote_command((command, "word"), {}, token="T", merge=False))
        assert done.stdout == b"T missing /usr/bin:/bin\n"
        assert done.returncode == 127


def test_nothing_runs_that_is_not_told_to_go_on(tmp_path: Path) -> None:
    text = remote_command(("touch", f"{tmp_path}/file"), {}, token="T", merge=False)
    done = run("sh", text, b"")
    assert (done.returncode, done.stderr) == (1, b"T\nhpccluster: standard input is closed here\n")
    assert run("sh", f"exec 1>&-; {text}").returncode == 1, "nobody listens"
    assert not list(tmp_path.iterdir())


def test_plain_commands_are_readable() -> None:
    text = remote_command(("squeue", "--me"), {"LC_ALL": "C"}, token="T", merge=False)
    assert "squeue --me" in text


def test_what_is_no_command() -> None:
    for argv in ((), ("a\0b",)):
        with pytest.raises(ValueError, match="not a command"):
            remote_command(argv, {}, token="T", merge=False)
    for name in ("", "A B", "A=B", "1A", "A;x"):
        with pytest.raises(ValueError, match="not a variable"):
            remote_command(("true",), {name: "x"}, token="T", merge=False)
    for pid in (-1, 0, 1):
        with pytest.raises(ValueError, match="not the number"):
            end_command(pid)
