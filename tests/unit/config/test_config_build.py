"""Layers, inheritance, checks and origins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from hpccluster.config import Config, load_config, load_file
from hpccluster.config.schema import json_schema
from hpccluster.errors import BackendNotFound, ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    cores: Annotated[int, Meta(ge=1, description="Cores of a job.")] | None = None
    memory: str | int | None = None
    env: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmOptions(LocalOptions):
    queue: str | None = None
    account: str | None = None
    walltime: str | None = None
    job_script_prologue: tuple[str, ...] = ()
    death_timeout: float = 60.0


def options_of(name: str) -> type[Any]:
    if name not in ("slurm", "local"):
        raise BackendNotFound(f"no backend {name!r}; known are: local, slurm")
    return {"slurm": SlurmOptions, "local": LocalOptions}[name]


SITE = """\
slurm: {queue: short, account: proj1, job-script-prologue: ["module load python"]}
clusters:
  gpu:
    extends: slurm
    queue: a100
    cores: 8
  big:   {extends: gpu, cores: 64, adapt: {minimum_jobs: 0, maximum-jobs: 50}}
  sweep: {backend: slurm, memory: 8GB, scale: {jobs: 4}}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> Path:
    path = Path.cwd() / name
    path.write_text(text)
    path.chmod(0o600)
    return path


def config(*texts: str, environ: Mapping[str, str] | None = None) -> Config:
    paths = [write(f"{number}.yaml", text) for number, text in enumerate(texts)]
    return load_config(options_of, paths, environ or {})


