"""The directives of job scripts: which of ours a user leaves out, or replaces. One rule for all batch systems.

Must not know any batch system: how directives are spelled is told by the plugin.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hpccluster.backend.options import BatchOptions, bad_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """What a template writes, by the names of its context, for `job_directives_skip` and `job_extra_directives`."""

    spellings: Mapping[str, tuple[str, ...]]
    """Per name of the context, how its directive may be written: ``("--time", "-t")``, ``("-l walltime",)``. Those of one name
    exclude one another."""
    options_of: Callable[[str], tuple[str, ...]]
    """What a directive of the user sets, spelled as above: ``-l nodes=1,walltime=60`` -> ``-l nodes`` and ``-l walltime``."""
    essential: tuple[str, ...] = ("name", "log_path")
    """Names that stay: jobs are found by their names, and diagnosed by their output."""
    impossible: Mapping[str, str] = field(default_factory=dict)
    """Spellings that a job of a cluster cannot have, and why."""

    def left_out(self, options: BatchOptions) -> frozenset[str]:
        """Names of the context whose directives are skipped, or replaced by one of the user's own.

        Raises `ConfigError` for one to be skipped that there is not, for those that have to stay, and for impossible ones.
        """
        names: set[str] = set()
        for option in ("job_directives_skip", "job_extra_directives"):
            is_skip = option == "job_directives_skip"
            for text in getattr(options, option):
                for spelling in self.options_of(text):
                    if spelling in self.impossible:
                        raise bad_value(option, text, self.impossible[spelling])
                    found = self._names_of(spelling, is_skip=is_skip)
                    if not found.isdisjoint(self.essential):
                        raise bad_value(option, text, "this directive has to stay as it is")
                    if is_skip and not found:
                        raise bad_value(option, text, self._suggestion(spelling))
                    names |= found
        return frozenset(names)

    def _names_of(self, spelling: str, *, is_skip: bool) -> set[str]:
        """Names that a directive stands for; ``-l`` alone, to be skipped, is all that begin with it."""
        family = f"{spelling} "
        return {
            name
            for name, known in self.spellings.items()
            for one in known
            if one == spelling or (is_skip and one.startswith(family))
        }

    def _suggestion(self, spelling: str) -> str:
        known = [one for spellings in self.spellings.values() for one in spellings]
        near = difflib.get_close_matches(spelling, known, n=1)
        return f"no such directive in the job script; {f'did you mean {near[0]!r}?' if near else f'there are {known}'}"
