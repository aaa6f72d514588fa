"""Identifiers. Each is a plain string or number with a name of its own, so that the type checker keeps them apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NewType

ClusterName = NewType("ClusterName", str)
"""What a person calls the cluster: ``calm-otter``."""
JobName = NewType("JobName", str)
"""Chosen before the job is submitted: ``hpc-calm-otter-0a1f``. Never used twice."""
JobId = NewType("JobId", str)
"""What the batch system calls the job."""

NAME_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")

_ADJECTIVES = (
    "able agile amber azure bold brave brief bright brisk calm clear clever cosy crisp deft eager early easy fair "
    "fleet fond fresh gentle glad golden grand happy hardy honest jolly keen kind lively loyal lucid lunar mellow "
    "merry mild neat nimble noble placid plucky polite prime proud quick quiet rapid ready royal sage serene "
    "sharp shiny silver simple smooth snappy solar solid spry steady stout sunny sure swift tidy trim true vivid "
    "warm wise witty young zesty "
).split()
_ANIMALS = (
    "badger beaver bison bobcat camel crane crow deer dingo dove eagle egret falcon ferret finch fox gecko gull "
    "hare hawk heron ibex ibis jackal jay kestrel kite koala lark lemur lion lizard llama lynx marten mole moose "
    "newt ocelot orca osprey otter owl panda parrot pelican pony puffin puma quail rabbit raven robin salmon seal "
    "shrew skunk sparrow squid stork swan tapir tern tiger toad trout turtle viper vole walrus weasel whale wolf "
    "wombat wren yak zebra "
).split()


def make_cluster_name(choose: Callable[[Sequence[str]], str]) -> ClusterName:
    """A name that a person can say. ``choose`` picks one of a sequence (``random.choice``)."""
    return ClusterName(f"{choose(_ADJECTIVES)}-{choose(_ANIMALS)}")


def make_job_name(cluster: str, number: int) -> JobName:
    """The name of a cluster's ``number``-th job."""
    return JobName(f"hpc-{cluster}-{number:04x}")


def is_job_name(text: str) -> bool:
    """Whether a job of this name is one of ours."""
    return re.fullmatch(rf"hpc-{NAME_PATTERN.pattern}-[0-9a-f]{{4,}}", text) is not None


def is_cluster_name(text: str) -> bool:
    """Whether ``text`` can name a cluster: lower-case letters, digits and inner hyphens, at most 40."""
    return NAME_PATTERN.fullmatch(text) is not None
