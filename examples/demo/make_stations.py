"""Make the input files of ``hpccluster demo``: weekly temperatures of eight imaginary stations, 1990 to 2019.

The same numbers every time; run it as ``python examples/demo/make_stations.py DIRECTORY``.
"""

from __future__ import annotations

import datetime
import math
import random
import sys
from pathlib import Path

STATIONS = {
    # name: (mean of 1990 in degrees, half of summer minus winter, degrees per decade, noise)
    "amber-bay": (11.2, 7.4, 0.24, 1.6),
    "cold-ridge": (-2.8, 11.9, 0.46, 2.9),
    "dune-point": (18.9, 6.1, 0.21, 1.4),
    "elm-valley": (9.4, 9.6, 0.31, 2.2),
    "granite-pass": (1.7, 9.9, 0.38, 2.7),
    "harbour-west": (10.3, 5.8, 0.19, 1.3),
    "mill-plain": (8.6, 11.3, 0.33, 2.5),
    "north-light": (4.1, 8.2, 0.42, 2.1),
}
FIRST = datetime.date(1990, 1, 1)
WEEKS = 30 * 52


def station_rows(name: str) -> list[str]:
    """The lines of one station's file."""
    mean, swing, trend, noise = STATIONS[name]
    source = random.Random(name)
    rows = ["week,celsius"]
    weather = 0.0
    for week in range(WEEKS):
        day = FIRST + datetime.timedelta(weeks=week)
        season = -math.cos(2 * math.pi * (day.timetuple().tm_yday - 15) / 365.25)
        # Warm weeks follow warm weeks.
        weather = 0.45 * weather + source.gauss(0.0, noise)
        rows.append(f"{day.isoformat()},{mean + swing * season + trend * week / 521.8 + weather:.2f}")
    return rows


def main() -> None:
    """Write all files."""
    directory = Path(sys.argv[1])
    for name in STATIONS:
        (directory / f"{name}.csv").write_text("\n".join(station_rows(name)) + "\n")


if __name__ == "__main__":
    main()
