"""Paths as users write them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hpccluster.errors import ConfigError

_VARIABLE = re.compile(r"\$\{?(\w+)")


def expand_path(name: str, path: str | Path) -> Path:
    """Absolute, with ``~`` and ``$VARS`` as they are for this process.

    Raises `ConfigError`, naming the option, for a variable that is not set (its name would become that of a directory) and for the
    home of a user that is not known.
    """
    text = os.path.expandvars(path)
    if unset := _VARIABLE.search(text):
        raise ConfigError(f"{name}={str(path)!r}: ${unset[1]} is not set here")
    try:
        return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - '..' goes, links stay
    except RuntimeError as error:  # ~nobody, or no home at all
        raise ConfigError(f"{name}={str(path)!r}: {str(error).rstrip('.').lower()}") from error
