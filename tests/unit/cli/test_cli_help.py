"""The first screen and the help: short, true, complete."""

from __future__ import annotations

import re

import click
import pytest

from hpccluster.cli import help as cli_help
from hpccluster.cli.main import _VERBS, cli, run


def test_the_first_screen_fits_a_small_terminal() -> None:
    lines = cli_help.FIRST_SCREEN.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_the_whole_help_fits_its_width() -> None:
    assert max(map(len, cli_help._REST.splitlines())) <= 80


def test_every_verb_that_is_named_exists_and_every_verb_is_named() -> None:
    everything = cli_help.FIRST_SCREEN + cli_help._REST
    for verb in _VERBS:
        assert re.search(rf"\b{verb}\b", everything), verb
    lines = cli_help.FIRST_SCREEN.splitlines()[2:13] + cli_help._REST.splitlines()[1:5]
    named = {word for line in lines for word in re.findall(r"\b[a-z]+\b", line[8:].split("  ")[0])}
    assert named == set(_VERBS)


@pytest.mark.parametrize("verb", sorted(_VERBS))
def test_every_verb_can_be_loaded_and_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    context = click.Context(cli, info_name="hpccluster")
    command = cli.get_command(context, verb)
    assert command is not None
    assert command.name == verb
    assert run([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: hpccluster {verb}")
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_first_screen_is_what_one_sees_first(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    assert capsys.readouterr().out.strip() == cli_help.FIRST_SCREEN.strip()


def test_help_on_a_verb_is_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help", "submit"]) == 0
    assert capsys.readouterr().out.startswith("Usage: hpccluster submit")
    assert run(["help", "--all"]) == 0
    assert "Exit codes" in capsys.readouterr().out
    assert run(["help", "nothing"]) == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["stats"], "there is no verb 'stats'; did you mean 'status'?"),
        (["xyz"], "there is no verb 'xyz'; see: hpccluster help"),
        (["jobs"], "missing argument 'NAME'.\nsee: hpccluster jobs --help"),
        (["jobs", "--nope", "x"], "--nope"),
        (["scale", "x"], "say one of N (workers), --jobs"),
        (["scale", "x", "1", "--jobs", "1"], "say one of N (workers), --jobs"),
        (["submit"], "missing argument"),
        (["worker"], "say either NAME|ADDRESS or --connection-file"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ],
)
def test_wrong_usage_is_one_short_error(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert expected in err
    assert len(err.splitlines()) <= 3


@pytest.mark.parametrize("group", ["config", "credentials"])
def test_a_group_alone_shows_what_it_has(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([group]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"Usage: hpccluster {group}")
    assert "Commands:" in err


def test_a_failure_of_ours_is_125_where_the_codes_are_the_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["submit", "--wait", "--nope"]) == 125
    assert run(["submit", "--wait"]) == 125
    assert run(["submit", "--wait", "--", "/nowhere/at-all"]) == 125
    assert run(["submit", "--", "/nowhere/at-all", "--wait"]) == 2
    assert "cannot run '/nowhere/at-all': no such program" in capsys.readouterr().err


def test_completion_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert run(["completion", shell]) == 0
        assert "_HPCCLUSTER_COMPLETE" in capsys.readouterr().out
