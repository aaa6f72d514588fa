"""The fixture `state`: a state directory of the test's own, whose clusters leave no process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster_processes import VARIABLE, wait_until_gone


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory, which is not made yet; the test runs in the one above."""
    directory = tmp_path / "state"
    monkeypatch.setenv(VARIABLE, str(directory))
    monkeypatch.chdir(tmp_path)
    yield directory
    wait_until_gone(directory)
