"""Tasks that no worker could ever run are told to their client, once."""

from __future__ import annotations

from hpccluster.protocol.messages import Notice
from hpccluster.state.scheduler.warn import PATIENCE
from hpccluster.testing.scheduler_env import SchedulerEnv


def test_a_client_is_told_once_what_no_worker_has(env: SchedulerEnv) -> None:
    client = env.client()
    client.submit("a", "b", workers=["nix"])
    env.tick(10 * PATIENCE)  # no worker at all is another matter: jobs may be pending
    env.worker("w1")
    env.tick()
    env.tick(PATIENCE + 1)
    (notice,) = client.take(Notice)
    assert notice.level == "warning"
    assert notice.text == "2 tasks wait for what no worker has: workers=['nix'] (workers: w1)"
    env.tick(PATIENCE + 1)
    assert not client.take(Notice)


def test_who_shares_the_task_of_a_client_that_has_left_is_told(env: SchedulerEnv) -> None:
    alice, bob = env.client("alice"), env.client("bob")
    alice.submit("a", keys={"a": "k"}, workers=["nix"])
    bob.submit("b", keys={"b": "k"}, workers=["nix"])
    env.worker("w1")
    env.tick()
    alice.leave()
    env.tick(PATIENCE + 1)
    assert len(bob.take(Notice)) == 1


def test_what_waits_for_a_busy_worker_only_is_not_told(env: SchedulerEnv) -> None:
    client, w1 = env.client(), env.worker("w1", threads=1)
    client.submit("a", workers=["w1"])
    w1.expect_run("a")
    client.submit("b", workers=["w1"])
    env.tick()
    env.tick(PATIENCE + 1)
    assert not client.take(Notice)
    w1.forget()
