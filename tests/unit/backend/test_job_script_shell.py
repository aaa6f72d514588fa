"""The shipped templates as shell: readable by shellcheck and bash, and without a way in for hostile values:
a value never becomes a command, a directive, or another value.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpccluster.backend.base import Backend
from hpccluster.backend.jobs import make_job_spec
from hpccluster.backend.options import JobOptions, build_options
from hpccluster.errors import ConfigError
from hpccluster.ids import JobName
from hpccluster_local.backend import LocalBackend
from hpccluster_local.options import LocalOptions
from hpccluster_pbs.backend import PBSBackend
from hpccluster_pbs.options import PBSOptions
from hpccluster_slurm.backend import SlurmBackend
from hpccluster_slurm.options import SlurmOptions
from hpccluster_ssh.backend import SSHBackend
from hpccluster_ssh.options import SSHOptions

BACKENDS: dict[str, tuple[type[JobOptions], Any]] = {
    "slurm": (SlurmOptions, SlurmBackend),
    "pbs": (PBSOptions, PBSBackend),
    "local": (LocalOptions, LocalBackend),
    "ssh": (SSHOptions, SSHBackend),
}
PREFIXES = {"slurm": "#SBATCH", "pbs": "#PBS"}
"""What directives begin with."""
BASE: dict[str, Any] = {"cores": 1, "memory": "1GiB", "python": "/bin/true"}
OWN: dict[str, dict[str, Any]] = {"ssh": {"hosts": ["n1"]}}
"""What a backend cannot do without."""

FULL: dict[str, dict[str, Any]] = {
    "slurm": BASE | {
        "queue": "short", "account": "a", "qos": "q", "constraint": "a&b", "reservation": "r", "gres": "gpu:1",
        "exclude": "n1", "requeue": True, "signal": "B:TERM@60", "walltime": 60, "env": {"A": "b'c", "N": 4},
        "job_script_prologue": ["module() { :; }", "module load x"], "job_script_epilogue": ["echo bye"],
        "job_extra_directives": ["--mail-type=END"], "worker_extra_args": ["a b", "it's"],
    },
    "pbs": BASE | {
        "queue": "workq", "account": "a", "project": "p", "place": "excl", "requeue": False, "umask": "022", "gpus": 1,
        "walltime": 60, "env": {"A": "b'c", "N": 4}, "job_script_prologue": ["module() { :; }", "module load x"],
        "job_script_epilogue": ["echo bye"], "job_extra_directives": ["-m n"], "job_directives_skip": ["-k"],
        "worker_extra_args": ["a b", "it's"],
    },
    "local": BASE | {
        "env": {"A": "b'c"}, "job_script_prologue": ["echo hi"], "job_script_epilogue": ["echo bye"],
        "worker_extra_args": ["a b", "it's"],
    },
    "ssh": BASE | {
        "env": {"A": "b'c"}, "job_script_prologue": ["echo hi"], "job_script_epilogue": ["echo bye"],
        "worker_extra_args": ["a b", "it's"],
        "hosts": [{"host": "n1", "env": {"B": "it's"}, "python": "/bin/true 'a b'", "local_directory": "/a b"}],
    },
}  # fmt: skip


def render(kind: str, keywords: dict[str, Any], **spec: Any) -> str:
    options_type, make = BACKENDS[kind]
    options = build_options(options_type, OWN.get(kind, {}) | keywords)
    backend: Backend = make(options)
    values: dict[str, Any] = {
        "name": JobName("hpc-calm-0001"),
        "cluster": "calm",
        "arguments": (),
        "logs": "/logs",
        "comment": "hpccluster 0123 head here",
    }
    return backend.render(make_job_spec(options, **(values | spec)))


def execute(argv: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run as a job is run: leader of its session, with a pipe for standard input that stays open."""
    reader, writer = os.pipe()
    try:
        return subprocess.run(argv, stdin=reader, capture_output=True, text=True, start_new_session=True, cwd=cwd)
    finally:
        os.close(reader)
        os.close(writer)


# ------------------------------------------------------------------------------------------------------------------ shell


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("full", [False, True])
def test_scripts_pass_shellcheck_and_bash(kind: str, full: bool, tmp_path: Path) -> None:
    text = render(kind, FULL[kind] if full else BASE)
    assert "{" + "{" not in text
    for shell in ("bash", "dash"):
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=text, text=True, check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    for dialect in ("bash", "sh"):
        done = subprocess.run(["shellcheck", f"--shell={dialect}", "-"], input=text, text=True, capture_output=True)
        assert done.stdout == ""


