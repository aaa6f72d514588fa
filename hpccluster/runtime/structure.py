"""Arguments and results inside containers: finding futures, and what is too large to travel with a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def pickles_large(value: Any) -> bool:
    """Whether a value turns out to be large when it is pickled."""
    if isinstance(value, Future):
        return False
    return len(payload.dump_arguments((value,), {})[0]) > ARGUMENT_LIMIT // 2


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
        return type(item)(replace_futures(value, values) for value in item if not _skipped(value, values))
    return item


def _skipped(item: Any, values: Mapping[Future[Any], Any]) -> bool:
    return isinstance(item, Future) and item not in values
