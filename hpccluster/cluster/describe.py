"""From what a user says (keywords, configuration, the name of a cluster) to what a head is told.

Must not start or contact anything.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpccluster.backend.options import JobOptions, build_options
from hpccluster.backend.registry import get_plugin
from hpccluster.comm.connection_file import state_directory
from hpccluster.config import Config, ResolvedCluster, load_config
from hpccluster.config.schema import KEYWORD
from hpccluster.errors import ClusterNameTaken, ClusterNotFound, ConfigError
from hpccluster.head.directory import (
    HeadRecord,
    check_cluster_name,
    is_alive,
    list_records,
    process_start,
    read_record,
    tell_end,
)
from hpccluster.head.engines import NATIVE, check_engine
from hpccluster.head.spec import LINGER_NOTEBOOK, LINGER_SCRIPT, HeadSpec, ScaleRequest
from hpccluster.ids import make_cluster_name
from hpccluster.paths import expand_path
from hpccluster.units import parse_bytes, parse_duration


def options_of(backend: str) -> type[Any]:
    """The options type of a backend. Raises `BackendNotFound`."""
    return get_plugin(backend).options_type


def configuration() -> Config:
    """The user's configuration, of whatever backends. Raises `ConfigError`."""
    return load_config(options_of)


def resolve(name: str, keywords: Mapping[str, Any] | None = None) -> ResolvedCluster:
    """The description of the cluster or backend of this name in the user's configuration, with keywords on top."""
    return configuration().resolve(name, keywords)


def resolve_file(path: str | Path, keywords: Mapping[str, Any] | None = None) -> ResolvedCluster:
    """The description of the one cluster in this file, with keywords on top."""
    return configuration().resolve_file(expand_path("file", path), keywords)


def with_size(keywords: Mapping[str, Any], n_workers: int | None) -> dict[str, Any]:
    """The keywords with ``n_workers``, which is a way to say ``scale``. Raises `ConfigError` where both are said."""
    if n_workers is None:
        return dict(keywords)
    if keywords.get("scale") is not None or keywords.get("adapt") is not None:
        raise ConfigError("n_workers is the size at the start: it excludes scale and adapt")
    return {**keywords, "scale": {"workers": n_workers}}


def make_scale(
    *, workers: int | None = None, jobs: int | None = None, cores: int | None = None, memory: int | str | None = None
) -> ScaleRequest:
    """A size as users write it. Raises `ConfigError`."""
    try:
        size = None if memory is None else parse_bytes(memory)
    except ValueError as error:
        raise ConfigError(f"memory={memory!r}: {error}") from None
    request = ScaleRequest(workers=workers, jobs=jobs, cores=cores, memory=size)
    request.arguments()
    return request


def parse_timeout(timeout: float | str | None) -> float | None:
    """Seconds, of a time as users write it. Raises `ConfigError`."""
    try:
        return parse_duration(timeout) if isinstance(timeout, str) else timeout
    except ValueError as error:
        raise ConfigError(f"timeout={timeout!r}: {error}") from None


def parent_directory(setting: str | Path | None = None) -> Path:
    """The directory that holds the directories of this user's clusters. Raises `ConfigError` for a variable that is not set."""
    if not setting:
        return state_directory()
    return expand_path("state_directory", setting)


def make_spec(
    resolved: ResolvedCluster,
    *,
    detached: bool = False,
    program: Sequence[str] = (),
    program_directory: str = "",
    program_environment: Mapping[str, str] | None = None,
) -> HeadSpec:
    """The specification of a head for this description. A cluster without a name gets one that a person can say."""
    settings = resolved.settings
    engine = settings.get("engine", NATIVE)
    check_engine(engine)
    parent = parent_directory(settings.get("state_directory"))
    return HeadSpec(
        name=settings.get("name") or _free_name(parent),
        backend=resolved.backend,
        options=resolved.options,
        engine=engine,
        protocol=settings.get("protocol", "tls"),
        host=settings.get("host", ""),
        interface=resolved.options.get("interface") or "",
        port=settings.get("port", 0),
        contact_host=settings.get("contact_host", ""),
        state_directory=str(parent),
        detached=detached,
        linger=linger_of(resolved),
        scale=_first_size(resolved),
        adapt=resolved.adapt,
        program=tuple(program),
        program_directory=program_directory,
        program_environment=None if program_environment is None else dict(program_environment),
    )


