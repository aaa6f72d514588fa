"""What qstat prints becomes, for each form and each family; see ``recorded/README.md``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpccluster.backend.dialect import CommandResult
from hpccluster.errors import PollFailed
from hpccluster.ids import JobId
from hpccluster.job import JobState, JobStatus
from hpccluster_pbs.dialect import EXPRESS_ABOVE, PBSDialect, flavour_of
from hpccluster_pbs.reports import Form, limits_of, parse_default_queue, parse_queues, parse_reports
from hpccluster_pbs.words import status_of

RECORDED = Path(__file__).parent / "recorded"
OPENPBS, TORQUE = PBSDialect.of("openpbs"), PBSDialect.of("torque")


def recorded(name: str, form: Form) -> dict[str, JobStatus]:
    reports = parse_reports((RECORDED / f"{name}.txt").read_text(), form)
    statuses = [status_of(JobId(report.id), report.attributes) for report in reports]
    return {status.name: status for status in statuses}


def qstat(out: str = "", err: str = "", code: int = 0) -> CommandResult:
    return CommandResult(("qstat",), code, out, err)


DSV = recorded("openpbs-dsv", "dsv")


@pytest.mark.parametrize(
    ("name", "state", "exit_code", "signal", "reason"),
    [
        ("hpc-calm-0001", JobState.COMPLETED, 0, None, ""),
        ("failed", JobState.FAILED, 3, None, ""),
        ("killed-itself", JobState.FAILED, 137, None, ""),
        ("deleted", JobState.CANCELLED, None, 15, "terminated by tbuser@pbssrv"),
        ("deleted-early", JobState.FAILED, None, 9, ""),  # PBS does not say that it was deleted
        ("deleted-waiting", JobState.CANCELLED, None, None, "deleted"),
        ("walltime", JobState.TIMEOUT, None, None, "exceeded resource walltime"),
        ("memory", JobState.OUT_OF_MEMORY, None, None, "exceeded resource mem"),
        ("prologue", JobState.FAILED, None, None, "it could not be started (its home directory, or the prologue) (exit status -2)"),
        ("node-lost", JobState.NODE_FAIL, None, None, "its node was lost (exit status -20)"),
        ("node-lost-forced", JobState.CANCELLED, None, None, "deleted"),
        ("dependency", JobState.FAILED, None, None, "it was never run"),
        ("running", JobState.RUNNING, None, None, ""),
        ("exiting", JobState.RUNNING, None, None, ""),  # though it has an exit status
        ("queued", JobState.PENDING, None, None, "Not Running: Insufficient amount of resource: ncpus (R: 12 A: 10 T: 12)"),
        ("requeued", JobState.PENDING, None, None, "Not Running: Insufficient amount of resource: host"),
        ("held-for-good", JobState.PENDING, None, None, "held (s): job held, too many failed attempts to run"),
        ("held-by-user", JobState.PENDING, None, None, "held (u)"),
        ("waiting", JobState.PENDING, None, None, "waits until Tue Dec 31 23:59:00 2030"),
        ("suspended", JobState.PENDING, None, None, "Not Running: No available resources on nodes"),
        ("strange", JobState.UNKNOWN, None, None, ""),
    ],
)  # fmt: skip
def test_states_of_openpbs(name: str, state: JobState, exit_code: int | None, signal: int | None, reason: str) -> None:
    status = DSV[name]
    assert (status.state, status.exit_code, status.signal, status.reason) == (state, exit_code, signal, reason)


def test_details_of_openpbs() -> None:
    assert DSV["running"].node == "n1,n2"
    assert DSV["failed"].node == "n2"
    assert DSV["requeued"].node == ""  # of its first run
    assert DSV["queued"].estimated_start == 1795502191.0  # 2026-11-24 06:36:31 UTC
    assert DSV["strange"].raw_state == "M"
    reports = {report.id: report for report in parse_reports((RECORDED / "openpbs-dsv.txt").read_text(), "dsv")}
    assert reports["22.pbssrv"].attributes["Account_Name"] == "a\nb\\c|d"
    assert reports["13[2].pbssrv"].attributes["job_state"] == "X"


def test_values_may_hold_what_ends_lines_elsewhere() -> None:
    line = "Job Id: 5.pbssrv@@job_state=F@@Variable_List=PBS_O_WORKDIR=/a\x0cb\x85c\u2028d@@Exit_status=3@@exec_host=n1/0\n"
    assert OPENPBS.read(qstat(line), [JobId("5.pbssrv")]).statuses[JobId("5.pbssrv")].exit_code == 3


def test_other_forms_say_the_same() -> None:
    text, json = recorded("openpbs-text", "text"), recorded("openpbs-json", "json")
    assert text["hpc-calm-0001"] == DSV["hpc-calm-0001"]
    assert text["walltime"] == json["walltime"] == DSV["walltime"]
    (report, _) = parse_reports((RECORDED / "openpbs-text.txt").read_text(), "text")
    assert report.attributes["Variable_List"].endswith(
        "PBS_O_WORKDIR=/home/tbuser/w,HPCCLUSTER_MARK=hpccluster_0123_head_here"
    )


def test_json_that_is_none_is_mended() -> None:
    broken = recorded("openpbs-23.06.06-broken-json", "json")
    assert (broken["12e5"].state, broken["12e5"].exit_code) == (JobState.FAILED, 3)
    assert broken["123"].state is JobState.RUNNING
    (report, _) = parse_reports((RECORDED / "openpbs-23.06.06-broken-json.txt").read_text(), "json")
    assert report.attributes["Account_Name"] == 'acc"q\\x'
    assert report.attributes["Submit_arguments"] == '-A acc"q\\x -v C:\\new\\dir -N 12e5'
    assert report.attributes["Variable_List.F"] == "00"


def test_torque() -> None:
    jobs = recorded("torque-manual", "text")
    states = {name: status.state for name, status in jobs.items()}
    assert states == {
        "done": JobState.COMPLETED,
        "killed-for-walltime": JobState.TIMEOUT,
        "deleted": JobState.FAILED,
        "deleted-waiting": JobState.CANCELLED,
        "over-limit": JobState.TIMEOUT,
        "out-of-memory": JobState.OUT_OF_MEMORY,
    }
    assert jobs["deleted"].signal == 15
    assert jobs["done"].node == "n1"


def test_torque_on_slurm_claims_no_end() -> None:
    jobs = recorded("torque-on-slurm-22.05.8", "text")
    assert (jobs["hpc-calm-0001"].state, jobs["hpc-calm-0001"].node) == (JobState.RUNNING, "n1")
    assert (jobs["hpc-calm-0002"].state, jobs["hpc-calm-0002"].exit_code) == (JobState.ABSENT, None)


# ---------------------------------------------------------------------------------------------------------------- answers

ARRAY = """Job Id: 13[].pbssrv
    Job_Name = a.sh
    job_state = B
    array_indices_submitted = 0-3
    comment = Job Array Began at Tue Nov 24 at 06:30

