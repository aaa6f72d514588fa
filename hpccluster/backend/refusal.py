"""What a failed submission means: one layout of the error for all batch systems, with all its facts as plain values.

A refusal is made near the batch system, which does not know where an option was said; `with_origin` adds that later.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import NamedTuple

from hpccluster.errors import CommandFailed, Detail, SubmitRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the batch system refused a job. Empty texts are left out of the message."""

    system: str
    """``Slurm``"""
    command: str
    """``sbatch``"""
    code: str
    """``HPC-SUBMIT-PARTITION``"""
    said: str
    """The batch system's own words, without its prefixes."""
    option: str = ""
    """The option that is to blame."""
    value: str = ""
    """Its value."""
    directive: str = ""
    """The line of the job script that it became."""
    origin: str = ""
    """Where the option was said."""
    choices_name: str = ""
    """``partitions``"""
    choices: str = ""
    """What would be accepted: ``debug, short*, long``."""
    suggestion: str = ""
    hint: str = ""
    """What else the user can do."""

    def error(self) -> SubmitRefused:
        """The error with its message laid out."""
        lines = [f"{self.system} refused the job ({self.code})"]
        lines += _field(f"{self.command} said:", self.said)
        if self.option:
            rendered = f"rendered as '{self.directive}'" if self.directive else ""
            notes = "; ".join(note for note in (self.origin, rendered) if note)
            lines += _field("from:", f'{self.option}="{self.value}"' + (f"   ({notes})" if notes else ""))
        elif self.directive:
            lines += _field("from:", f"'{self.directive}'")
        if self.choices:
            suggestion = f"          did you mean {self.suggestion!r}?" if self.suggestion else ""
            lines += _field(f"{self.choices_name}:", self.choices + suggestion)
        if self.hint:
            lines += _field("fix:", self.hint)
        details: dict[str, Detail] = {key: value for key, value in asdict(self).items() if value}
        return SubmitRefused("\n".join(lines), code=self.code, details=details)

    def with_choices(self, name: str, choices: list[str]) -> Refusal:
        """The refusal with what would be accepted (``*`` marks a default), and the one that is nearest."""
        plain = [choice.rstrip("*") for choice in choices]
        near = difflib.get_close_matches(self.value, plain, n=1)
        return replace(self, choices_name=name, choices=", ".join(choices), suggestion=near[0] if near else "")


class Complaint(NamedTuple):
    """A kind of complaint."""

    pattern: str
    """What it looks like; case does not matter."""
    cause: str
    """The end of the error's code, ``HPC-SUBMIT-...``."""
    blamed: tuple[str, ...] = ()
    """The names of the template's context that may be to blame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitCommand:
    """A command that submits jobs, and how it complains."""

    system: str
    """``Slurm``"""
    name: str
    """``sbatch``"""
    prefix: str
    """What a directive of the job script begins with: ``#SBATCH``"""
    complaints: tuple[Complaint, ...]
    """The first that fits counts."""
    hints: Mapping[str, str]
    """What the user can do, by cause."""

    def complaint(self, said: str) -> Complaint | None:
        """The kind that this text is of."""
        return next((it for it in self.complaints if re.search(it.pattern, said, re.IGNORECASE)), None)

    def directives(self, script: str) -> list[str]:
        """The directives of a job script, each without the prefix."""
        lines = (line for line in script.splitlines() if line.startswith(f"{self.prefix} "))
        return [line.removeprefix(f"{self.prefix} ") for line in lines]

    def refusal(
        self, cause: str, said: str, *, option: str, value: str, directive: str, own: Collection[str]
    ) -> Refusal:
        """Why there certainly is no job. ``own``: directives that the user has added, which are to blame before options.

        ``directive`` is without the prefix; an option without a value is not to blame.
        """
        if directive in own:
            option, value = "job_extra_directives", directive
        return Refusal(
            system=self.system,
            command=self.name,
            code=f"HPC-SUBMIT-{cause}",
            said=said,
            option=option if value else "",
            value=value,
            directive=f"{self.prefix} {directive}" if directive else "",
            hint=self.hints.get(cause, ""),
        )

    def unanswered(self, said: str) -> CommandFailed:
        """The error where the batch system was not reached, or its answer was lost."""
        return CommandFailed(
            f"{self.name} did not get an answer from {self.system}: {said}; the job may exist all the same",
            code="HPC-SUBMIT-UNREACHABLE",
            details={"said": said},
        )

    def unclear(self, said: str) -> CommandFailed:
        """The error where nothing says whether there is a job."""
        return CommandFailed(
            f"{self.name} failed: {said}; it is not known whether there is a job",
            code="HPC-SUBMIT-UNKNOWN",
            details={"said": said},
        )


def refusal_of(error: SubmitRefused) -> Refusal | None:
    """The facts of a refusal that `Refusal.error` made, also when it has come over the wire."""
    names = {item.name for item in fields(Refusal)}
    facts = {key: str(value) for key, value in error.details.items() if key in names}
    if not {"system", "command", "code", "said"} <= facts.keys():
        return None
    return Refusal(**facts)


def with_origin(error: SubmitRefused, origins: Mapping[str, object]) -> SubmitRefused:
    """The same error, saying where its option came from. ``origins``: per option, such as ``hpccluster.yaml line 4``."""
    refusal = refusal_of(error)
    if refusal is None or refusal.option not in origins:
        return error
    return replace(refusal, origin=str(origins[refusal.option])).error()


def _field(title: str, text: str) -> list[str]:
    first, *rest = text.splitlines() or [""]
    return [f"  {title:<14} {first}", *(f"  {'':<14} {line}" for line in rest)]
