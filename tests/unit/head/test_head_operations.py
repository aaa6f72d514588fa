"""What a head can be asked is checked before anything is done."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hpccluster.errors import ConfigError
from hpccluster.head.operations import Close, Operations, Scale, _checked, parse_adapt


def test_limits_are_read_as_people_write_them() -> None:
    wishes = {"maximum_jobs": 10, "minimum": None, "maximum_memory": "64GB", "idle_timeout": "5min", "interval": 2}
    settings = parse_adapt(wishes)
    assert (settings.maximum_jobs, settings.minimum, settings.maximum_memory) == (10, 0, 64 * 10**9)
    assert (settings.idle_timeout, settings.interval) == (300.0, 2.0)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"maximal": 3}, "unknown keyword 'maximal'"),
        ({"maximum": "three"}, "adapt: maximum: expected a whole number, got text"),
        ({"interval": "soon"}, "interval='soon'"),
        ({"maximum_memory": []}, "maximum_memory"),
    ],
)
def test_a_limit_that_is_none_is_named(wishes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_adapt(wishes)


@pytest.mark.parametrize("arguments", [{"workers": "3"}, {"worker": 3}, {"jobs": 1.5}, {"cores": []}])
def test_arguments_of_the_wrong_kind_do_nothing(arguments: dict[str, Any]) -> None:
    async def never(_: Scale) -> None:
        pytest.fail("it was done")

    with pytest.raises(ConfigError, match="scale: "):
        asyncio.run(_checked("scale", Scale, never)(arguments))


def test_good_arguments_arrive() -> None:
    async def note(arguments: Close) -> float | None:
        return arguments.timeout

    assert asyncio.run(_checked("close", Close, note)({"timeout": 3})) == 3.0
    assert asyncio.run(_checked("close", Close, note)({})) is None


def test_the_operations_are_these() -> None:
    known: dict[str, object] = {}
    Operations(None).register(known.__setitem__)  # type: ignore[arg-type]
    assert sorted(known) == [
        *("adapt", "close", "info", "job_script", "jobs", "logs", "program_wait", "scale", "status", "take_over"),
        *("wait_for_workers", "workers"),
    ]
