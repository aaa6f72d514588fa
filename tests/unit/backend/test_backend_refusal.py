"""The layout of a refusal, and what is added to it on its way to the user."""

from __future__ import annotations

import pickle

from hpccluster.backend.refusal import Refusal, refusal_of, with_origin
from hpccluster.errors import SubmitRefused, from_name

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
