"""Sizes between what people ask for and whole jobs. Pure."""

from __future__ import annotations

from hpccluster.errors import ConfigError
from hpccluster.fleet.values import Plan
from hpccluster.resources import JobResources
from hpccluster.units import parse_bytes


def jobs_for(
    resources: JobResources,
    *,
    workers: int | None = None,
    jobs: int | None = None,
    cores: int | None = None,
    memory: int | str | None = None,
) -> int:
    """How many whole jobs make up that much, rounded up. Raises `ConfigError` unless exactly one is given and makes sense."""
    given = {"workers": workers, "jobs": jobs, "cores": cores, "memory": memory}
    named = [(name, value) for name, value in given.items() if value is not None]
    if len(named) != 1:
        got = " and ".join(f"{name}={value!r}" for name, value in named) or "nothing"
        raise ConfigError(f"scale: give exactly one of workers, jobs, cores and memory; got {got}")
    [(name, value)] = named
    size = _parse(name, value)
    per_job = {"workers": resources.processes, "jobs": 1, "cores": resources.cores, "memory": resources.memory}[name]
    if per_job is None:
        raise ConfigError("scale: memory= needs jobs with a memory of their own; set memory= of the cluster first")
    return -(-size // per_job)


def _parse(name: str, value: int | str) -> int:
    if name == "memory":
        try:
            return parse_bytes(value)
        except ValueError as error:
            raise ConfigError(f"scale: memory={value!r}: {error}") from error
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"scale: {name}={value!r}: must be a whole number, not negative")
    return value


def make_plan(resources: JobResources, *, jobs: int, held: int = 0) -> Plan:
    """What that many jobs are."""
    return Plan(
        jobs=jobs,
        workers_per_job=resources.processes,
        threads=None if resources.whole_host else resources.threads,
        cores=None if resources.whole_host else jobs * resources.cores,
        memory=resources.memory,
        held=held,
    )