@pytest.mark.parametrize("kind", BACKENDS)
def test_code_of_the_command_is_kept_and_the_epilogue_runs(kind: str, tmp_path: Path) -> None:
    for code in (0, 3, 127):
        text = render(
            kind,
            {**BASE, "python": f"/bin/sh -c 'exit {code}'", "job_script_epilogue": ["echo ended $hpc_code"]},
        )
        done = execute(["sh", "-c", text])
        assert done.returncode == code
        assert done.stdout == f"ended {code}\n"
        stages = re.findall("hpccluster: (stage [a-z-]+|workers ended with exit code [0-9]+)", done.stderr)
        assert stages == ["stage started", "stage prologue-ok", f"workers ended with exit code {code}"]


@pytest.mark.parametrize("kind", BACKENDS)
def test_early_exit_of_the_prologue_is_visible(kind: str) -> None:
    text = render(kind, {**BASE, "job_script_prologue": ["exit 4"]})
    done = execute(["sh", "-c", text])
    assert done.returncode == 4
    assert "stage started" in done.stderr
    assert "prologue-ok" not in done.stderr


# --------------------------------------------------------------------------------------------------------------- injection

CANARY = "canary"
TOUCH = f"touch {CANARY}"
HOSTILE = [
    *(f"{before}{TOUCH}{after}" for before, after in [
        ("$(", ")"), ("`", "`"), ("; ", " ;"), ("| ", ""), ("|| ", ""), ("&& ", ""), ("& ", " &"), ("\n", "\n"),
        ("\r\n", ""), ("'; ", "; '"), ('"; ', '; "'), ("'$(", ")'"), ('"$(', ')"'), ("\\'; ", ""), ("\\\n", ""),
        ("<(", ")"), ("${x:-$(", ")}"), ("$((", "))"), ("x\0", ""), ("{", ";}"), ("(", ")"), ("!", ""), ("#\n", ""),
        ("EOF\n", "\nEOF"), ("{{ x }}", ""), ("{% if 1 %}", "{% endif %}"), ("${IFS}", ""), ("a=b ", ""), ("\x1b]", "\x07"),
    ]),
    "x\n#SBATCH --partition=evil", "x\r#SBATCH --partition=evil", "x --partition=evil", "x #SBATCH --partition=evil",
    '" --partition=evil "', "--partition=evil", "-p evil", "x\n#PBS -q evil", "x\r#PBS -q evil", "x\u2028#SBATCH --partition=evil", "x\u0085y", "x\x0b\x0cy",
    "", " ", "'", '"', "\\", "\\\\", "`", "$", "$$", "~", "*", "?", "../../etc/passwd", "-", "--", "%j", "%x",
    "a" * 5000, "ü", "日本", "\ud800", "\x7f", "\t", "\x00", "\n", "\r", "'\\''", "{{ 7*7 }}", "{{ self }}", "{# x",
    "$(id>&2)", ">canary", "< /etc/passwd", "2>canary", "\x08", "()", "() { :;}; " + TOUCH,
]  # fmt: skip

FIELDS: dict[str, list[str]] = {
    "slurm": [
        "queue", "account", "qos", "constraint", "reservation", "gres", "exclude", "signal", "interface", "local_directory",
        "log_directory", "python", "shebang", "walltime", "memory", "job_memory", "death_timeout", "env", "env_name",
        "worker_extra_args", "job_extra_directives", "job_directives_skip", "cluster", "name", "comment", "logs",
        "working_directory",
    ],
    "pbs": [
        "queue", "account", "project", "resource_spec", "place", "umask", "interface", "local_directory", "log_directory",
        "python", "shebang", "walltime", "memory", "job_memory", "death_timeout", "env", "env_name", "worker_extra_args",
        "job_extra_directives", "job_directives_skip", "cluster", "name", "comment", "logs", "working_directory",
    ],
    "local": [
        "interface", "local_directory", "python", "shebang", "env", "env_name", "worker_extra_args", "cluster", "name",
        "comment", "logs", "death_timeout", "memory",
    ],
    "ssh": [
        "interface", "local_directory", "python", "shebang", "env", "env_name", "worker_extra_args", "cluster", "name",
        "comment", "logs", "death_timeout", "memory", "working_directory", "host", "host_env", "host_python",
    ],
}  # fmt: skip

SPEC_FIELDS = ("cluster", "name", "comment", "logs", "working_directory")
LIST_FIELDS = ("worker_extra_args", "job_extra_directives", "job_directives_skip")


def render_hostile(kind: str, field: str, text: str) -> str | None:
    """The script with a hostile value in one field; None where it was refused."""
    keywords, spec = dict(BASE), {}
    if field in SPEC_FIELDS:
        spec[field] = text
    elif field in LIST_FIELDS:
        keywords[field] = [text]
    elif field == "env":
        keywords["env"] = {"A": text}
    elif field == "host":
        keywords["hosts"] = [text]
    elif field == "host_env":
        keywords["hosts"] = [{"host": "n1", "env": {"A": text}}]
    elif field == "host_python":
        keywords["hosts"] = [{"host": "n1", "python": text}]
    elif field == "env_name":
        keywords["env"] = {text: "a"}
    else:
        keywords[field] = text
    try:
        return render(kind, keywords, **spec)
    except ConfigError:
        return None


