"""The configuration from the command line: written first, asked for, found, checked."""

from __future__ import annotations

import json
import re
import stat
from typing import Any

import jsonschema
import pytest
import yaml

from hpccluster.cli.main import run
from support.command import Commands


def write(commands: Commands, text: str, name: str = "hpccluster.yaml") -> None:
    path = commands.directory / name
    path.write_text(text)
    path.chmod(0o600)


def uncommented(text: str) -> str:
    return re.sub("^#", "", text, flags=re.MULTILINE)


def test_a_first_file_shows_every_option_and_is_valid_as_it_is_and_uncommented(commands: Commands) -> None:
    said = commands.out("config", "init")
    assert said.startswith("wrote ~/.config/hpccluster/hpccluster.yaml")
    path = commands.home / ".config/hpccluster/hpccluster.yaml"
    text = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert yaml.safe_load(text) is None
    assert max(map(len, text.splitlines())) <= 105
    assert commands.out("config", "validate") == "fine: 1 file, sections none, clusters none\n"
    whole = yaml.safe_load(uncommented(text))
    schema = json.loads(commands.out("config", "schema"))
    sections = schema["oneOf"][0]["properties"]
    assert whole.keys() == sections.keys()
    for name in sections.keys() - {"clusters"}:
        assert whole[name].keys() | {"backend", "extends"} == sections[name]["properties"].keys()
        described = re.findall(r"^#  # \S", text.partition(f"#{name}:\n")[2].partition("\n\n")[0], re.MULTILINE)
        assert len(described) >= len(whole[name]), "each option has its documentation"
    assert whole["slurm"]["memory_directive"] == "--mem"
    path.write_text(uncommented(text))
    backends = sorted(sections.keys() - {"clusters"})
    assert f"sections {', '.join(backends)}, clusters example" in commands.out("config", "validate")
    assert commands.out("config", "get", "slurm.memory_directive") == "--mem\n"
    # what is written is what holds without it
    values = json.loads(commands.out("config", "show", "slurm", "--json"))["clusters"]["slurm"]["values"]
    path.unlink()
    defaults = json.loads(commands.out("config", "show", "slurm", "--all", "--json"))["clusters"]["slurm"]["values"]
    assert {key: it["value"] for key, it in values.items()} == {key: defaults[key]["value"] for key in values}


def test_a_file_that_is_there_is_not_written_over(commands: Commands) -> None:
    commands.out("config", "init", "--project")
    write(commands, "slurm: {cores: 1}\n")
    assert "exists; it is written over only with --force" in commands.err("config", "init", "--project", code=2)
    assert (commands.directory / "hpccluster.yaml").read_text() == "slurm: {cores: 1}\n"
    commands.out("config", "init", "--project", "--force")
    assert "## " in (commands.directory / "hpccluster.yaml").read_text()
    told = json.loads(commands.out("config", "init", "deep/er/site.yaml", "--json"))
    assert told["file"] == str(commands.directory / "deep/er/site.yaml")
    assert commands.out("config", "init", "-").startswith("## hpccluster.yaml")
    assert "say one of PATH" in commands.err("config", "init", "x.yaml", "--user", code=2)
    (commands.directory / "file").write_text("")
    assert "file: cannot be made: File exists" in commands.err("config", "init", "file/x.yaml", code=2)
    assert not list(commands.directory.glob(".*"))


def test_one_value_is_asked_for(commands: Commands) -> None:
    write(commands, "slurm: {queue: short, env: {A: b}}\nclusters: {gpu: {extends: slurm, adapt: {maximum_jobs: 9}}}\n")
    commands.environment["HPCCLUSTER_CLUSTERS__GPU__CORES"] = "4"
    for key, value in (
        ("slurm.queue", "short"),
        ("clusters.gpu.queue", "short"),
        ("gpu.adapt.maximum-jobs", "9"),
        ("gpu.cores", "4"),
        ("slurm.cores", "null"),
        ("slurm.env.A", "b"),
        ("slurm.env", '{"A": "b"}'),
        ("local.shebang", "#!/usr/bin/env bash"),
        ("gpu.port", "null"),
    ):
        assert commands.out("config", "get", key) == f"{value}\n"
    told = json.loads(commands.out("config", "get", "gpu.cores", "--json"))
    assert told == {"key": "gpu.cores", "value": 4, "origin": "$HPCCLUSTER_CLUSTERS__GPU__CORES"}
    for key, problem in (
        ("slurm.qeue", "did you mean 'queue'?"),
        ("slurm", "slurm.cores, for one"),
        ("slrum.cores", "did you mean 'slurm'?"),
        ("slurm.env.B", "env has no B"),
    ):
        assert problem in commands.err("config", "get", key, code=2)


