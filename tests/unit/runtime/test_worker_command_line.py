"""What ``python -m hpccluster.runtime worker`` understands, and what its exit codes mean."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from hpccluster.comm.address import primary_address
from hpccluster.errors import ConfigError, CredentialError, HandshakeFailed, PeerLost, VersionMismatch
from hpccluster.runtime.arguments import check_extra_arguments, parse_arguments
from hpccluster.runtime.exits import EXIT_BUG, EXIT_NO_HEAD, EXIT_REFUSED, exit_code
from hpccluster.runtime.memory import OutOfMemoryCount, look_at, resident_bytes
from hpccluster.runtime.settings import WorkerSettings


def test_all_arguments() -> None:
    arguments = (
        "worker --connection-file /state/worker.json --nworkers 4 --nthreads 2 --memory-limit 8000 --name otter "
        "--job hpc-x-1 --death-timeout 30 --grace 2.5 --local-directory /scratch --host 10.0.0.1 --validate"
    )
    settings = parse_arguments(arguments.split())
    assert settings.connection_file == Path("/state/worker.json")
    assert (settings.nworkers, settings.nthreads) == (4, 2)
    assert (settings.memory_limit, settings.worker_memory) == (8000, 2000)
    assert (settings.name, settings.job, settings.common_name()) == ("otter", "hpc-x-1", "otter")
    assert (settings.death_timeout, settings.grace) == (30, 2.5)
    assert (settings.local_directory, settings.host) == (Path("/scratch"), "10.0.0.1")
    assert settings.nanny
    assert settings.validate


def test_a_whole_host_or_a_share_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("HPCCLUSTER_CONNECTION_FILE", "/tmp/hpccluster-x/worker.json")
    shared = "worker --nworkers 1 --nthreads 1 --memory-limit 100 --nworkers 2 --nthreads auto --memory-limit auto"
    settings = parse_arguments(shared.split())
    assert settings.connection_file == Path("/tmp/hpccluster-x/worker.json")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert (settings.nworkers, settings.nthreads, settings.memory_limit) == (2, 4, memory)
    settings = parse_arguments([*shared.split(), "--share", "2"])
    assert (settings.nthreads, settings.memory_limit) == (2, memory // 2)
    assert parse_arguments([*shared.split(), "--host", "auto"]).host == primary_address()
    # what the command line says is stronger than the environment
    assert parse_arguments(["worker", "--connection-file", "/x"]).connection_file == Path("/x")
    assert parse_arguments(["worker", "--address", "tcp://h:1", "--plain"]).connection_file is None


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCCLUSTER_JOB", "hpc-x-2")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    settings = parse_arguments(["worker", "--address", "tcp://h:1", "--plain", "--nworkers", "3"])
    assert (settings.addresses, settings.connection_file) == (("tcp://h:1",), None)
    assert (settings.nthreads, settings.job, settings.common_name()) == (2, "hpc-x-2", "hpc-x-2")


def test_by_hand_the_name_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPCCLUSTER_JOB", raising=False)
    settings = parse_arguments(["worker", "--connection-file", "f"])
    assert settings.common_name() == f"{os.uname().nodename.partition('.')[0]}-{os.getpid()}"


@pytest.mark.parametrize(
    "arguments",
    [
        "worker",
        "worker --address tcp://h:1",
        "worker --address tcp://h:1 --plain --connection-file f",
        "worker --connection-file f --nworkers 0",
        "worker --connection-file f --nworkers 2 --no-nanny",
        "worker --connection-file f --memory-limit 8GB",
        "scheduler",
        "",
    ],
)
def test_wrong_usage(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments.split())
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_extra_arguments_can_be_looked_at_before_any_job_is_submitted() -> None:
    check_extra_arguments([])
    check_extra_arguments(["--grace", "5", "--interface=ib0"])
    with pytest.raises(ConfigError, match="unrecognized arguments: --resources GPU=1"):
        check_extra_arguments(["--resources", "GPU=1"])
    with pytest.raises(ConfigError, match="'1GiB' is no number of bytes"):
        check_extra_arguments(["--memory-limit", "1GiB"])


def test_the_local_directory_is_that_of_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    path = WorkerSettings(local_directory=Path("$SCRATCH/mine")).make_local_directory()
    assert path == tmp_path / "mine"
    assert path.is_dir()
    monkeypatch.delenv("SCRATCH")
    with pytest.raises(ConfigError, match=r"local_directory='\$SCRATCH/mine': \$SCRATCH is not set here"):
        WorkerSettings(local_directory=Path("$SCRATCH/mine")).make_local_directory()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"local_directory='.*/file/x' cannot be made here: .*Not a directory"):
        WorkerSettings(local_directory=tmp_path / "file" / "x").make_local_directory()
    assert WorkerSettings().make_local_directory() is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PeerLost("x"), EXIT_NO_HEAD),
        (HandshakeFailed("x"), EXIT_REFUSED),
        (VersionMismatch("x"), EXIT_REFUSED),
        (CredentialError("x"), EXIT_REFUSED),
        (ConfigError("x"), 2),
        (asyncio.CancelledError(), EXIT_NO_HEAD),
        (RuntimeError("x"), EXIT_BUG),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_facts_about_processes() -> None:
    assert resident_bytes() > 1_000_000
    state, resident = look_at(os.getpid())
    assert state in "RS"
    assert resident > 1_000_000
    assert look_at(2**22 + 1) == ("", 0)
    assert not OutOfMemoryCount().has_grown()
