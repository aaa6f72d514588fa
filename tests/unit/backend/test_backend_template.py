"""Templates: names, quoting, and what cannot get through."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpccluster.backend.template import TemplateContext, load_template, quote, render_template, script_lines
from hpccluster.errors import ConfigError

CONTEXT = TemplateContext(
    shebang="#!/bin/sh",
    name="hpc-calm-0001",
    cluster="calm",
    name_prefix="hpc-calm-",
    comment="",
    command=("python", "-m", "worker"),
    environment=(("A", "b c"),),
    prologue=(),
    epilogue=(),
    cores=2,
    processes=1,
    threads=2,
    gpus=0,
    memory_bytes=None,
    walltime_seconds=None,
    log_path="/logs/x.log",
    working_directory="",
)


def render(tmp_path: Path, text: str, **changes: Any) -> str:
    path = tmp_path / "site.sh"
    path.write_text(text)
    return render_template(
        load_template("slurm.sh", str(path)), dataclasses.replace(CONTEXT, **changes), source="site.sh"
    )


def test_users_template_has_conditions_loops_and_quoting(tmp_path: Path) -> None:
    text = (
        "{{ shebang }}\n"
        "{% if gpus %}\n#SBATCH --gres=gpu:{{ gpus }}\n{% endif %}\n"
        "{% for name, value in environment %}\nexport {{ name }}={{ value | q }}\n{% endfor %}\n"
        "{{ command | map('q') | join(' ') }} ${KEPT} ${#array[@]}\n"
    )
    assert render(tmp_path, text).splitlines() == [
        "#!/bin/sh",
        "export A='b c'",
        "python -m worker ${KEPT} ${#array[@]}",
    ]
    assert "#SBATCH --gres=gpu:2\n" in render(tmp_path, text, gpus=2)


def test_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        render(tmp_path, "{{ nmae }}\n")
    assert "'nmae' is undefined; did you mean 'name'? the names are cluster, command, comment" in str(caught.value)
    for text in ("{% if walltme %}x{% endif %}", "{{ nowhere | q }}", "{{ command.nowhere.deep }}"):
        with pytest.raises(ConfigError, match=r"undefined|no attribute"):
            render(tmp_path, text)


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b", "\n"])
@pytest.mark.parametrize(
    "text", ["{{ name }}", "{{ name | q }}", "{{ name | upper }}", "{{ [name] | join(',') }}", "{{ name ~ 'x' }}"]
)
def test_no_value_starts_a_line(tmp_path: Path, text: str, bad: str) -> None:
    with pytest.raises(ConfigError, match="newline, carriage return or NUL"):
        render(tmp_path, text, name=bad)


def test_unset_value_is_not_written_as_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not set"):
        render(tmp_path, "{{ memory_bytes }}")
    assert render(tmp_path, "{% if memory_bytes %}{{ memory_bytes }}{% endif %}") == ""


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ name.__init__.__globals__ }}",
        "{{ self.__init__ }}",
        "{{ command.__class__.__base__.__subclasses__() }}",
    ],
)
def test_sandbox(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        render(tmp_path, text)


def test_syntax_error_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"site\.sh, line 2: "):
        render(tmp_path, "#!/bin/sh\n{% if %}\n")


def test_template_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: .*No such file"):
        load_template("slurm.sh", str(tmp_path / "nowhere.sh"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_template("slurm.sh", str(tmp_path / "binary"))


def test_own_template_may_extend_ours_by_name(tmp_path: Path) -> None:
    assert "stage started" in render(tmp_path, "{% include 'local.sh' %}")


def test_quote_and_lines() -> None:
    assert quote("it's") == "'it'\"'\"'s'"
    assert script_lines(("a\nb", "c")) == ("a", "b", "c")


def test_jinja_is_not_imported_before_a_script_is_rendered() -> None:
    code = "import sys, hpccluster.backend.batch, hpccluster_slurm.plugin; sys.exit('jinja2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_template_in_a_package_of_another_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "their.sh").write_text("{{ name }} ${#array[@]}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert (
        render_template(load_template("their_package:their.sh"), CONTEXT, source="x") == "hpc-calm-0001 ${#array[@]}\n"
    )
    for missing in ("their_package:other.sh", "no_such_package:their.sh", "nowhere.sh"):
        with pytest.raises(ConfigError, match=rf"there is no template '{missing}'"):
            load_template(missing)
