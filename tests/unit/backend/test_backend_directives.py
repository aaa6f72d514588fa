"""Directives that a user leaves out or replaces, with the spellings of a batch system that is none of ours."""

from __future__ import annotations

import pytest

from hpccluster.backend.directives import Directives
from hpccluster.backend.options import BatchOptions, Safe
from hpccluster.errors import ConfigError


def options_of(directive: str) -> tuple[str, ...]:
    letter, _, rest = directive.partition(" ")
    return tuple(f"-l {part.split('=')[0]}" for part in rest.split(",")) if letter == "-l" and rest else (letter,)


SCRIPT = Directives(
    spellings={
        "name": ("-N",),
        "log_path": ("-o", "-j"),
        "queue": ("-q", "--queue"),
        "walltime": ("-l h_rt", "-l s_rt"),
        "memory": ("-l h_vmem",),
    },
    options_of=options_of,
    impossible={"-t": "use scale"},
)


@pytest.mark.parametrize(
    ("skip", "extra", "names"),
    [
        ((), (), set()),
        (("-q",), (), {"queue"}),
        (("--queue",), ("-l h_vmem=4G,gpu=1",), {"queue", "memory"}),
        (("-l",), (), {"walltime", "memory"}),
        ((), ("-l s_rt=60",), {"walltime"}),
        ((), ("-l gpu=1", "-p 5"), set()),
    ],
)
def test_what_is_left_out(skip: tuple[str, ...], extra: tuple[str, ...], names: set[str]) -> None:
    assert SCRIPT.left_out(BatchOptions(job_directives_skip=skip, job_extra_directives=extra)) == names


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        (
            "job_directives_skip",
            "--queu",
            r"job_directives_skip='--queu': no such directive .*; did you mean '--queue'\?",
        ),
        ("job_directives_skip", "-Z", r"there are \['-N', '-o', '-j', '-q', "),
        ("job_directives_skip", "-N", "has to stay as it is"),
        ("job_extra_directives", "-j n", "job_extra_directives='-j n': this directive has to stay as it is"),
        ("job_extra_directives", "-t 1-3", "use scale"),
    ],
)
def test_what_cannot_be_left_out(option: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        SCRIPT.left_out(BatchOptions(**{option: (value,)}))  # type: ignore[arg-type]
    assert caught.value.details["option"] == option


def test_value_that_is_checked_by_hand() -> None:
    rule = Safe(r"/[a-z/]+", "a path of small letters")
    assert rule.check("log_directory", "/a/b") == "/a/b"
    with pytest.raises(ConfigError, match=r"log_directory='/A\\n': allowed: a path of small letters"):
        rule.check("log_directory", "/A\n")
