"""The gallery of site profiles: each file is right, each cluster in it could be started, and the page shows them all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hpccluster.cli.preview import preview_script
from hpccluster.cluster.describe import check_description, options_of
from hpccluster.config import load_config

ROOT = Path(__file__).parents[2]
SITES = sorted((ROOT / "docs" / "sites").glob("*.yaml"))


@pytest.mark.parametrize("file", SITES, ids=lambda file: file.stem)
def test_each_profile_describes_clusters_that_could_be_started(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("HPCCLUSTER_STATE_DIRECTORY", str(tmp_path / "state"))
    path = tmp_path / file.name
    path.write_text(file.read_text())
    path.chmod(0o600)
    config = load_config(options_of, [path], {})
    assert config.problems() == []
    names = config.clusters or config.backends
    assert names
    for name in names:
        resolved = config.resolve(name)
        check_description(resolved)
        script = preview_script(resolved)
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
        for value in (resolved.options.get("queue"), resolved.options.get("account")):
            assert value is None or value in script


def test_the_page_shows_them_all() -> None:
    text = (ROOT / "docs" / "sites.md").read_text()
    for file in SITES:
        assert f"](sites/{file.name})" in text
