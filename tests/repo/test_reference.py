"""The pages of reference and the code say the same: every code of an error, every class of one, every public name, every verb."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import hpccluster
from hpccluster import errors

ROOT = Path(__file__).parents[2]
ERRORS = (ROOT / "docs" / "errors.md").read_text()
CODE = re.compile(r"HPC(?:-[A-Z0-9]+)+")
MADE = {
    "HPC-SUBMIT-{}": "the cause of a `Complaint`",
    "HPC-{}": "the kind of a group of entry points, to which an ending is added",
    "HPC-{}-EXTRA": "an extra",
}
"""Codes that are put together from parts, and from which."""
FROM_PARTS = {
    "HPC-SSH-EXTRA",
    *(f"HPC-{kind}-{what}" for kind in ("BACKEND", "RUNNER") for what in ("UNKNOWN", "TWICE")),
}


def _texts(tree: ast.Module) -> Iterator[str]:
    """The strings of a module; what is put into one is ``{}``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _causes(tree: ast.Module) -> Iterator[str]:
    """The causes that a batch system's complaints are told apart by."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Complaint":
            cause = node.args[1]
            assert isinstance(cause, ast.Constant)
            yield str(cause.value)


@functools.cache
def _codes_of_the_code() -> set[str]:
    codes = set(FROM_PARTS)
    for path in (*ROOT.glob("hpccluster/**/*.py"), *ROOT.glob("backends/**/*.py")):
        if "testing" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        codes |= {f"HPC-SUBMIT-{cause}" for cause in _causes(tree)}
        texts = [text for text in _texts(tree) if text not in MADE]
        codes |= {text for text in texts if CODE.fullmatch(text)}
        strange = [text for text in texts if re.fullmatch(r"HPC-[A-Z0-9{}-]*{}[A-Z0-9{}-]*", text)]
        assert strange == [], f"{path.name} makes codes that nobody can look up"
    return codes


def test_every_code_stands_once_on_the_page_of_errors_and_there_is_no_other() -> None:
    rows = [line for line in ERRORS.splitlines() if line.startswith("| `HPC-")]
    documented = [code for row in rows for code in CODE.findall(row.split("|")[1])]
    assert sorted(documented) == sorted(_codes_of_the_code())


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_other_pages_speak_of_codes_that_there_are(page: Path) -> None:
    assert set(re.findall(r"`(HPC(?:-[A-Z0-9]+)+)`", page.read_text())) <= _codes_of_the_code()


def test_every_class_of_errors_stands_there_with_its_exit_code() -> None:
    table = ERRORS[ERRORS.index("## Classes") : ERRORS.index("## Configuration")]
    said = {
        name: int(code)
        for names, code in re.findall(r"^\| (`.*?) \|.*\| (\d+) \|$", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HpcClusterError)
    ]
    assert said == {kind.__name__: kind.exit_code for kind in kinds if kind is not errors.HpcClusterError}


def test_every_public_name_is_in_the_python_reference() -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    names = set(hpccluster.__all__)
    for kind in (hpccluster.Client, hpccluster.Future, hpccluster.ClusterManager, hpccluster.as_completed):
        names |= {name for name in dir(kind) if not name.startswith("_")}
    assert {name for name in names if not re.search(rf"[` ]{name}\b", text)} == set()


def test_every_verb_is_on_the_page_of_the_command_line() -> None:
    from hpccluster.cli.main import cli

    text = (ROOT / "docs" / "cli.md").read_text()
    verbs = cli.list_commands(click.Context(cli))
    assert [verb for verb in verbs if not re.search(rf"(?:hpccluster |`){verb}\b", text)] == []


def test_the_floors_of_the_architecture_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["name"] == "Floors")
    below = [floor.replace("hpccluster.", "") for floor in layers[1:]]
    assert f"    {' > '.join(['plugins', *below])}\n" in (ROOT / "docs" / "architecture.md").read_text()
