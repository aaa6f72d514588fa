"""Finds backends by name: the built-in ones from a table, others by entry point.

Reading the entry points of an environment costs tens of milliseconds, so that is done only for names that are not in the
table. One plugin is loaded at a time: a package that one backend misses hurts only its users.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass

from hpccluster.backend.base import BackendPlugin
from hpccluster.errors import BackendNotFound, BackendUnavailable

GROUP = "hpccluster.backends"

BUILT_IN = {
    "local": "hpccluster_local.plugin:PLUGIN",
    "slurm": "hpccluster_slurm.plugin:PLUGIN",
}
"""Backends of this distribution; the same as its entry points, which a test checks."""

_DISTRIBUTION = "hpccluster"
_EXTRAS = {"ssh": "ssh"}


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
    if name in BUILT_IN:
        return _load(name, BUILT_IN[name], _DISTRIBUTION)
    offers = _offers()
    if name not in offers:
        known = sorted({*BUILT_IN, *offers})
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise BackendNotFound(
            f"no backend {name!r}: installed are {', '.join(known)}{hint}",
            code="HPC-BACKEND-UNKNOWN",
            details={"backend": name, "known": ", ".join(known), "suggestion": close[0] if close else None},
        )
    found = offers[name]
    if len(found) > 1:
        owners = " and ".join(sorted(distribution for distribution, _ in found))
        raise BackendUnavailable(
            f"backend {name!r} is offered by {owners}: uninstall all but one", code="HPC-BACKEND-TWICE"
        )
    distribution, target = found[0]
    return _load(name, target, distribution)


def list_plugins() -> list[ListedPlugin]:
    """All backends that are installed, by name; one that cannot be loaded is listed with its problem."""
    offers = {name: [(_DISTRIBUTION, target)] for name, target in BUILT_IN.items()}
    for name, found in _offers().items():
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


def _offers() -> dict[str, list[tuple[str, str]]]:
    """Per name, who offers it by entry point (distribution, target); our own entry points are in the table already."""
    from importlib import metadata

    offers: dict[str, list[tuple[str, str]]] = {}
    for point in metadata.entry_points(group=GROUP):
        distribution = point.dist.name if point.dist is not None else "an unknown distribution"
        if distribution == _DISTRIBUTION and point.name in BUILT_IN:
            continue
        if (offer := (distribution, point.value)) not in offers.setdefault(point.name, []):
            offers[point.name].append(offer)
    return offers


def _load(name: str, target: str, distribution: str) -> BackendPlugin:
    module, _, attribute = target.partition(":")
    try:
        plugin = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        fix = f": pip install 'hpccluster[{_EXTRAS[name]}]'" if name in _EXTRAS else ""
        raise BackendUnavailable(
            f"backend {name!r} needs more packages{fix} ({error})", code="HPC-BACKEND-IMPORT"
        ) from error
    except Exception as error:  # somebody else's module may fail in any way
        raise BackendUnavailable(
            f"backend {name!r} of {distribution} cannot be loaded: {type(error).__name__}: {error}",
            code="HPC-BACKEND-IMPORT",
        ) from error
    if not isinstance(plugin, BackendPlugin) or plugin.name != name:
        raise BackendUnavailable(
            f"backend {name!r} of {distribution}: {target} is not a BackendPlugin of that name",
            code="HPC-BACKEND-IMPORT",
        )
    return plugin
