"""Does a result ride along, or does it stay? Decided without pickling what is huge just to learn its size."""

from __future__ import annotations

import pickle
from typing import Any

from hpccluster.protocol import payload
from hpccluster.protocol.messages import INLINE_LIMIT

Outcome = tuple[bytes | None, int, Any]
"""(payload, size, None) of a small result, (None, size, value) of one that stays."""

_SCALARS = frozenset({type(None), bool, int, float, complex})
_FLAT = frozenset({str, bytes, bytearray})

_dumps = pickle.dumps


def dump_result(value: Any) -> Outcome:
    """The small result's pickle, or the size of a large one. Raises whatever the value's pickling raises.

    A result that stays is known to be picklable: a peer that asks for it later is not the one to find out.
    """
    kind = type(value)
    if kind in _SCALARS or (kind in _FLAT and len(value) < INLINE_LIMIT):
        body = _dumps(value, 5)
        return (body, len(body), None) if len(body) <= INLINE_LIMIT else (None, len(body), value)
    size = len(value) if kind in _FLAT else array_size(value)
    if size > INLINE_LIMIT:
        return None, size, value
    buffers: list[pickle.PickleBuffer] = []
    try:
        body = _dumps(value, 5, buffer_callback=buffers.append)
        if not buffers and len(body) <= INLINE_LIMIT and b"__main__" not in body:
            return body, len(body), None
    except (pickle.PicklingError, AttributeError, TypeError):
        pass  # cloudpickle may do better
    return _dump_the_long_way(value)


def _dump_the_long_way(value: Any) -> Outcome:
    frames = payload.dump_frames(value)
    size = sum(memoryview(frame).nbytes for frame in frames)
    if size > INLINE_LIMIT:
        return None, size, value
    body = bytes(frames[0]) if len(frames) == 1 else payload.dumps(value)
    return body, len(body), None


def array_size(value: Any) -> int:
    """The size of an array that is sure to be picklable; 0 where only pickling tells."""
    kind = type(value)
    if kind.__name__ != "ndarray" or kind.__module__ != "numpy":
        return 0
    return int(value.nbytes) if value.dtype.kind in "biufcmMSU" else 0
