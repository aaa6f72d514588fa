"""What the docs say is there is there."""

from __future__ import annotations

import dataclasses
import importlib
import re
import textwrap
from pathlib import Path

import click
import pytest

from hpccluster.backend.dialect import Dialect
from hpccluster.backend.template import TemplateContext

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_and_verbs_exist(page: Path) -> None:
    from hpccluster.cli.main import cli

    text = page.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^ {4}|`)make ([a-z]+)", text, re.MULTILINE)) <= targets
    verbs = set(cli.list_commands(click.Context(cli)))
    for verb in re.findall(r"^ *\$ hpccluster ([a-z]+)", text, re.MULTILINE):
        assert verb in verbs, f"{page.name} shows 'hpccluster {verb}'"


def test_python_in_the_docs_compiles() -> None:
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            compile(block, str(page), "exec")


def test_no_path_of_a_machine_is_left_in_the_tree() -> None:
    pattern = re.compile(r"/(?:home|Users)/[a-z]+/(?!\.)|/root/")
    for folder in ("hpccluster", "backends", "templates", "docs", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".sh", ".yaml"}:
                assert not pattern.search(path.read_text()), path


def test_names_of_templates_and_methods_of_dialects_are_all_there() -> None:
    templates = (ROOT / "docs" / "templates.md").read_text()
    for field in dataclasses.fields(TemplateContext):
        assert f"`{field.name}`" in templates, f"docs/templates.md does not tell of {field.name}"
    plugins = (ROOT / "docs" / "plugins.md").read_text()
    for name, method in vars(Dialect).items():
        if not name.startswith("_") and callable(method):
            row = next(line for line in plugins.splitlines() if line.startswith("| ") and f"`{name}`" in line)
            assert ("optional:" in row) != (name in Dialect.__abstractmethods__), (
                f"docs/plugins.md: is {name} optional?"
            )


def test_the_plugin_api_is_there_and_the_example_is_quoted_as_it_is() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text()
    rows = re.findall(r"^\| `(hpccluster\.[a-z_.]+)` \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) > 10
    for module, names in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(importlib.import_module(module), name), f"docs/plugins.md: {module} has no {name}"
    example = ROOT / "examples" / "hpccluster-taskspooler"
    sources = [path.read_text() for path in example.rglob("*") if path.suffix in {".py", ".toml"}]
    quoted = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    quoted += [textwrap.dedent(text) for text in re.findall(r"\n\n((?: {4}\[project.*\n)(?: {4}.*\n)+)", page)]
    assert len(quoted) == 3
    for text in quoted:
        assert any(text in source for source in sources), f"docs/plugins.md quotes what is not there:\n{text}"
