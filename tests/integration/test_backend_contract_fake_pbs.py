"""The backend contract against the PBS backend on fake commands of both families, and faults that only a fake has at hand."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from hpccluster.backend.base import Backend
from hpccluster.backend.runner import LocalRunner
from hpccluster.errors import BackendUnavailable, CancelFailed, CommandFailed, PollFailed, SubmitRefused
from hpccluster.ids import JobId
from hpccluster.job import JobSpec, JobState
from hpccluster.testing.backend_contract import HOSTILE_IDS, BackendContract
from hpccluster.testing.fake_pbs import FakePBS, PBSJob, Times
from hpccluster.testing.fake_pbs_script import Submission
from hpccluster_pbs.backend import PBSBackend
from hpccluster_pbs.options import PBSOptions

DOWN = "Connection refused\nqsub: cannot connect to server pbssrv (errno=15010)\n"


def pbs_backend(pbs: FakePBS, **options: object) -> PBSBackend:
    values = {"cores": 1, "memory": "100MB", **options}
    return PBSBackend(PBSOptions(**values), LocalRunner(pbs.environment()))  # type: ignore[arg-type]


def make_spec(directory: Path, line: str, **changes: Any) -> JobSpec:
    return BackendContract().spec(directory, line, **changes)


@pytest.fixture
def pbs() -> Iterator[FakePBS]:
    with FakePBS() as fake:
        yield fake


class TestFakeOpenPBS(BackendContract):
    patience = 15.0
    unknown_id = "4000000.pbssrv"

    @pytest.fixture
    def pbs(self) -> Iterator[FakePBS]:
        with FakePBS(times=Times(kill_delay=1.0, exiting=0.3, deaf=0.05, query_again=0.1)) as fake:
            yield fake

    @pytest.fixture
    def backend(self, pbs: FakePBS) -> Backend:
        return pbs_backend(pbs)

    @pytest.fixture
    def pending_backend(self, pbs: FakePBS) -> Backend:
        return pbs_backend(pbs, queue="stopped")

    @pytest.fixture
    def refused_backend(self, pbs: FakePBS) -> Backend:
        return pbs_backend(pbs, queue="wrokq")

    @pytest.fixture(autouse=True)
    def server(self, pbs: FakePBS) -> None:
        self.fake = pbs

    async def submitted_text(self, backend: Backend, job: JobId) -> str:
        return self.fake.jobs[job].script


class TestFakeTorque(TestFakeOpenPBS):
    unknown_id = "4000000.torque01"

    @pytest.fixture
    def pbs(self) -> Iterator[FakePBS]:
        with FakePBS(flavour="torque", server="torque01") as fake:
            yield fake


CONTRACT = TestFakeOpenPBS()


# ----------------------------------------------------------------------------------------------------------------- submit


def test_refused_queue_lists_the_queues(pbs: FakePBS, tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(SubmitRefused) as caught:
            await pbs_backend(pbs, queue="wrokq").submit(make_spec(tmp_path, "true"))
        assert str(caught.value).splitlines() == [
            "PBS refused the job (HPC-SUBMIT-QUEUE)",
            "  qsub said:     Unknown queue",
            "  from:          queue=\"wrokq\"   (rendered as '#PBS -q wrokq')",
            "  queues:        workq, long, stopped          did you mean 'workq'?",
            "  fix:           see the queues with: qstat -Q",
        ]

    asyncio.run(scenario())


def test_refused_walltime_tells_the_limits_of_the_queue(pbs: FakePBS, tmp_path: Path) -> None:
    async def scenario() -> None:
        for options in ({"queue": "long"}, {}):  # where none is named, of the server's default
            with pytest.raises(SubmitRefused) as caught:
                await pbs_backend(pbs, **options).submit(make_spec(tmp_path, "true", walltime=200 * 3600.0))
            assert caught.value.code == "HPC-SUBMIT-LIMITS"
            assert "  limits:        walltime at most 100:00:00" in str(caught.value).splitlines()

    asyncio.run(scenario())


def test_job_of_a_submission_without_an_answer_is_found(pbs: FakePBS, tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = pbs_backend(pbs)
        spec = make_spec(tmp_path, "sleep 60")
        pbs.fail("qsub", stderr=DOWN, returncode=162, happens=True)
        with pytest.raises(CommandFailed, match="may exist") as caught:
            await backend.submit(spec)
        assert not isinstance(caught.value, SubmitRefused)
        (job,) = (await backend.find([spec.name])).values()
        await CONTRACT.until_gone(backend, job)

    asyncio.run(scenario())


def test_what_the_commands_are_is_asked_before_the_first_job_and_once(tmp_path: Path) -> None:
    async def scenario(pbs: FakePBS) -> None:
        backend = pbs_backend(pbs)
        for _ in range(2):
            await backend.submit(make_spec(tmp_path, "true"))
        commands = [(call.command, *call.arguments) for call in pbs.calls]
        submit = ("qsub", "-f") if pbs.flavour == "openpbs" else ("qsub",)
        assert commands == [("qstat", "--version"), submit, submit]
        asks = "nodes=1:ppn=1" if pbs.flavour == "torque" else "select=1:ncpus=1:mem=97657kb"
        assert f"#PBS -l {asks}\n" in pbs.calls[-1].stdin

    for flavour in ("openpbs", "torque"):
        with FakePBS(flavour=flavour) as pbs:
            asyncio.run(scenario(pbs))


def test_commands_of_something_else_are_named(pbs: FakePBS, tmp_path: Path) -> None:
    async def scenario() -> None:
        pbs.fail("qstat", stderr="Unknown option: version\nUsage:\n", returncode=2, times=2)
        with pytest.raises(BackendUnavailable, match="dialect='torque'"):
            await pbs_backend(pbs).submit(make_spec(tmp_path, "true"))
        with pytest.raises(PollFailed, match="Unknown option: version"):
            await pbs_backend(pbs).poll([JobId("1.pbssrv")])
        assert not pbs.jobs

    asyncio.run(scenario())


def test_commands_off_the_path_are_where_the_configuration_says(pbs: FakePBS, tmp_path: Path) -> None:
    """``/opt/pbs/bin`` is on the ``PATH`` of login shells, not of commands by SSH."""
    conf = tmp_path / "pbs.conf"
    conf.write_text(f"PBS_SERVER=pbssrv\nPBS_EXEC={pbs.directory}\nPBS_HOME=/var/spool/pbs\n")

    path = tmp_path / "path"
    path.mkdir()
    for name in ("sed", "id"):
        (path / name).symlink_to(str(shutil.which(name)))

    def backend_with(conf: Path, **options: str) -> PBSBackend:
        environment = {"PATH": str(path), "PBS_CONF_FILE": str(conf)}
        return PBSBackend(PBSOptions(cores=1, memory="100MB", **options), LocalRunner(environment))  # type: ignore[arg-type]

    async def scenario() -> None:
        backend = backend_with(conf)
        spec = make_spec(tmp_path, "sleep 60")
        job = await backend.submit(spec)
        assert await backend.find([spec.name]) == {spec.name: job}
        await CONTRACT.until_gone(backend, job)
        with pytest.raises(SubmitRefused, match="did you mean 'workq'"):
            await backend_with(conf, queue="wrokq").submit(spec)
        for text in ("", "PBS_EXEC=/nowhere\n", "PBS_EXEC=relative\n"):
            conf.write_text(text)
            with pytest.raises(BackendUnavailable, match="qstat"):
                await backend_with(conf).submit(spec)

    asyncio.run(scenario())


def test_missing_commands_are_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        dialects: tuple[Literal["auto", "openpbs"], ...] = ("auto", "openpbs")
        for dialect in dialects:
            options = PBSOptions(cores=1, memory="1GB", dialect=dialect)
            with pytest.raises(BackendUnavailable, match="is it on PATH"):
                await PBSBackend(options, LocalRunner({"PATH": str(tmp_path)})).submit(make_spec(tmp_path, "true"))

    asyncio.run(scenario())


# ------------------------------------------------------------------------------------------------------------------- poll


def test_stopped_server_says_nothing(pbs: FakePBS, tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = pbs_backend(pbs)
        spec = make_spec(tmp_path, "sleep 60")
        job = await backend.submit(spec)
        pbs.is_down = True
        with pytest.raises(PollFailed, match="cannot connect"):
            await backend.poll([job])
        with pytest.raises(PollFailed, match="cannot connect"):
            await backend.find([spec.name])
        with pytest.raises(CancelFailed, match="cannot connect"):
            await backend.cancel([job])
        pbs.is_down = False
        assert (await backend.poll([job]))[job].state is JobState.RUNNING
        # what the stopped server was asked for does not count
        await CONTRACT.until_gone(backend, job)

    asyncio.run(scenario())


def test_hung_server_is_given_up(pbs: FakePBS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpccluster.backend.batch.QUERY_TIMEOUT", 0.5)
    monkeypatch.setattr("hpccluster.backend.batch.SUBMIT_TIMEOUT", 0.5)

    async def scenario() -> None:
        backend = pbs_backend(pbs)
        job = await backend.submit(make_spec(tmp_path, "sleep 60"))
        pbs.delay("qstat", 2.0)
        with pytest.raises(PollFailed, match="did not end within"):
            await backend.poll([job])
        pbs.delay("qsub", 2.0)
        spec = make_spec(tmp_path, "sleep 60")
        with pytest.raises(CommandFailed, match="did not end within"):
            await backend.submit(spec)
        (late,) = (await backend.find([spec.name])).values()
        await backend.cancel([job, late])

    asyncio.run(scenario())


def test_server_without_history_forgets_and_its_jobs_are_absent(tmp_path: Path) -> None:
    async def scenario(pbs: FakePBS) -> None:
        backend = pbs_backend(pbs)
        spec = make_spec(tmp_path, "exit 5")
        job = await backend.submit(spec)
        await CONTRACT.until_state(backend, job, JobState.ABSENT)
        assert "workers ended with exit code 5" in await backend.logs(job, spec.log_path)
        running = await backend.submit(make_spec(tmp_path, "sleep 60"))
        pbs.calls.clear()
        statuses = await backend.poll([job, running])
        assert (statuses[job].state, statuses[running].state) == (JobState.ABSENT, JobState.RUNNING)
        assert len(pbs.calls) == 1  # it has learnt not to ask with -x
        await CONTRACT.until_gone(backend, running)
        # an administrator switches it on
        pbs.history = True
        ended = await backend.submit(make_spec(tmp_path, "exit 6"))
        assert (await CONTRACT.until_state(backend, ended, JobState.FAILED)).exit_code == 6

    with FakePBS(history=False) as pbs:
        asyncio.run(scenario(pbs))


@pytest.mark.parametrize("forms", [("dsv", "json"), ("json",), ()])
def test_every_form_of_qstat_tells_all_jobs(forms: tuple[str, ...], tmp_path: Path) -> None:
    """Old versions know neither dsv nor JSON, and JSON holds the first of several jobs only."""

    async def scenario(pbs: FakePBS) -> None:
        backend = pbs_backend(pbs)
        jobs = [await backend.submit(make_spec(tmp_path, "sleep 60")) for _ in range(6)]
        for _ in range(2):
            pbs.calls.clear()
            statuses = await backend.poll(jobs)
        assert len(pbs.calls) == 1
        assert [status.state for status in statuses.values()].count(JobState.RUNNING) == 4
        waiting = {status.reason for status in statuses.values() if status.state is JobState.PENDING}
        assert waiting == {"Not Running: Not enough free nodes available"}
        await backend.cancel(jobs)

    with FakePBS(forms=forms) as pbs:
        asyncio.run(scenario(pbs))


def test_held_job_is_explained(pbs: FakePBS, tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = pbs_backend(pbs)
        job = await backend.submit(make_spec(tmp_path, "true", log_path="/nowhere/to/be/found/x.log"))
        status = (await backend.poll([job]))[job]
        assert status.state is JobState.PENDING  # though it has an exit status
        assert "too many failed attempts" in status.reason
        assert "log_directory=" in backend.explain(status)
        assert (await backend.cancel([job])).gone == {job}

    asyncio.run(scenario())


def test_walltime_is_told(tmp_path: Path) -> None:
    async def scenario(pbs: FakePBS) -> None:
        backend = pbs_backend(pbs)
        spec = make_spec(tmp_path, "sleep 60", walltime=1.0)
        job = await backend.submit(spec)
        await CONTRACT.until_state(backend, job, JobState.TIMEOUT)
        assert "job killed: walltime" in await backend.logs(job, spec.log_path)

    for flavour in ("openpbs", "torque"):
        with FakePBS(flavour=flavour) as pbs:
            asyncio.run(scenario(pbs))


def test_output_that_pbs_keeps_until_the_end_is_shown_before(pbs: FakePBS, tmp_path: Path) -> None:
    """``-k oed`` is not heeded where the nodes have no $usecp for the path: then PBS puts its file there at the end."""

    async def scenario() -> None:
        backend = pbs_backend(pbs)
        pbs.writes_at_once = False
        spec = make_spec(tmp_path, "echo one; echo two; sleep 60", walltime=1.0)
        job = await backend.submit(spec)
        running = await CONTRACT.until_log(backend, job, spec, "two")
        assert running.startswith("hpccluster: stage started")
        assert not Path(spec.log_path).exists()
        await CONTRACT.until_state(backend, job, JobState.TIMEOUT)
        ended = await backend.logs(job, spec.log_path)
        assert ended.startswith(running)
        assert "=>> PBS: job killed: walltime" in ended.splitlines()[-1]
        assert await backend.logs(job, spec.log_path, tail=1) == ended.splitlines(keepends=True)[-1]
        # and where it is heeded there is one file
        pbs.writes_at_once = True
        spec = make_spec(tmp_path, "echo three")
        job = await backend.submit(spec)
        await CONTRACT.until_state(backend, job, JobState.COMPLETED)
        assert "three" in await backend.logs(job, spec.log_path)
        assert not Path(f"{spec.log_path}.live").exists()

    asyncio.run(scenario())


@pytest.mark.parametrize("knows_express", [True, False])
@pytest.mark.parametrize("history", [True, False])
def test_many_jobs_are_asked_for_in_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows_express: bool, history: bool
) -> None:
    monkeypatch.setattr("hpccluster_pbs.dialect.EXPRESS_ABOVE", 2)

    async def scenario(pbs: FakePBS) -> None:
        backend = pbs_backend(pbs, dialect="openpbs")
        ended = await backend.submit(make_spec(tmp_path, "true"))
        await CONTRACT.until_state(backend, ended, JobState.COMPLETED if history else JobState.ABSENT)
        live = [await backend.submit(make_spec(tmp_path, "sleep 60")) for _ in range(3)]
        unknown = JobId("4000000.pbssrv")
        jobs = [*live, ended, unknown]
        for _ in range(2):
            states = {job: status.state for job, status in (await backend.poll(jobs)).items()}
            assert states == {
                **dict.fromkeys(live, JobState.RUNNING),
                ended: JobState.COMPLETED if history else JobState.ABSENT,
                unknown: JobState.ABSENT,
            }
        pbs.calls.clear()
        await backend.poll(live)
        asked = [call.arguments for call in pbs.calls]
        assert [("-E" in arguments) for arguments in asked] == [knows_express]
        await CONTRACT.until_all_gone(backend, live)
        # of none of them anything is known
        gone = {JobId(f"400000{number}.pbssrv") for number in range(4)}
        assert {status.state for status in (await backend.poll(gone)).values()} == {JobState.ABSENT}

    with FakePBS(knows_express=knows_express, history=history) as pbs:
        asyncio.run(scenario(pbs))


def test_arrays_of_the_user_beside_ours_confuse_nobody(pbs: FakePBS, tmp_path: Path) -> None:
    """Their parents are listed like jobs, in a state of their own, and have ids that only look like ours."""

    async def scenario() -> None:
        backend = pbs_backend(pbs)
        spec = make_spec(tmp_path, "sleep 60")
        job = await backend.submit(spec)
        number = job.partition(".")[0]
        for text in (f"{number}[].pbssrv", f"{number}[4].pbssrv", f"{number}4.pbssrv"):
            state = "R" if text.endswith("4.pbssrv") else "B"
            pbs.jobs[text] = PBSJob(text, "", Submission(options={"N": "sweep"}), "/", "workq", state=state)
        assert await backend.find([spec.name]) == {spec.name: job}
        assert await backend.find_all() == {spec.name: job}
        assert set(await backend.poll([job])) == {job}
        assert (await backend.poll([job]))[job].name == spec.name
        assert (await backend.cancel([job])).gone <= {job}
        await CONTRACT.until_state(backend, job, JobState.CANCELLED)
        assert {text: other.state for text, other in pbs.jobs.items() if text != job} == {
            f"{number}[].pbssrv": "B",
            f"{number}[4].pbssrv": "B",
            f"{number}4.pbssrv": "R",
        }

    asyncio.run(scenario())


# ----------------------------------------------------------------------------------------------------------------- cancel


def deletions(pbs: FakePBS) -> list[list[str]]:
    return [call.arguments for call in pbs.calls if call.command == "qdel"]


def test_cancel_is_not_repeated_but_forced_after_a_while(pbs: FakePBS, tmp_path: Path) -> None:
    """Each plain qdel puts off PBS's own KILL."""

    async def scenario() -> None:
        backend = pbs_backend(pbs)
        spec = make_spec(tmp_path, "trap '' TERM; echo ready; while :; do sleep 0.1; done")
        job = await backend.submit(spec)
        await CONTRACT.until_log(backend, job, spec, "ready")
        for _ in range(5):
            assert (await backend.cancel([job])).unconfirmed == {job}
        assert deletions(pbs) == [[job]]
        backend.force_after = 0.0
        await CONTRACT.until_gone(backend, job)
        assert ["-W", "force", job] in deletions(pbs)
        assert (await backend.poll([job]))[job].state is JobState.CANCELLED

    asyncio.run(scenario())


