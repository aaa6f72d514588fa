"""Arguments and results inside containers: finding futures, and what is too large to travel with a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any

from hpccluster.protocol import payload
from hpccluster.protocol.messages import ARGUMENT_LIMIT
from hpccluster.runtime.futures import Future

_SMALL = frozenset((int, float, bool, complex, type(None), Future))


def is_large(value: Any) -> bool:
    """Whether a value is known to be large without pickling it."""
    if type(value) in _SMALL:
        return False
    if isinstance(value, bytes | bytearray | str):
        return len(value) > ARGUMENT_LIMIT
    size = getattr(value, "nbytes", 0)
    return isinstance(size, int) and size > ARGUMENT_LIMIT


def lighten(value: Any, limit: int | None, scatter: Callable[[Any], Future[Any]], known: dict[int, Future[Any]]) -> Any:
    """``value``, with data references in place of what is over ``limit`` bytes (None: of what is known to be large).

    What holds futures itself has to travel with its task: it is looked into. ``known``: what has been scattered, by
    identity, so that each of these objects must live, unchanged, as long as the dictionary.
    """
    if type(value) in _SMALL:
        return value
    if id(value) in known:
        return known[id(value)]
    holds_futures = False
    if not is_large(value):
        if limit is None:
            return value
        body, inside = payload.dump_arguments((value,), {})
        if len(body) <= limit:
            return value
        holds_futures = bool(inside)
    if not holds_futures:
        known[id(value)] = future = scatter(value)
        return future
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(lighten(item, limit, scatter, known) for item in value)
    if type(value) is dict:
        return {key: lighten(item, limit, scatter, known) for key, item in value.items()}
    return value


def is_steady(iterable: Any) -> bool:
    """Whether its elements live, and no code of the user's runs between two of them, while it is iterated over."""
    return type(iterable) in (list, tuple, range, repeat)


def find_futures(item: Any, found: list[Future[Any]]) -> None:
    """Append every future inside lists, tuples, sets and dicts to ``found``."""
    if isinstance(item, Future):
        found.append(item)
    elif isinstance(item, dict):
        for value in item.values():
            find_futures(value, found)
    elif isinstance(item, list | tuple | set | frozenset):
        for value in item:
            find_futures(value, found)
    elif isinstance(item, Iterator):
        raise TypeError("gather() takes lists, tuples, sets and dicts of futures; make a list of this iterator first")


def replace_futures(item: Any, values: Mapping[Future[Any], Any]) -> Any:
    """The same structure with values in place of futures; those without a value are left out of containers."""
    if isinstance(item, Future):
        return values[item]
    if isinstance(item, dict):
        return {key: replace_futures(value, values) for key, value in item.items() if not _skipped(value, values)}
    if isinstance(item, list | tuple | set | frozenset):
        return rebuild(item, [replace_futures(value, values) for value in item if not _skipped(value, values)])
    return item


def rebuild(like: Any, items: list[Any]) -> Any:
    """A container like ``like`` of other items; a named tuple that lost some is a plain one."""
    if isinstance(like, tuple) and hasattr(like, "_fields"):
        return type(like)(*items) if len(items) == len(like) else tuple(items)
    return type(like)(items)


def _skipped(item: Any, values: Mapping[Future[Any], Any]) -> bool:
    return isinstance(item, Future) and item not in values
