"""The demo's work: its input is what its generator makes, and its numbers are right."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from hpccluster.cli import stations
from hpccluster.cli.demo import read_files

GENERATOR = Path(__file__).parents[3] / "examples" / "demo" / "make_stations.py"


@pytest.mark.skipif(not GENERATOR.exists(), reason="not run from a checkout")
def test_the_input_is_what_the_generator_makes() -> None:
    made = runpy.run_path(str(GENERATOR))
    files = read_files()
    assert sorted(files) == sorted(made["STATIONS"])
    for name, text in files.items():
        assert text.splitlines() == made["station_rows"](name)


def test_a_straight_line_has_its_slope() -> None:
    years = [week / 52 for week in range(520)]
    assert stations.trend(years, [0.3 * year for year in years]) == pytest.approx(3.0)


def test_a_station_is_read_without_its_yearly_course() -> None:
    name, text = next(iter(read_files().items()))
    station = stations.read_station(name, text)
    assert len(station.years) == len(text.splitlines()) - 1
    assert station.lowest < station.mean < station.highest
    assert abs(sum(station.celsius)) < 1e-6 * len(station.celsius)


def test_resampling_is_repeatable_and_spread_is_ordered() -> None:
    name, text = next(iter(read_files().items()))
    station = stations.read_station(name, text)
    slopes = stations.resampled_trends(station, 1, 40)
    assert slopes == stations.resampled_trends(station, 1, 40)
    low, high = stations.spread(slopes)
    assert low < stations.trend(station.years, station.celsius) < high
