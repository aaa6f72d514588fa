"""Options of Slurm, and that nothing of them is missing elsewhere."""

from __future__ import annotations

import inspect
from dataclasses import fields

import msgspec
import pytest

from hpccluster.backend.options import build_options
from hpccluster.config.schema import ClusterOptions
from hpccluster.errors import ConfigError
from hpccluster_slurm.cluster import SLURMCluster
from hpccluster_slurm.options import DIRECTIVES, SlurmOptions, option_of


def test_every_option_is_a_keyword_of_the_cluster() -> None:
    """Type checkers see misspelt keywords only where they are written out."""
    options = {item.name for item in fields(SlurmOptions)}
    common = {item.name for item in fields(ClusterOptions)} - {"backend", "extends"}
    keywords = set(inspect.signature(SLURMCluster.__init__).parameters) - {"self", "n_workers", "start_timeout"}
    assert keywords == options | common


def test_options_survive_json() -> None:
    options = build_options(
        SlurmOptions,
        {"cores": 8, "memory": "32GB", "requeue": True, "memory_directive": "--mem-per-cpu", "exclude": "n[1-3]"},
    )
    assert msgspec.json.decode(msgspec.json.encode(options), type=SlurmOptions) == options
    schema = msgspec.json.schema(SlurmOptions)["$defs"]["SlurmOptions"]
    assert all(item.get("description") for item in schema["properties"].values())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("qos", "a b"),
        ("constraint", "a;b"),
        ("constraint", "$(x)"),
        ("reservation", "-r"),
        ("gres", "gpu`x`"),
        ("exclude", "n1;n2"),
        ("signal", "term"),
        ("signal", "B:USR1@x"),
        ("memory_directive", "--memory"),
        ("requeue", "yes"),
        ("job_directives_skip", ["--frob"]),
    ],
)
def test_wrong_values(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=option):
        build_options(SlurmOptions, {option: value})


@pytest.mark.parametrize(
    ("directive", "option"),
    [("--mem=4G", "--mem"), ("--mem 4G", "--mem"), ("--mem-per-cpu=1", "--mem-per-cpu"), ("-p short", "-p"),
     ("-pshort", "-p"), ("--requeue", "--requeue")],
)  # fmt: skip
def test_option_of_a_directive(directive: str, option: str) -> None:
    assert option_of(directive) == option


def test_spellings_are_unique() -> None:
    spellings = [spelling for names in DIRECTIVES.values() for spelling in names]
    assert len(spellings) == len(set(spellings))
