"""The script of a job on a host: how long it lives, whatever programs there are."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpccluster.backend.jobs import make_job_spec
from hpccluster.ids import JobName
from hpccluster_ssh.backend import SSHBackend
from hpccluster_ssh.options import ConnectOptions, SSHOptions

PROGRAMS = ("cat", "date", "dd", "mkdir", "rm", "sh", "sleep", "uname")


@contextmanager
def job(directory: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A running job that says ``begun`` and ends when somebody writes to ``fifo``; on a host with these programs only."""
    programs = directory / "bin"
    programs.mkdir()
    for name in (*PROGRAMS, *more):
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"no {name} here")
        (programs / name).symlink_to(found)
    fifo, private, script = directory / "fifo", directory / "private", directory / "job.sh"
    subprocess.run(["mkfifo", fifo], check=True)
    private.mkdir()
    options = SSHOptions(
        hosts=("n1",),
        python=f"sh -c 'echo begun; cat {fifo}'",
        connect_options=ConnectOptions(keepalive=0.5),
    )
    spec = make_job_spec(
        options, name=JobName("hpc-calm-0001"), cluster="calm", arguments=(), logs="", comment="", working_directory=""
    )
    script.write_text(SSHBackend(options).render(spec))
    with subprocess.Popen(
        ["/bin/sh", str(script), str(private)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={"PATH": str(programs)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        while "begun" not in (line := process.stdout.readline()):
            assert line, "it has ended"
        try:
            yield process
        finally:
            process.kill()


def test_job_lives_while_somebody_holds_its_life_line(tmp_path: Path) -> None:
    """Also where no program bounds the time of another one."""
    with job(tmp_path) as process:
        assert process.stdout is not None
        (tmp_path / "fifo").write_text("the end\n")
        assert "the end\n" in process.stdout.read()
        assert process.wait(20) == 0


@pytest.mark.parametrize("program", ["timeout", "perl"])
def test_silence_ends_a_job(program: str, tmp_path: Path) -> None:
    with job(tmp_path, program) as process:
        assert process.stdout is not None
        assert "nothing is heard any more" in process.stdout.read()
        assert process.wait(20) == 128 + 15
    assert not (tmp_path / "private").exists()


def test_end_of_the_life_line_ends_a_job(tmp_path: Path) -> None:
    with job(tmp_path) as process:
        process.communicate(timeout=20)
        assert process.returncode == 128 + 15
    assert not (tmp_path / "private").exists()