def _first_size(resolved: ResolvedCluster) -> ScaleRequest | None:
    if resolved.scale:
        return make_scale(**resolved.scale)
    if resolved.adapt is not None:
        return None
    jobs = build_options(options_of(resolved.backend), resolved.options).first_jobs()
    return None if jobs is None else make_scale(jobs=jobs)


def check_description(resolved: ResolvedCluster) -> None:
    """Raises the `ConfigError` for what a start would refuse, as far as it can be known before: values that cannot be used,
    or contradict one another. It names where they were said.
    """
    origins = {key: str(origin) for key, origin in resolved.origins.items()}
    options = build_options(options_of(resolved.backend), resolved.options, origins=origins)
    checks: dict[str, Callable[[], object]] = {
        "name": lambda: check_cluster_name(resolved.settings.get("name", "a")),
        "linger": lambda: linger_of(resolved),
        "state_directory": lambda: parent_directory(resolved.settings.get("state_directory")),
        "scale": lambda: make_scale(**resolved.scale or {"jobs": 0}),
        "adapt": lambda: _check_adapt(resolved.adapt, options),
    }
    for key, check in checks.items():
        if key not in origins:
            continue
        try:
            check()
        except ConfigError as error:
            text = error.message if error.message.startswith(key) else f"{key}: {error.message}"
            where = "" if resolved.origins[key] == KEYWORD else f"{origins[key]}: "
            raise ConfigError(f"{where}{text}", code=error.code, details=error.details) from None


def _check_adapt(wishes: Mapping[str, Any] | None, options: JobOptions) -> None:
    from hpccluster.head.operations import parse_adapt
    from hpccluster.state.fleet.adaptive import limits_in_jobs

    settings = parse_adapt(wishes or {})
    try:
        resources = options.resources()
    except ConfigError as error:
        if error.code != "HPC-CONFIG-MISSING":
            raise
        for unit in ("", "_jobs", "_cores", "_memory"):  # how many of them make a job is not known yet
            least, most = getattr(settings, f"minimum{unit}"), getattr(settings, f"maximum{unit}")
            if most is not None and least > most:
                raise ConfigError(f"adapt: minimum{unit}={least} is above maximum{unit}={most}") from None
    else:
        limits_in_jobs(settings, resources)


def linger_of(resolved: ResolvedCluster) -> float:
    """Seconds that the cluster outlives its owner."""
    said = resolved.settings.get("linger")
    if said is None:
        return LINGER_NOTEBOOK if in_notebook() else LINGER_SCRIPT
    try:
        return parse_duration(said)
    except ValueError as error:
        raise ConfigError(f"linger={said!r}: {error}") from None


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def find_own(name: str, backend: str, parent: Path) -> HeadRecord | None:
    """The live cluster of that name, which ``name=`` joins in place of starting one.

    Raises `ClusterNameTaken` where it runs on another backend.
    """
    record = read_record(parent / name)
    if record is None or record.state != "running" or not is_alive(record):
        return None  # one that is about to start or to end has its name; a new head says so
    if record.backend != backend:
        raise ClusterNameTaken(
            f"a cluster named {name!r} is running already, on the backend {record.backend}, not {backend}\n"
            f"choose another name=, or end it with: hpccluster down {name}",
            code="HPC-CLUSTER-NAME-TAKEN",
        )
    return record


def find_running(name: str, parents: Sequence[Path]) -> tuple[HeadRecord, Path]:
    """The running cluster of that name, and the one of ``parents`` that has it. Raises `ClusterNotFound`."""
    where = ", ".join(map(str, parents))
    what = f"no cluster {name!r} is known in {where}"
    for parent in parents:
        record = read_record(parent / name)
        if record is not None and is_alive(record):
            return record, parent
        if record is not None:
            what = tell_end(record, parent / name)
    running = [other.name for parent in parents for other in list_records(parent) if is_alive(other)]
    raise ClusterNotFound(
        f"{what}\nrunning there: {', '.join(running) or 'none'}",
        details={"name": name, "where": where},
    )


def this_process() -> tuple[int, str]:
    """The number of this process, and what tells it from a later one of the same number."""
    start = process_start(os.getpid())
    assert start is not None
    return os.getpid(), start


def _free_name(parent: Path) -> str:
    """A name that no directory has: logs of a former cluster are not mixed with those of a new one."""
    chooser = random.SystemRandom()
    for _ in range(50):
        name = make_cluster_name(chooser.choice)
        if not (parent / name).exists():
            return name
    return f"{name}-{chooser.randrange(16**4):04x}"
