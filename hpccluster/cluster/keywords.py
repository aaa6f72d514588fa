"""Keywords of cluster classes: a wrong one is told what it should be."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hpccluster.errors import ConfigError


def with_named_keywords(init: Callable[..., None]) -> Callable[..., None]:
    """The same ``__init__``, but an unknown keyword is a `ConfigError` that says what it is called here."""
    code = init.__code__
    known = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]

    @functools.wraps(init)
    def checked(self: object, *args: Any, **keywords: Any) -> None:
        unknown = [key for key in keywords if key not in known]
        if unknown:
            from hpccluster.config import suggest  # reads YAML, and is needed only here

            answers: dict[str, list[str]] = {}
            for key in unknown:
                answers.setdefault(suggest(key, known), []).append(repr(key))
            kind = type(self).__name__
            lines = (f"{kind}: unknown keyword {', '.join(keys)}{answer}" for answer, keys in answers.items())
            raise ConfigError("\n".join(lines), code="HPC-CONFIG-UNKNOWN")
        init(self, *args, **keywords)

    return checked
