"""User objects <-> opaque bytes: the only place that imports cloudpickle.

The scheduler never imports this module. Arguments are pickled by the C pickler first; cloudpickle takes over where
that fails, or where it would only name something of ``__main__`` that the worker does not have.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import traceback
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, NoReturn

import cloudpickle

from hpccluster.errors import ResultLost
from hpccluster.protocol.messages import TaskErrorBody

_references: ContextVar[Any] = ContextVar("references", default=None)
"""The futures met while arguments are pickled, or their values while they are unpickled; each thread has its own."""

ERROR_LIMIT = 1024 * 1024
"""Bytes of a pickled exception, or of its traceback."""
PART_LIMIT = ERROR_LIMIT // 8
"""Bytes of one of its arguments or attributes, where it is too large as a whole."""


def collect(item: Any) -> tuple[Callable[[int], Any], tuple[int]]:
    """What ``__reduce__`` of a future returns. Raises `TypeError` outside of the pickling of arguments."""
    found = _references.get()
    if found is None:
        raise TypeError("a Future can only be pickled as (part of) an argument of submit or map")
    found.append(item)
    return resolve, (len(found) - 1,)


def resolve(position: int) -> Any:
    """The value at ``position`` among the inputs of the task that is being unpickled."""
    return _references.get()[position]


def dumps(value: Any) -> bytes:
    """Pickle in band. Raises whatever the object's own pickling raises."""
    try:
        body = pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError):
        return cloudpickle.dumps(value, protocol=5)  # type: ignore[no-any-return]
    if b"__main__" in body:
        return cloudpickle.dumps(value, protocol=5)  # type: ignore[no-any-return]
    return body


def loads(body: bytes | bytearray | memoryview) -> Any:
    """The inverse of `dumps`."""
    return pickle.loads(body)


def dump_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, list[Any]]:
    """Pickled ``(args, kwargs)`` and the futures inside, in the order in which the bytes number them.

    A future inside an argument pickles itself as `resolve` of its position (see `collect`).
    """
    found: list[Any] = []
    token = _references.set(found)
    try:
        try:
            body = pickle.dumps((args, kwargs), protocol=5)
            if b"__main__" not in body:
                return body, found
        except (pickle.PicklingError, AttributeError, TypeError):
            pass
        found.clear()
        try:
            return cloudpickle.dumps((args, kwargs), protocol=5), found
        except Exception as error:
            error.add_note(f"while pickling {_culprit(args, kwargs)}")
            raise
    finally:
        _references.reset(token)


