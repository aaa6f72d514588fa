"""Functions on their way to the workers: pickled once, named by the hash of their bytes.

A function that lives in an importable module is pickled by reference, which is cheap and always right. One of
``__main__``, a lambda or a closure is pickled by value: it is pickled again only if something that it captures has been
bound anew, and each time if it captures something that can change in place.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from hpccluster.protocol import payload
from hpccluster.units import format_bytes

FUNCTION_LIMIT = 32 * 1024 * 1024
"""Bytes of a pickled function: it goes to every worker, by way of the scheduler."""

_UNCHANGING = (int, float, complex, bool, str, bytes, type(None), ModuleType, BuiltinFunctionType, CodeType)


class PickledFunction:
    """A function's id and body, and what it captured when it was pickled."""

    __slots__ = ("__weakref__", "_captured", "_names", "body", "by_reference", "id", "name")

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TypeError(f"{function!r} is not a function: write submit(f, x) rather than submit(f(x))")
        self._captured: tuple[Any, ...] | None = None
        """What it captured; None: pickle it each time."""
        self._names: tuple[str, ...] | None = None
        """Names of its globals, where looking at them, its cells and defaults is enough."""
        if isinstance(function, FunctionType):
            self._captured = _captured(function)
            if self._captured is not None and not any(isinstance(v, FunctionType) for v in self._captured):
                self._names = tuple(dict.fromkeys(n for n in _names(function.__code__) if n in function.__globals__))
                self._captured = _shallow(function, self._names)
        self.id, self.body = payload.dump_function(function)
        name = getattr(function, "__name__", None)
        self.name = name if name and type(name) is str else type(function).__name__
        if len(self.body) > FUNCTION_LIMIT:
            raise ValueError(
                f"{self.name}() takes {format_bytes(len(self.body))} with it, globals or variables of enclosing functions: give "
                "large data as an argument, or client.scatter() it and give the future as one"
            )
        importable = isinstance(function, FunctionType | BuiltinFunctionType | type)
        importable = importable and getattr(function, "__module__", None) not in (None, "__main__")
        self.by_reference = importable and len(self.body) < 512 and b"cloudpickle" not in self.body

    def is_current(self, function: Callable[..., Any]) -> bool:
        """Whether pickling the function again would give the same bytes."""
        if self.by_reference:
            return True
        before = self._captured
        if before is None or not isinstance(function, FunctionType):
            return False
        now = _captured(function) if self._names is None else _shallow(function, self._names)
        return now is not None and len(now) == len(before) and all(map(operator.is_, now, before))


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


def _shallow(function: FunctionType, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The things whose rebinding changes the pickle of a function that captures no other function."""
    space = function.__globals__
    return (
        function.__code__,
        *(function.__defaults__ or ()),
        *((function.__kwdefaults__ or {}).values()),
        *(function.__dict__.values()),
        *(cell.cell_contents for cell in function.__closure__ or ()),
        *(space.get(name) for name in names),
    )


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
        try:
            values = list(_values(current))
        except ValueError:  # a cell that is not filled yet
            return None
        for value in values:
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
        yield cell.cell_contents
    space = function.__globals__
    for name in _names(function.__code__):
        if name in space:
            yield space[name]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
