"""The work of `hpccluster demo`: how fast does it get warmer at a station, and how sure is that?

Plain functions that run on workers; they import nothing of this package.
"""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Station:
    """The weekly readings of one station, the yearly course taken out."""

    name: str
    years: list[float]
    """When, as years since the first reading."""
    celsius: list[float]
    """The difference from what is usual in that week of the year."""
    mean: float
    lowest: float
    highest: float


def read_station(name: str, text: str) -> Station:
    """A station from its file."""
    days: list[datetime.date] = []
    readings: list[float] = []
    for line in text.splitlines()[1:]:
        week, celsius = line.split(",")
        days.append(datetime.date.fromisoformat(week))
        readings.append(float(celsius))
    usual: dict[int, list[float]] = {}
    for day, reading in zip(days, readings, strict=True):
        usual.setdefault(day.isocalendar().week, []).append(reading)
    means = {week: sum(values) / len(values) for week, values in usual.items()}
    return Station(
        name,
        [(day - days[0]).days / 365.25 for day in days],
        [reading - means[day.isocalendar().week] for day, reading in zip(days, readings, strict=True)],
        sum(readings) / len(readings),
        min(readings),
        max(readings),
    )


def trend(years: list[float], celsius: list[float]) -> float:
    """The slope of the straight line through the readings, in degrees per decade."""
    middle = sum(years) / len(years)
    mean = sum(celsius) / len(celsius)
    above = sum((x - middle) * (y - mean) for x, y in zip(years, celsius, strict=True))
    return 10 * above / sum((x - middle) ** 2 for x in years)


def resampled_trends(station: Station, seed: int, count: int, block: int = 13) -> list[float]:
    """Trends of ``count`` series put together from random blocks (quarters of a year) of this one: their spread is how
    sure the trend is."""
    source = random.Random(seed)  # noqa: S311 - statistics, nothing secret
    size = len(station.years)
    found = []
    for _ in range(count):
        picked: list[int] = []
        while len(picked) < size:
            first = source.randrange(size - block + 1)
            picked.extend(range(first, first + block))
        found.append(trend([station.years[i] for i in picked], [station.celsius[i] for i in picked]))
    return found


def spread(values: list[float]) -> tuple[float, float]:
    """The bounds that hold nine tenths of the values."""
    ordered = sorted(values)
    cut = len(ordered) // 20
    return ordered[cut], ordered[-1 - cut]