Job Id: 13[2].pbssrv
    Job_Name = a.sh
    job_state = X
    exec_host = n1/0
    substate = 92
    Exit_status = 0
    array_index = 2
"""
LINE = "Job Id: 5.pbssrv@@Job_Name=a@@job_state=R@@exec_host=n1/0\n"
FIVE, SIX = JobId("5.pbssrv"), JobId("6.pbssrv")


def test_unknown_job_beside_a_known_one() -> None:
    answer = OPENPBS.read(qstat(LINE, "qstat: Unknown Job Id 6.pbssrv\n", 153), [FIVE, SIX])
    assert answer.better is None
    assert [answer.statuses[job].state for job in (FIVE, SIX)] == [JobState.RUNNING, JobState.ABSENT]


def test_server_names_may_differ() -> None:
    answer = OPENPBS.read(
        qstat(LINE, "qstat: Unknown Job Id 6.pbssrv.example.org\n", 153), [JobId("5"), JobId("6.pbs")]
    )
    assert [status.state for status in answer.statuses.values()] == [JobState.RUNNING, JobState.ABSENT]


@pytest.mark.parametrize("form", ["dsv", "text"])
def test_arrays_and_their_parts_are_jobs_of_their_own(form: Form) -> None:
    out = (RECORDED / f"openpbs-{form}.txt").read_text() if form == "dsv" else ARRAY
    asked = [JobId("13[].pbssrv"), JobId("13[2].pbssrv"), JobId("13.pbssrv"), JobId("13[7].pbssrv")]
    err = "qstat: Unknown Job Id 13.pbssrv\nqstat: Unknown Job Id 13[7].pbssrv\n"
    statuses = replace(OPENPBS, form=form).read(qstat(out, err, 153), asked).statuses
    assert [statuses[job].state for job in asked] == [
        JobState.RUNNING,
        JobState.COMPLETED,
        JobState.ABSENT,
        JobState.ABSENT,
    ]
    listed = CommandResult(("qselect",), 0, "13[].pbssrv\n14.pbssrv\n", "")
    assert OPENPBS.parse_select(listed) == ["13[].pbssrv", "14.pbssrv"]


def test_silence_of_an_express_request_is_asked_about() -> None:
    """PBS leaves out what it does not know, where it knows any of them (req_stat_job of req_stat.c)."""
    many = [JobId(f"{number}.pbssrv") for number in range(5, 40)]
    assert OPENPBS.poll_command(many)[:4] == ("qstat", "-x", "-E", "-f")
    assert "-E" not in OPENPBS.poll_command(many[:EXPRESS_ABOVE])
    assert "-E" not in TORQUE.poll_command(many)
    result = CommandResult(tuple(OPENPBS.poll_command(many)), 0, LINE, "")
    answer = OPENPBS.read(result, many)
    assert answer.untold == set(many[1:])
    assert answer.statuses[FIVE].state is JobState.RUNNING
    # where it knows none of them it names the last only
    none = replace(result, returncode=153, stdout="", stderr="qstat: Unknown Job Id 39.pbssrv\n")
    assert OPENPBS.read(none, many).untold == set(many)
    old = replace(result, returncode=2, stdout="", stderr="qstat: invalid option -- 'E'\nusage: \nqstat [-f] [-J]")
    assert OPENPBS.read(old, many).better == OPENPBS.one_by_one()
    crashed = replace(result, returncode=-11, stdout="")
    assert OPENPBS.read(crashed, many).better == OPENPBS.one_by_one()
    with pytest.raises(PollFailed):
        OPENPBS.read(replace(result, returncode=255, stdout="", stderr="qstat: cannot connect to server pbssrv"), many)


def test_silence_says_nothing() -> None:
    """Where others' jobs are hidden, qstat leaves them out with exit code 0."""
    answer = OPENPBS.read(qstat(LINE), [FIVE, SIX])
    assert [answer.statuses[job].state for job in (FIVE, SIX)] == [JobState.RUNNING, JobState.UNKNOWN]
    assert OPENPBS.read(qstat(""), [FIVE]).statuses[FIVE].state is JobState.UNKNOWN


