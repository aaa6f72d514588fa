"""How the fake PBS prints jobs: the forms of ``qstat -f``, byte by byte as OpenPBS 23.06.06 has them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

Table = tuple[str, dict[str, str]]
"""A job's id and its attributes; resources are flat."""

WIDTH = 78


def as_dsv(jobs: Sequence[Table], delimiter: str) -> str:
    """``-F dsv``: one line a job."""
    lines = []
    for job, attributes in jobs:
        cells = [f"{name}={_escape(value)}" for name, value in attributes.items()]
        lines.append(delimiter.join([f"Job Id: {job}", *cells]))
    return "".join(f"{line}\n" for line in lines)


def as_json(jobs: Sequence[Table], server: str) -> str:
    """``-F json``; without the key ``Jobs`` where there are none, and with numbers for what looks like one."""
    found: dict[str, object] = {"timestamp": 1795500000, "pbs_version": "23.06.06", "pbs_server": server}
    if jobs:
        found["Jobs"] = {job: _nested(attributes) for job, attributes in jobs}
    return json.dumps(found, indent=4) + "\n"


def as_text(jobs: Sequence[Table]) -> str:
    """``-f``: an attribute a line, long ones cut anywhere and continued after a tab."""
    blocks = []
    for job, attributes in jobs:
        lines = [f"Job Id: {job}"]
        for name, value in attributes.items():
            first, *rest = textwrap.wrap(
                f"    {name} = {value}", WIDTH, drop_whitespace=False, replace_whitespace=False, break_on_hyphens=False
            )
            lines += [first, *(f"\t{line}" for line in rest)]
        blocks.append("".join(f"{line}\n" for line in lines))
    return "\n".join(blocks)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _nested(attributes: dict[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in attributes.items():
        group, dot, key = name.partition(".")
        typed = int(value) if value.lstrip("-").isdigit() and name != "Job_Name" else value
        if dot:
            inner = found.setdefault(group, {})
            assert isinstance(inner, dict)
            inner[key] = typed
        else:
            found[name] = typed
    return found
