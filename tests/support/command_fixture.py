"""The fixture `commands`: the command line in places of the test's own, from which nothing is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster_processes import wait_until_gone
from support.command import Commands


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """Clusters that the test has left up are taken down."""
    made = Commands.below(tmp_path)
    yield made
    if names := [path.name for path in made.state.iterdir() if path.is_dir()]:
        made.run("down", *names, code=None)
    wait_until_gone(made.state)
