"""Each way in which a job can be of no use has one code, and a text that says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from hpccluster.errors import JobDied, from_name
from hpccluster.fleet.diagnose import DeadJob, Stage, diagnose, reached
from hpccluster.ids import JobId
from hpccluster.job import JobState, JobStatus

STAGES = ("started n017 2026-11-24T06:45:36+0000", "prologue-ok", "python-ok", "import-ok", "net-ok", "auth-ok")


def log(stages: int, *lines: str) -> str:
    """A log with so many stages reached, and what was written after them."""
    return "\n".join([*(f"hpccluster: stage {stage}" for stage in STAGES[:stages]), *lines])


def died(text: str = "", state: JobState = JobState.FAILED, *, joined: bool = False, **more: Any) -> JobDied:
    facts = {name: more.pop(name) for name in ("seconds", "log_error", "meaning") if name in more}
    status = JobStatus(id=JobId("481520"), state=state, **more)
    return diagnose(
        DeadJob(
            name="hpc-calm-otter-0a1f",
            status=status,
            joined=joined,
            log=text,
            log_path="/scratch/ana/hpccluster/calm-otter/481520.log",
            python="/opt/conda/envs/x/bin/python",
            **facts,
        )
    )


def test_what_the_backend_knows_is_told_in_full() -> None:
    problem = "n3: user 'ana' could not log in\n  fix:  add the key"
    told: dict[str, Any] = {
        "code": "HPC-SSH-AUTH",
        "problem": problem,
        "reason": problem.partition("\n")[0],
        "node": "n3",
    }
    error = died(f"hpccluster: {problem}\n", JobState.NODE_FAIL, **told)
    assert error.code == "HPC-SSH-AUTH"
    assert str(error).splitlines() == [
        "job 481520 ended before its worker joined (HPC-SSH-AUTH)",
        "  state:   NODE_FAIL, node n3",
        "  problem: n3: user 'ana' could not log in",
        "             fix:  add the key",
    ]
    error = died(log(2, "last words"), JobState.NODE_FAIL, **told)
    assert str(error).splitlines()[-3:] == [
        "  stage:   started, prologue ok; its host failed",
        "  log:     /scratch/ana/hpccluster/calm-otter/481520.log",
        "           | last words",
    ]


def test_the_whole_text() -> None:
    missing = "line 14: /opt/conda/envs/x/bin/python: No such file or directory"
    error = died(log(2, missing), exit_code=127, node="n017", seconds=2.0)
    assert str(error).splitlines() == [
        "job 481520 ended before its worker joined (HPC-JOB-PYTHON-MISSING)",
        "  state:   FAILED, exit code 127, node n017, after 2 s",
        "  stage:   started, prologue ok; python not found",
        "  log:     /scratch/ana/hpccluster/calm-otter/481520.log",
        f"           | {missing}",
        f"  fix:     {error.details['hint']}",
    ]
    assert str(error.details["hint"]).startswith("the job ran '/opt/conda/envs/x/bin/python'; set python= to")
    assert error.details["job_id"] == "481520"
    assert error.details["exit_code"] == 127
    assert error.details["stage"] == "prologue"
    assert error.details["log_tail"] == missing


def test_it_crosses_the_wire() -> None:
    error = died(log(1, "module: command not found"), exit_code=1, reason="NonZeroExitCode")
    copy = from_name(type(error).__name__, error.message, error.code, error.details)
    assert isinstance(copy, JobDied)
    assert (str(copy), copy.code, copy.details) == (str(error), "HPC-JOB-PROLOGUE", error.details)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("HPC-JOB-NOLOG-053", died(exit_code=0, signal=53)),
        ("HPC-JOB-MEMORY", died(log(6), JobState.OUT_OF_MEMORY)),
        ("HPC-JOB-MEMORY", died(log(3, "slurmstepd: error: Detected 1 oom_kill event"), exit_code=137)),
        ("HPC-JOB-WALLTIME", died(log(1), JobState.TIMEOUT)),
        ("HPC-JOB-CANCELLED", died("", JobState.CANCELLED, reason="by 1000")),
        ("HPC-JOB-PROLOGUE", died(log(1, "Lmod has detected the following error: unknown module"), exit_code=1)),
        ("HPC-JOB-PYTHON-MISSING", died(log(2, "hpccluster: python not found: /x/python"), exit_code=127)),
        (
            "HPC-JOB-PYTHON-MISSING",
            died(log(2, "/x/python: cannot execute binary file: Exec format error"), exit_code=126),
        ),
        ("HPC-JOB-PYTHON", died(log(2, "Fatal Python error: init_fs_encoding"), exit_code=1)),
        ("HPC-JOB-IMPORT", died(log(2, "/usr/bin/python3: No module named hpccluster"), exit_code=1)),
        ("HPC-JOB-IMPORT", died(log(3, "ModuleNotFoundError: No module named 'msgspec'"), exit_code=1)),
        ("HPC-JOB-IMPORT", died(log(3, "Segmentation fault"), exit_code=139)),
        ("HPC-NET-UNREACHABLE", died(log(4, "tls://10.1.0.7:8786: timed out"), exit_code=75)),
        ("HPC-NET-UNREACHABLE", died(log(4, "tls://10.1.0.7:8786: timed out"), exit_code=1)),
        ("HPC-JOB-SETTINGS", died(log(4, "no network interface 'ib9' here"), exit_code=2)),
        ("HPC-AUTH", died(log(5, "refused: other cluster"), exit_code=76)),
        ("HPC-AUTH", died(log(4, "the worker connection file /x is open to others"), exit_code=76)),
        ("HPC-AUTH", died(log(5), exit_code=1)),
        ("HPC-STATE-UNSHARED", died(exit_code=75, log_error="it is not there")),
        ("HPC-STATE-UNSHARED", died(log(4, "no worker connection file at /home/ana/x.json"), exit_code=76)),
        ("HPC-JOB-DIED", died(log(6, "Killed"), exit_code=137)),
        ("HPC-JOB-DIED", died(exit_code=1)),
        ("HPC-JOB-DIED", died("", JobState.ABSENT)),
        ("HPC-JOB-DIED", died("/bin/zsh: bad interpreter", exit_code=1)),
        ("HPC-JOB-DIED", died(log(6), JobState.COMPLETED, exit_code=0, joined=True)),
    ],
)
def test_causes(code: str, error: JobDied) -> None:
    assert error.code == code
    assert f"({code})" in str(error).splitlines()[0]
    assert error.details["hint"]
    assert "fix:" in str(error)


def test_a_missing_module_is_named() -> None:
    assert "'msgspec' cannot be imported" in str(died(log(3, "ModuleNotFoundError: No module named 'msgspec'")))
    without_extra = str(died(log(3, "ModuleNotFoundError: No module named 'distributed'")))
    assert "fix:     pip install 'hpccluster[dask]' for the python of the jobs" in without_extra


def test_the_node_is_taken_from_the_log_where_the_batch_system_does_not_say_it() -> None:
    assert "node n017" in str(died(log(1), exit_code=1))


def test_only_the_last_lines_are_quoted_and_no_markers() -> None:
    error = died(log(2, *(f"line {n}" for n in range(100))), exit_code=1)
    quoted = [line for line in str(error).splitlines() if line.startswith("           | ")]
    assert len(quoted) == 20
    assert quoted[-1].endswith("line 99")
    assert "stage prologue-ok" not in str(error)


def test_absent_jobs_and_unreadable_logs_are_said_to_be_so() -> None:
    error = died("", JobState.ABSENT, log_error="permission denied")
    assert "no longer listed by the batch system, cause unknown" in str(error)
    assert "(not readable: permission denied)" in str(error)
    assert "(empty)" in str(died(exit_code=1))
    assert "log_directory=" in str(died(exit_code=1))


def test_reason_and_meaning_are_shown() -> None:
    text = str(died(log(1), reason="NonZeroExitCode", exit_code=2, seconds=4000, meaning="ask the admins"))
    assert "FAILED (NonZeroExitCode), exit code 2, node n017, after 1h06m" in text
    assert "meaning: ask the admins" in text


def test_stages() -> None:
    assert reached("") is Stage.NOTHING
    assert reached(log(4)) is Stage.IMPORT
    assert reached("2026 hpccluster: stage python-ok 3.12\nhpccluster: stage of-the-future") is Stage.PYTHON


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("=>> PBS: job killed: walltime 10 exceeded limit 3", "HPC-JOB-WALLTIME"),
        ("=>> PBS: job killed: mem 625936kb exceeded limit 102400kb", "HPC-JOB-MEMORY"),
        (
            "slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-11-24T06:45:36 DUE TO TIME LIMIT ***",
            "HPC-JOB-WALLTIME",
        ),
    ],
)
def test_of_a_forgotten_job_its_log_is_believed(line: str, code: str) -> None:
    assert died(log(4, line), JobState.ABSENT).code == code
    # where the batch system says that it ended otherwise, that counts
    assert died(log(4, line), exit_code=75).code == "HPC-NET-UNREACHABLE"


def test_exit_code_of_a_forgotten_job_is_what_its_script_says() -> None:
    error = died(log(4, "hpccluster: workers ended with exit code 75"), JobState.ABSENT)
    assert error.code == "HPC-NET-UNREACHABLE"
    assert error.details["exit_code"] == 75
    assert "cause unknown, exit code 75 (says its log)" in str(error)
    assert died(log(4, "hpccluster: workers ended with exit code 75"), exit_code=76).details["exit_code"] == 76
    error = died(log(2, "hpccluster: python not found: /opt/none/bin/python"), JobState.ABSENT)
    assert (error.code, error.details["exit_code"]) == ("HPC-JOB-PYTHON-MISSING", 127)
