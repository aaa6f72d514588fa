"""When the poller polls."""

from __future__ import annotations

import math

from hpccluster.fleet.poller import Pace
from hpccluster.ids import JobId
from hpccluster.state.fleet.book import Watch

NOTHING = Watch(frozenset(), frozenset(), False, False)
STILL = Watch(frozenset({JobId("1")}), frozenset(), False, False)
CHANGING = Watch(frozenset({JobId("1")}), frozenset(), True, False)
URGENT = Watch(frozenset({JobId("1")}), frozenset(), True, True)


def make_pace() -> Pace:
    return Pace(first=1.0, interval=5.0, slowest=30.0, rare=300.0)


def delays(pace: Pace, watch: Watch, rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        found.append(pace.delay(watch))
        pace.polled(is_news=False)
    return found


def test_quick_at_first_then_the_interval_then_slower() -> None:
    found = delays(make_pace(), CHANGING, 30)
    assert found[:5] == [1.0, 1.5, 2.25, 3.375, 5.0]
    assert set(found[4:11]) == {5.0}
    assert found[-1] == 30.0
    assert found == sorted(found)


def test_news_bring_back_the_interval_and_events_the_first_delay() -> None:
    pace = make_pace()
    delays(pace, CHANGING, 30)
    pace.polled(is_news=True)
    assert pace.delay(CHANGING) == 5.0
    pace.hurry(100.0)
    assert pace.delay(CHANGING) == 1.0


def test_events_all_the_time_are_no_reason_to_poll_all_the_time() -> None:
    pace, now, polls = make_pace(), 0.0, 0
    while now < 600:
        pace.hurry(now)
        now += pace.delay(CHANGING)
        pace.polled(is_news=True)
        polls += 1
    assert polls <= 600 / 2
    assert polls >= 600 / 5


def test_nothing_to_ask_and_nothing_to_expect() -> None:
    assert make_pace().delay(NOTHING) == math.inf
    assert make_pace().delay(STILL) == 300.0


def test_errors_back_off_up_to_the_slowest() -> None:
    pace = make_pace()
    found = []
    for _ in range(8):
        pace.failed()
        found.append(pace.delay(CHANGING))
    assert found == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
    assert pace.delay(URGENT) == 5.0
    pace.polled(is_news=True)
    assert pace.delay(CHANGING) == 1.5


def test_what_somebody_waits_for_does_not_get_slow() -> None:
    pace = make_pace()
    delays(pace, CHANGING, 30)
    assert pace.delay(URGENT) == 5.0


def test_a_long_interval_does_not_make_ends_slow() -> None:
    pace = Pace(first=1.0, interval=15.0, slowest=30.0, rare=300.0)
    assert max(delays(pace, URGENT, 30)) == 5.0


def test_an_interval_beyond_the_slowest_is_respected() -> None:
    pace = Pace(first=1.0, interval=120.0, slowest=30.0, rare=300.0)
    assert max(delays(pace, CHANGING, 60)) == 120.0