def directive_names(kind: str, script: str) -> list[str]:
    """The directives as they are read: lines up to the first command, told apart by newlines only."""
    names = []
    for line in script.split("\n")[1:]:
        if line.startswith("#SBATCH") and kind == "slurm":
            names.append(line.split("=")[0])
        elif line.startswith("#PBS") and kind == "pbs":
            names.append(line.removeprefix("#PBS").split()[0])
        elif line.strip() and not line.startswith("#"):
            break
    return names


def expected_names(kind: str, field: str) -> Iterator[list[str]]:
    """The directives that a harmless value in this field leads to."""
    harmless = {
        "signal": "B:TERM@60",
        "walltime": "60",
        "job_memory": "1GB",
        "shebang": "#!/bin/sh",
        "working_directory": "/",
        "resource_spec": "select=1",
        "umask": "022",
    }
    base = directive_names(kind, render(kind, BASE))
    yield base
    if kind in PREFIXES and field not in LIST_FIELDS:
        text = harmless.get(field, "harmless")
        script = render_hostile(kind, field, text)
        assert script is not None or field in ("memory", "death_timeout")
        if script is not None:
            yield directive_names(kind, script)
    if field == "comment":
        yield [name for name in base if name not in ("#SBATCH --comment", "-v")]


def assert_directives_unchanged(kind: str, field: str, script: str) -> None:
    if kind in PREFIXES and field not in ("job_extra_directives", "job_directives_skip"):
        assert directive_names(kind, script) in list(expected_names(kind, field))
    assert "\r" not in script
    assert "\0" not in script


CASES = [(kind, field) for kind, names in FIELDS.items() for field in names]


@pytest.mark.parametrize(("kind", "field"), CASES, ids=[f"{kind}-{field}" for kind, field in CASES])
def test_hostile_value_runs_nothing(kind: str, field: str, tmp_path: Path) -> None:
    scripts = []
    for number, text in enumerate(HOSTILE):
        script = render_hostile(kind, field, text)
        if script is None:
            continue
        assert_directives_unchanged(kind, field, script)
        path = tmp_path / f"{number}.sh"
        path.write_bytes(script.encode())
        scripts.append(path.name)
    if not scripts:
        return
    parse = 'for f in "$@"; do bash -n "$f" || { echo "bad: $f"; exit 1; }; done'
    done = subprocess.run(["sh", "-c", parse, "sh", *scripts], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    if field in ("python", "host_python"):
        return  # a command that the user names is run, of course; its words are checked below
    # uname, date and hostname are all that a script runs besides its command, which is /bin/true
    execute(["sh", "-c", 'for f in "$@"; do sh "$f" >/dev/null 2>&1; done', "sh", *scripts], cwd=tmp_path)
    assert not (tmp_path / CANARY).exists()


# ---------------------------------------------------------------------------------------------------------------- property

fragments = st.sampled_from([*HOSTILE[:40], "a", "-", "=", " ", "'", '"', "\\", "$", "\n", "#SBATCH --partition=evil"])
hostile_text = st.one_of(
    st.lists(fragments, min_size=1, max_size=4).map("".join),
    st.text(max_size=30),
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=st.sampled_from(CASES), text=hostile_text)
def test_directives_never_change(case: tuple[str, str], text: str) -> None:
    kind, field = case
    script = render_hostile(kind, field, text)
    if script is not None:
        assert_directives_unchanged(kind, field, script)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(sorted(BACKENDS)), words=st.lists(hostile_text, min_size=1, max_size=3), value=hostile_text)
def test_words_and_variables_arrive_as_they_are(kind: str, words: list[str], value: str) -> None:
    try:
        script = render(kind, {**BASE, "worker_extra_args": words, "env": {"VALUE": value}})
    except ConfigError:
        return
    lines = script.split("\n")
    (command,) = [line for line in lines if line.startswith("/bin/true")]
    assert shlex.split(command)[: 1 + len(words)] == ["/bin/true", *words]
    assert shlex.split(command)[-1] == "&"
    (export,) = [line for line in lines if line.startswith("export VALUE=")]
    assert shlex.split(export) == ["export", f"VALUE={value}"]


@settings(max_examples=100, deadline=None)
@given(words=st.lists(hostile_text.filter(bool), min_size=1, max_size=3))
def test_interpreter_arrives_as_it_is(words: list[str]) -> None:
    try:
        script = render("slurm", {**BASE, "python": shlex.join(words)})
    except ConfigError:
        return
    command = script.split("when Slurm tells it.\n")[1].split("\n")[0]
    assert shlex.split(command) == [*words, "&"]
