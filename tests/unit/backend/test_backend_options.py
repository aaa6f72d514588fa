"""Options: unknown keywords, wrong values, what is missing, and what follows from them."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpccluster.backend.jobs import (
    job_command,
    job_comment,
    log_directory,
    make_job_spec,
    make_log_directory,
    worker_arguments,
)
from hpccluster.backend.options import (
    BatchOptions,
    JobOptions,
    build_options,
)
from hpccluster.errors import ConfigError
from hpccluster.ids import JobName
from hpccluster.resources import JobResources


def test_all_unknown_keywords_are_told_with_suggestions() -> None:
    with pytest.raises(ConfigError) as caught:
        build_options(
            BatchOptions,
            {"quue": "a", "project": "b", "zzz": 1, "cores": 2},
            origins={"quue": "hpccluster.yaml line 4"},
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "unknown option 'quue' (hpccluster.yaml line 4): did you mean 'queue'?"
    assert lines[1] == "unknown option 'project': it is called 'account' here"
    assert lines[2].startswith("unknown option 'zzz': the options are account, cores, death_timeout")
    assert caught.value.code == "HPC-CONFIG-UNKNOWN"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"cores": "four"}, "cores='four': expected `int | null`, got `str`"),
        ({"cores": 0}, "cores=0: at least 1"),
        ({"cores": True}, "cores=True: expected `int | null`, got `bool`"),
        ({"processes": -1}, "processes=-1: at least 1"),
        ({"gpus": -1}, "gpus=-1: not negative"),
        ({"memory": "3 apples"}, "memory='3 apples': not a size"),
        ({"memory": 32}, "memory=32: that is 32 bytes; write the unit, as in memory='32GB'"),
        ({"job_mem": "64"}, "job_mem='64': that is 64 bytes"),
        ({"job_memory": "x"}, "job_memory='x': not a size"),
        ({"walltime": "1:99"}, "walltime='1:99': not a duration"),
        ({"walltime": 0}, "walltime=0: more than nothing"),
        ({"death_timeout": "soon"}, "death_timeout='soon': not a duration"),
        ({"queue": "a b"}, "queue='a b': allowed: letters, digits"),
        ({"queue": "-x"}, "queue='-x': allowed"),
        ({"account": "a\n"}, r"account='a\n': allowed"),
        ({"python": "'"}, 'python="\'": No closing quotation'),
        ({"python": " "}, "python=' ': no command"),
        ({"shebang": "/bin/sh"}, "shebang='/bin/sh': allowed: one line that begins with '#!'"),
        ({"env": {"A B": "1"}}, "env='A B': not the name of an environment variable"),
        ({"env": {"A": "1\n2"}}, r"env='1\n2': allowed: printable text on one line"),
        ({"job_script_prologue": "module load x"}, 'write it as a list: ["module load x"]'),
        ({"job_script_prologue": ["a\r"]}, r"job_script_prologue='a\r': allowed: lines of shell"),
        ({"job_directives_skip": ["mem"]}, "job_directives_skip='mem': allowed: a directive's name"),
        ({"job_extra_directives": ["#SBATCH -x"]}, "job_extra_directives='#SBATCH -x': allowed: one directive"),
        ({"worker_extra_args": ["a\0"]}, "worker_extra_args="),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_wrong_values_are_told(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_options(BatchOptions, keywords)
    assert message in str(caught.value)
    assert caught.value.code == "HPC-CONFIG-VALUE"
    assert caught.value.details["option"] in keywords


def test_origin_of_a_wrong_value_is_told() -> None:
    for keywords in ({"queue": "a b"}, {"queue": 1.5}):
        with pytest.raises(ConfigError, match=r"site\.yaml line 3") as caught:
            build_options(BatchOptions, keywords, origins={"queue": "site.yaml line 3"})
        assert caught.value.details["origin"] == "site.yaml line 3"


def test_none_is_not_given_and_kebab_is_snake(tmp_path: Path) -> None:
    options = build_options(
        BatchOptions,
        {"cores": 4, "memory": None, "shebang": None, "log-directory": tmp_path, "job-script-prologue": ("a", "b")},
    )
    assert options.shebang == "#!/usr/bin/env bash"
    assert options.log_directory == str(tmp_path)
    assert options.job_script_prologue == ("a", "b")


def test_options_cross_to_the_head_as_json() -> None:
    options = build_options(
        BatchOptions, {"cores": 4, "memory": "8GB", "env": {"N": 4}, "walltime": 3600, "job_script_prologue": ["x"]}
    )
    assert msgspec.json.decode(msgspec.json.encode(options), type=BatchOptions) == options
    assert build_options(BatchOptions, msgspec.to_builtins(options)) == options


def test_every_option_is_documented_in_the_schema() -> None:
    schema = msgspec.json.schema(BatchOptions)["$defs"]["BatchOptions"]
    assert all(item.get("description") for item in schema["properties"].values())


def test_all_that_is_missing_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"missing: cores, memory .*give cores=, memory="):
        BatchOptions().resources()
    with pytest.raises(ConfigError, match="missing: memory"):
        BatchOptions(cores=2).resources()
    assert JobOptions(cores=2).resources() == JobResources(2, None, 2)
    assert BatchOptions(cores=8, memory="32GB").resources() == JobResources(8, 32 * 10**9, 4)
    with pytest.raises(ConfigError, match="shared evenly"):
        BatchOptions(cores=4, memory="1GB", processes=3).resources()


def test_what_is_asked_of_the_batch_system_may_differ() -> None:
    options = BatchOptions(cores=8, memory="32GB", job_cpu=16, job_memory="40GB")
    assert (options.requested_cpus(), options.requested_memory()) == (16, 40 * 10**9)
    assert BatchOptions(cores=8, memory="32GB", job_mem=0).requested_memory() == 0
    plain = BatchOptions(cores=8, memory="32GB")
    assert (plain.requested_cpus(), plain.requested_memory()) == (8, 32 * 10**9)
    assert BatchOptions(cores=8).requested_memory() is None


def test_worker_command() -> None:
    options = JobOptions(cores=1, death_timeout="1min", local_directory="$TMPDIR/x", interface="ib0")
    assert worker_arguments(options) == (
        *("--death-timeout", "60", "--local-directory", "$TMPDIR/x", "--interface", "ib0"),
    )
    assert job_command(JobOptions(worker_extra_args=("-x",)), ("-m", "w")) == (sys.executable, "-m", "w", "-x")
    wrapped = JobOptions(python="apptainer exec 'my image.sif' python")
    assert job_command(wrapped, ("-m", "w"))[:4] == ("apptainer", "exec", "my image.sif", "python")
    assert shlex.join(job_command(wrapped, ())) == wrapped.python


def test_log_directory_is_made_where_it_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = JobOptions(log_directory="~/some/logs")
    for _ in range(2):
        make_log_directory(options)
        assert (tmp_path / "some" / "logs").is_dir()
    make_log_directory(JobOptions())
    make_log_directory(BatchOptions(ssh="login", remote_directory="/x", log_directory=str(tmp_path / "there")))
    assert not (tmp_path / "there").exists(), "that is a directory of the login host"
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"log_directory='~/some/logs': you may not write there"):
        make_log_directory(options)


def test_job_spec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCRATCH", "/scratch/ana")
    options = JobOptions(cores=2, memory="1GB", walltime="20min", env={"N": 4}, log_directory="$SCRATCH/logs")
    logs = log_directory(options, "/default")
    assert logs == "/scratch/ana/logs"
    assert log_directory(JobOptions(log_directory="~/logs"), "/default") == str(tmp_path / "logs")
    assert log_directory(JobOptions(), "/default") == "/default"
    spec = make_job_spec(
        options, name=JobName("hpc-a-0001"), cluster="a", arguments=("-m", "w"), logs=logs, environment=(("A", "b"),)
    )
    assert spec.environment == (("A", "b"), ("N", "4"))
    assert spec.log_path == "/scratch/ana/logs/hpc-a-0001.log"
    assert spec.walltime == 1200
    assert spec.resources == JobResources(2, 10**9, 2)
    assert job_comment("0123456789abcdef").startswith("hpccluster 0123456789ab head ")
