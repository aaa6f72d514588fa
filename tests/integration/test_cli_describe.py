"""What the command line says without any cluster: configuration, job scripts, backends, at a terminal and in a pipe."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from support.command import COMMAND, Commands
from support.distributions import install, plugin

SITE = """\
slurm: {queue: short, cores: 8, memory: 32GB, walltime: "01:00:00"}
clusters:
  gpu:
    extends: slurm
    queue: a100
    adapt: {maximum_jobs: 9}
"""


def write(commands: Commands, text: str, name: str = "hpccluster.yaml") -> None:
    path = commands.directory / name
    path.write_text(text)
    path.chmod(0o600)


def test_each_value_is_shown_with_its_origin(commands: Commands) -> None:
    write(commands, SITE)
    commands.environment["HPCCLUSTER_SLURM__CORES"] = "4"
    shown = commands.out("config", "show", "gpu")
    assert "queue: a100" in shown
    assert "# hpccluster.yaml line 5" in shown
    assert "# $HPCCLUSTER_SLURM__CORES" in shown
    values = json.loads(commands.out("config", "show", "--json"))
    assert values["files"] == [str(commands.directory / "hpccluster.yaml")]
    assert values["clusters"]["gpu"]["values"]["cores"] == {"value": 4, "origin": "$HPCCLUSTER_SLURM__CORES"}
    assert "# default" in commands.out("config", "show", "slurm", "--all")
    assert commands.out("config", "validate").startswith("fine: 1 file,")


def test_what_is_wrong_in_the_configuration_is_said_in_one_error(commands: Commands) -> None:
    write(commands, "slurm:\n  cores: 1\n  qeue: short\n  memory: lots\n")
    said = commands.err("config", "validate", code=2)
    assert "hpccluster.yaml line 3: slurm.qeue: unknown key; did you mean 'queue'?" in said
    write(commands, "slurm:\n  cores: 1\n  memory: lots\n")
    said = commands.err("config", "validate", code=2)
    assert "memory='lots'" in said
    assert "hpccluster.yaml line 3" in said
    write(commands, 'slurm: {queue: "a\\nb"}\n')
    assert "hpccluster.yaml line 1" in commands.err("config", "validate", code=2)
    write(commands, "\nclutsers:\n  gpu: {backend: slurm}\n")
    assert "hpccluster.yaml line 2: clutsers: no backend 'clutsers'" in (
        said := commands.err("config", "validate", code=2)
    )
    assert "did you mean 'clusters'?" in said
    (commands.directory / "hpccluster.yaml").chmod(0o666)
    assert "can be changed by everybody" in commands.err("config", "show", code=2)


def test_a_file_that_is_fine_can_be_submitted(commands: Commands) -> None:
    file = commands.directory / "one.yaml"
    for text, problem in (
        ("backend: slurm\ncores: 2\n", "missing: memory"),
        ("backend: slurm\ncores: 2\nprocesses: 4\nmemory: 8GB\n", "choose processes from 1, 2"),
        ("backend: slurm\ncores: 2\nmemory: 8GB\ntemplate: no.sh\n", "no.sh"),
    ):
        file.write_text(text)
        file.chmod(0o600)
        assert problem in commands.err("config", "validate", "one.yaml", code=2)
    file.write_text("backend: slurm\ncores: 2\nmemory: 8GB\n")
    assert commands.out("config", "validate", "one.yaml") == "one.yaml: fine\n"


def test_the_schema_is_json(commands: Commands) -> None:
    assert "queue" in json.loads(commands.out("config", "schema"))["oneOf"][0]["properties"]["slurm"]["properties"]


def test_the_job_script_is_printed_and_nothing_is_made(commands: Commands) -> None:
    write(commands, SITE)
    script = commands.out("script", "-c", "gpu", "--set", "name=mine", "--set", "account=proj1")
    assert "#SBATCH --partition=a100" in script
    assert "#SBATCH --account=proj1" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    write(commands, "backend: slurm\ncores: 1\nmemory: 1GB\n", "one.yaml")
    assert "#SBATCH --cpus-per-task=1" in commands.out("script", "-c", "one.yaml")
    assert json.loads(commands.out("script", "--json"))["backend"] == "local"
    assert "missing: cores, memory" in commands.err(
        "script", "--backend", "slurm", "--set", "cores=", "--set", "memory=", code=2
    )
    assert not list(commands.state.iterdir())


def test_wrong_targets_are_named(commands: Commands) -> None:
    write(commands, SITE)
    assert "or the cluster 'gpu'?" in commands.err("script", "-c", "gpo", code=2)
    assert "no such file" in commands.err("script", "-c", "none.yaml", code=2).lower()
    assert "did you mean 'slurm'" in commands.err("script", "--backend", "slrum", code=2)
    assert "leave --backend out" in commands.err("script", "-c", "gpu", "--backend", "slurm", code=2)
    assert "--set: coers: unknown key; did you mean 'cores'" in commands.err("script", "--set", "coers=1", code=2)


def test_into_a_pipe_goes_no_escape_code(commands: Commands) -> None:
    for arguments in (
        ["backends"],
        ["status"],
        ["help", "--all"],
        ["config", "show"],
        ["config", "which"],
        ["config", "init", "-"],
        ["cleanup"],
    ):
        done = commands.run(*arguments)
        assert "\x1b" not in done.stdout + done.stderr
        assert not any(0x2500 <= ord(letter) < 0x2600 for letter in done.stdout)


def test_at_a_terminal_nothing_is_wider_than_it(commands: Commands) -> None:
    code, shown = commands.at_terminal("backends", columns=60)
    assert code == 0
    assert "\x1b[" in shown
    commands.environment["NO_COLOR"] = "1"
    _, shown = commands.at_terminal("backends", columns=60)
    assert "\x1b[3" not in shown
    assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in shown.splitlines()) <= 60
    code, shown = commands.at_terminal("config", "which", columns=60)
    assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in shown.splitlines()) <= 60
    assert "./hpccluster.yaml" in shown
    code, shown = commands.at_terminal("--help")
    assert code == 0
    assert len(shown.splitlines()) <= 24
    assert max(map(len, shown.splitlines())) <= 80
    code, shown = commands.at_terminal("jobs", "nobody")
    assert code == 5
    assert "no cluster 'nobody'" in shown


def test_a_reader_that_leaves_early_is_no_error(commands: Commands) -> None:
    line = f'{COMMAND[0]} -c "{COMMAND[2]}" help --all | head -1'
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], env=commands.variables(), capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "hpccluster: run Python on batch queues, SSH hosts or this machine\n"
    assert done.stderr == ""


def test_backends_of_others_are_listed_and_a_broken_one_hurts_nobody(commands: Commands, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(site, "their-dist", {"cobalt": plugin("cobalt", "summary='jobs of Cobalt', commands=('no-such-qsub',)")})
    install(site, "broken-dist", {"bad": "import sys\nsys.exit('no licence')\n"}, version="0.3")
    commands.environment["PYTHONPATH"] = str(site)
    found = {it["name"]: it for it in json.loads(commands.out("backends", "--json"))}
    assert (found["cobalt"]["distribution"], found["cobalt"]["version"]) == ("their-dist", "2.1")
    assert found["cobalt"]["problem"] == "not on PATH: no-such-qsub"
    assert found["local"]["usable"]
    assert not found["bad"]["usable"]
    table = commands.out("backends").splitlines()
    assert len(table) == 1 + len(found)
    (bad,) = (line for line in table if line.startswith("bad "))
    assert re.match(r"bad +broken-dist 0\.3 +no +cannot be loaded: SystemExit: no", bad)
    said = commands.err("script", "--backend", "bad", code=3)
    assert (
        said
        == "error: backend 'bad' of broken-dist 0.3 cannot be loaded: SystemExit: no licence (HPC-BACKEND-IMPORT)\n"
    )
