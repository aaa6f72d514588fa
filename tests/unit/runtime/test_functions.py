"""When a function is pickled again, and when not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from hpccluster.protocol import payload
from hpccluster.runtime.functions import FunctionCache


def _adder(amount: Any) -> Callable[[int], int]:
    def add(x: int) -> int:
        return x + amount  # type: ignore[no-any-return]

    return add


def test_a_function_is_pickled_once_while_nothing_changes() -> None:
    cache, function = FunctionCache(), _adder(1)
    assert cache.get(function) is cache.get(function)
    assert cache.get(math.sqrt) is cache.get(math.sqrt)


def test_a_closure_that_captures_something_that_can_change_is_pickled_each_time() -> None:
    cache, amounts = FunctionCache(), [1]

    def total(x: int) -> int:
        return x + sum(amounts)

    before = cache.get(total)
    amounts.append(10)
    after = cache.get(total)
    assert before.id != after.id
    assert payload.loads(after.body)(0) == 11


def test_a_closure_whose_cell_is_bound_anew_is_pickled_again() -> None:
    cache, amount = FunctionCache(), 1

    def add(x: int) -> int:
        return x + amount

    assert payload.loads(cache.get(add).body)(0) == 1
    amount = 5
    assert payload.loads(cache.get(add).body)(0) == 5


def test_equal_functions_share_an_id_and_bound_methods_work() -> None:
    cache = FunctionCache()
    assert payload.loads(cache.get("a-b".split).body)("-") == ["a", "b"]
    assert cache.get(_adder(3)).id == cache.get(_adder(3)).id
    assert cache.get(_adder(3)).id != cache.get(_adder(4)).id


def test_what_is_no_function_or_takes_too_much_with_it_is_an_error_at_once() -> None:
    with pytest.raises(TypeError, match=r"submit\(f, x\) rather than"):
        FunctionCache().get(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"add\(\) takes 38.1 MiB with it"):
        FunctionCache().get(_adder(bytes(40_000_000)))
