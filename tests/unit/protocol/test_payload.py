"""User objects as bytes."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from hpccluster.protocol import payload


class Marker:
    """Stands for a future: names itself when it is pickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return payload.collect(self)


def test_futures_inside_arguments_are_replaced_by_values_wherever_they_are() -> None:
    a, b = Marker("a"), Marker("b")
    body, found = payload.dump_arguments((a, [1, {"k": b}]), {"again": (a,)})
    assert {marker.name for marker in found} == {"a", "b"}
    values = [marker.name.upper() for marker in found]
    args, kwargs = payload.load_arguments(body, values)
    assert args == ("A", [1, {"k": "B"}])
    assert kwargs == {"again": ("A",)}


def test_futures_beside_a_lambda_are_numbered_by_the_pickler_that_wins() -> None:
    body, found = payload.dump_arguments((Marker("a"), lambda x: x + 1, Marker("b")), {})
    assert [marker.name for marker in found] == ["a", "b"]
    args, _ = payload.load_arguments(body, [1, 2])
    assert args[0] == 1
    assert args[1](1) == 2
    assert args[2] == 2


def test_a_future_is_pickled_as_an_argument_only() -> None:
    with pytest.raises(TypeError, match="only be pickled as"):
        payload.dumps(Marker("a"))


def test_buffers_travel_out_of_band_and_are_not_copied() -> None:
    array = np.arange(100_000)
    frames = payload.dump_frames({"x": array, "y": 1})
    assert len(frames) == 2
    assert len(frames[0]) < 1000
    received = [bytearray(frame) for frame in frames]
    value = payload.load_frames(received)
    assert value["y"] == 1
    assert np.array_equal(value["x"], array)
    assert np.shares_memory(value["x"], np.frombuffer(received[1], dtype=array.dtype))


@pytest.mark.parametrize("value", [bytes(100_000), bytearray(b"x" * 100_000), b"__main__" * 20_000])
def test_large_bytes_travel_out_of_band(value: bytes | bytearray) -> None:
    frames = payload.dump_frames(value)
    assert len(frames) == 2
    assert len(frames[0]) < 100
    assert np.shares_memory(np.frombuffer(frames[1], dtype=np.uint8), np.frombuffer(value, dtype=np.uint8))
    again = payload.load_frames([bytearray(frame) for frame in frames])
    assert type(again) is type(value)
    assert again == value


def test_arrays_that_are_not_contiguous_travel_in_band() -> None:
    array = np.arange(1000).reshape(10, 100)[:, ::3]
    assert np.array_equal(payload.load_frames(payload.dump_frames(array)), array)


class Odd(Exception):
    """An exception whose constructor cannot take its own args again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second
        self.lock = threading.Lock()


class _Silent(Exception):
    """An exception that must not be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("no")

    def __getattribute__(self, name: str) -> Any:
        if name == "args":
            raise TypeError("no")
        return super().__getattribute__(name)


def _caught(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error) as caught:
        return caught


def test_an_exception_keeps_its_type_text_and_traceback() -> None:
    body = payload.dump_error(_caught(ValueError("negative mass")))
    error = payload.load_error(body)
    assert isinstance(error, ValueError)
    assert str(error) == "negative mass"
    assert "_caught" in body.traceback


def test_an_exception_whose_constructor_cannot_be_called_again_is_itself_all_the_same() -> None:
    error = payload.load_error(payload.dump_error(_caught(Odd("a", "b"))))
    assert type(error) is Odd
    assert (str(error), error.second) == ("a", "b")
    assert not hasattr(error, "lock"), "what cannot be pickled is left behind"


def test_an_argument_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(TypeError, match="lock") as caught:
        payload.dump_arguments((1, lambda: 2), {"guard": threading.Lock()})
    assert caught.value.__notes__ == ["while pickling guard, a lock"]


def test_an_exception_that_holds_too_much_is_itself_without_that() -> None:
    original = ValueError("too many: " + "x" * 3_000_000, 5)
    original.data, original.index = bytes(2_000_000), 7  # type: ignore[attr-defined]
    error = payload.load_error(payload.dump_error(_caught(original)))
    assert type(error) is ValueError
    assert error.args[0].startswith("too many: xxx")
    assert (error.args[1], vars(error)) == (5, {"index": 7})


@pytest.mark.parametrize("error", [_Silent(), RuntimeError(*("x" * 100_000 for _ in range(20)))])
def test_an_exception_that_cannot_travel_is_told_by_type_and_text(error: Exception) -> None:
    body = payload.dump_error(_caught(error))
    assert body.type_name == type(error).__name__
    assert body.payload == b""
    loaded = payload.load_error(body)
    assert isinstance(loaded, RuntimeError)
    assert type(error).__name__ in str(loaded)


def test_functions_of_equal_bytes_have_equal_ids() -> None:
    assert payload.dump_function(len)[0] == payload.dump_function(len)[0]
    assert payload.dump_function(len)[0] != payload.dump_function(max)[0]


def test_many_small_arrays_are_few_frames() -> None:
    arrays = [np.full(10, number) for number in range(1000)]
    frames = payload.dump_frames([*arrays, np.zeros(100_000)])
    assert len(frames) == 2
    loaded = payload.load_frames([bytearray(frame) for frame in frames])
    assert [int(array[0]) for array in loaded[:-1]] == list(range(1000))
    loaded[0][0] = 5  # as writable as it was
