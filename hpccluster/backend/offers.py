"""What distributions offer by entry point: ours from a table, those of others from their metadata.

Reading the entry points of an environment costs tens of milliseconds, so that is done only for names that are not in the
table. One thing is loaded at a time: a package that it misses, or a distribution that is broken, hurts only its users.
Must not know what is offered.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpccluster.errors import BackendNotFound, BackendUnavailable

if TYPE_CHECKING:
    from importlib.metadata import Distribution

OURS = "hpccluster"
"""Our own distribution."""

_EXTRAS = {"ssh": "ssh", "asyncssh": "ssh", "paramiko": "ssh"}
"""What of ours needs an extra for its very import."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group of entry points."""

    kind: str
    """``backend``: what its members are called in messages."""
    name: str
    """``hpccluster.backends``"""
    built_in: Mapping[str, str]
    """The members of our own distribution, and where each is."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One distribution's offer of a name."""

    kind: str
    name: str
    target: str
    """``package.module:NAME``"""
    distribution: str
    version: str
    problem: str = ""
    """Why the offer itself cannot be read."""

    @property
    def origin(self) -> str:
        """The distribution and its version."""
        return f"{self.distribution} {self.version}".rstrip()

    def load(self) -> object:
        """What it names. Raises `BackendUnavailable`, whatever goes wrong."""
        module, _, attribute = self.target.partition(":")
        if not attribute:
            why = f"is wrong: its entry point {self.target!r} is not of the form module:NAME"
            raise self.unusable(why, "HPC-BACKEND-IMPORT")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # somebody else's module may fail in any way
            said = f"{type(error).__name__}: {error}"
            needs_extra = isinstance(error, ImportError) and self.distribution == OURS and self.name in _EXTRAS
            code = f"HPC-{_EXTRAS[self.name].upper()}-EXTRA" if needs_extra else "HPC-BACKEND-IMPORT"
            raise self.unusable(f"cannot be loaded: {said}{self._advice(error)}", code) from error

    def unusable(self, why: str, code: str) -> BackendUnavailable:
        """The error for whoever wants to use it; ``details["why"]`` is the reason alone."""
        return BackendUnavailable(f"{self.kind} {self.name!r} of {self.origin} {why}", code=code, details={"why": why})

    def _advice(self, error: BaseException) -> str:
        if isinstance(error, ImportError) and self.distribution == OURS and self.name in _EXTRAS:
            return f" (pip install '{OURS}[{_EXTRAS[self.name]}]')"
        if not isinstance(error, ModuleNotFoundError) or not error.name:
            return ""
        if self.target.startswith(error.name):
            return f" (its distribution is incomplete: reinstall {self.distribution})"
        return (
            f" (it needs a package that is not installed: reinstall {self.distribution}, or pip install {error.name})"
        )


def find_offer(group: Group, name: str) -> Offer:
    """The offer of that name; ours is never taken over by another.

    Raises `BackendNotFound` with the known names, and `BackendUnavailable` where two distributions offer it.
    """
    if name in group.built_in:
        return built_in_offer(group, name)
    offers = [offer for offer in foreign_offers(group) if not offer.problem]
    found = [offer for offer in offers if offer.name == name]
    code = f"HPC-{group.kind.upper()}"
    if not found:
        known = sorted({*group.built_in, *(offer.name for offer in offers)})
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise BackendNotFound(
            f"no {group.kind} {name!r}: installed are {', '.join(known)}{hint}",
            code=f"{code}-UNKNOWN",
            details={group.kind: name, "known": ", ".join(known), "suggestion": close[0] if close else None},
        )
    if len(found) > 1:
        owners = " and ".join(sorted(offer.origin for offer in found))
        raise BackendUnavailable(
            f"{group.kind} {name!r} is offered by {owners}: uninstall all but one", code=f"{code}-TWICE"
        )
    return found[0]


def built_in_offer(group: Group, name: str) -> Offer:
    """Our own offer of that name."""
    from hpccluster import __version__

    return Offer(group.kind, name, group.built_in[name], OURS, __version__)


def foreign_offers(group: Group) -> Iterator[Offer]:
    """What other distributions offer. One whose metadata is broken is an offer with a problem."""
    from importlib import metadata

    seen = set()
    for distribution in metadata.distributions():
        problem = ""
        try:
            points = list(distribution.entry_points.select(group=group.name))
        except Exception as error:  # noqa: BLE001 - what others wrote into their entry_points.txt
            if group.name not in (distribution.read_text("entry_points.txt") or ""):
                continue
            points, problem = [], f"its entry points cannot be read: {type(error).__name__}: {error}"
        if not points and not problem:
            continue
        owner, version = _who(distribution)
        if owner in seen or owner == OURS:  # ours are in the table; a second one of a name is shadowed by the first
            continue
        seen.add(owner)
        if problem:
            yield Offer(group.kind, "?", "", owner, version, problem)
        for point in points:
            yield Offer(group.kind, point.name, point.value, owner, version)


def _who(distribution: Distribution) -> tuple[str, str]:
    """Name and version; a distribution without metadata is called by its place."""
    try:
        return str(distribution.name), str(distribution.version)
    except Exception:  # noqa: BLE001 - as above
        return str(getattr(distribution, "_path", "an unknown distribution")), ""
