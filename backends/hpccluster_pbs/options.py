"""The options of the PBS backend, and which directive of ours each of them becomes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from hpccluster.backend.directives import Directives
from hpccluster.backend.options import NAME, BatchOptions, Safe, bad_value
from hpccluster.errors import ConfigError

RESOURCES = Safe(
    r"[A-Za-z_]+=[A-Za-z0-9_.,:@%+=/()*-]+", "the value of -l, such as 'select=1:ncpus=8:mem=32gb' or 'nodes=1:ppn=8'"
)
PLACE = Safe(r"[a-z]+(?::[a-z]+)?(?::group=[A-Za-z0-9_]+)?", "arrangement and sharing such as 'scatter:excl'")
UMASK = Safe(r"[0-7]{1,4}", "an octal number such as 022")

Flavour = Literal["openpbs", "torque"]
"""The two families: OpenPBS and PBS Pro, and Torque."""

DIRECTIVES: dict[str, tuple[str, ...]] = {
    "name": ("-N",),
    "log_path": ("-o", "-j"),
    "keep_files": ("-k",),
    "mark": ("-v",),
    "queue": ("-q",),
    "account": ("-A",),
    "project": ("-P",),
    "resources": ("-l select", "-l nodes"),
    "total_memory": ("-l mem",),
    "place": ("-l place",),
    "walltime": ("-l walltime",),
    "requeue": ("-r",),
    "umask": ("-W umask",),
    "shell": ("-S",),
}
"""Per name of the template's context, the spellings of its directive. Those of one line exclude one another."""

IMPOSSIBLE = {
    "-J": "each job of a cluster is submitted by itself; use scale",
    "-t": "each job of a cluster is submitted by itself; use scale",
    "-z": "the id of the job has to be printed",
    "-I": "jobs of a cluster are not interactive",
    "-C": "the prefix of directives has to stay as it is",
    "-W block": "jobs of a cluster are not waited for",
}
"""Directives that a job of a cluster cannot have, and why."""


def options_of(directive: str) -> tuple[str, ...]:
    """What a directive sets: ``-q short`` -> ``-q``, ``-l nodes=1,walltime=60`` -> ``-l nodes`` and ``-l walltime``."""
    letter, rest = directive[:2], directive[2:].strip()
    if letter not in ("-l", "-W"):
        return (letter,)
    names = [re.split(r"[=:\s]", part, maxsplit=1)[0] for part in rest.split(",")] if rest else []
    return tuple(f"{letter} {name}" for name in names if name) or (letter,)


_SCRIPT = Directives(spellings=DIRECTIVES, options_of=options_of, impossible=IMPOSSIBLE)


def _account_of_environment() -> str | None:
    account = os.environ.get("PBS_ACCOUNT")
    return account if account and re.fullmatch(NAME.pattern, account) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PBSOptions(BatchOptions):
    """Options of clusters on OpenPBS, PBS Pro and Torque."""

    account: Annotated[
        str | None, Meta(description="Account that is charged (-A); by default $PBS_ACCOUNT, where that is set"), NAME
    ] = field(default_factory=_account_of_environment)
    project: Annotated[str | None, Meta(description="Project that the job belongs to (-P)"), NAME] = None
    resource_spec: Annotated[
        str | None,
        Meta(
            description="What a job asks for (the whole value of -l, without walltime) in place of what follows from "
            "cores, memory and gpus: 'select=1:ncpus=8:mem=32gb' or 'nodes=1:ppn=8'"
        ),
        RESOURCES,
    ] = None
    place: Annotated[
        str | None, Meta(description="Placement such as 'excl' or 'scatter:excl'; not for Torque"), PLACE
    ] = None
    requeue: Annotated[
        bool | None, Meta(description="Whether PBS may run a job again (-r); by default as the site has it")
    ] = None
    umask: Annotated[
        str | None,
        Meta(description="Permissions that files of the job do not get, such as '022'; PBS's default is 077"),
        UMASK,
    ] = None
    dialect: Annotated[
        Literal["auto", "openpbs", "torque"],
        Meta(
            description="What the commands are: 'openpbs' for OpenPBS and PBS Pro, 'torque'; 'auto' asks them before the "
            "first job is submitted"
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        BatchOptions.__post_init__(self)
        self.left_out()
        if self.dialect == "torque" and self.place is not None:
            raise no_placement(self.place)

    def left_out(self) -> frozenset[str]:
        """Names of the template's context whose directives are skipped, or replaced by one of the user's own.

        Raises `ConfigError`, as `Directives.left_out`.
        """
        names = _SCRIPT.left_out(self)
        # select and nodes ask for memory, too
        return names | {"total_memory"} if "resources" in names else names


def no_placement(place: str) -> ConfigError:
    """The error for a placement in Torque."""
    return bad_value("place", place, "Torque has no placement; leave it out, or use resource_spec=")
