"""The layout of a refusal, and what is added to it on its way to the user."""

from __future__ import annotations

import pickle

from hpccluster.backend.refusal import Complaint, Refusal, SubmitCommand, refusal_of, with_origin
from hpccluster.errors import CommandFailed, SubmitRefused, from_name

REFUSAL = Refusal(
    system="Slurm",
    command="sbatch",
    code="HPC-SUBMIT-PARTITION",
    said="invalid partition specified: shrot",
    option="queue",
    value="shrot",
    directive="#SBATCH --partition=shrot",
)


def test_layout() -> None:
    error = REFUSAL.with_choices("partitions", ["debug", "short*", "long"]).error()
    assert with_origin(error, {"queue": "hpccluster.yaml line 4"}).message.splitlines() == [
        "Slurm refused the job (HPC-SUBMIT-PARTITION)",
        "  sbatch said:   invalid partition specified: shrot",
        "  from:          queue=\"shrot\"   (hpccluster.yaml line 4; rendered as '#SBATCH --partition=shrot')",
        "  partitions:    debug, short*, long          did you mean 'short'?",
    ]


def test_facts_cross_the_wire() -> None:
    error = REFUSAL.with_choices("partitions", ["gpu"]).error()
    again = from_name("SubmitRefused", error.message, error.code, error.details)
    assert isinstance(again, SubmitRefused)
    assert (
        refusal_of(again)
        == refusal_of(pickle.loads(pickle.dumps(error)))
        == REFUSAL.with_choices("partitions", ["gpu"])
    )
    assert refusal_of(again).suggestion == ""  # type: ignore[union-attr]


def test_several_lines_stay_aligned() -> None:
    error = Refusal(
        system="Slurm", command="sbatch", code="X", said="one\ntwo", directive="#SBATCH -x", hint="h"
    ).error()
    assert error.message.splitlines()[1:] == [
        "  sbatch said:   one",
        "                 two",
        "  from:          '#SBATCH -x'",
        "  fix:           h",
    ]


def test_origin_of_another_option_changes_nothing() -> None:
    error = REFUSAL.error()
    assert with_origin(error, {"cores": "x"}) is error
    other = SubmitRefused("no facts")
    assert with_origin(other, {"queue": "x"}) is other


QUEUE = SubmitCommand(
    system="Queue",
    name="enqueue",
    prefix="#Q",
    complaints=(Complaint("no such lane", "LANE", ("lane",)), Complaint("no such", "OTHER")),
    hints={"LANE": "see the lanes with: lanes"},
)


def test_complaints_of_a_submit_command() -> None:
    lane = QUEUE.complaint("enqueue: No such LANE: fsat")
    assert lane is not None
    assert (lane.cause, lane.blamed) == ("LANE", ("lane",))
    assert QUEUE.complaint("no such thing") == Complaint("no such", "OTHER", ())
    assert QUEUE.complaint("the moon is full") is None
    assert QUEUE.directives("#!/bin/sh\n#Q lane fsat\n#QUERY 1\necho '#Q no'\n#Q size 2\n") == ["lane fsat", "size 2"]


def test_directives_that_the_user_has_added_are_to_blame_first() -> None:
    by_option = QUEUE.refusal("LANE", "no", option="queue", value="fsat", directive="lane fsat", own=())
    assert (by_option.code, by_option.option, by_option.directive) == ("HPC-SUBMIT-LANE", "queue", "#Q lane fsat")
    assert by_option.hint == "see the lanes with: lanes"
    added = QUEUE.refusal("LANE", "no", option="queue", value="x", directive="lane fsat", own=["lane fsat"])
    assert (added.option, added.value) == ("job_extra_directives", "lane fsat")
    nobody = QUEUE.refusal("OTHER", "no", option="queue", value="", directive="", own=())
    assert (nobody.option, nobody.directive, nobody.hint) == ("", "", "")


def test_submissions_whose_fate_is_not_known_are_no_refusals() -> None:
    for error, words in ((QUEUE.unanswered("silence"), "may exist"), (QUEUE.unclear("noise"), "not known whether")):
        assert type(error) is CommandFailed
        assert words in str(error)
    assert QUEUE.unanswered("silence").code == "HPC-SUBMIT-UNREACHABLE"
