"""What qsub's complaints mean. Recorded from OpenPBS (see ``recorded/README.md``); others as noted."""

from __future__ import annotations

from typing import Any

import pytest

from hpccluster.backend.dialect import CommandResult
from hpccluster.errors import BackendUnavailable, CommandFailed, SubmitRefused
from hpccluster.ids import JobId, JobName
from hpccluster.job import JobSpec
from hpccluster_pbs.backend import PBSBackend
from hpccluster_pbs.dialect import PBSDialect
from hpccluster_pbs.options import Flavour, PBSOptions
from hpccluster_pbs.refusals import classify, clean

USAGE = "\nusage: qsub [-a date_time] [-A account_string] [-c interval]"
SELECT = "#PBS -l select=1:ncpus=2:mem=1gb"

REFUSED: list[tuple[str, int, str, dict[str, Any], str, str]] = [
    # cause, exit code, stderr, options, blamed option, directive
    ("QUEUE", 170, "qsub: Unknown queue", {"queue": "nosuch"}, "queue", "#PBS -q nosuch"),
    ("QUEUE", 173, "qsub: Queue is not enabled", {"queue": "dis"}, "queue", "#PBS -q dis"),
    ("PERMISSION", 159, "qsub: Unauthorized Request ", {"queue": "acl"}, "queue", "#PBS -q acl"),
    ("LIMITS", 188, "qsub: Job violates queue and/or server resource limits", {"walltime": 3600}, "", ""),
    ("RESOURCE", 187, "qsub: Unknown resource Resource_List.nosuch", {"resource_spec": "nosuch=3"}, "resource_spec", ""),
    ("RESOURCE", 187, "qsub: Unknown resource: ngpus", {"gpus": 1}, "gpus", f"{SELECT}:ngpus=1"),
    ("TIME", 166, "qsub: Illegal attribute or resource value Resource_List.walltime",
     {"job_extra_directives": ("-l walltime=abc",)}, "job_extra_directives", "#PBS -l walltime=abc"),
    ("RESOURCE", 166, "qsub: Illegal attribute or resource value select.ncpus", {}, "cores", SELECT),
    ("RESOURCE", 166, "qsub: Illegal attribute or resource value Resource_List.mem", {}, "memory", SELECT),
    ("RESOURCE", 5, 'qsub: "-lresource=" cannot be used with "select" or "place", resource is: ncpus', {}, "cores", SELECT),
    ("RESOURCE", 7, 'qsub: Cannot have "place" without "select"', {"place": "excl"}, "place", SELECT),
    ("LIMIT", 38, "qsub: would exceed queue generic's per-user limit", {}, "", ""),
    ("LIMIT", 39, "qsub: would exceed per-user limit on resource ncpus in queue mq", {}, "", ""),
    ("LIMIT", 38, "qsub: Maximum number of jobs already in complex", {}, "", ""),
    ("LIMIT", 39, "qsub: would exceed user tbuser's limit on resource ncpus in complex", {}, "", ""),
    ("LIMITS", 3, "qsub: Array job exceeds server or queue size limit", {}, "", ""),
    ("USER", 175, "qsub: Bad UID for job execution", {}, "", ""),
    ("SCRIPT", 1, "qsub: script contains cr, lf", {}, "", ""),
    ("OPTION", 1, "qsub: directive error: -l walltime=00:00:50 # trailing comment ", {}, "", ""),
    ("OPTION", 1, "qsub: invalid option -- 'Q'\nqsub: directive error: -Q foo ", {"job_extra_directives": ("-Q foo",)},
     "job_extra_directives", "#PBS -Q foo"),
    ("OPTION", 2, f"qsub: illegal -k value{USAGE}", {}, "", "#PBS -k oed"),
    ("OPTION", 2, f"qsub: illegal -p value{USAGE}", {"job_extra_directives": ("-p 5000",)}, "job_extra_directives", "#PBS -p 5000"),
    ("OPTION", 154, "qsub: Error (15002) submitting job", {}, "", ""),
    ("NAME", 2, "qsub: Job name is too long ", {}, "", "#PBS -N hpc-calm-0001"),
    ("NAME", 2, f"qsub: illegal -N value{USAGE}", {}, "", "#PBS -N hpc-calm-0001"),
    # not seen: texts of OpenPBS's pbs_messages.c
    ("PERMISSION", 160, "qsub: Access from host not allowed, or unknown host", {"queue": "acl"}, "queue", "#PBS -q acl"),
    ("QUEUE", 174, "qsub: Access to queue is denied", {"queue": "behind"}, "queue", "#PBS -q behind"),
    ("LIMITS", 191, "qsub: Job rejected by all possible destinations", {"queue": "route"}, "", ""),
    ("LIMIT", 198, "qsub: Maximum number of jobs already in queue", {}, "", ""),
    ("LIMIT", 38, "qsub: would exceed queue munge's per-user limit of jobs in 'Q' state", {}, "", ""),
    ("SCRIPT", 71, "qsub: jobscript size exceeded the jobscript_max_size", {}, "", ""),
    # a site's hooks
    ("REFUSED", 32, "qsub: Please say how many widgets you need", {}, "", ""),
    ("ACCOUNT", 32, "qsub: Invalid account: nobody", {"account": "nobody"}, "account", "#PBS -A nobody"),
    ("PROJECT", 32, "qsub: Please give a project with -P", {"project": "p"}, "project", "#PBS -P p"),
    ("REFUSED", 32, "qsub: Use the secure protocol; the old one timed out", {}, "", ""),
    # Torque; texts of reports by its users. Its numbers are others: this one is OpenPBS's "no answer"
    ("PERMISSION", 162, "qsub: submit error (Access from host not allowed, or unknown host MSG=host ACL rejected n9)",
     {"queue": "x"}, "queue", "#PBS -q x"),
    ("QUEUE", 170, "qsub: submit error (Unknown queue MSG=cannot locate queue)", {"queue": "x"}, "queue", "#PBS -q x"),
    ("PERMISSION", 159, "qsub: submit error (Unauthorized Request  MSG=group ACL is not satisfied: user a@b, queue x)",
     {"queue": "x"}, "queue", "#PBS -q x"),
    ("USER", 175, "qsub: submit error (Bad UID for job execution MSG=ruserok failed validating a/a from n)", {}, "", ""),
    ("LIMIT", 1, "qsub: submit error (Maximum number of jobs already in queue for user MSG=user a@b, queue x)", {}, "", ""),
]  # fmt: skip


