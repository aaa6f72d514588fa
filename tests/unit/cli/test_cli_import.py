"""dask-jobqueue's configuration, taken over: each value with a verdict, and nothing that this package would refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpccluster.cli.importing import convert_file
from hpccluster.cluster.describe import options_of
from hpccluster.config import load_config
from hpccluster.config.from_dask import Section
from hpccluster.errors import ConfigError


def convert(tmp_path: Path, text: str, *named: str) -> tuple[list[Section], str]:
    file = tmp_path / "jobqueue.yaml"
    file.write_text(text)
    file.chmod(0o600)
    return convert_file(file, named)


def test_what_only_dasks_workers_understand_is_said_to_be_theirs(tmp_path: Path) -> None:
    (found,), _ = convert(tmp_path, "jobqueue:\n  slurm:\n    worker-extra-args: ['--resources GPU=1', '--scrub']\n")
    assert ["engine: dask" in it.why for it in found.judged] == [True, False]


def one(tmp_path: Path, line: str, section: str = "slurm") -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """Our values, and per value of theirs: key, verdict and our key."""
    (found,), _ = convert(tmp_path, f"jobqueue:\n  {section}:\n    {line}\n")
    return found.values, [(it.key, it.verdict, it.now) for it in found.judged]


@pytest.mark.parametrize(
    ("line", "values", "verdicts"),
    [
        ("cores: 24", {"cores": 24}, [("cores", "kept", "")]),
        ("death-timeout: 60", {"death_timeout": 60}, [("death-timeout", "kept", "")]),
        ("project: p1", {"account": "p1"}, [("project", "renamed", "account")]),
        ("name: dask-worker", {}, [("name", "dropped", "")]),
        ("queue: null", {}, []),
        ("job-script-prologue: []", {}, []),
        ('walltime: "30"', {"walltime": "30min"}, [("walltime", "changed", "")]),
        ('walltime: "90:00"', {"walltime": "01:30:00"}, [("walltime", "changed", "")]),
        ('walltime: "1-00:00:00"', {"walltime": "1-00:00:00"}, [("walltime", "kept", "")]),
        ("walltime: soon", {}, [("walltime", "by hand", "")]),
        ("job-mem: 64G", {"job_memory": "64GiB"}, [("job-mem", "changed", "job_memory")]),
        ("job-mem: 500", {"job_memory": "500MiB"}, [("job-mem", "changed", "job_memory")]),
        ('queue: "a b; rm -rf"', {}, [("queue", "by hand", "")]),
        ("nonsense: 1", {}, [("nonsense", "by hand", "")]),
        ("resource-spec: x", {}, [("resource-spec", "by hand", "")]),
        (
            'worker-extra-args: ["--lifetime", "25m", "--lifetime-stagger=4m", "--grace 5", "--resources A=1"]',
            {"worker_extra_args": ["--grace", "5"]},
            [
                ("worker-extra-args", "dropped", ""),
                ("worker-extra-args", "dropped", ""),
                ("worker-extra-args", "kept", ""),
                ("worker-extra-args", "by hand", ""),
            ],
        ),
        (
            'job-extra: ["--exclusive", "qos=x"]',
            {"job_extra_directives": ["--exclusive"]},
            [("job-extra", "renamed", "job_extra_directives"), ("job-extra", "by hand", "job_extra_directives")],
        ),
        (
            'scheduler-options: {dashboard_address: ":8787", contact_address: "tcp://10.0.0.1:8786", port: 8786}',
            {"contact_host": "10.0.0.1", "port": 8786},
            [
                ("scheduler-options.dashboard_address", "dropped", ""),
                ("scheduler-options.contact_address", "renamed", "contact_host"),
                ("scheduler-options.port", "renamed", "port"),
            ],
        ),
    ],
)
def test_each_value_has_a_verdict(
    tmp_path: Path, line: str, values: dict[str, Any], verdicts: list[tuple[str, str, str]]
) -> None:
    assert one(tmp_path, line) == (values, verdicts)


def test_lists_of_two_names_follow_one_another(tmp_path: Path) -> None:
    values, _ = one(tmp_path, 'env-extra: ["a"]\n    job-script-prologue: ["b", "c"]')
    assert values == {"job_script_prologue": ["a", "b", "c"]}


def test_what_does_not_fit_together_is_said(tmp_path: Path) -> None:
    _, verdicts = one(tmp_path, "cores: 4\n    processes: 3\n    memory: 8GB")
    assert verdicts[-1] == ("(together)", "by hand", "")


def test_sections_become_sections_or_named_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "jobqueue:\n  pbs: {cores: 2, memory: 4GB}\n  my_site: {cores: 36, memory: 1GB}\n  lsf: {cores: 1}\n  oar:\n"
    sections, written = convert(tmp_path, text, "my_site=pbs")
    assert [(it.name, it.backend, bool(it.problem)) for it in sections][:3] == [
        ("pbs", "pbs", False),
        ("my-site", "pbs", False),
        ("lsf", "", True),
    ]
    path = tmp_path / "ours.yaml"
    path.write_text(written)
    path.chmod(0o600)
    config = load_config(options_of, [path], {})
    assert config.problems() == []
    assert config.resolve("my-site").options == {"cores": 36, "memory": "1GB"}
    with pytest.raises(ConfigError, match="--as x: write it as NAME=BACKEND"):
        convert(tmp_path, text, "x")


def test_another_file_is_refused_and_an_empty_one_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration of dask-jobqueue"):
        convert(tmp_path, "distributed: {version: 2}\n")
    with pytest.raises(ConfigError, match="no configuration of dask-jobqueue"):
        convert(tmp_path, "jobqueue: [1]\n")
    assert convert(tmp_path, "# jobqueue:\n#   slurm: {cores: 1}\n")[0] == []
    assert convert(tmp_path, "jobqueue:\n")[0] == []
