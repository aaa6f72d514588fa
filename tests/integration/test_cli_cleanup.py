"""What clusters that are over leave behind is found, shown, removed and verified; what lives is left alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpccluster.head.directory import read_record
from hpccluster.testing.fake_commands import FakeSlurm
from support.cluster_processes import wait_until_gone
from support.command import Commands
from support.deadline import wait_until

ON_SLURM = ("--backend", "slurm", "--set", "cores=1", "--set", "memory=100MB", "--jobs", "2")


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands.below(tmp_path)
    yield made
    wait_until_gone(made.state)


@pytest.fixture
def slurm(commands: Commands) -> Iterator[FakeSlurm]:
    """A queue in which every job waits."""
    with FakeSlurm(slots=0) as fake:
        commands.environment["PATH"] = fake.environment()["PATH"]
        yield fake
        commands.run("down", *(path.parent.name for path in commands.state.rglob("head.json")), code=None)


def kill_head(commands: Commands, name: str) -> None:
    os.kill(json.loads(commands.out("status", name, "--json"))["pid"], signal.SIGKILL)
    wait_until(lambda: json.loads(commands.out("status", name, "--json"))["state"] == "lost", "the lost cluster")


def waiting(slurm: FakeSlurm) -> list[str]:
    return sorted(job.name for job in slurm.jobs.values() if not job.is_over)


def change_record(path: Path, **changes: Any) -> None:
    record = read_record(path)
    assert record is not None
    (path / "head.json").write_bytes(msgspec.json.encode(replace(record, **changes)))


def test_nothing_is_left_where_nothing_was(commands: Commands) -> None:
    assert commands.out("cleanup") == "nothing is left behind\n"
    told = json.loads(commands.out("cleanup", "--json"))
    assert told == {"found": [], "kept": [], "unknown_jobs": [], "removed": False}
    assert "no cluster 'x'" in commands.err("cleanup", "x", code=5)
    assert "--older-than soon: not a duration" in commands.err("cleanup", "--older-than", "soon", code=2)


def test_the_waiting_jobs_of_a_dead_head_are_shown_and_cancelled(commands: Commands, slurm: FakeSlurm) -> None:
    commands.out("up", "--name", "gone", *ON_SLURM)
    commands.out("up", "--name", "lives", *ON_SLURM)
    kill_head(commands, "gone")
    shown = commands.run("cleanup")
    assert re.search(r"'gone'   its head has died \(process \d+ on .*\), started .* ago   slurm", shown.stdout)
    assert all(f"{name} (" in shown.stdout for name in waiting(slurm) if name.startswith("hpc-gone-"))
    assert "queued or running" in shown.stdout
    assert "credentials  4 files" in shown.stdout
    assert "left alone, for it lives: lives" in shown.stderr
    assert "nothing was changed; with --yes it is removed" in shown.stderr
    before = waiting(slurm)
    assert len(before) == 4
    told = json.loads(commands.out("cleanup", "--yes", "--json"))
    (found,) = told["found"]
    assert [job["name"] for job in found["jobs"]] == found["gone"] == before[:2]
    assert (found["unconfirmed"], found["removed_directory"], told["removed"]) == ([], False, True)
    assert [it["name"] for it in told["kept"]] == ["lives"]
    assert waiting(slurm) == before[2:]
    assert [path.name for path in (commands.state / "gone").rglob("*.json")] == ["head.json"]
    facts = json.loads(commands.out("status", "gone", "--json"))
    assert facts["state"] == "ended"
    assert "its head has died" in facts["reason"]
    assert commands.out("cleanup") == "nothing is left behind\n"
    assert json.loads(commands.out("status", "lives", "--json"))["state"] == "running"


def test_down_does_the_same_for_one(commands: Commands, slurm: FakeSlurm) -> None:
    commands.out("up", "--name", "gone", *ON_SLURM)
    kill_head(commands, "gone")
    said = commands.out("down", "gone")
    assert said == "its head had died; put in order 'gone': 2 jobs cancelled and gone\n"
    assert waiting(slurm) == []
    assert "has ended: its head has died" in commands.err("down", "gone", code=5)


def test_a_new_cluster_of_the_name_settles_what_the_dead_one_left(commands: Commands, slurm: FakeSlurm) -> None:
    commands.out("up", "--name", "again", *ON_SLURM)
    before = waiting(slurm)
    kill_head(commands, "again")
    assert json.loads(commands.out("up", "--name", "again", *ON_SLURM, "--json"))["created"]
    assert len(waiting(slurm)) == 2
    assert not set(waiting(slurm)) & set(before)


def test_a_batch_system_that_does_not_answer_is_tried_again_later(commands: Commands, slurm: FakeSlurm) -> None:
    commands.out("up", "--name", "gone", *ON_SLURM)
    kill_head(commands, "gone")
    slurm.fail("squeue", stderr="slurm_load_jobs error: Unable to contact slurm controller", returncode=1, times=1000)
    done = commands.run("cleanup", "--yes", "--timeout", "1", "--older-than", "0", code=3)
    assert "not known whether they are there" in done.stdout
    assert f"did not confirm the end of these jobs: {', '.join(waiting(slurm))}" in done.stderr
    assert json.loads(commands.out("status", "gone", "--json"))["unconfirmed"] == waiting(slurm)
    slurm.faults.clear()
    assert "2 jobs verified gone, directory removed" in commands.out("cleanup", "--yes", "--older-than", "0")
    assert waiting(slurm) == []
    assert not (commands.state / "gone").exists()


def test_a_head_whose_host_does_not_tell_is_left_alone_unless_it_is_known_to_be_gone(
    commands: Commands, slurm: FakeSlurm
) -> None:
    commands.out("up", "--name", "far", *ON_SLURM)
    kill_head(commands, "far")
    change_record(commands.state / "far", host="login9", address="tls://login9.invalid:1")
    shown = commands.run("cleanup", "--yes", "--older-than", "0")
    assert "login9 does not tell whether its head lives" in shown.stderr
    assert "hpccluster cleanup --gone far" in shown.stderr
    assert len(waiting(slurm)) == 2
    assert "2 jobs verified gone" in commands.out("cleanup", "--yes", "--gone", "far")
    assert waiting(slurm) == []


def test_a_living_namesake_elsewhere_is_left_alone(commands: Commands, slurm: FakeSlurm, tmp_path: Path) -> None:
    commands.out("up", "--name", "twin", *ON_SLURM)
    kill_head(commands, "twin")
    elsewhere = tmp_path / "elsewhere"
    commands.out("up", "--name", "twin", *ON_SLURM, "--set", f"state_directory={elsewhere}")
    # a cluster in a state directory of its own is found by its name, too
    assert json.loads(commands.out("status", "twin", "--json"))["directory"] == str(elsewhere / "twin")
    assert len(json.loads(commands.out("jobs", "twin", "--json"))) == 2
    commands.out("cleanup", "--yes", "--older-than", "0")
    assert not (commands.state / "twin").exists()
    assert json.loads(commands.out("status", "twin", "--json"))["state"] == "running"
    assert len(waiting(slurm)) == 2
    assert commands.out("down", "twin").startswith("stopped 'twin'")


def test_jobs_whose_files_are_gone_are_shown_and_cancelled_only_if_that_is_said(
    commands: Commands, slurm: FakeSlurm, tmp_path: Path
) -> None:
    commands.out("up", "--name", "lives", *ON_SLURM)
    known = waiting(slurm)
    commands.environment["HPCCLUSTER_STATE_DIRECTORY"] = str(tmp_path / "elsewhere")
    shown = commands.run("cleanup", "--yes")
    assert all(f"{name} (" in shown.stdout for name in known)
    assert "hpccluster cleanup --unknown-jobs" in shown.stderr
    assert waiting(slurm) == known  # it lives, for all that we know
    del commands.environment["HPCCLUSTER_STATE_DIRECTORY"]
    assert json.loads(commands.out("cleanup", "--json"))["unknown_jobs"] == []
    kill_head(commands, "lives")
    shutil.rmtree(commands.state / "lives")
    assert [it["name"] for it in json.loads(commands.out("cleanup", "--json"))["unknown_jobs"]] == known
    assert "2 jobs of unknown clusters verified gone" in commands.out("cleanup", "--yes", "--unknown-jobs")
    assert waiting(slurm) == []


def test_directories_go_when_they_are_old(commands: Commands) -> None:
    for name in ("old", "new"):
        commands.out("up", "--name", name, "--workers", "1")
        commands.out("down", name)
    wait_until_gone(commands.state)
    change_record(commands.state / "old", ended=1e9)
    change_record(commands.state / "new", ended=time.time() - 2 * 86400)
    assert "2 that ended more than a day ago: hpccluster status --all" in commands.run("status").stderr
    change_record(commands.state / "new", ended=time.time() - 0.9 * 86400)
    listed = commands.run("status")
    assert "new" in listed.stdout
    assert "old" not in listed.stdout.replace("older", "")
    assert "1 that ended more than a day ago" in listed.stderr
    assert "old" in commands.out("status", "--all")
    assert "goes)" in commands.out("cleanup")
    assert "'old': directory removed" in commands.out("cleanup", "--yes")
    assert sorted(path.name for path in commands.state.iterdir()) == ["new"]
    for answer, remains in (("n", True), ("y", False)):
        code, shown = commands.at_terminal("cleanup", "new", "--older-than", "0", typed=f"{answer}\n")
        assert "remove this? [y/N]" in shown
        assert (code, (commands.state / "new").exists()) == (0, remains)


def test_a_batch_system_that_is_out_of_reach_keeps_no_other_from_being_tidied_up(
    commands: Commands, slurm: FakeSlurm, tmp_path: Path
) -> None:
    commands.out("up", "--name", "lives", *ON_SLURM)
    known = waiting(slurm)
    broken = tmp_path / "broken"
    broken.mkdir()
    for command in ("qsub", "qstat", "qdel"):
        (broken / command).write_text("#!/bin/sh\necho 'cannot connect to server' >&2\nexit 111\n")
        (broken / command).chmod(0o755)
    (commands.directory / "hpccluster.yaml").write_text("pbs: {queue: short}\n")
    commands.environment["PATH"] = f"{broken}{os.pathsep}{commands.environment['PATH']}"
    commands.environment["HPCCLUSTER_STATE_DIRECTORY"] = str(tmp_path / "elsewhere")
    done = commands.run("cleanup", "--yes", "--unknown-jobs", code=3)
    assert f"slurm: {len(known)} jobs of unknown clusters verified gone" in done.stdout
    assert waiting(slurm) == []
    assert "jobs of unknown clusters may still be there, in pbs: " in done.stderr
    del commands.environment["HPCCLUSTER_STATE_DIRECTORY"]