def test_where_files_are_looked_for_is_shown_in_order(commands: Commands) -> None:
    commands.out("config", "init")
    write(commands, "slurm: {cores: 1}\n")
    (commands.directory / "hpccluster.yaml").chmod(0o666)
    commands.environment["HPCCLUSTER_CONFIG"] = "more.yaml"
    write(commands, "", "more.yaml")
    shown = commands.out("config", "which").splitlines()
    assert [line.split()[0] for line in (shown[1], *shown[3:])] == [
        "/etc/hpccluster/*.yaml",
        "~/.config/hpccluster/*.yaml",
        "./hpccluster.yaml",
        "$HPCCLUSTER_CONFIG",
    ]
    assert "nothing there" in shown[1]
    assert "NOT READ: hpccluster.yaml: can be changed by everybody" in shown[4]
    assert re.search(r"/more\.yaml +read$", shown[5])
    told = json.loads(commands.out("config", "which", "--json"))
    assert [len(it["files"]) for it in told][2:] == [1, 1, 1]
    assert "can be changed by everybody" in told[3]["files"][0]["problem"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("slurm: {adapt: {minimum_jobs: 5, maximum_jobs: 2}}", "line 1: adapt: minimum_jobs=5 is above maximum_jobs=2"),
        (
            "local: {cores: 2, adapt: {minimum: 9, maximum_jobs: 2}}",
            "the minimum needs 5 jobs but the maximum allows 2",
        ),
        ("local: {cores: 6, processes: 4}", "choose processes from 1, 2, 3, 6"),
        ("slurm: {scale: {memory: lots}}", "line 1: scale: memory='lots': not a size"),
        ("slurm: {adapt: {interval: soon}}", "line 1: adapt: interval='soon': not a duration"),
        ("slurm: {linger: whenever}", "line 1: linger='whenever': not a duration"),
        ("slurm: {state_directory: $NOWHERE_SET/x}", "state_directory='$NOWHERE_SET/x': $NOWHERE_SET is not set here"),
        ("slurm: {name: My_Cluster}", "line 1: name='My_Cluster' cannot name a cluster"),
        ("clusters: {a: {extends: b}, b: {extends: a}}", "clusters.b extends itself: a -> b -> a"),
        ("clusters: {a: {extends: b}}", "no cluster or backend 'b' is described"),
        ("clusters: {a: {backend: slurm, extends: local}}", "backend 'slurm', but"),
        ("slurm: {cores: 1, memory: 1GB, template: no.sh}", "no.sh"),
    ],
)
def test_what_a_start_would_refuse_is_found_before(
    commands: Commands, text: str, problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in commands.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(commands.directory)
    write(commands, text)
    assert run(["config", "validate"]) == 2
    assert problem in capsys.readouterr().err
    (commands.directory / "hpccluster.yaml").rename(commands.directory / "site.yaml")
    assert run(["config", "validate", "site.yaml", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert not told["fine"]
    assert any(problem in it for it in told["problems"])
    assert run(["config", "validate"]) == 0


def test_a_start_says_the_same_before_anything_is_started(commands: Commands) -> None:
    write(commands, "backend: local\nadapt: {minimum: 3, maximum: 1}\n", "one.yaml")
    for verb in (["up"], ["submit", "--", "true"], ["script"]):
        said = commands.err(verb[0], "-c", "one.yaml", *verb[1:], code=2)
        assert "one.yaml line 2: adapt: the minimum needs 3 jobs but the maximum allows 1" in said
    assert not list(commands.state.iterdir())


def test_the_schema_agrees_with_what_is_accepted(commands: Commands) -> None:
    schema: dict[str, Any] = json.loads(commands.out("config", "schema"))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    right = (
        "slurm: {queue: short, cores: 4, memory: 8GB}\nclusters: {gpu: {extends: slurm, gpus: 1, adapt: {maximum: 2}}}",
        "backend: local\ncores: 2\nscale: {jobs: 1}",
        "{}",
    )
    wrong = (
        "slurm: {qeue: short}",
        "slurm: {cores: four}",
        "backend: local\nscale: {job: 1}",
        "clusters: [a]",
        "nope: {}",
    )
    for text in right:
        validator.validate(yaml.safe_load(text))
        write(commands, text, "one.yaml")
        assert "fine" in commands.out("config", "validate", "one.yaml")
    for text in wrong:
        assert not validator.is_valid(yaml.safe_load(text)), text
        write(commands, text, "one.yaml")
        commands.err("config", "validate", "one.yaml", code=2)


def test_the_configuration_of_dask_jobqueue_is_taken_over(commands: Commands) -> None:
    theirs = 'jobqueue: {slurm: {cores: 8, memory: 16GB, project: p1, worker-extra-args: ["--lifetime", "25m"]}}\n'
    write(commands, theirs, "jobqueue.yaml")
    said = commands.out("config", "import", "jobqueue.yaml")
    assert re.search(r"^renamed +slurm.project: p1 +now account$", said, re.MULTILINE)
    assert re.search(r"^dropped +slurm.worker-extra-args: --lifetime 25m +automatic here", said, re.MULTILINE)
    assert said.endswith("wrote ~/.config/hpccluster/from-dask.yaml; check: hpccluster config validate\n")
    assert commands.out("config", "validate") == "fine: 1 file, sections slurm, clusters none\n"
    assert commands.out("config", "get", "slurm.account") == "p1\n"
    assert "exists; it is written over only with --force" in commands.err("config", "import", "jobqueue.yaml", code=2)
    told = json.loads(commands.out("config", "import", "jobqueue.yaml", "--force", "--json"))
    assert told["sections"][0]["verdicts"][0] == {"key": "cores", "value": "8", "verdict": "kept", "now": "", "why": ""}
    assert yaml.safe_load(commands.out("config", "import", "jobqueue.yaml", "-o", "-"))["slurm"]["account"] == "p1"
    write(commands, "# all commented out\n", "jobqueue.yaml")
    assert "nothing was written" in commands.out("config", "import", "jobqueue.yaml", "-o", "new.yaml")
    assert not (commands.directory / "new.yaml").exists()


def test_a_file_that_is_named_as_a_cluster_is_pointed_at(commands: Commands) -> None:
    (commands.directory / "mine.yaml").touch()
    (commands.directory / "mine.conf").touch()
    assert "(if the file 'mine.yaml' here is meant: ./mine.yaml)" in commands.err("script", "-c", "mine", code=2)
    assert "(if the file 'mine.conf' here is meant: ./mine.conf)" in commands.err("script", "-c", "mine.conf", code=2)
