"""The Slurm dialect: directives, and recorded outputs of Slurm 22.05.8 (Debian 12) where nothing else is said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from hpccluster.backend.dialect import CommandResult
from hpccluster.errors import ConfigError, PollFailed
from hpccluster.ids import JobId, JobName
from hpccluster.job import JobSpec, JobState
from hpccluster_slurm.backend import SlurmBackend
from hpccluster_slurm.dialect import COLUMNS, SlurmContext, SlurmDialect
from hpccluster_slurm.options import SlurmOptions

DIALECT = SlurmDialect()
SMALL: dict[str, Any] = {"cores": 2, "memory": "1GiB"}


def make_spec(options: SlurmOptions, **changes: Any) -> JobSpec:
    values: dict[str, Any] = {
        "name": JobName("hpc-calm-0001"),
        "cluster": "calm",
        "command": ("/usr/bin/python3", "-m", "worker"),
        "resources": options.resources(),
        "walltime": options.walltime_seconds(),
        "log_path": "/logs/calm.log",
    }
    return JobSpec(**(values | changes))


def directives(*, spec: dict[str, Any] | None = None, **options: Any) -> list[str]:
    """The directives of a job script, without the ones that are the same in each."""
    made = SlurmOptions(**(SMALL | options))
    text = SlurmBackend(made).render(make_spec(made, **(spec or {})))
    lines = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert lines[:3] == ["--job-name=hpc-calm-0001", '--output="/logs/calm.log"', "--open-mode=append"]
    return lines[3:]


PLAIN = ["--nodes=1", "--ntasks=1", "--cpus-per-task=2", "--mem=1G"]


def test_small_job() -> None:
    assert directives() == PLAIN


def test_everything() -> None:
    assert directives(
        queue="short,long",
        account="proj-1",
        qos="high",
        reservation="res_1",
        constraint="[rack1|rack2]&ib",
        exclude="n[001-010],m5",
        gres="gpu:a100:2",
        walltime="01:30:00",
        signal="B:TERM@60",
        requeue=False,
        job_extra_directives=("--mail-type=END",),
        spec={"comment": "hpccluster 0123 head here", "working_directory": "/home/ana/50% done"},
    ) == [
        '--comment="hpccluster 0123 head here"',
        "--partition=short,long",
        "--account=proj-1",
        "--qos=high",
        "--reservation=res_1",
        *PLAIN,
        "--gres=gpu:a100:2",
        "--constraint=[rack1|rack2]&ib",
        "--exclude=n[001-010],m5",
        "--time=01:30:00",
        "--signal=B:TERM@60",
        "--no-requeue",
        '--chdir="/home/ana/50% done"',
        "--mail-type=END",
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ("1GiB", "1G"),
        ("1GB", "976563K"),
        ("32GB", "31250000K"),
        ("1000GiB", "1000G"),
        ("2TiB", "2T"),
        (2**20 + 1, "1025K"),
        ("2048KiB", "2M"),
        ("512MiB", "512M"),
        (1536 * 2**20, "1536M"),
    ],
)
def test_memory_is_exact_or_rounded_up_to_a_kib(size: str | int, text: str) -> None:
    assert directives(memory=size)[3] == f"--mem={text}"


def test_memory_as_the_site_wants_it() -> None:
    assert "--mem-per-cpu=512M" in directives(memory_directive="--mem-per-cpu")
    assert "--mem-per-gpu=256M" in directives(memory_directive="--mem-per-gpu", gpus=4)
    assert not [line for line in directives(memory_directive="none") if "mem" in line]
    assert "--mem=0" in directives(job_memory=0), "all of the node's"
    assert "--mem=3G" in directives(job_mem="3GiB")
    with pytest.raises(ConfigError, match="needs gpus="):
        directives(memory_directive="--mem-per-gpu")
    assert SlurmOptions(cores=1, memory_directive="none").resources().memory is None


def test_cpus_and_gpus() -> None:
    assert "--cpus-per-task=16" in directives(job_cpu=16)
    assert "--gres=gpu:2" in directives(gpus=2)
    assert "--gres=gpu:a100:1" in directives(gpus=1, gres="gpu:a100:1")


def test_walltime_is_rounded_up() -> None:
    assert "--time=00:00:02" in directives(walltime=1.2)
    assert "--time=36:00:00" in directives(walltime="1-12:00:00")


def test_skipping_is_by_whole_name() -> None:
    assert directives(job_directives_skip=("-n",), queue="x-n") == ["--partition=x-n", *PLAIN[:1], *PLAIN[2:]]
    assert directives(job_directives_skip=("--mem=", "-N 1", "--cpus-per-task")) == ["--ntasks=1"]
    with pytest.raises(ConfigError, match=r"'--memm': no such directive in the job script; did you mean '--mem'\?"):
        directives(job_directives_skip=("--memm",))
    for essential in ("-J", "--output", "--job-name=x"):
        with pytest.raises(ConfigError, match="has to stay as it is"):
            directives(job_directives_skip=(essential,))


def test_directive_of_the_user_replaces_ours() -> None:
    lines = directives(job_extra_directives=("--mem-per-gpu=4G", "-t 5", "-pother"), queue="short", walltime=60)
    assert lines == [*PLAIN[:3], "--mem-per-gpu=4G", "-t 5", "-pother"]
    with pytest.raises(ConfigError, match="has to stay as it is"):
        directives(job_extra_directives=("--output=/elsewhere",))


def test_log_path_is_not_expanded_by_sbatch() -> None:
    options = SlurmOptions(**SMALL)
    text = SlurmBackend(options).render(make_spec(options, log_path="/logs/100%j ü.log"))
    assert '#SBATCH --output="/logs/100%%j ü.log"\n' in text
    for bad in ('/logs/a"b', "/logs/a\\b", "/logs/a'b", "/logs/`x`", "/logs/a\tb"):
        with pytest.raises(ConfigError, match="log_directory="):
            SlurmBackend(options).render(make_spec(options, log_path=bad))


def test_submit() -> None:
    options = SlurmOptions(**SMALL, queue="short")
    spec = make_spec(options)
    assert DIALECT.submit_command(spec, options) == ("sbatch", "--parsable")
    changes = DIALECT.submit_environment(DIALECT.context(spec, options))
    assert {"SBATCH_PARTITION", "SBATCH_JOB_NAME", "SBATCH_OUTPUT", "SBATCH_MEM_PER_NODE"} <= set(changes)
    assert "SBATCH_ACCOUNT" not in changes, "the user's default account, which the script does not name"
    assert set(changes.values()) == {None}


@pytest.mark.parametrize(
    ("output", "job"),
    [
        ("123\n", "123"),
        ("123;tb\n", "123"),  # with -M, and in a federation
        ("Welcome to the cluster!\n4711\n", "4711"),  # a site's wrapper
    ],
)
def test_submitted_id(output: str, job: str) -> None:
    assert DIALECT.parse_submit(CommandResult(("sbatch",), 0, output, "")) == job


@pytest.mark.parametrize("output", ["", "0\n", "-1\n", "Submitted\n", "12 34\n", "1.5\n"])
def test_output_without_an_id(output: str) -> None:
    with pytest.raises(ValueError, match="no job id"):
        DIALECT.parse_submit(CommandResult(("sbatch",), 0, output, ""))


# squeue --me --noheader --states=all --Format=..., with SLURM_TIME_FORMAT=%s; columns as in COLUMNS
RECORDED = [
    # id, name, state, nodes, start, reason, exit code (a wait status)
    ("10", "hpc-closed", "PENDING", "", "N/A", "PartitionDown", "0"),
    ("8", "hpc-c-0008", "CANCELLED", "", "1795507845", "Priority", "0"),
    ("1", "hpc-ok-0001", "COMPLETED", "n1", "1795507844", "None", "0"),
    ("2", "hpc-bad-0002", "FAILED", "n1", "1795507844", "NonZeroExitCode", "768"),
    ("3", "hpc-sig-0003", "FAILED", "n1", "1795507844", "JobLaunchFailure", "11"),
    ("12", "hpc-nolog-0012", "FAILED", "n1", "1795507844", "JobLaunchFailure", "4021"),
    ("7", "hpc-big-0007", "PENDING", "", "1795508444", "Resources", "0"),
    ("4", "hpc-run-0004", "RUNNING", "n1", "1795507844", "None", "0"),
    ("5", "hpc-hold-0005", "PENDING", "", "N/A", "JobHeldUser", "0"),
    ("9", "hpc-end-0009", "COMPLETING", "n1", "1795507844", "None", "0"),
    ("13", "hpc-new-0013", "HIBERNATING", "n1", "1795507844", "None", "0"),
]


def squeue(rows: Sequence[tuple[str, ...]]) -> CommandResult:
    lines = ["".join(cell.ljust(width) for cell, (_, width) in zip(row, COLUMNS, strict=False)) for row in rows]
    return CommandResult(("squeue",), 0, "".join(f"{line}\n" for line in lines), "")


def test_poll_asks_for_this_users_jobs_by_one_command() -> None:
    command = DIALECT.poll_command([JobId("1"), JobId("2")])
    assert command[:4] == ("squeue", "--me", "--noheader", "--states=all")
    changes = DIALECT.query_environment()
    assert changes["SLURM_TIME_FORMAT"] == "%s"
    assert changes["SQUEUE_STATES"] is changes["SCANCEL_INTERACTIVE"] is None


def test_poll() -> None:
    found = {status.id: status for status in DIALECT.parse_poll(squeue(RECORDED))}
    states = {job: status.state for job, status in found.items()}
    assert states == {
        "10": JobState.PENDING, "8": JobState.CANCELLED, "1": JobState.COMPLETED, "2": JobState.FAILED,
        "3": JobState.FAILED, "12": JobState.FAILED, "7": JobState.PENDING, "4": JobState.RUNNING,
        "5": JobState.PENDING, "9": JobState.RUNNING, "13": JobState.UNKNOWN,
    }  # fmt: skip
    assert found[JobId("13")].raw_state == "HIBERNATING"
    assert found[JobId("9")].raw_state == "COMPLETING", "it still has its nodes: no end"
    assert (found[JobId("2")].exit_code, found[JobId("2")].signal, found[JobId("2")].reason) == (
        3,
        None,
        "NonZeroExitCode",
    )
    assert (found[JobId("3")].exit_code, found[JobId("3")].signal) == (0, 11)
    assert (found[JobId("12")].exit_code, found[JobId("12")].signal) == (0, 53)
    assert (found[JobId("1")].exit_code, found[JobId("1")].reason, found[JobId("1")].node) == (0, "", "n1")
    assert found[JobId("8")].reason == "", "why it had waited does not matter any more"
    assert (found[JobId("7")].estimated_start, found[JobId("7")].reason) == (1795508444.0, "Resources")
    assert found[JobId("4")].estimated_start is found[JobId("5")].estimated_start is None
    assert found[JobId("4")].exit_code is None
    assert found[JobId("4")].name == "hpc-run-0004"


def test_newer_squeue_prints_exit_codes_in_pairs() -> None:
    (status,) = DIALECT.parse_poll(squeue([("2", "x", "FAILED", "n1", "N/A", "NonZeroExitCode", "3:0")]))
    assert status.exit_code == 3


def test_squeue_that_does_not_know_the_last_column() -> None:
    # it complains on stderr ("Invalid job format specification") and prints the others
    (status,) = DIALECT.parse_poll(squeue([("2", "x", "FAILED", "n1", "N/A", "NonZeroExitCode")]))
    assert (status.state, status.exit_code, status.reason) == (JobState.FAILED, None, "NonZeroExitCode")


def test_lines_that_are_no_jobs_are_passed_over() -> None:
    result = squeue(
        [("549_2", "array", "RUNNING"), ("549_[3-9]", "array", "PENDING"), ("garbage",), ("",), ("93+0", "het")]
    )
    assert DIALECT.parse_poll(result) == []


@pytest.mark.parametrize(
    "stderr",
    [
        "slurm_load_jobs error: Socket timed out on send/recv operation\n",
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
        "",
    ],
)
def test_failed_poll(stderr: str) -> None:
    with pytest.raises(PollFailed, match=r"squeue failed: (slurm_load_jobs|exit code 1)"):
        DIALECT.parse_poll(CommandResult(("squeue",), 1, "", stderr))


def test_find() -> None:
    command = DIALECT.find_command([JobName("hpc-a-0002"), JobName("hpc-a-0001")])
    assert command[-1] == "--name=hpc-a-0001,hpc-a-0002"


def test_history() -> None:
    command = DIALECT.history_command([JobId("2"), JobId("1")])
    assert command is not None
    assert command[0] == "sacct"
    assert command[-1] == "--jobs=1,2"
    # sacct --allocations --noheader --parsable2 --format=JobIDRaw,State,ExitCode,NodeList
    text = "1|COMPLETED|0:0|n1\n2|CANCELLED by 1001|0:15|n1\n3|TIMEOUT|0:0|n1\n4|RUNNING|0:0|n1\n5|OUT_OF_MEMORY|0:125|n1\n6.batch|FAILED|1:0|n1\n"
    text += "7|CANCELLED by 1000|0:0|None assigned\n"
    told = DIALECT.parse_history(CommandResult(("sacct",), 0, text, ""))
    assert told is not None
    assert [status.node for status in told] == ["n1"] * 4 + [""]
    assert [(status.id, status.state, status.exit_code, status.signal, status.reason) for status in told] == [
        ("1", JobState.COMPLETED, 0, None, ""),
        ("2", JobState.CANCELLED, 0, 15, "cancelled by uid 1001"),
        ("3", JobState.TIMEOUT, 0, None, ""),
        # what accounting believes to run, but squeue does not list, is absent
        ("5", JobState.OUT_OF_MEMORY, 0, 125, ""),
        # it was pending
        ("7", JobState.CANCELLED, 0, None, "cancelled by uid 1000"),
    ]


def test_history_that_is_not_there() -> None:
    assert DIALECT.parse_history(CommandResult(("sacct",), 1, "", "Slurm accounting storage is disabled\n")) is None
    assert DIALECT.parse_history(CommandResult(("sacct",), 1, "", "sacct: error: slurmdbd: Connection refused\n")) == []


def test_cancel() -> None:
    assert DIALECT.cancel_command([JobId("10"), JobId("9")]) == ("scancel", "9", "10")
    assert DIALECT.cancel_problem(CommandResult(("scancel",), 0, "", "")) == ""
    error = "scancel: error: Kill job error on job id 5: Socket timed out on send/recv operation"
    assert DIALECT.cancel_problem(CommandResult(("scancel",), 140, "", f"{error}\n")) == error


def test_every_context_name_is_documented_or_plain() -> None:
    names = {name for kind in SlurmContext.__mro__[:2] for name in getattr(kind, "__annotations__", {})}
    template = SlurmBackend(SlurmOptions(**SMALL))._template
    assert template.filename is not None
    used = set(re.findall(r"{{ ?([a-z_]+)|{% if ([a-z_]+)", _source("slurm.sh")))
    flat = {name for pair in used for name in pair if name} - {"value", "variable", "line", "directive"}
    assert flat <= names


def _source(name: str) -> str:
    from importlib.resources import files

    return (files("hpccluster_templates") / name).read_text()