def test_job_that_was_cancelled_before_it_could_hear_it_is_cancelled(tmp_path: Path) -> None:
    """PBS tells it nothing, kills it later, and says that it has failed."""

    async def scenario(pbs: FakePBS) -> None:
        backend = pbs_backend(pbs)
        job = await backend.submit(make_spec(tmp_path, "sleep 60"))
        assert (await backend.cancel([job])).unconfirmed == {job}
        await CONTRACT.until_gone(backend, job)
        assert pbs.jobs[job].comment.endswith("and failed")
        assert (await backend.poll([job]))[job].state is JobState.CANCELLED

    with FakePBS(times=Times(deaf=60.0)) as pbs:
        asyncio.run(scenario(pbs))


def test_cancel_that_a_hung_node_holds_up_is_forced_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpccluster_pbs.backend.DELETE_TIMEOUT", 0.5)

    async def scenario(pbs: FakePBS) -> None:
        backend = pbs_backend(pbs, dialect="openpbs")
        spec = make_spec(tmp_path, "trap '' TERM; echo ready; while :; do sleep 0.1; done")
        job = await backend.submit(spec)
        await CONTRACT.until_log(backend, job, spec, "ready")
        pbs.delay("qdel", 2.0)
        report = await backend.cancel([job])
        assert report.unconfirmed == {job}
        assert "did not end within" in report.message
        await backend.cancel([job])
        assert deletions(pbs) == [[job]]
        backend.force_after = 0.0
        await CONTRACT.until_gone(backend, job)
        assert ["-W", "force", job] in deletions(pbs)

    with FakePBS(times=Times(kill_delay=60.0)) as pbs:
        asyncio.run(scenario(pbs))


