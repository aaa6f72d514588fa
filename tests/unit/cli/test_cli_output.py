"""Tables and errors as text."""

from __future__ import annotations

import pytest

from hpccluster.cli import output
from hpccluster.cli.description import read_values
from hpccluster.cli.main import run
from hpccluster.errors import ConfigError, SubmitRefused


def test_a_table_in_a_pipe_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_table(("NAME", "EMPTY", "WHY"), [("a", "", "x" * 200), ("long", "", "")], flexible=("WHY",))
    out = capsys.readouterr().out
    assert out == f"NAME  WHY\na     {'x' * 200}\nlong\n"


def test_an_error_has_at_most_ten_lines_and_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_error(SubmitRefused("\n".join(["no"] * 30), code="HPC-SUBMIT-X"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "error: no (HPC-SUBMIT-X)"
    assert lines[-1] == "... 21 more lines with --debug"


def test_what_nobody_expected_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_error(ZeroDivisionError("division by zero"))
    assert capsys.readouterr().err == "error: internal error: ZeroDivisionError: division by zero\n"


def test_facts_leave_out_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_facts({"a": "1", "long": "x\ny", "none": ""})
    assert capsys.readouterr().out == "  a     1\n  long  x\n        y\n"


def test_values_on_the_command_line_are_read_by_type() -> None:
    found = read_values(["queue=short", "cores=4", "adapt.maximum-jobs=9", "adapt.minimum=0", "env={A: b}"])
    assert {key: node.plain() for key, node in found.items()} == {
        "queue": "short",
        "cores": 4,
        "adapt": {"maximum_jobs": 9, "minimum": 0},
        "env": {"A": "b"},
    }
    for wrong in ("cores", "=4", "cores=4 cores.x=5"):
        with pytest.raises(ConfigError, match="--set"):
            read_values(wrong.split(" "))


def test_the_traceback_comes_with_debug_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "nowhere"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert run(["config", "show", "nowhere", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
