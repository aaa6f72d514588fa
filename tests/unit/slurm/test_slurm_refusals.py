"""What sbatch's complaints mean. Texts recorded from Slurm 22.05.8; others as noted."""

from __future__ import annotations

from typing import Any

import pytest

from hpccluster.backend.dialect import CommandResult
from hpccluster.errors import BackendUnavailable, CommandFailed, SubmitRefused
from hpccluster.ids import JobName
from hpccluster.job import JobSpec
from hpccluster_slurm.backend import SlurmBackend
from hpccluster_slurm.options import SlurmOptions
from hpccluster_slurm.refusals import classify, clean

FAILED = "sbatch: error: Batch job submission failed: "
POLICY = f"{FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"

REFUSED: list[tuple[str, str, dict[str, Any], str, str]] = [
    # cause, stderr, options, blamed option, directive
    ("PARTITION", f"sbatch: error: invalid partition specified: shrot\n{FAILED}Invalid partition name specified",
     {"queue": "shrot"}, "queue", "#SBATCH --partition=shrot"),
    ("GROUP", f"{FAILED}User's group not permitted to use this partition", {"queue": "staff"}, "queue",
     "#SBATCH --partition=staff"),
    ("TIME", f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)", {"walltime": "99:00:00"},
     "walltime", "#SBATCH --time=99:00:00"),
    ("TIME", f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)", {}, "", ""),
    ("TIME", "sbatch: error: Invalid --time specification", {"job_extra_directives": ("--time=2x",)},
     "job_extra_directives", "#SBATCH --time=2x"),
    ("NODES", f"{FAILED}Node count specification invalid", {}, "", "#SBATCH --nodes=1"),
    ("CPUS", f"{FAILED}More processors requested than permitted", {}, "cores", "#SBATCH --cpus-per-task=2"),
    ("MEMORY", f"sbatch: error: Memory specification can not be satisfied\n{FAILED}Requested node configuration is not available",
     {}, "memory", "#SBATCH --mem=1G"),
    ("MEMORY", "sbatch: fatal: --mem, --mem-per-cpu, and --mem-per-gpu are mutually exclusive.", {}, "memory",
     "#SBATCH --mem=1G"),
    ("GRES", "sbatch: error: Invalid generic resource (gres) specification", {"gres": "foo:1"}, "gres", "#SBATCH --gres=foo:1"),
    ("GRES", f"{FAILED}Invalid generic resource (gres) specification", {"gpus": 1}, "", "#SBATCH --gres=gpu:1"),
    ("CONFIGURATION", f"{FAILED}Requested node configuration is not available", {}, "", ""),
    ("CONSTRAINT", f"{FAILED}Invalid feature specification", {"constraint": "ib"}, "constraint", "#SBATCH --constraint=ib"),
    ("RESERVATION", f"{FAILED}Requested reservation is invalid", {"reservation": "r"}, "reservation",
     "#SBATCH --reservation=r"),
    ("LICENSE", f"{FAILED}Invalid license specification", {}, "", ""),
    ("NODELIST", f"{FAILED}Invalid node name specified", {"exclude": "zz"}, "exclude", "#SBATCH --exclude=zz"),
    ("SIGNAL", "sbatch: error: Invalid --signal specification", {"signal": "XX@1"}, "signal", "#SBATCH --signal=XX@1"),
    ("OPTION", "sbatch: unrecognized option '--frobnicate'\nTry \"sbatch --help\" for more information",
     {"job_extra_directives": ("--frobnicate",)}, "job_extra_directives", "#SBATCH --frobnicate"),
    ("SCRIPT", "sbatch: error: Batch script contains DOS line breaks (\\r\\n)\nsbatch: error: instead of expected UNIX line breaks (\\n).",
     {}, "", ""),
    ("SCRIPT", "sbatch: error: Batch script is empty!", {}, "", ""),
    ("SCRIPT", "sbatch: error: This does not look like a batch script.  The first\nsbatch: error: line must start with #!", {}, "", ""),
    # with accounting; texts of slurm_errno.c
    ("ACCOUNT", f"{FAILED}Invalid account or account/partition combination specified", {"account": "a"}, "account",
     "#SBATCH --account=a"),
    ("QOS", f"{FAILED}Invalid qos specification", {"qos": "q"}, "qos", "#SBATCH --qos=q"),
    ("LIMIT", f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}", {}, "", ""),
    ("LIMIT", f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}", {}, "", ""),
    ("TIME", f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{POLICY}", {"walltime": "20min"}, "walltime",
     "#SBATCH --time=00:20:00"),
    ("LIMITS", f"sbatch: error: QOSMaxCpuPerJobLimit\n{POLICY}", {}, "", ""),
    ("LIMITS", f"sbatch: error: AssocMaxMemPerJob\n{POLICY}", {}, "", ""),
    ("ACCOUNT", f"{FAILED}Invalid account or account/partition combination specified", {"queue": "astro"}, "queue",
     "#SBATCH --partition=astro"),
    ("ACCOUNT", f"{FAILED}Invalid account or account/partition combination specified", {"queue": "q", "account": "a"}, "account",
     "#SBATCH --account=a"),
    ("PERMISSION", f"{FAILED}Access/permission denied", {}, "", ""),
    # a site's job_submit plugin
    ("REFUSED", f"sbatch: error: Please say how many widgets you need\n{FAILED}Unspecified error", {}, "", ""),
]  # fmt: skip