def test_history_that_is_off_and_on_again() -> None:
    off = OPENPBS.read(qstat("", f"qstat: PBS is not configured to maintain job history {FIVE}\n", 0), [FIVE]).better
    assert off is not None
    assert "-x" not in off.poll_command([FIVE])
    on = off.read(
        qstat("", f"qstat: {FIVE} Job has finished, use -x or -H to obtain historical job information\n", 35), [FIVE]
    ).better
    assert on == OPENPBS


@pytest.mark.parametrize(
    ("code", "err"),
    [
        (2, "qstat: invalid option -- 'F'\nusage: \nqstat [-f] [-J]"),
        (2, "qstat: illegal -F value\nusage:"),
        (2, "qstat: conflicting options."),
    ],
)
def test_unknown_form_leads_to_the_next(code: int, err: str) -> None:
    json = OPENPBS.read(qstat("", err, code), [FIVE]).better
    assert json == replace(OPENPBS, form="json")
    text = json.read(qstat("", err, code), [FIVE]).better
    assert text == replace(OPENPBS, form="text")
    with pytest.raises(PollFailed):
        text.read(qstat("", err, code), [FIVE])


def test_form_that_cannot_be_read_leads_to_the_next() -> None:
    json = replace(OPENPBS, form="json")
    assert json.read(qstat('{"Jobs": {"5.pbssrv": {"job_state": }}}'), [FIVE]).better == replace(OPENPBS, form="text")
    assert OPENPBS.read(qstat("a banner of the site\n"), [FIVE]).better == json
    with pytest.raises(PollFailed, match="cannot be read"):
        replace(OPENPBS, form="text").read(qstat("a banner of the site\n"), [FIVE])


def test_banners_are_passed_over() -> None:
    answer = OPENPBS.read(qstat(f"Maintenance on Friday!\n{LINE}"), [FIVE, SIX])
    assert [answer.statuses[job].state for job in (FIVE, SIX)] == [JobState.RUNNING, JobState.UNKNOWN]


def test_json_of_the_first_job_only_leads_to_text() -> None:
    json = replace(OPENPBS, form="json")
    one = '{"Jobs": {"5.pbssrv": {"job_state": "R"}}}'
    assert json.read(qstat(one), [FIVE, SIX]).better == replace(OPENPBS, form="text")
    assert json.read(qstat(one), [FIVE]).statuses[FIVE].state is JobState.RUNNING
    nothing = '{"timestamp":1, "pbs_version":"23.06.06", "pbs_server":"pbssrv"}'
    gone = json.read(qstat(nothing, "qstat: Unknown Job Id 5.pbssrv", 153), [FIVE])
    assert gone.statuses[FIVE].state is JobState.ABSENT


