"""Sizes and durations between text and numbers. Parsed once, at the edge; inside, sizes are bytes and times seconds."""

from __future__ import annotations

import re

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")
_SIZE_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgtp", start=1)
    for suffix, base in (("", 1000), ("b", 1000), ("i", 1024), ("ib", 1024))
}
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")
_DURATION_UNITS = {
    "": 1.0,
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    "ms": 0.001,
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_CLOCK = re.compile(r"(?:([0-9]+)-)?([0-9]+):([0-9]{1,2})(?::([0-9]{1,2}))?")


def parse_bytes(value: str | float) -> int:
    """``"32GB"`` (10**9), ``"32GiB"`` (2**30), ``1024`` -> bytes. Raises `ValueError` with the accepted forms."""
    if isinstance(value, bool):
        raise ValueError("not a size")
    if isinstance(value, int | float):
        if not 0 <= value < float("inf"):
            raise ValueError("a size is not negative")
        return int(value)
    match = _SIZE.fullmatch(value)
    unit = _SIZE_UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError("not a size; write it as 32GB, 32GiB, 500MB or a number of bytes")
    return int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * int(unit)


def format_bytes(size: float) -> str:
    """Bytes for people: ``7.8 GiB``."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024 or unit == "TiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError


def parse_duration(value: str | float) -> float:
    """``"01:00:00"``, ``"1-12:00:00"``, ``"20min"``, ``"2h"``, ``90`` -> seconds.

    A clock of two parts is hours and minutes, as in batch directives of most systems. Raises `ValueError`.
    """
    if isinstance(value, bool):
        raise ValueError("not a duration")
    if isinstance(value, int | float):
        if not 0 <= value < float("inf"):
            raise ValueError("a duration is not negative")
        return float(value)
    text = value.strip()
    if clock := _CLOCK.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        if minutes < 60 and seconds < 60:
            return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    elif (match := _DURATION.fullmatch(text)) and match[2].lower() in _DURATION_UNITS:
        return float(match[1]) * _DURATION_UNITS[match[2].lower()]
    raise ValueError("not a duration; write it as 01:00:00, 1-12:00:00, 20min, 2h, 2 days or seconds")


def format_clock(seconds: float) -> str:
    """Seconds as ``HH:MM:SS`` (hours may exceed 24), rounded up to whole seconds: what batch systems read."""
    whole = -int(-seconds // 1)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def format_age(seconds: float) -> str:
    """Seconds for people, short: ``1m12s``, ``2h10m``, ``3d4h``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02d}m"
    return f"{whole // 86400}d{whole // 3600 % 24}h"