def flavour_of(said: str) -> Flavour:
    return "torque" if "submit error (" in said else "openpbs"


def make(options: dict[str, Any]) -> tuple[str, PBSOptions]:
    small: dict[str, Any] = {"cores": 2, "memory": "1GiB"}
    made = PBSOptions(**(small | options))
    spec = JobSpec(
        name=JobName("hpc-calm-0001"), cluster="calm", command=("true",), resources=made.resources(),
        walltime=made.walltime_seconds(), log_path="/logs/x",
    )  # fmt: skip
    return PBSBackend(made).render(spec), made


@pytest.mark.parametrize(
    ("cause", "code", "stderr", "options", "blamed", "directive"),
    REFUSED,
    ids=[f"{item[0]}-{i}" for i, item in enumerate(REFUSED)],
)
def test_refusal(cause: str, code: int, stderr: str, options: dict[str, Any], blamed: str, directive: str) -> None:
    script, made = make(options)
    error = classify(CommandResult(("qsub",), code, "", stderr + "\n"), script, made, flavour_of(stderr))
    assert isinstance(error, SubmitRefused)
    assert error.code == f"HPC-SUBMIT-{cause}"
    assert error.details.get("option", "") == blamed
    assert error.details.get("directive", "") == (directive or error.details.get("directive", ""))
    said = str(error.details["said"])
    assert said
    assert "qsub: " not in said
    assert "usage" not in said
    assert all(line.strip() in str(error) for line in said.splitlines())


