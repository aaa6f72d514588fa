"""What `config import` does: reads the file of another tool, tries each value out, and tells what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpccluster.backend.options import build_options
from hpccluster.backend.registry import list_plugins
from hpccluster.cli.output import note, plain_table, say, write_table
from hpccluster.config import load
from hpccluster.config.from_dask import Section, convert
from hpccluster.config.write import sections_file
from hpccluster.errors import ConfigError
from hpccluster.paths import expand_path

_CLUSTER_KEYS = ("host", "port", "contact_host")


def convert_file(file: Path, named: Sequence[str]) -> tuple[list[Section], str]:
    """The sections of the file, and the text of ours. Raises `ConfigError` for a file that cannot be used."""
    types = {it.name: it.plugin.options_type for it in list_plugins() if it.plugin is not None}
    wanted: dict[str, str] = {}
    for text in named:
        name, equals, backend = text.partition("=")
        if not equals or backend not in types:
            raise ConfigError(
                f"--as {text}: write it as NAME=BACKEND, with a backend out of {', '.join(sorted(types))}"
            )
        wanted[name] = backend

    def try_out(backend: str, values: Mapping[str, Any]) -> None:
        options = build_options(types[backend], {k: v for k, v in values.items() if k not in _CLUSTER_KEYS})
        if options.cores is not None and options.memory is not None:
            options.resources()

    path = expand_path("file", file)
    sections = convert(load.read_file(path), backends=types, named=wanted, try_out=try_out)
    is_named = [it for it in sections if it.values and it.name != it.backend]
    text = sections_file(
        [
            f"Written by 'hpccluster config import' from {load.shown(path.absolute())}.",
            *(
                f"  {it.name}.{judged.key}: {judged.value}: {judged.verdict}, {judged.why}"
                for it in sections
                for judged in it.judged
                if judged.verdict in ("dropped", "by hand")
            ),
        ],
        {it.name: it.values for it in sections if it.values and it.name == it.backend},
        {it.name: {"extends": it.backend, **it.values} for it in is_named},
    )
    return sections, text


def report(sections: Sequence[Section], *, to_stderr: bool) -> None:
    """The verdicts, a line each."""
    rows = []
    for section in sections:
        if section.problem:
            rows.append(("not taken over", section.name, section.problem))
        for judged in section.judged:
            now = f"now {judged.now}" if judged.now and judged.verdict in ("renamed", "changed") else ""
            why = "; ".join(text for text in (now, judged.why) if text)
            rows.append((judged.verdict, f"{section.name}.{judged.key}: {judged.value}", why))
    if not rows:
        return
    titles = ("VERDICT", "VALUE", "WHY")
    if to_stderr:
        note(plain_table(titles, rows))
    else:
        write_table(titles, rows, wrapped=("VALUE", "WHY"))
        say()