def test_a_hung_node_holds_up_its_own_job_only(pbs: FakePBS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpccluster_pbs.backend.DELETE_TIMEOUT", 0.5)

    async def scenario() -> None:
        backend = pbs_backend(pbs, dialect="openpbs")
        stuck, other = [await backend.submit(make_spec(tmp_path, "sleep 60")) for _ in range(2)]
        pbs.hung.add(stuck)
        report = await backend.cancel([stuck, other])
        assert stuck in report.unconfirmed
        assert report.message.endswith("PBS, or a node that runs one of these jobs, hangs")
        await CONTRACT.until_state(backend, other, JobState.CANCELLED)
        pbs.hung.clear()
        backend.force_after = 0.0
        await CONTRACT.until_gone(backend, stuck)

    asyncio.run(scenario())


def test_job_on_a_dead_node_is_forced_sooner(pbs: FakePBS, tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = pbs_backend(pbs)
        backend.force_unreached_after = 0.0
        job = await backend.submit(make_spec(tmp_path, "sleep 60"))
        pbs.is_node_dead = True
        report = await backend.cancel([job])
        assert report.unconfirmed == {job}
        assert "could not connect to MOM" in report.message
        await CONTRACT.until_gone(backend, job)
        assert deletions(pbs)[:2] == [[job], ["-W", "force", job]]

    asyncio.run(scenario())


def test_cancel_beside_unknown_and_ended_jobs(pbs: FakePBS, tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = pbs_backend(pbs)
        ended = await backend.submit(make_spec(tmp_path, "true"))
        await CONTRACT.until_state(backend, ended, JobState.COMPLETED)
        live, unknown = await backend.submit(make_spec(tmp_path, "sleep 60")), JobId("4000.pbssrv")
        report = await backend.cancel([ended, unknown, live])
        assert report.message == ""
        assert report.gone >= {ended, unknown}
        await CONTRACT.until_state(backend, live, JobState.CANCELLED)

    asyncio.run(scenario())


def test_hostile_ids_run_no_command(pbs: FakePBS) -> None:
    async def scenario() -> None:
        backend = pbs_backend(pbs)
        for text in (
            *HOSTILE_IDS,
            "1.2.3.4",
            "0.pbssrv",
            "1[",
            "[1]",
            "1.pbs srv",
            "-1.pbssrv",
            "1.pbssrv;id",
            "all.x",
        ):
            with pytest.raises(ValueError, match="not the id"):
                await backend.cancel([JobId("101.pbssrv"), JobId(text)])
        assert pbs.calls == []

    asyncio.run(scenario())


@pytest.mark.parametrize("flavour", ["openpbs", "torque"])
def test_job_without_a_head_cancels_its_siblings_only(flavour: Any, tmp_path: Path) -> None:
    async def scenario(pbs: FakePBS) -> None:
        backend = pbs_backend(pbs)
        ours, others = "hpccluster 0123 head here", "hpccluster 4567 head here"
        names = {
            "hpc-calm-0001": ours,
            "hpc-calm-00ff": ours,
            "hpc-calm-0002": others,
            "hpc-calm-otter-0001": ours,
            "mine-0001": ours,
        }
        jobs = {
            name: await backend.submit(make_spec(tmp_path, "sleep 60", name=name, comment=comment, cluster="calm"))
            for name, comment in names.items()
        }
        pbs.slots = 10
        last = await backend.submit(make_spec(tmp_path, "exit 75", name="hpc-calm-0003", comment=ours, cluster="calm"))
        status = await CONTRACT.until_state(backend, last, JobState.FAILED)
        assert status.exit_code == 75
        for name in ("hpc-calm-0001", "hpc-calm-00ff"):
            status = await CONTRACT.until_state(backend, jobs[name], JobState.CANCELLED, JobState.FAILED)
            assert status.signal == (15 if pbs.flavour == "torque" else status.signal)
        for name in ("hpc-calm-0002", "hpc-calm-otter-0001", "mine-0001"):
            assert (await backend.poll([jobs[name]]))[jobs[name]].state.is_live, name

    with FakePBS(flavour=flavour) as pbs:
        asyncio.run(scenario(pbs))