@pytest.mark.parametrize(
    ("code", "stderr"),
    [
        (162, "Connection refused\nqsub: cannot connect to server pbssrv (errno=15010)"),
        (160, "Unknown Host.\nqsub: cannot connect to server pbssrv (errno=15008)"),
        (255, "qsub: cannot connect to server  (errno=0)"),
        (255, "Failed to recv data from background qsub"),
        (255, "No route to host\nqsub: cannot connect to server 10.0.0.9 (errno=15010)"),
        # not seen: the server, or its datastore, ends while it is asked (qsub.c, int_rdrpy.c, job_recov_db.c)
        (183, "qsub: Error (15031) submitting job"),
        (183, "qsub: End of File"),
        (183, "qsub: Input value too large to convert to this type"),
        (183, ""),
        (57, "qsub: Failed to save job/resv, refer server logs for details"),
        (212, "qsub: Request not allowed: Server shutting down"),
        (163, "qsub: PBS server internal error"),
        # reports by users: a busy host has no reserved port for the login
        (171, "pbs_iff: cannot connect to host\npbs_iff: all reserved ports in use\nqsub: Invalid credential"),
        (171, "qsub: Invalid credential"),
        (183, "qsub: Premature end of message"),
        (159, "No Permission.\nqsub: cannot connect to server pbssrv (errno=15007)"),
        # Torque
        (173, "qsub: submit error (Invalid credential)"),
        (1, "qsub: submit error (Pbs Server is currently too busy to service this request. Please retry this request.)"),
        (1, "qsub: submit error (End of File)"),
        (1, "Communication failure.\nqsub: cannot connect to server torque01 (errno=111) Connection refused"),
    ],
)  # fmt: skip
def test_no_answer_is_never_a_refusal(code: int, stderr: str) -> None:
    script, made = make({})
    error = classify(CommandResult(("qsub",), code, "", stderr + "\n"), script, made, flavour_of(stderr))
    assert isinstance(error, CommandFailed)
    assert error.code == "HPC-SUBMIT-UNREACHABLE"
    assert "may exist" in str(error)


@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [
        (1, "", ""),
        (1, "", "wrapper: disk full"),
        (-9, "", "qsub: Unknown queue"),
        (1, "4711.pbssrv\n", "qsub: Unknown queue"),
    ],
)
def test_unknown_is_unknown(code: int, stdout: str, stderr: str) -> None:
    script, made = make({})
    error = classify(CommandResult(("qsub", "-f"), code, stdout, stderr), script, made, "openpbs")
    assert isinstance(error, CommandFailed)
    assert error.code == "HPC-SUBMIT-UNKNOWN"


def test_host_without_a_pbs() -> None:
    script, made = make({})
    said = "pbsconf error: pbs conf variables not found: PBS_HOME PBS_EXEC PBS_SERVER\n"
    assert isinstance(classify(CommandResult(("qsub",), 255, "", said), script, made, "openpbs"), BackendUnavailable)


def test_words_without_prefixes_and_usage() -> None:
    assert clean(f"qsub: illegal -k value{USAGE}\n     [-z]\n") == "illegal -k value"
    assert (
        clean("qsub: submit error (Unknown queue MSG=cannot locate queue)\n") == "Unknown queue MSG=cannot locate queue"
    )


# ----------------------------------------------------------------------------------------------------------------- cancel


@pytest.mark.parametrize(
    ("code", "stderr", "problem"),
    [
        (0, "", ""),
        (153, "qdel: Unknown Job Id 99999.pbssrv\n", ""),
        (35, "qdel: Job has finished 124.pbssrv\n", ""),
        (55, "qdel: Request invalid for finished array subjob 128[1].pbssrv\n", ""),
        (170, "qdel: Request invalid for state of job MSG=invalid state for job - COMPLETE 1936.torque01\n", ""),
        (159, "qdel: Unauthorized Request  149.pbssrv\n", "qdel: Unauthorized Request  149.pbssrv"),
        (35, "qdel: Unknown Job Id 9.pbssrv\nqdel: Unauthorized Request  1.pbssrv\nqdel: Job has finished 2.pbssrv\n",
         "qdel: Unauthorized Request  1.pbssrv"),
        (1, "", ""),
    ],
)  # fmt: skip
def test_problems_of_qdel(code: int, stderr: str, problem: str) -> None:
    result = CommandResult(("qdel",), code, "", stderr)
    assert PBSDialect().cancel_problem(result) == problem
    assert not PBSDialect().is_unanswered(result)


def test_server_or_node_that_was_not_reached() -> None:
    dialect = PBSDialect()
    down = CommandResult(("qdel",), 162, "", "Connection refused\nCouldn't connect to cluster: pbssrv\n")
    assert dialect.is_unanswered(down)
    no_login = CommandResult(("qdel",), 171, "", "qdel: Invalid credential 7.pbssrv\n")
    assert dialect.is_unanswered(no_login)
    node = CommandResult(("qdel",), 222, "", "qdel: Server could not connect to MOM 7.pbssrv\n")
    assert not dialect.is_unanswered(node)
    assert [dialect.is_unreached(node, JobId(job)) for job in ("7.pbssrv", "8.pbssrv")] == [True, False]