def make(options: dict[str, Any]) -> tuple[str, SlurmOptions]:
    small: dict[str, Any] = {"cores": 2, "memory": "1GiB"}
    made = SlurmOptions(**(small | options))
    spec = JobSpec(
        name=JobName("hpc-calm-0001"), cluster="calm", command=("true",), resources=made.resources(),
        walltime=made.walltime_seconds(), log_path="/logs/x",
    )  # fmt: skip
    return SlurmBackend(made).render(spec), made


@pytest.mark.parametrize(
    ("cause", "stderr", "options", "blamed", "directive"),
    REFUSED,
    ids=[f"{item[0]}-{i}" for i, item in enumerate(REFUSED)],
)
def test_refusal(cause: str, stderr: str, options: dict[str, Any], blamed: str, directive: str) -> None:
    script, made = make(options)
    error = classify(
        CommandResult(("sbatch",), 255 if "specification" in stderr else 1, "", stderr + "\n"), script, made
    )
    assert isinstance(error, SubmitRefused)
    assert error.code == f"HPC-SUBMIT-{cause}"
    assert error.details.get("option", "") == blamed
    assert error.details.get("directive", "") == directive
    said = str(error.details["said"])
    assert said
    assert "sbatch: " not in said
    assert all(line.strip() in str(error) for line in said.splitlines())


@pytest.mark.parametrize(
    "stderr",
    [
        f"{FAILED}Socket timed out on send/recv operation",
        f"{FAILED}Unable to contact slurm controller (connect failure)",
        f"{FAILED}Zero Bytes were transmitted or received",
        f"{FAILED}Connection refused",
        f"{FAILED}Connection timed out",
        f"{FAILED}Resource temporarily unavailable",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
        f"{FAILED}Slurm backup controller in standby mode",
        f"{FAILED}Protocol authentication error",
        f"{FAILED}Invalid authentication credential",
        "sbatch: error: Munge encode failed: Failed to access \"/run/munge/munge.socket.2\": No such file or directory",
        # a refusal and a time-out in one output: the time-out counts
        f"sbatch: error: invalid partition specified: x\n{FAILED}Socket timed out on send/recv operation",
    ],
)  # fmt: skip
def test_no_answer_is_never_a_refusal(stderr: str) -> None:
    script, made = make({})
    error = classify(CommandResult(("sbatch",), 1, "", stderr + "\n"), script, made)
    assert isinstance(error, CommandFailed)
    assert error.code == "HPC-SUBMIT-UNREACHABLE"
    assert "may exist" in str(error)


def test_a_host_that_is_not_set_up_for_slurm_has_submitted_nothing() -> None:
    script, made = make({})
    said = "sbatch: error: fetch_config: DNS SRV lookup failed\nsbatch: fatal: Could not establish a configuration source\n"
    error = classify(CommandResult(("sbatch",), 1, "", said), script, made)
    assert isinstance(error, BackendUnavailable)
    assert "$SLURM_CONF" in str(error)


@pytest.mark.parametrize(
    ("returncode", "stdout", "stderr"),
    [
        (1, "", ""),
        (1, "", "something that no version of Slurm has said before"),
        (-9, "", f"{FAILED}Invalid qos specification"),
        (1, "4711\n", f"{FAILED}Invalid qos specification"),
        (1, "", f"{FAILED}Bananas"),
    ],
)
def test_unknown_is_unknown(returncode: int, stdout: str, stderr: str) -> None:
    script, made = make({})
    error = classify(CommandResult(("sbatch",), returncode, stdout, stderr), script, made)
    assert isinstance(error, CommandFailed)
    assert error.code == "HPC-SUBMIT-UNKNOWN"


def test_words_without_prefixes() -> None:
    assert clean(f"sbatch: error: Memory specification can not be satisfied\n{FAILED}Requested node\n") == (
        "Memory specification can not be satisfied\nBatch job submission failed: Requested node"
    )
    assert clean(f"{FAILED}Invalid qos specification\n") == "Invalid qos specification"
