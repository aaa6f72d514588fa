"""Clusters without a program: started by name, resized, left to follow their work, used beside a terminal, taken down."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.command import COMMAND, Commands
from support.deadline import wait_until

USES = """\
import os, sys
from hpccluster import Client
with Client() as client:
    print(client.cluster_name, client.submit(pow, 2, 6).result())
sys.exit(7)
"""
LOGS = """\
import logging
from hpccluster import Client
with Client() as client:
    client.submit(logging.getLogger("mine").warning, "look here").result()
"""


def test_a_cluster_is_got_or_made_by_its_name(commands: Commands) -> None:
    said = commands.out("up", "--name", "mine", "--workers", "1")
    assert said.startswith("started 'mine'   head: here (")
    assert "1 job x 1 worker" in said
    assert 'Client("mine")' in said
    first = json.loads(commands.out("status", "mine", "--json"))
    assert (first["detached"], first["state"]) == (True, "running")
    again = json.loads(commands.out("up", "--name", "mine", "--workers", "3", "--json"))
    assert (again["created"], again["id"], again["pid"]) == (False, first["id"], first["pid"])
    assert commands.out("up", "--name", "mine").startswith("'mine' runs already, and is left as it is")
    assert json.loads(commands.out("status", "mine", "--json"))["expected_workers"] == 1
    # another kind of cluster of that name is a wrong usage, and nothing is started
    (commands.directory / "other.yaml").write_text("backend: slurm\ncores: 1\nmemory: 1GB\nname: mine\n")
    (commands.directory / "other.yaml").chmod(0o600)
    assert "on the backend local, not slurm" in commands.err("up", "-c", "other.yaml", code=2)


def test_two_at_once_make_one_cluster(commands: Commands) -> None:
    arguments = [*COMMAND, "up", "--name", "mine", "--workers", "1", "--json"]
    both = [
        subprocess.Popen(
            arguments,
            cwd=commands.directory,
            env=commands.variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    answers = [json.loads(process.communicate(timeout=50)[0]) for process in both]
    assert sorted(answer["created"] for answer in answers) == [False, True]
    assert answers[0]["id"] == answers[1]["id"]


def test_the_size_follows_the_work_between_bounds(commands: Commands) -> None:
    made = json.loads(commands.out("up", "--set", "adapt.maximum=1", "--json"))
    name = made["name"]
    assert (made["created"], made["plan"]) == (True, None)
    said = commands.out("adapt", name, "--minimum-jobs", "2", "--maximum", "4", "--idle-timeout", "1min")
    assert said == f"{name!r} follows its work: 2 to 4 jobs\n"
    wait_until(lambda: len(json.loads(commands.out("workers", name, "--json"))) == 2, "two workers")
    limits = json.loads(commands.out("adapt", name, "--maximum-memory", "1TB", "--json"))
    assert (limits["minimum"], limits["idle_timeout"]) == (0, 300.0)
    assert "minimum needs 3 jobs but the maximum allows 1" in commands.err(
        "adapt", name, "--minimum", "3", "--maximum-jobs", "1", code=2
    )
    assert "not a duration" in commands.err("adapt", name, "--interval", "soon", code=2)
    down = json.loads(commands.out("down", name, "--json"))
    assert down[name]["unconfirmed"] == []
    assert "has ended" in commands.err("adapt", name, code=5)


def test_python_and_programs_are_run_beside_a_cluster_and_leave_it_running(commands: Commands) -> None:
    commands.out("up", "--name", "mine", "--workers", "1")
    typed = "def twice(x): return 2 * x\n\nprint('result', client.submit(twice, 21).result(), cluster.name)\n"
    done = subprocess.run(
        [*COMMAND, "attach", "mine"], input=typed, env=commands.variables(), capture_output=True, text=True, timeout=50
    )
    assert "result 42 mine" in done.stdout, done.stderr
    assert "LocalCluster 'mine'  tls://" in done.stderr
    assert "leaves it running" in done.stderr
    done = commands.run("attach", "mine", "--", sys.executable, "-c", USES, code=7)
    assert done.stdout == "mine 64\n"
    assert "no such program" in commands.err("attach", "mine", "--", "./nothing", code=125)
    assert "no cluster 'yours'" in commands.err("attach", "yours", "--", "true", code=125)
    assert "no cluster 'yours'" in commands.err("attach", "yours", code=5)
    assert json.loads(commands.out("status", "mine", "--json"))["workers"] == 1


def test_a_cluster_of_dasks_is_used_with_dasks_client(commands: Commands) -> None:
    pytest.importorskip("distributed")
    commands.out("up", "--name", "theirs", "--workers", "1", "--set", "engine=dask")
    uses = "from dask.distributed import Client\nwith Client() as client: print(client.submit(pow, 2, 7).result())"
    assert commands.out("attach", "theirs", "--", sys.executable, "-c", uses) == "128\n"
    typed = "print(type(client).__module__, client.submit(pow, 2, 8).result())\nclient.close()\n"
    done = subprocess.run(
        [*COMMAND, "attach", "theirs"],
        input=typed,
        env=commands.variables(),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert "distributed.client 256" in done.stdout, done.stderr


def test_what_tasks_log_comes_with_level_and_name(commands: Commands) -> None:
    commands.out("up", "--name", "mine", "--workers", "1")
    commands.out("attach", "mine", "--", sys.executable, "-c", LOGS)
    (job,) = json.loads(commands.out("jobs", "mine", "--json"))
    wait_until(
        lambda: "  WARNING  mine  look here\n" in commands.out("logs", "mine", "--job", job["name"]), "what was logged"
    )
