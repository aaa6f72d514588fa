"""Arguments of workers that only dask's have: ``worker_extra_args`` takes them with ``engine="dask"``."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hpccluster.runtime.arguments import ArgumentParser

Rest = TypeVar("Rest")


def parse_dask_arguments(
    words: Sequence[str], parse_rest: Callable[[Sequence[str]], Rest]
) -> tuple[dict[str, Any], Rest]:
    """Keywords of `distributed.Nanny` for those that are dask's, and what ``parse_rest`` makes of the others.

    Raises `ConfigError`. What is not said, dask's configuration says (``distributed.worker.resources``, ``.lifetime``, ``.preload``).
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resources", type=_resources)
    parser.add_argument("--lifetime")
    parser.add_argument("--lifetime-stagger")
    parser.add_argument("--preload", action="append")
    given, rest = parser.parse_known_args(words)
    return {name: value for name, value in vars(given).items() if value is not None}, parse_rest(rest)


def _resources(text: str) -> dict[str, float]:
    """``GPU=2 MEM=10e9``, with blanks or commas between."""
    pairs = [word.partition("=") for word in text.replace(",", " ").split()]
    try:
        return {name: float(amount) for name, _, amount in pairs}
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not of the form NAME=NUMBER") from None
