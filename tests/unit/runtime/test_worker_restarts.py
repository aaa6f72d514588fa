"""When a dead worker is started again."""

from __future__ import annotations

from hpccluster.runtime.restarts import GIVE_UP, MOST_DELAY, Restarts


def test_the_first_death_of_a_registered_worker_costs_no_time() -> None:
    assert Restarts().delay(registered=True, lifetime=5) == 0


def test_early_deaths_are_given_up() -> None:
    restarts = Restarts()
    delays = [restarts.delay(registered=False, lifetime=0.1) for _ in range(GIVE_UP)]
    assert delays[-1] is None
    assert all(delay is not None and delay > 0 for delay in delays[:-1])


def test_a_registration_forgives_early_deaths() -> None:
    restarts = Restarts()
    for _ in range(10):
        assert restarts.delay(registered=False, lifetime=0.1) is not None
        assert restarts.delay(registered=True, lifetime=0.1) is not None


def test_the_waits_grow_to_a_limit_and_a_long_life_forgives() -> None:
    restarts = Restarts()
    delays = [restarts.delay(registered=True, lifetime=1) or 0.0 for _ in range(20)]
    assert delays == sorted(delays)
    assert delays[-1] == MOST_DELAY
    assert restarts.delay(registered=True, lifetime=100) == 0
