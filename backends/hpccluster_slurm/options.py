"""The options of the Slurm backend, and which directive of ours each of them becomes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from hpccluster.backend.directives import Directives
from hpccluster.backend.options import NAME, BatchOptions, Safe

CONSTRAINT = Safe(r"[A-Za-z0-9_\[(][A-Za-z0-9_.,:&|*()\[\]!@%+=/-]*", "node features joined by & | , * and brackets")
NODES = Safe(r"[A-Za-z0-9_][A-Za-z0-9_.,\[\]-]*", "node names such as n[001-010],m5")
SIGNAL = Safe(r"(?:[BR]+:)?[A-Z0-9]+(?:@[0-9]+)?", "a signal such as B:USR1@60")

DIRECTIVES: dict[str, tuple[str, ...]] = {
    "name": ("--job-name", "-J"),
    "log_path": ("--output", "-o"),
    "comment": ("--comment",),
    "queue": ("--partition", "-p"),
    "account": ("--account", "-A"),
    "qos": ("--qos", "-q"),
    "reservation": ("--reservation",),
    "nodes": ("--nodes", "-N"),
    "tasks": ("--ntasks", "-n"),
    "cpus": ("--cpus-per-task", "-c"),
    "memory": ("--mem", "--mem-per-cpu", "--mem-per-gpu"),
    "gres": ("--gres", "--gpus", "-G", "--gpus-per-node", "--gpus-per-task"),
    "constraint": ("--constraint", "-C"),
    "exclude": ("--exclude", "-x"),
    "walltime": ("--time", "-t"),
    "signal": ("--signal",),
    "requeue": ("--requeue", "--no-requeue"),
    "working_directory": ("--chdir", "-D"),
}
"""Per name of the template's context, the spellings of its directive. Those of one line exclude one another."""


def option_of(directive: str) -> str:
    """The option of a directive without its value: ``--mem=4G`` and ``--mem 4G`` -> ``--mem``, ``-pshort`` -> ``-p``."""
    match = re.match(r"--[A-Za-z0-9-]+|-[A-Za-z]", directive)
    return match[0] if match else directive


_SCRIPT = Directives(spellings=DIRECTIVES, options_of=lambda directive: (option_of(directive),))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmOptions(BatchOptions):
    """Options of clusters on Slurm."""

    qos: Annotated[str | None, Meta(description="Quality of service"), NAME] = None
    constraint: Annotated[str | None, Meta(description="Features that the node must have"), CONSTRAINT] = None
    reservation: Annotated[str | None, Meta(description="Reservation to run in"), NAME] = None
    gres: Annotated[
        str | None, Meta(description="Generic resources such as 'gpu:a100:2'; by default what gpus asks for"), NAME
    ] = None
    exclude: Annotated[str | None, Meta(description="Nodes not to use, such as 'n[001-010]'"), NODES] = None
    requeue: Annotated[
        bool | None, Meta(description="Whether Slurm may requeue a job; by default as the site has it")
    ] = None
    signal: Annotated[
        str | None, Meta(description="Signal before the walltime, such as 'B:TERM@60': the workers then leave"), SIGNAL
    ] = None
    memory_directive: Annotated[
        Literal["--mem", "--mem-per-cpu", "--mem-per-gpu", "none"],
        Meta(description="The directive that asks for memory; 'none' where the site does not want one"),
    ] = "--mem"

    def __post_init__(self) -> None:
        BatchOptions.__post_init__(self)
        self.left_out()

    def required_options(self) -> tuple[str, ...]:
        return ("cores",) if self.memory_directive == "none" else ("cores", "memory")

    def left_out(self) -> frozenset[str]:
        """Names of the template's context whose directives are skipped, or replaced by one of the user's own.

        Raises `ConfigError`, as `Directives.left_out`.
        """
        return _SCRIPT.left_out(self)
