"""What people and programs get to see: tables, JSON, progress, errors. Knows terminals, and nothing of clusters.

A table goes to a terminal through rich, fitted to its width; into a pipe it is plain columns without colour, boxes or
limits. JSON and table come from one value. What is on its way goes to stderr, results to stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

from hpccluster.errors import HpcClusterError

if TYPE_CHECKING:
    from rich.console import Console

ERROR_LINES = 10
PROGRESS_AFTER = 0.3
"""Seconds before an operation shows that it is under way."""

_STYLES = {
    "RUNNING": "green",
    "running": "green",
    "PENDING": "yellow",
    "starting": "yellow",
    "closing": "yellow",
    "FAILED": "red",
    "TIMEOUT": "red",
    "NODE_FAIL": "red",
    "OUT_OF_MEMORY": "red",
    "failed": "red",
    "lost": "red",
}


JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
"""Of every verb that says something."""


def console(*, stderr: bool = False) -> Console:
    """A rich console for stdout or stderr; it minds ``NO_COLOR``, ``COLUMNS`` and what it writes to."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False, emoji=False, markup=False)


def say(text: str = "") -> None:
    """A line of the result."""
    click.echo(text)


def note(text: str) -> None:
    """A line about what happens: on stderr, so that it is in nobody's pipe."""
    click.echo(text, err=True)


def write_json(value: Any) -> None:
    """A value for programs: two blanks of indentation, keys in their order."""
    say(json.dumps(value, indent=2, ensure_ascii=False))


def write_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    flexible: Sequence[str] = (),
    wrapped: Sequence[str] = (),
    right: Sequence[str] = (),
) -> None:
    """Rows below titles. Columns that are empty throughout are left out. Where the terminal is too narrow, those in
    ``flexible`` give way with an ellipsis, those in ``wrapped`` by taking more lines. Those in ``right`` are numbers."""
    used = [number for number, _ in enumerate(titles) if any(row[number] for row in rows)]
    titles = [titles[number] for number in used]
    rows = [[row[number] for number in used] for row in rows]
    if not sys.stdout.isatty():
        say(plain_table(titles, rows, right=right))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in titles:
        width = 4 if title in flexible or title in wrapped else _width(title, titles, rows)
        side: Literal["left", "right"] = "right" if title in right else "left"
        if title in wrapped:
            table.add_column(title, overflow="fold", min_width=width, justify=side)
        else:
            table.add_column(title, no_wrap=True, overflow="ellipsis", min_width=width, justify=side)
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell.partition(",")[0].partition(" ")[0], "")) for cell in row))
    shown = console()
    if (
        shown.measure(table, options=shown.options.update(width=10_000)).minimum > shown.width
    ):  # lines that the terminal folds, rather than columns that are not there
        say(plain_table(titles, rows, right=right))
        return
    shown.print(table)


def _width(title: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    column = titles.index(title)
    return min(30, max(len(title), *(len(row[column]) for row in rows))) if rows else len(title)


def plain_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Columns two blanks apart, for pipes."""
    lines = [titles, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if title in right else cell.ljust(width)
            for title, cell, width in zip(titles, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def write_facts(facts: Mapping[str, str]) -> None:
    """Lines of ``name   value``; empty values are left out."""
    shown = {name: value for name, value in facts.items() if value}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        first, *more = value.splitlines()
        say(f"  {name.ljust(width)}  {first}")
        for line in more:
            say(f"  {' ' * width}  {line}")


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Show that ``text`` is under way, if it takes longer than a moment and somebody looks."""
    if not sys.stderr.isatty():
        yield
        return
    status = console(stderr=True).status(text, spinner="line")
    timer = threading.Timer(PROGRESS_AFTER, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()


@contextlib.contextmanager
def says_what_goes_on(name: str) -> Iterator[None]:
    """Ctrl-C ends the waiting, and not what is waited for."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"{name!r} goes on; stop it with: hpccluster down {name}")
        raise


def write_error(error: BaseException) -> None:
    """An error for people: at most ten lines on stderr, the first with its code."""
    text = str(error).rstrip() or type(error).__name__
    if not isinstance(error, HpcClusterError):
        kind = "" if isinstance(error, OSError | click.ClickException) else f"internal error: {type(error).__name__}: "
        text = f"{kind}{text}"
    lines = text.splitlines()
    if isinstance(error, HpcClusterError) and error.code and error.code not in text:
        lines[0] += f" ({error.code})"
    if len(lines) > ERROR_LINES:
        lines = [*lines[: ERROR_LINES - 1], f"... {len(lines) - ERROR_LINES + 1} more lines with --debug"]
    # None: as the terminal is
    click.secho("error: ", fg="red", bold=True, nl=False, err=True, color=False if os.environ.get("NO_COLOR") else None)
    note("\n".join(lines))