def problem(text: str, name: str = "slurm", **keywords: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config(text).resolve(name, keywords)
    return str(caught.value)


def test_a_section_gives_the_backends_defaults() -> None:
    found = config(SITE).resolve("slurm", {"cores": 2, "memory": None})
    assert found.backend == "slurm"
    assert found.options == {
        "queue": "short",
        "account": "proj1",
        "job_script_prologue": ["module load python"],
        "cores": 2,
    }
    assert {key: str(origin) for key, origin in found.origins.items()} == {
        "queue": "0.yaml line 1",
        "account": "0.yaml line 1",
        "job_script_prologue": "0.yaml line 1",
        "cores": "keyword",
    }


def test_a_backend_without_a_section_has_no_values() -> None:
    assert config().resolve("local").options == {}


def test_a_cluster_takes_over_what_it_extends() -> None:
    found = config(SITE).resolve("big")
    assert found.options["queue"] == "a100"
    assert found.options["cores"] == 64
    assert found.options["account"] == "proj1"
    assert found.adapt == {"minimum_jobs": 0, "maximum_jobs": 50}
    assert str(found.origins["queue"]) == "0.yaml line 5"
    assert config(SITE).resolve("sweep").scale == {"jobs": 4}


def test_later_files_then_environment_then_keywords_are_stronger() -> None:
    stronger = "slurm: {queue: long}\nclusters: {gpu: {cores: 16}}"
    layers = config(SITE, stronger, environ={"HPCCLUSTER_SLURM__ACCOUNT": "mine"})
    found = layers.resolve("gpu", {"memory": "1GB"})
    assert found.options == {
        "queue": "a100",
        "account": "mine",
        "job_script_prologue": ["module load python"],
        "cores": 16,
        "memory": "1GB",
    }
    assert str(found.origins["account"]) == "$HPCCLUSTER_SLURM__ACCOUNT"
    assert layers.resolve("slurm").options["queue"] == "long"
    assert layers.resolve("gpu", {"account": "other"}).options["account"] == "other"


def test_null_goes_back_to_the_default() -> None:
    assert "queue" not in config(SITE, "slurm: {queue: }").resolve("slurm").options


def test_scale_and_adapt_replace_each_other() -> None:
    found = config(SITE).resolve("sweep", {"adapt": {"maximum": 3}})
    assert found.scale is None
    assert found.adapt == {"maximum": 3}
    assert "exclude each other" in problem("slurm: {scale: {jobs: 1}, adapt: {maximum: 1}}")
    assert "jobs and workers exclude one another" in problem("slurm: {scale: {jobs: 1, workers: 1}}")


def test_environment_values_are_read_by_the_type_they_should_have() -> None:
    environ = {
        "HPCCLUSTER_SLURM__CORES": "4",
        "HPCCLUSTER_SLURM__QUEUE": "7",
        "HPCCLUSTER_SLURM__WALLTIME": "10:00:00",
        "HPCCLUSTER_SLURM__JOB_SCRIPT_PROLOGUE": "[module load a, 'x: y']",
        "HPCCLUSTER_SLURM__ADAPT__MINIMUM": "1",
        "HPCCLUSTER_SLURM__ADAPT__MAXIMUM": "2",
        "HPCCLUSTER_CLUSTERS__GPU__MEMORY": "5",
        "HPCCLUSTER_CLUSTER": "is not a value",
    }
    found = config(SITE, environ=environ).resolve("gpu")
    assert found.options["cores"] == 4
    assert found.options["queue"] == "7"
    assert found.options["walltime"] == "10:00:00"
    assert found.options["job_script_prologue"] == ["module load a", "x: y"]
    assert found.options["memory"] == 5
    assert found.adapt == {"minimum": 1, "maximum": 2}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"HPCCLUSTER_SLURM__CORES": "many"},
            "$HPCCLUSTER_SLURM__CORES: slurm.cores: expected a whole number, got 'many'",
        ),
        ({"HPCCLUSTER_SLRUM__CORES": "1"}, "$HPCCLUSTER_SLRUM__CORES: slrum: no backend 'slrum'"),
        ({"HPCCLUSTER_CLUSTERS__GPO__CORES": "1"}, "no cluster 'gpo' is described; did you mean 'gpu'?"),
        ({"HPCCLUSTER_SLURM__": "1"}, "$HPCCLUSTER_SLURM__: not of the form"),
        ({"HPCCLUSTER_CLUSTERS__GPU": "1"}, "not of the form HPCCLUSTER_CLUSTERS__NAME__KEY"),
    ],
)
def test_a_wrong_variable_is_named(environ: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(SITE, environ=environ).resolve("slurm")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slurm:\n  cores: 1\n  qeue: x", "0.yaml line 3: slurm.qeue: unknown key; did you mean 'queue'?"),
        ("slurm: {project: x}", "0.yaml line 1: slurm.project: unknown key; here it is called 'account'"),
        ("slurm: {zzz: 1}", "0.yaml line 1: slurm.zzz: unknown key; known are: account, adapt,"),
        ("slurm:\n\n  cores: eight", "0.yaml line 3: slurm.cores: expected a whole number, got 'eight'"),
        ("slurm: {cores: 0}", "slurm.cores: expected a whole number >= 1, got 0"),
        ("slurm: {cores: yes}", "slurm.cores: expected a whole number, got 'yes'"),
        ("slurm: {cores: true}", "slurm.cores: expected a whole number, got true"),
        ("slurm: {queue: 17}", "slurm.queue: expected text, got 17; quote it"),
        ("slurm: {job_script_prologue: module load x}", "job_script_prologue: expected a list, got 'module load x'"),
        ("slurm: {job_script_prologue: [a, 3]}", "job_script_prologue[1]: expected text, got 3; quote it"),
        ("slurm: {adapt: {maximum_job: 3}}", "slurm.adapt.maximum_job: unknown key; did you mean 'maximum_jobs'?"),
        ("slurm: {adapt: {maximum: x}}", "slurm.adapt.maximum: expected a whole number, got 'x'"),
        ("slurm: {scale: 4}", "slurm.scale: expected a mapping such as {jobs: 4}, got 4"),
        ("slurm: {protocol: http}", "slurm.protocol: 'http' is none of tls, tcp"),
        ("slurm: {port: 70000}", "slurm.port: expected a whole number <= 65535, got 70000"),
        ("slurm: [1]", "0.yaml line 1: slurm: expected a mapping (key: value), got a list"),
        ("slrum: {cores: 1}", "0.yaml line 1: slrum: no backend 'slrum'"),
        ("slurm: {job-mem: 1}", "slurm.job_mem: unknown key"),
        ("slurm: {death-timeout: 1, death_timeout: 2}", "slurm.death_timeout is said twice"),
        ("backend: slurm\ncores: 1", "this file describes one cluster: use it with -c 0.yaml"),
        ("clusters: {x: {cores: 1}}", "x: says neither 'backend' nor 'extends'"),
        ("clusters: {x: {extends: y}, y: {extends: x}}", "clusters.y extends itself: x -> y -> x"),
        (
            "clusters: {x: {extends: y, backend: local}, y: {backend: slurm}}",
            "backend 'local', but 0.yaml line 1: 'slurm'",
        ),
        ("clusters: {x: {extends: slrum}}", "0.yaml line 1: no cluster or backend 'slrum' is described"),
        ("clusters: {gpx: {backend: slurm}}", "no cluster or backend 'x' is described"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_path(text: str, expected: str) -> None:
    assert expected in problem(text, "x" if "clusters" in text else "slurm")


def test_wrong_keywords_are_named() -> None:
    assert problem("", qeue="x") == "qeue: unknown keyword; did you mean 'queue'?"
    assert problem("", cores="x") == "cores: expected a whole number, got 'x'"
    assert problem("", protocol="udp") == "protocol: 'udp' is none of tls, tcp"
    assert "get_logs()" in problem("", silence_logs=True)
    for keyword in (
        "nanny",
        "worker_command",
        "config_name",
        "job_cls",
        "scheduler_cls",
        "loop",
        "shared_temp_directory",
    ):
        said = problem("", "slurm", **{keyword: 1})
        assert "did you mean" not in said
        assert "known are" not in said


def test_all_problems_come_in_one_error() -> None:
    assert problem("slurm: {qeue: 1, cores: x}\n").count("\n") == 1
    many = "".join(f"  k{number}: 1\n" for number in range(20))
    assert problem(f"slurm:\n{many}").splitlines()[-1] == "... and 12 more"


def test_problems_lists_those_of_every_cluster_once() -> None:
    found = config("slurm: {qeue: 1}\nclusters: {a: {extends: slurm, cores: x}}").problems()
    assert len(found) == 2
    assert not config(SITE).problems()


def test_keys_of_a_mapping_option_are_left_alone() -> None:
    assert config("slurm: {env: {MY-VAR: a}}").resolve("slurm").options["env"] == {"MY-VAR": "a"}


def test_a_flat_file_describes_one_cluster() -> None:
    write("site.yaml", SITE)
    flat = write("mine.yaml", "extends: gpu\ncores: 4\nname: mine\nport: 8786\nscale: {jobs: 4}")
    found = load_file(flat, options_of, {"memory": "1GB"}, {"HPCCLUSTER_CONFIG": "site.yaml"})
    assert found.backend == "slurm"
    assert found.options["queue"] == "a100"
    assert found.options["cores"] == 4
    assert found.scale == {"jobs": 4}
    assert found.settings == {"name": "mine", "port": 8786}
    assert str(found.origins["cores"]) == "mine.yaml line 2"
    with pytest.raises(ConfigError, match=r"site\.yaml: describes no single cluster"):
        load_file("site.yaml", options_of, environ={})
    with pytest.raises(ConfigError, match=r"mine\.yaml line 2: coers: unknown key; did you mean 'cores'"):
        load_file(write("mine.yaml", "backend: slurm\ncoers: 4"), options_of, environ={})


def test_the_project_file_and_the_named_file_are_found() -> None:
    write("hpccluster.yaml", "slurm:\n  cores: 1\n  queue: a")
    write("named.yaml", "slurm: {cores: 2}")
    found = load_config(options_of, environ={"HPCCLUSTER_CONFIG": "named.yaml"}).resolve("slurm")
    assert found.options == {"cores": 2, "queue": "a"}
    assert str(found.origins["queue"]) == "hpccluster.yaml line 3"
    with pytest.raises(ConfigError, match="no such file"):
        load_config(options_of, environ={"HPCCLUSTER_CONFIG": "nowhere.yaml"})


def test_the_json_schema_knows_all_keys() -> None:
    schema = json_schema({"slurm": SlurmOptions, "local": LocalOptions})
    sections = schema["oneOf"][0]["properties"]
    assert sections["slurm"]["properties"]["cores"]["anyOf"][0]["description"] == "Cores of a job."
    assert "queue" not in sections["local"]["properties"]
    assert "scale" in sections["clusters"]["additionalProperties"]["properties"]
    assert "#/$defs/ScaleOptions" in msgspec.json.encode(schema).decode()


def test_adapt_and_scale_have_the_keys_of_the_fleet() -> None:
    from dataclasses import fields

    from hpccluster.config.schema import AdaptOptions, ScaleOptions
    from hpccluster.head.spec import ScaleRequest
    from hpccluster.state.fleet.adaptive import AdaptSettings

    assert {item.name for item in fields(AdaptOptions)} == {item.name for item in fields(AdaptSettings)}
    assert {item.name for item in fields(ScaleOptions)} == {item.name for item in fields(ScaleRequest)}


def test_the_json_schema_allows_what_is_read() -> None:
    """A section of which everything is still commented out, and a flat file upon a named cluster."""
    sections, flat = json_schema({"slurm": SlurmOptions})["oneOf"]
    assert sections["properties"]["slurm"]["type"] == ["object", "null"]
    assert sections["properties"]["clusters"]["type"] == ["object", "null"]
    assert flat["anyOf"] == [{"required": ["backend"]}, {"required": ["extends"]}]
