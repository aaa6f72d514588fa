"""The lines to type that errors show."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest

from hpccluster_ssh import refusals


@pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH reads the lines")
@pytest.mark.parametrize(
    ("host", "meant"),
    [
        ("n1", ("n1", "22")),
        ("ana@n1", ("n1", "22")),
        ("ana@n1:2222", ("n1", "2222")),
        ("fe80::1", ("fe80::1", "22")),
        ("ana@[fe80::1]:2222", ("fe80::1", "2222")),
    ],
)
def test_the_line_to_try_goes_to_the_host(host: str, meant: tuple[str, str]) -> None:
    for error in (refusals.no_shell(host, "no", 1), refusals.lost_at_once(host)):
        line = str(error).splitlines()[-1].partition("try: ")[2]
        program, *words = shlex.split(line)
        assert (program, words[-1]) == ("ssh", "true")
        # what OpenSSH makes of it, without a connection
        done = subprocess.run(["ssh", "-G", "-F", "/dev/null", *words], capture_output=True, text=True, timeout=20)
        said = dict(entry.split(" ", 1) for entry in done.stdout.splitlines() if " " in entry)
        assert (said.get("hostname"), said.get("port")) == meant, done.stderr
