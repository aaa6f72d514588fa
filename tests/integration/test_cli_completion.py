"""What a shell is offered while a command line is typed: asked as the shells ask."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.command import COMMAND, Commands

SITE = "slurm: {queue: short}\nclusters: {gpu: {extends: slurm}, green: {backend: local}}\n"


@pytest.fixture
def commands(commands: Commands) -> Commands:
    file = commands.directory / "hpccluster.yaml"
    file.write_text(SITE)
    file.chmod(0o600)
    return commands


def offered(commands: Commands, *words: str) -> list[str]:
    """What bash is told for the last of these words."""
    done = subprocess.run(
        COMMAND,
        cwd=commands.directory,
        env=commands.variables()
        | {
            "_HPCCLUSTER_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["hpccluster", *words]),
            "COMP_CWORD": str(len(words)),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_verbs_options_and_described_clusters_are_offered(commands: Commands) -> None:
    assert offered(commands, "sc") == ["scale", "scheduler", "script"]
    assert "--maximum-jobs" in offered(commands, "adapt", "--max")
    assert offered(commands, "config", "i") == ["import", "init"]
    assert offered(commands, "up", "-c", "g") == ["gpu", "green", "g"]  # and files
    assert offered(commands, "script", "--backend", "sl") == ["slurm"]
    assert offered(commands, "config", "show", "gr") == ["green"]
    assert offered(commands, "config", "get", "gpu.que") == ["gpu.queue"]
    assert offered(commands, "help", "wor") == ["worker", "workers"]


def test_a_broken_configuration_offers_nothing_and_says_nothing(commands: Commands) -> None:
    (commands.directory / "hpccluster.yaml").write_text("slurm: [\n")
    assert offered(commands, "up", "-c", "g") == ["g"]
    assert offered(commands, "config", "get", "g") == []
    assert offered(commands, "logs", "nobody", "--job", "") == []


def test_clusters_and_their_jobs_are_offered(commands: Commands) -> None:
    for name in ("mine-a", "mine-b"):
        commands.out("up", "--name", name, "--workers", "1")
    (job,) = json.loads(commands.out("jobs", "mine-a", "--json"))
    assert offered(commands, "jobs", "mi") == ["mine-a", "mine-b"]
    assert offered(commands, "down", "mine-a", "mi") == ["mine-b"]
    assert offered(commands, "logs", "mine-a", "--job", "hpc-") == [job["name"]]
    assert job["id"] in offered(commands, "logs", "mine-a", "--job", "")
    commands.out("down", "mine-a", "mine-b")
    assert offered(commands, "scale", "mi") == []
    assert offered(commands, "status", "mi") == ["mine-a", "mine-b"]
    assert offered(commands, "logs", "mine-a", "--job", "hpc-") == [job["name"]]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_with_the_script(commands: Commands, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "hpccluster"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec {COMMAND[0]} -c '{COMMAND[2]}' \"$@\"\n")
    program.chmod(0o755)
    text = (
        'eval "$(hpccluster completion bash)"; COMP_WORDS=(hpccluster work); COMP_CWORD=1; '
        '_hpccluster_completion hpccluster work hpccluster 2>/dev/null; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", text],
        cwd=commands.directory,
        env=commands.variables() | {"PATH": f"{program.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.split() == ["worker", "workers"], done.stderr
