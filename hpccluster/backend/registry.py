"""Finds backends and remote runners by name: the built-in ones from a table, others by entry point.

Reading the entry points of an environment costs tens of milliseconds, so that is done only for names that are not in the
table. One plugin is loaded at a time: a package that one backend misses hurts only its users.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from hpccluster.backend.base import BackendPlugin
from hpccluster.backend.remote import RunnerFactory
from hpccluster.errors import BackendNotFound, BackendUnavailable

GROUP = "hpccluster.backends"

BUILT_IN = {
    "local": "hpccluster_local.plugin:PLUGIN",
    "slurm": "hpccluster_slurm.plugin:PLUGIN",
}
"""Backends of this distribution; the same as its entry points, which a test checks."""

RUNNER_GROUP = "hpccluster.runners"

BUILT_IN_RUNNERS = {
    "asyncssh": "hpccluster_ssh.asyncssh_runner:AsyncsshRunner",
    "paramiko": "hpccluster_ssh.paramiko_runner:ParamikoRunner",
}
"""Remote runners of this distribution; the same as its entry points, too."""

_DISTRIBUTION = "hpccluster"
_EXTRAS = {"ssh": "ssh", "asyncssh": "ssh", "paramiko": "ssh"}


@dataclass(frozen=True, slots=True)
class ListedPlugin:
    """One backend that is installed, usable or not."""

    name: str
    distribution: str
    plugin: BackendPlugin | None
    problem: str = ""
    """Why it cannot be loaded."""


def get_plugin(name: str) -> BackendPlugin:
    """The plugin of that name.

    Raises `BackendNotFound` with the known names, and `BackendUnavailable` where it cannot be imported or two
    distributions offer it.
    """
    plugin = _find("backend", GROUP, BUILT_IN, name)
    if not isinstance(plugin, BackendPlugin) or plugin.name != name:
        raise BackendUnavailable(
            f"backend {name!r}: what is installed under that name is not a BackendPlugin of that name",
            code="HPC-BACKEND-IMPORT",
        )
    return plugin


def get_runner(name: str) -> RunnerFactory:
    """What makes remote runners of that name (``asyncssh``, ``paramiko``, or another one that is installed).

    Raises as `get_plugin` does.
    """
    factory = _find("runner", RUNNER_GROUP, BUILT_IN_RUNNERS, name)
    if not callable(factory):
        raise BackendUnavailable(f"runner {name!r}: what is installed cannot be called", code="HPC-BACKEND-IMPORT")
    return cast(RunnerFactory, factory)


def list_plugins() -> list[ListedPlugin]:
    """All backends that are installed, by name; one that cannot be loaded is listed with its problem."""
    offers = {name: [(_DISTRIBUTION, target)] for name, target in BUILT_IN.items()}
    for name, found in _offers(GROUP, BUILT_IN).items():
        offers.setdefault(name, []).extend(found)
    listed = []
    for name in sorted(offers):
        owners = " and ".join(sorted({distribution for distribution, _ in offers[name]}))
        try:
            if name in BUILT_IN and len(offers[name]) > 1:
                raise BackendUnavailable(f"offered by {owners}: the one of {_DISTRIBUTION} is used")
            plugin = get_plugin(name)
        except BackendUnavailable as error:
            listed.append(ListedPlugin(name, owners, None, str(error)))
        else:
            listed.append(ListedPlugin(name, owners, plugin))
    return listed


def _find(kind: str, group: str, built_in: Mapping[str, str], name: str) -> object:
    if name in built_in:
        return _load(kind, name, built_in[name], _DISTRIBUTION)
    offers = _offers(group, built_in)
    if name not in offers:
        known = sorted({*built_in, *offers})
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise BackendNotFound(
            f"no {kind} {name!r}: installed are {', '.join(known)}{hint}",
            code=f"HPC-{kind.upper()}-UNKNOWN",
            details={kind: name, "known": ", ".join(known), "suggestion": close[0] if close else None},
        )
    found = offers[name]
    if len(found) > 1:
        owners = " and ".join(sorted(distribution for distribution, _ in found))
        raise BackendUnavailable(
            f"{kind} {name!r} is offered by {owners}: uninstall all but one", code=f"HPC-{kind.upper()}-TWICE"
        )
    distribution, target = found[0]
    return _load(kind, name, target, distribution)


def _offers(group: str, built_in: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """Per name, who offers it by entry point (distribution, target); our own entry points are in the table already."""
    from importlib import metadata

    offers: dict[str, list[tuple[str, str]]] = {}
    for point in metadata.entry_points(group=group):
        distribution = point.dist.name if point.dist is not None else "an unknown distribution"
        if distribution == _DISTRIBUTION and point.name in built_in:
            continue
        if (offer := (distribution, point.value)) not in offers.setdefault(point.name, []):
            offers[point.name].append(offer)
    return offers


def _load(kind: str, name: str, target: str, distribution: str) -> object:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        extra = _EXTRAS.get(name)
        fix = f": pip install 'hpccluster[{extra}]'" if extra else ""
        raise BackendUnavailable(
            f"{kind} {name!r} needs more packages{fix} ({error})",
            code=f"HPC-{extra.upper()}-EXTRA" if extra else "HPC-BACKEND-IMPORT",
        ) from error
    except Exception as error:  # somebody else's module may fail in any way
        raise BackendUnavailable(
            f"{kind} {name!r} of {distribution} cannot be loaded: {type(error).__name__}: {error}",
            code="HPC-BACKEND-IMPORT",
        ) from error
