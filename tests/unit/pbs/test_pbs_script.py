"""The directives of PBS's job script, for both families, and the options that they come from."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any

import msgspec
import pytest

from hpccluster.backend.options import build_options
from hpccluster.config.schema import ClusterOptions
from hpccluster.errors import ConfigError
from hpccluster.ids import JobId, JobName
from hpccluster.job import JobSpec
from hpccluster_pbs.backend import PBSBackend
from hpccluster_pbs.cluster import PBSCluster
from hpccluster_pbs.dialect import PBSDialect, memory_text, shell_of
from hpccluster_pbs.options import DIRECTIVES, PBSOptions, options_of

SMALL: dict[str, Any] = {"cores": 2, "memory": "1GiB"}


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PBS_ACCOUNT", raising=False)


def make_spec(options: PBSOptions, **changes: Any) -> JobSpec:
    values: dict[str, Any] = {
        "name": JobName("hpc-calm-0001"),
        "cluster": "calm",
        "command": ("/usr/bin/python3", "-m", "worker"),
        "resources": options.resources(),
        "walltime": options.walltime_seconds(),
        "log_path": "/logs/calm.log",
    }
    return JobSpec(**(values | changes))


def script(*, spec: dict[str, Any] | None = None, **options: Any) -> str:
    made = PBSOptions(**(SMALL | options))
    return PBSBackend(made).render(make_spec(made, **(spec or {})))


def directives(*, spec: dict[str, Any] | None = None, **options: Any) -> list[str]:
    """The directives of a job script, without the ones that are the same in each."""
    lines = [
        line.removeprefix("#PBS ") for line in script(spec=spec, **options).splitlines() if line.startswith("#PBS")
    ]
    assert lines[:2] == ["-N hpc-calm-0001", "-j oe"]
    return lines[2:]


LOG = '-o "/logs/calm.log"'
PLAIN = [LOG, "-k oed", "-l select=1:ncpus=2:mem=1gb"]
TORQUE = ['-o "/logs/calm.log.pbs"', "-l nodes=1:ppn=2", "-l mem=1gb", "-S /bin/bash"]


def test_small_job() -> None:
    assert directives() == PLAIN
    assert directives(dialect="torque") == TORQUE


def test_everything() -> None:
    assert directives(
        queue="workq", account="proj-1", project="p", walltime="01:30:00", gpus=2, place="scatter:excl", requeue=False,
        umask="022", job_extra_directives=("-m n",), spec={"comment": "hpccluster 0123 head login2"},
    ) == [
        LOG, "-k oed", "-q workq", "-A proj-1", "-P p", "-l select=1:ncpus=2:mem=1gb:ngpus=2", "-l place=scatter:excl",
        "-l walltime=01:30:00", "-r n", "-W umask=022", "-v HPCCLUSTER_MARK=hpccluster_0123_head_login2", "-m n",
    ]  # fmt: skip
    assert directives(dialect="torque", gpus=1, walltime=90, requeue=True) == [
        '-o "/logs/calm.log.pbs"', "-l nodes=1:ppn=2:gpus=1", "-l mem=1gb", "-l walltime=00:01:30", "-r y", "-S /bin/bash",
    ]  # fmt: skip


def test_resource_spec_replaces_all_of_ours() -> None:
    spec = "select=2:ncpus=8:mem=32gb+1:ncpus=1"
    assert directives(resource_spec=spec, gpus=1) == [LOG, "-k oed", f"-l {spec}"]
    assert "-l nodes=1:ppn=8" in directives(resource_spec="nodes=1:ppn=8", dialect="torque")
    assert not [line for line in directives(resource_spec="nodes=1:ppn=8", dialect="torque") if "mem=" in line]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"job_directives_skip": ("-k",)}, ['-o "/logs/calm.log.pbs"', "-l select=1:ncpus=2:mem=1gb"]),
        ({"job_directives_skip": ("-l select",), "walltime": 60}, [LOG, "-k oed", "-l walltime=00:01:00"]),
        ({"job_directives_skip": ("-l",), "walltime": 60}, [LOG, "-k oed"]),
        ({"job_extra_directives": ("-l walltime=99:00:00",), "walltime": 60}, [*PLAIN, "-l walltime=99:00:00"]),
        ({"job_extra_directives": ("-l nodes=1:ppn=3,walltime=60",), "walltime": 60},
         [LOG, "-k oed", "-l nodes=1:ppn=3,walltime=60"]),
        ({"job_extra_directives": ("-qbig",), "queue": "small"}, [*PLAIN, "-qbig"]),
        ({"job_memory": 0}, [LOG, "-k oed", "-l select=1:ncpus=2"]),
        ({"job_cpu": 4, "job_memory": "2000000000"}, [LOG, "-k oed", "-l select=1:ncpus=4:mem=1953125kb"]),
    ],
)  # fmt: skip
def test_directives_of_the_user_win(options: dict[str, Any], left: list[str]) -> None:
    assert directives(**options) == left


def test_output_is_written_live_by_somebody() -> None:
    redirection = "exec >>/logs/calm.log 2>&1"
    assert redirection not in script()
    # where the nodes do not heed -k oed
    assert "exec >>/logs/calm.log.live 2>&1" in script()
    for options in ({"dialect": "torque"}, {"job_directives_skip": ("-k",)}):
        assert redirection in script(**options)


def test_workers_of_a_job_share_its_cores() -> None:
    """OpenPBS gives each program of a job all of them."""
    shared = script(spec={"environment": (("OMP_NUM_THREADS", "3"),)}, cores=8, processes=4)
    assert re.findall(r"^export OMP_NUM_THREADS=(\d)$", shared, re.MULTILINE) == [
        "2",
        "3",
    ]  # the user's word is the last
    assert "OMP_NUM_THREADS" not in script(cores=8, processes=1)


def test_comments_are_no_directives() -> None:
    """PBS takes every line with its prefix for one, up to the first command."""
    head, _, rest = script(job_script_prologue=["#PBS -q evil"]).partition("hpc_say() {")
    assert "#PBS -q evil" in rest
    assert all(line.startswith("#PBS -") for line in head.splitlines() if line.startswith("#PBS"))


@pytest.mark.parametrize(
    "path", ["/logs/a,b.log", "/logs/a:b.log", '/logs/a"b.log', "/logs/$HOME.log", "/logs/a^b.log"]
)
def test_paths_that_qsub_refuses_are_refused_before(path: str) -> None:
    with pytest.raises(ConfigError, match="log_directory"):
        directives(spec={"log_path": path})


@pytest.mark.parametrize(
    ("size", "text"),
    [(1, "1kb"), (1024, "1kb"), (1025, "2kb"), (10**9, "976563kb"), (2**30, "1gb"), (3 * 2**40, "3tb")],
)
def test_memory_is_exact_or_rounded_up(size: int, text: str) -> None:
    assert memory_text(size) == text


@pytest.mark.parametrize(
    ("shebang", "shell"),
    [("#!/usr/bin/env bash", "/bin/bash"), ("#!/bin/sh -l", "/bin/sh"), ("#!/bin/b$sh", None), ("#!bash", None)],
)
def test_shell_of_torque(shebang: str, shell: str | None) -> None:
    assert shell_of(shebang) == shell


# ---------------------------------------------------------------------------------------------------------------- options


def test_every_option_is_a_keyword_of_the_cluster() -> None:
    """Type checkers see misspelt keywords only where they are written out."""
    options = {item.name for item in fields(PBSOptions)}
    common = {item.name for item in fields(ClusterOptions)} - {"backend", "extends"}
    keywords = set(inspect.signature(PBSCluster.__init__).parameters) - {"self", "n_workers", "start_timeout"}
    assert keywords == options | common


def test_options_survive_json() -> None:
    options = build_options(
        PBSOptions,
        {"cores": 8, "memory": "32GB", "requeue": True, "dialect": "torque", "resource_spec": "nodes=1:ppn=8"},
    )
    assert msgspec.json.decode(msgspec.json.encode(options), type=PBSOptions) == options
    schema = msgspec.json.schema(PBSOptions)["$defs"]["PBSOptions"]
    assert all(item.get("description") for item in schema["properties"].values())


def test_account_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PBS_ACCOUNT", "physics")
    assert "-A physics" in directives()
    assert "-A other" in directives(account="other")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("project", "a b"),
        ("resource_spec", "select=1:ncpus=1 -q evil"),
        ("resource_spec", "8"),
        ("resource_spec", "select=$(id)"),
        ("place", "excl;id"),
        ("umask", "09"),
        ("umask", "022 -q x"),
        ("dialect", "pbspro"),
        ("requeue", "yes"),
        ("job_directives_skip", ["-Z"]),
        ("job_directives_skip", ["-l wall"]),
        ("job_directives_skip", ["-N"]),
        ("job_extra_directives", ["-o /elsewhere"]),
        ("job_extra_directives", ["-J 0-3"]),
        ("job_extra_directives", ["-z"]),
        ("job_extra_directives", ["-W umask=022,block=true"]),
    ],
)
def test_wrong_values(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=option):
        build_options(PBSOptions, {option: value})


def test_torque_has_no_placement() -> None:
    with pytest.raises(ConfigError, match="Torque"):
        PBSOptions(dialect="torque", place="excl")
    # where the commands turn out to be Torque's
    made = PBSOptions(place="excl", **SMALL)
    with pytest.raises(ConfigError, match="Torque"):
        PBSDialect.of("torque").context(make_spec(made), made)


@pytest.mark.parametrize(
    ("directive", "options"),
    [("-q short", ("-q",)), ("-qshort", ("-q",)), ("-l select=1:ncpus=2", ("-l select",)), ("-lwalltime=60", ("-l walltime",)),
     ("-l nodes=1:ppn=2,mem=1gb", ("-l nodes", "-l mem")), ("-W umask=022", ("-W umask",)), ("-l", ("-l",))],
)  # fmt: skip
def test_options_of_a_directive(directive: str, options: tuple[str, ...]) -> None:
    assert options_of(directive) == options


def test_spellings_are_unique() -> None:
    spellings = [spelling for names in DIRECTIVES.values() for spelling in names]
    assert len(spellings) == len(set(spellings))


# -------------------------------------------------------------------------------------------------------------------- ids


@pytest.mark.parametrize("text", ["1", "123.pbssrv", "13[].pbssrv", "13[2].pbs-srv.example.org", "535[1]", "7.10-node"])
def test_ids(text: str) -> None:
    PBSDialect().check_id(JobId(text))


@pytest.mark.parametrize(
    "text", ["1.", "1.5", "1.1.1.1", "0.pbssrv", "01.pbssrv", "1[x].pbssrv", "x.pbssrv", "1.pbs;id", "1.-x", "1\n"]
)
def test_texts_that_are_no_ids(text: str) -> None:
    with pytest.raises(ValueError, match="not the id"):
        PBSDialect().check_id(JobId(text))
