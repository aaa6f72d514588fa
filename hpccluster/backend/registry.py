"""Backends and remote runners by name: the built-in ones from a table, others by entry point."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, cast

from hpccluster.backend.base import CONTRACT, Backend, BackendPlugin
from hpccluster.backend.offers import OURS, Group, Offer, built_in_offer, find_offer, foreign_offers
from hpccluster.backend.options import JobOptions
from hpccluster.backend.remote import RunnerFactory
from hpccluster.errors import BackendUnavailable, HpcClusterError

GROUP = "hpccluster.backends"

BUILT_IN = {
    "local": "hpccluster_local.plugin:PLUGIN",
    "pbs": "hpccluster_pbs.plugin:PLUGIN",
    "slurm": "hpccluster_slurm.plugin:PLUGIN",
    "ssh": "hpccluster_ssh.plugin:PLUGIN",
}
"""Backends of this distribution; the same as its entry points, which a test checks."""

RUNNER_GROUP = "hpccluster.runners"

BUILT_IN_RUNNERS = {
    "asyncssh": "hpccluster_ssh.asyncssh_runner:AsyncsshRunner",
    "paramiko": "hpccluster_ssh.paramiko_runner:ParamikoRunner",
}
"""Remote runners of this distribution; the same as its entry points, too."""

_BACKENDS = Group("backend", GROUP, BUILT_IN)
_RUNNERS = Group("runner", RUNNER_GROUP, BUILT_IN_RUNNERS)


@dataclass(frozen=True, slots=True)
class ListedPlugin:
    """One distribution's offer of a backend, usable or not."""

    offer: Offer
    plugin: BackendPlugin | None
    """None where it cannot be loaded."""
    problem: str = ""
    """Why it cannot be used, in one line; empty if it can."""

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.offer.name


def get_plugin(name: str) -> BackendPlugin:
    """The plugin of that name.

    Raises `BackendNotFound` with the known names, and `BackendUnavailable` where it cannot be loaded, was made for another
    contract, or is offered by two distributions.
    """
    return _load(find_offer(_BACKENDS, name))


def get_runner(name: str) -> RunnerFactory:
    """What makes remote runners of that name (``asyncssh``, ``paramiko``, or another one that is installed).

    Raises as `get_plugin` does.
    """
    offer = find_offer(_RUNNERS, name)
    factory = offer.load()
    if not callable(factory):
        raise offer.unusable(f"is wrong: {offer.target} cannot be called", "HPC-BACKEND-IMPORT")
    return cast(RunnerFactory, factory)


def get_cluster_type(name: str) -> type[Any]:
    """The `ClusterManager` of the backend of that name. Raises as `get_plugin` does."""
    offer = find_offer(_BACKENDS, name)
    return cast(type[Any], replace(offer, target=_load(offer).cluster_type).load())


def list_plugins() -> list[ListedPlugin]:
    """All backends that distributions here offer, by name; one that cannot be used is listed with its problem."""
    offers = [*(built_in_offer(_BACKENDS, name) for name in BUILT_IN), *foreign_offers(_BACKENDS)]
    return [
        _listed(offer, [other for other in offers if other.name == offer.name and other is not offer])
        for offer in sorted(offers, key=lambda offer: (offer.name, offer.distribution != OURS, offer.origin))
    ]


def _listed(offer: Offer, others: list[Offer]) -> ListedPlugin:
    problem = offer.problem
    if not problem and others and offer.distribution != OURS:
        owners = " and ".join(other.origin for other in others)
        is_ours = any(other.distribution == OURS for other in others)
        problem = f"offered by {owners}, too: {'that one is used' if is_ours else 'uninstall all but one'}"
    if problem:
        return ListedPlugin(offer, None, problem)
    try:
        plugin = _load(offer)
    except BackendUnavailable as error:
        return ListedPlugin(offer, None, " ".join(str(error.details["why"]).split()))
    return ListedPlugin(offer, plugin, _missing(plugin, offer.distribution))


def _load(offer: Offer) -> BackendPlugin:
    plugin = offer.load()
    if not isinstance(plugin, BackendPlugin):
        raise offer.unusable(f"is wrong: {offer.target} is no BackendPlugin, but {plugin!r:.80}", "HPC-BACKEND-IMPORT")
    if fault := _fault(plugin, offer.name):
        raise offer.unusable(f"is wrong: in {offer.target}, {fault}", "HPC-BACKEND-IMPORT")
    if plugin.contract != CONTRACT:
        upgrade = OURS if plugin.contract > CONTRACT else offer.distribution
        raise offer.unusable(
            f"is made for version {plugin.contract} of the contract between hpccluster and its backends, "
            f"and this one has version {CONTRACT}: upgrade {upgrade}",
            "HPC-BACKEND-CONTRACT",
        )
    return plugin


def _fault(plugin: BackendPlugin, name: str) -> str:
    """What is wrong with a value that its type checker would have told; empty if all is well."""
    options_type: object = plugin.options_type
    if plugin.name != name:
        return f"name={plugin.name!r} differs from the name of the entry point, {name!r}"
    if type(plugin.contract) is not int:
        return f"contract={plugin.contract!r} is no number"
    if not (isinstance(options_type, type) and issubclass(options_type, JobOptions)):
        return f"options_type={options_type!r:.80} is no subclass of JobOptions"
    if needed := [item.name for item in fields(options_type) if item.default is item.default_factory is MISSING]:
        return (
            f"options_type has options without a default: {', '.join(needed)} (required_options() makes them required)"
        )
    if not callable(plugin.make_backend):
        return f"make_backend={plugin.make_backend!r:.80} cannot be called"
    if not (isinstance(plugin.cluster_type, str) and re.fullmatch(r"[\w.]+:\w+", plugin.cluster_type)):
        return f"cluster_type={plugin.cluster_type!r:.80} is not of the form 'package.module:Class'"
    for key in ("commands", "modules"):
        words: object = getattr(plugin, key)
        if not (isinstance(words, tuple | list) and all(isinstance(word, str) for word in words)):
            return f"{key}={words!r:.80} is no tuple of names"
    return ""


def make_backend(plugin: BackendPlugin, options: JobOptions) -> Backend:
    """The plugin's backend with these options.

    Raises its own `HpcClusterError`, and `BackendUnavailable` for whatever else somebody's code does.
    """
    try:
        backend: object = plugin.make_backend(options)
    except HpcClusterError:
        raise
    except Exception as error:
        raise _not_made(plugin, f"{type(error).__name__}: {error}") from error
    if not isinstance(backend, Backend):
        raise _not_made(plugin, f"make_backend returned {backend!r:.80}, which is no Backend")
    return backend


def _not_made(plugin: BackendPlugin, why: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"backend {plugin.name!r} cannot be made; that is a fault of its plugin ({plugin.make_backend.__module__}): {why}",
        code="HPC-BACKEND-BUG",
        details={"why": why},
    )


def _missing(plugin: BackendPlugin, distribution: str) -> str:
    """What of the plugin's needs is not there; empty if all is."""
    modules = [module for module in plugin.modules if not _is_installed(module)]
    commands = [command for command in plugin.commands if shutil.which(command) is None]
    lacks = []
    if modules:
        wanted = f"{distribution}[{plugin.extra}]" if plugin.extra else " ".join(modules)
        lacks.append(f"not installed: {', '.join(modules)} (pip install '{wanted}')")
    if commands:
        lacks.append(f"not on PATH: {', '.join(commands)}")
    return "; ".join(lacks)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
