"""Sizes and durations between text and numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccluster.units import format_age, format_bytes, format_clock, parse_bytes, parse_duration


@pytest.mark.parametrize(
    ("text", "size"),
    [("32GB", 32 * 10**9), ("32GiB", 32 * 2**30), ("1k", 1000), ("1.5 MB", 1_500_000), ("7", 7), (7, 7), ("0", 0)],
)
def test_sizes_are_read_with_decimal_and_binary_units(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "12 parsecs", "1e9", True, -1, float("nan"), float("inf")])
def test_what_is_no_size_is_refused_by_name(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("01:00:00", 3600),
        ("1-12:00:00", 36 * 3600),
        ("00:30", 1800),
        ("20min", 1200),
        ("2h", 7200),
        ("90", 90),
        (90, 90),
        ("1.5 hours", 5400),
    ],
)
def test_durations_are_read_as_clocks_and_words(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "01:75:00", "-5", -5, "1:2:3:4", True])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)  # type: ignore[arg-type]


@given(st.integers(min_value=0, max_value=10**9))
def test_a_clock_means_what_it_was_made_of(seconds: int) -> None:
    assert parse_duration(format_clock(seconds)) == seconds


def test_a_clock_is_rounded_up() -> None:
    assert format_clock(59.2) == "00:01:00"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (72, "1m12s"), (7800, "2h10m"), (273600, "3d4h"), (-3, "0s")]
)
def test_ages_are_short(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


def test_bytes_for_people() -> None:
    assert [format_bytes(n) for n in (0, 1023, 8_375_186_228, 5 * 2**40)] == ["0 B", "1023 B", "7.8 GiB", "5.0 TiB"]
