"""What a shell offers for the word that is being typed. Nothing here may fail, wait for long, or start anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from hpccluster.errors import HpcClusterError

ANSWER_TIME = 2.0
"""Seconds that a head has to answer while somebody waits at a prompt."""

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _offered(find: Callable[[click.Context], Iterable[tuple[str, str]]]) -> Completer:
    """Words and what they are, those that begin as what was typed."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            found = list(find(context))
        except (HpcClusterError, OSError):
            return []
        return [CompletionItem(word, help=what or None) for word, what in found if word.startswith(incomplete)]

    return complete


def _clusters(context: click.Context, *, over: bool) -> Iterable[tuple[str, str]]:
    from hpccluster.cli.running import known_clusters

    said = context.params.get("names") or ()
    for record, _ in known_clusters():
        if (over or record.state != "ended") and record.name not in said:
            yield record.name, f"{record.backend}, {record.state}"


def _descriptions(_: click.Context) -> Iterable[tuple[str, str]]:
    from hpccluster.cluster.describe import configuration

    config = configuration()
    yield from ((name, "described cluster") for name in config.clusters)
    yield from ((name, "backend") for name in config.backends)


def _backends(_: click.Context) -> Iterable[tuple[str, str]]:
    from hpccluster.backend.registry import list_plugins

    return ((it.name, it.plugin.summary if it.plugin is not None else it.problem) for it in list_plugins())


def _jobs(context: click.Context) -> Iterable[tuple[str, str]]:
    from hpccluster.cli.running import ask, find_cluster
    from hpccluster.head.directory import HEAD_LOG, PROGRAM_LOG

    # Where an option still lacks its value, click has put the words aside unread.
    name = context.params.get("name") or next((word for word in context.args if not word.startswith("-")), None)
    if not name:
        return
    try:
        for job in ask(name, "jobs", wait=ANSWER_TIME):
            yield from ((word, job["state"]) for word in (job["id"], job["name"]) if word)
    except HpcClusterError:
        logs = sorted(find_cluster(name)[1].glob("*.log"))
        yield from ((path.stem, "log") for path in logs if path.name not in (HEAD_LOG, PROGRAM_LOG))


def _keys(_: click.Context) -> Iterable[tuple[str, str]]:
    from hpccluster.cluster.describe import configuration
    from hpccluster.config.check import field_types

    config = configuration()
    for section in dict.fromkeys([*config.clusters, *config.backends]):
        yield from ((f"{section}.{key}", "") for key in field_types(config.options_of(config.resolve(section).backend)))


def _verbs(context: click.Context) -> Iterable[tuple[str, str]]:
    group: Any = context.find_root().command
    return ((name, "") for name in group.list_commands(context))


living_cluster = _offered(lambda context: _clusters(context, over=False))
any_cluster = _offered(lambda context: _clusters(context, over=True))
backend = _offered(_backends)
job = _offered(_jobs)
key = _offered(_keys)
section = _offered(lambda context: [*_descriptions(context), *_backends(context)])
verb = _offered(_verbs)
_description = _offered(_descriptions)


def description(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of described clusters, and files."""
    return [*_description(context, parameter, incomplete), CompletionItem(incomplete, type="file")]
