"""The engine dask in the jobs of batch systems: real Slurms, as an ordinary user of them (the dockerised one has hosts that
really are separate), and the fake commands of a PBS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccluster.testing.fake_pbs import FakePBS
from support.private_slurm import PrivateSlurm
from support.sites import PBSSite, Site, SlurmSite

pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

pytestmark = pytest.mark.timeout(150)


def empty(site: Site) -> Iterator[Site]:
    """Afterwards it must be empty again."""
    yield site
    site.wait_until_empty()


@pytest.fixture(
    params=[
        "pbs",
        pytest.param("slurm", marks=pytest.mark.slurm),
        pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.timeout(900)]),
    ]
)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    if request.param == "docker":
        from support.docker_site import DockerSite  # the SDK is heavy

        yield from empty(DockerSite(request.getfixturevalue("docker_slurm")))
        return
    if request.param == "slurm":
        yield from empty(SlurmSite(request.getfixturevalue("slurm")))
        return
    with FakePBS() as pbs:
        yield from empty(PBSSite(pbs, tmp_path))


@pytest.fixture
def slurm_site(slurm: PrivateSlurm) -> Iterator[Site]:
    yield from empty(SlurmSite(slurm))


def test_collections_are_computed_in_jobs_and_scaling_down_keeps_the_data(site: Site) -> None:
    said = site.run(
        """
        import dask.array, dask.dataframe
        import pandas
        from dask.distributed import Client

        def where():
            import socket
            return os.environ.get("SLURMD_NODENAME") or socket.gethostname()

        with make(engine="dask") as cluster:
            cluster.scale(3)
            cluster.wait_for_workers(3, timeout=60)
            with Client(cluster) as client:
                total = int(dask.array.arange(10_000, chunks=100).sum().compute())
                table = pandas.DataFrame({"site": ["a", "b"] * 50, "mm": range(100)})
                sums = dask.dataframe.from_pandas(table, npartitions=4).groupby("site").mm.sum().compute()
                nodes = sorted(client.run(where).values())
                blocks = dask.array.ones((40, 10_000), chunks=(1, -1)).persist()
                scattered = [client.scatter(bytes([n]) * 1000, workers=[worker.address], hash=False)
                             for n, worker in enumerate(cluster.workers)]
                cluster.scale(1)
                until(lambda: len(cluster.workers) == 1)
                kept = [data[0] for data in client.gather(scattered)]
                after = float(blocks.sum().compute())
            until(lambda: len(live(cluster)) == 1)
            states = [str(job.state) for job in live(cluster)]
            logs = dict(cluster.get_logs())
        say(total=total, sums=[int(value) for value in sums], nodes=nodes, kept=kept, after=after, states=states, logs=logs)
        """
    )
    assert said["total"] == 49_995_000
    assert said["sums"] == [2450, 2500]
    assert len(set(said["nodes"])) == site.nodes
    assert said["kept"] == [0, 1, 2], "scattered data cannot be computed again"
    assert said["after"] == 400_000
    assert said["states"] == ["RUNNING"]
    assert all("Registered to" in text for name, text in said["logs"].items() if name != "head")
    assert said["stderr"] == ""
    assert site.left() == []


@pytest.mark.slurm
def test_nothing_is_left_of_an_owner_that_is_killed(slurm_site: Site) -> None:
    process = slurm_site.start(
        """
        from dask.distributed import Client
        cluster = make(engine="dask", n_workers=2)
        cluster.wait_for_workers(2, timeout=60)
        client = Client(cluster)
        busy = client.map(time.sleep, [100, 101])
        say(result=len(cluster.workers))
        time.sleep(100)
        """
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == '{"result": 2}\n'
    finally:
        process.kill()
        process.communicate()
    slurm_site.wait_until_empty()


@pytest.mark.slurm
def test_a_job_that_others_cancel_hands_over_and_is_replaced(slurm_site: Site) -> None:
    said = slurm_site.run(
        f"""
        from dask.distributed import Client
        with make(engine="dask", n_workers=2) as cluster, Client(cluster) as client:
            cluster.wait_for_workers(2, timeout=60)
            before = sorted(job.name for job in live(cluster))
            data = [client.scatter(n, workers=[worker.address], hash=False) for n, worker in enumerate(cluster.workers)]
            job = live(cluster)[0]
            {slurm_site.end_job}
            until(lambda: job.name not in [worker.job for worker in cluster.workers])
            kept = client.gather(data)
            until(lambda: len(cluster.workers) == 2)
            after = sorted(job.name for job in live(cluster))
            result = client.submit(pow, 2, 5).result(timeout=30)
        say(kept=kept, result=result, before=before, after=after, gone=job.name)
        """
    )
    assert said["kept"] == [0, 1]
    assert said["result"] == 32
    assert said["gone"] in said["before"]
    assert said["gone"] not in said["after"]


@pytest.mark.slurm
def test_jobs_follow_the_work(slurm_site: Site) -> None:
    said = slurm_site.run(
        """
        from dask.distributed import Client
        bounds = dict(minimum_jobs=0, maximum_jobs=2, target_duration=1, interval=0.5, wait_count=2, idle_timeout=1)
        with make(engine="dask", adapt=bounds) as cluster, Client(cluster) as client:
            futures = client.map(time.sleep, [1.0] * 10, pure=False)
            until(lambda: len(cluster.workers) == 2)
            results = client.gather(futures)
            del futures
            until(lambda: not live(cluster))
        say(done=len(results))
        """
    )
    assert said["done"] == 10