@pytest.mark.parametrize(
    ("code", "out", "err"),
    [
        (255, "", "Connection refused\nqstat: cannot connect to server pbssrv (errno=15010)\n"),
        (255, '{"timestamp":1,"pbs_version":"23.06.06"}', "Connection refused\nqstat: cannot connect to server pbssrv (errno=15010)"),
        (255, "", "No route to host\nqstat: cannot connect to server 10.0.0.9 (errno=15010)\n"),
        (255, "", "Unknown Host.\nqstat: cannot connect to server nohost (errno=15008)\n"),
        (171, LINE, "qstat: Invalid credential 6.pbssrv\n"),
        (183, LINE, "qstat: End of File 6.pbssrv\n"),
        (255, "", "pbsconf error: pbs conf variables not found: PBS_HOME PBS_EXEC PBS_SERVER\n"),
        (255, "", ""),
        (-9, LINE, ""),
        (153, "", "qstat: Unknown Job Id 6.pbssrv\nqstat: cannot connect to server pbssrv (errno=15010)\n"),
    ],
)  # fmt: skip
def test_no_answer_is_no_news(code: int, out: str, err: str) -> None:
    for dialect in (OPENPBS, replace(OPENPBS, form="json"), TORQUE):
        with pytest.raises(PollFailed):
            dialect.read(qstat(out, err, code), [FIVE, SIX])


def test_id_of_another_server_harms_no_other() -> None:
    answer = OPENPBS.read(
        qstat(LINE, "qstat: illegally formed job identifier: 6.otherhost\n", 1), [FIVE, JobId("6.otherhost")]
    )
    assert [status.state for status in answer.statuses.values()] == [JobState.RUNNING, JobState.UNKNOWN]


@pytest.mark.parametrize(
    ("out", "err", "flavour"),
    [
        ("pbs_version = 23.06.06\n", "", "openpbs"),
        ("pbs_version = PBSPro_13.0.407\n", "", "openpbs"),
        ("", "Version: 6.1.2\nCommit: 661e092552de43a785c15d39a3634a541d86898e\n", "torque"),
        ("version: 2.4.16\n", "", "torque"),
        ("", "Unknown option: version\nUsage:\n    qstat [-f]\n", None),
        ("", "", None),
    ],
)
def test_what_the_commands_are(out: str, err: str, flavour: str | None) -> None:
    assert flavour_of(qstat(out, err)) == flavour


def test_queues_and_their_limits() -> None:
    queues = parse_queues(
        "Queue: workq\n    queue_type = Execution\n    total_jobs = 0\n    enabled = True\n    started = True\n\n"
        "Queue: lim\n    resources_max.ncpus = 4\n    resources_max.walltime = 00:30:00\n    resources_min.walltime = 00:01:00\n"
        "    enabled = False\n"
    )
    assert list(queues) == ["workq", "lim"]
    assert (queues["workq"]["enabled"], queues["lim"]["enabled"]) == ("True", "False")
    assert limits_of(queues["lim"]) == ["ncpus at most 4", "walltime at most 00:30:00", "walltime at least 00:01:00"]
    assert limits_of(queues["workq"]) == []
    assert parse_default_queue("Server: pbssrv\n    server_state = Active\n    default_queue = workq\n") == "workq"
    assert parse_default_queue("Server: pbssrv\n    server_state = Active\n") == ""


pieces = st.sampled_from(
    ["Job Id: 5.pbssrv", "@@", "=", "\n", "\n\t", "    ", " = ", "job_state", "R", "F", "Exit_status", "\\", "{", "}", '"', ":", ",",
     "Jobs", "null", "-29", "5.pbssrv", "Unknown Job Id 5.pbssrv", "Job has finished, use -x", "\0", "\x1b", "é"]
)  # fmt: skip
noise = st.one_of(st.lists(pieces, max_size=25).map("".join), st.text(max_size=60))


@settings(max_examples=400, deadline=None)
@given(
    out=noise,
    err=noise,
    code=st.sampled_from([0, 1, 2, 35, 153, 255, -9]),
    form=st.sampled_from(["dsv", "json", "text"]),
)
def test_whatever_is_printed_is_an_answer_or_none(out: str, err: str, code: int, form: Form) -> None:
    for dialect in (replace(OPENPBS, form=form), TORQUE):
        try:
            answer = dialect.read(qstat(out, err, code), [FIVE, SIX])
        except PollFailed:
            continue
        assert answer.better is not None or set(answer.statuses) == {FIVE, SIX}
        assert all(status.id == job for job, status in answer.statuses.items())
