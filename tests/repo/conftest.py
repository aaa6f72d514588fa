"""The distributions of this repository, built once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels of the project and of the example of a plugin, by the names of their distributions."""
    target = tmp_path_factory.mktemp("wheels")
    sources = [str(ROOT), str(ROOT / "examples" / "hpccluster-taskspooler")]
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(target), *sources]
    subprocess.run(command, check=True, timeout=300)
    return {path.name.partition("-")[0]: path for path in target.glob("*.whl")}


@pytest.fixture(scope="session")
def wheel(wheels: dict[str, Path]) -> Path:
    """The project's wheel."""
    return wheels["hpccluster"]