def _culprit(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Which argument cannot be pickled, in words."""
    named = [*((f"argument {number}", value) for number, value in enumerate(args, start=1)), *kwargs.items()]
    for name, value in named:
        if not _is_picklable(value):
            return f"{name}, a {type(value).__name__}"
    return "the arguments"


def _is_picklable(value: Any, limit: float = math.inf) -> bool:
    """Whether its pickle can be had, in at most ``limit`` bytes."""
    try:
        return len(dumps(value)) <= limit
    except Exception:  # noqa: BLE001 - user code runs while it is pickled
        return False


def load_arguments(body: bytes | memoryview, inputs: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inverse of `dump_arguments`: ``inputs`` are the values of its futures, in order."""
    if not inputs:
        return pickle.loads(body)  # type: ignore[no-any-return]
    token = _references.set(inputs)
    try:
        return pickle.loads(body)  # type: ignore[no-any-return]
    finally:
        _references.reset(token)


def dump_function(function: Callable[..., Any]) -> tuple[bytes, bytes]:
    """A function as (content hash of 16 bytes, body)."""
    body = dumps(function)
    return hashlib.blake2b(body, digest_size=16).digest(), body


def dump_frames(value: Any) -> list[bytes | memoryview]:
    """Pickle with large buffers out of band: the pickle and then each of them, uncopied."""
    buffers: list[pickle.PickleBuffer] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        if memoryview(buffer).nbytes < _FLAT_LIMIT:
            return True  # in band: a million small arrays are not a million frames
        buffers.append(buffer)
        return False

    if type(value) in _FLAT and len(value) >= _FLAT_LIMIT:
        value = _Flat(value)
    try:
        head = pickle.dumps(value, protocol=5, buffer_callback=is_small)
        by_name = b"__main__" in head
    except (pickle.PicklingError, AttributeError, TypeError):
        by_name = True
    if by_name:
        buffers.clear()
        head = cloudpickle.dumps(value, protocol=5, buffer_callback=is_small)
    try:
        return [head, *(buffer.raw() for buffer in buffers)]
    except BufferError:  # not contiguous: in band then
        return [dumps(value)]


class _Flat:
    """Stands for large bytes, which pickle would copy into its own output."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type, tuple[pickle.PickleBuffer]]:
        return type(self.value), (pickle.PickleBuffer(self.value),)


_FLAT = (bytes, bytearray)
_FLAT_LIMIT = 64 * 1024


def dump_loss(text: str) -> list[bytes | memoryview]:
    """Frames that raise `ResultLost` where they are loaded: whoever needs the value hears why there is none.

    To be told that it is nowhere would have it computed again, for as long as its pickling fails.
    """
    return [pickle.dumps(_Loss(text), protocol=5)]


class _Loss:
    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple[Callable[[str], NoReturn], tuple[str]]:
        return _lose, (self.text,)


def _lose(text: str) -> NoReturn:
    raise ResultLost(text)


def load_frames(frames: Sequence[bytes | bytearray | memoryview]) -> Any:
    """The inverse of `dump_frames`; the buffers are used in place, not copied."""
    return pickle.loads(frames[0], buffers=frames[1:])


def dump_error(error: BaseException, *, skip: int = 0) -> TaskErrorBody:
    """An exception for the wire, checked that it survives the trip: its class may be odd or its arguments unpicklable.

    ``skip`` frames of ours at the top of the traceback are left out.
    """
    trace = error.__traceback__
    for _ in range(skip):
        trace = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    try:
        text = str(error)[:100_000]
    except Exception as odd:  # noqa: BLE001 - user code: its __str__ may do anything
        text = f"<its text cannot be had: {type(odd).__name__}>"
    try:
        lines = "".join(traceback.format_exception(error.with_traceback(trace)))
    except Exception:  # noqa: BLE001 - user code, as above
        lines = f"{type(error).__name__}: {text}\n"
    payload = _checked(error, error) or _checked(_Bare(error), error)
    return TaskErrorBody("", type(error).__name__, _sendable(text), _sendable(lines[-ERROR_LIMIT:]), payload)


def _sendable(text: str) -> str:
    """The text with whatever no encoding has (names of files that are no UTF-8 bring it along) written out."""
    return text.encode(errors="backslashreplace").decode()


def _checked(value: Any, error: BaseException) -> bytes:
    """The pickle of ``value`` if it gives an exception like ``error`` back, else nothing."""
    try:
        body = dumps(value)
        return body if len(body) <= ERROR_LIMIT and type(loads(body)) is type(error) else b""
    except BaseException:  # noqa: BLE001 - user code runs while it is (un)pickled
        return b""


class _Bare:
    """Stands for an exception that cannot be sent as it is: one whose ``__init__`` wants other arguments than it passes on,
    or that holds something unpicklable or huge, which is left behind.
    """

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        args = tuple(arg if _is_picklable(arg, PART_LIMIT) else _in_short(arg) for arg in self.error.args)
        state = {name: value for name, value in vars(self.error).items() if _is_picklable(value, PART_LIMIT)}
        return _restored, (type(self.error), args, state)


def _in_short(value: Any) -> str:
    return (value if isinstance(value, str) else repr(value))[: PART_LIMIT // 4]


def _restored(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)  # without its __init__
    error.args = args
    error.__dict__.update(state)
    return error


def load_error(body: TaskErrorBody) -> BaseException:
    """The exception of ``body``: the user's own where it can be had, else a `RuntimeError` with its type and text."""
    if body.payload:
        try:
            error = loads(body.payload)
        except Exception:  # noqa: BLE001 - user code runs while it is unpickled
            error = None
        if isinstance(error, BaseException):
            return error
    return RuntimeError(f"{body.type_name}: {body.text}")
