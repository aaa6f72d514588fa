"""The engine dask in the jobs of batch systems: a real Slurm, as an ordinary user of it, and the fake commands of a PBS."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccluster.testing.fake_pbs import FakePBS
from support.sites import PBSSite, Site, SlurmSite

pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(params=["pbs", pytest.param("slurm", marks=pytest.mark.slurm)])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Each site, empty; afterwards it must be empty again."""
    with contextlib.ExitStack() as stack:
        found: Site
        if request.param == "slurm":
            found = SlurmSite(request.getfixturevalue("slurm"))
        else:
            found = PBSSite(stack.enter_context(FakePBS()), tmp_path)
        yield found
        found.wait_until_empty()


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


def test_nothing_is_left_of_an_owner_that_is_killed(site: Site) -> None:
    process = site.start(
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
    site.wait_until_empty()
