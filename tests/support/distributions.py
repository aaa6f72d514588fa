"""Distributions as an installer leaves them: modules and metadata in a folder that is put on the path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

GROUP = "hpccluster.backends"

PLUGIN = """\
from hpccluster.backend.base import BackendPlugin
from hpccluster.backend.options import JobOptions

def make(options):
    raise NotImplementedError

PLUGIN = BackendPlugin({name!r}, JobOptions, make, "x:Y"{more})
"""


def install(
    site: Path, distribution: str, backends: Mapping[str, str], *, version: str = "2.1", points: str | None = None
) -> None:
    """A distribution that offers these backends, each with the text of its module. ``points`` replaces the entry points."""
    metadata = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = [f"[{GROUP}]"]
    for name, source in backends.items():
        module = f"{distribution.replace('-', '_')}_{name}_plugin"
        (site / f"{module}.py").write_text(source)
        lines.append(f"{name} = {module}:PLUGIN")
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n" if points is None else points)


def plugin(name: str, more: str = "") -> str:
    """The module of a plugin that can be loaded; ``more``: further arguments of `BackendPlugin`."""
    return PLUGIN.format(name=name, more=more and f", {more}")
