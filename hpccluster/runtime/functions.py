"""Functions on their way to the workers: pickled once, named by the hash of their bytes.

A function that lives in an importable module is pickled by reference, which is cheap and always right. One of
``__main__``, a lambda or a closure is pickled by value: it is pickled again only if something that it captures has been
bound anew, and each time if it captures something that can change in place.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from hpccluster.protocol import payload

_UNCHANGING = (int, float, complex, bool, str, bytes, type(None), ModuleType, BuiltinFunctionType, CodeType)


class PickledFunction:
    """A function's id and body, and what it captured when it was pickled (None: pickle it each time)."""

    __slots__ = ("body", "captured", "id", "name")

    def __init__(self, function: Callable[..., Any]) -> None:
        captured = _captured(function) if isinstance(function, FunctionType) else None
        self.id, self.body = payload.dump_function(function)
        self.name = getattr(function, "__name__", None) or type(function).__name__
        by_reference = isinstance(function, FunctionType | BuiltinFunctionType | type) and len(self.body) < 512
        by_reference = by_reference and getattr(function, "__module__", None) not in (None, "__main__")
        by_reference = by_reference and b"cloudpickle" not in self.body
        self.captured: tuple[Any, ...] | None = () if by_reference else captured

    def is_current(self, function: Callable[..., Any]) -> bool:
        """Whether pickling the function again would give the same bytes."""
        if self.captured is None:
            return False
        if not self.captured:
            return True
        now = _captured(function) if isinstance(function, FunctionType) else None
        return (
            now is not None
            and len(now) == len(self.captured)
            and all(a is b for a, b in zip(now, self.captured, strict=True))
        )


class FunctionCache:
    """The pickled functions of one client, by identity."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Callable[..., Any], PickledFunction] = weakref.WeakKeyDictionary()

    def get(self, function: Callable[..., Any]) -> PickledFunction:
        """The function as it is now. Raises what its pickling raises."""
        try:
            known = self._known.get(function)
        except TypeError:  # not hashable, or not weakly referable
            return PickledFunction(function)
        if known is None or not known.is_current(function):
            known = PickledFunction(function)
            try:
                self._known[function] = known
            except TypeError:
                return known
        return known


def _captured(function: FunctionType) -> tuple[Any, ...] | None:
    """Everything outside of its code that a by-value pickle of the function takes along; None if any of it may change."""
    found: list[Any] = [function.__code__]
    seen: set[int] = set()
    todo: list[FunctionType] = [function]
    while todo:
        current = todo.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        for value in _values(current):
            found.append(value)
            if isinstance(value, FunctionType):
                if value.__module__ == "__main__" or "<locals>" in value.__qualname__:
                    todo.append(value)
            elif isinstance(value, type):
                if value.__module__ == "__main__":
                    return None  # its attributes may change
            elif not isinstance(value, _UNCHANGING):
                return None
    return tuple(found)


def _values(function: FunctionType) -> Iterator[Any]:
    yield function.__code__
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    if function.__dict__:
        yield from function.__dict__.values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            yield None
    space = function.__globals__
    for name in _names(function.__code__):
        if name in space:
            yield space[name]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
