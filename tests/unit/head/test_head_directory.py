"""Who owns a cluster's name."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from hpccluster.errors import ClusterError, ConfigError, CredentialError
from hpccluster.head.directory import (
    ClusterDirectory,
    HeadRecord,
    ProgramRecord,
    is_alive,
    list_records,
    process_start,
    read_record,
)


def make_record(name: str = "calm-otter", cluster_id: str = "ab" * 16) -> HeadRecord:
    """A record of this very process."""
    start = process_start(os.getpid())
    assert start is not None
    return HeadRecord(
        name=name,
        id=cluster_id,
        backend="local",
        host=socket.gethostname(),
        pid=os.getpid(),
        process_start=start,
        created=0.0,
    )


def dead(record: HeadRecord) -> HeadRecord:
    """The same number, another process."""
    return replace(record, process_start="long-ago:1", id="cd" * 16)


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    assert process_start(os.getpid()) == process_start(os.getpid())
    assert process_start(os.getpid()) != process_start(1)
    assert process_start(2**22 + 7) is None


def test_claim_makes_a_private_directory(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        directory = ClusterDirectory.claim(tmp_path / "state", make_record())
        directory.update(state="running", address="tls://127.0.0.1:1")
    finally:
        os.umask(old)
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory.path / "head.json").stat().st_mode) == 0o600
    record = read_record(directory.path)
    assert record == directory.record
    assert record is not None
    assert (record.state, record.address) == ("running", "tls://127.0.0.1:1")
    assert sorted(path.name for path in directory.path.iterdir()) == ["head.json"]


def test_a_live_cluster_keeps_its_name(tmp_path: Path) -> None:
    ClusterDirectory.claim(tmp_path, make_record())
    with pytest.raises(ClusterError, match="running already") as caught:
        ClusterDirectory.claim(tmp_path, make_record(cluster_id="cd" * 16))
    assert caught.value.code == "HPC-CLUSTER-NAME-TAKEN"
    record = read_record(tmp_path / "calm-otter")
    assert record is not None
    assert record.id == "ab" * 16
    assert sorted(path.name for path in (tmp_path / "calm-otter").iterdir()) == ["head.json"]


@pytest.mark.parametrize("ended", [True, False])
def test_the_name_of_a_cluster_that_is_gone_is_free_and_its_logs_stay(tmp_path: Path, ended: bool) -> None:
    former = ClusterDirectory.claim(tmp_path, make_record() if ended else dead(make_record()))
    former.client_file.write_text("secret")
    former.head_log.write_text("what happened")
    (former.path / "hpc-calm-otter-0001.log").write_text("job")
    if ended:
        former.update(state="ended")
    directory = ClusterDirectory.claim(tmp_path, make_record(cluster_id="ef" * 16))
    assert not directory.client_file.exists()
    assert (directory.path / "head.log.old").read_text() == "what happened"
    assert (directory.path / "hpc-calm-otter-0001.log").exists()
    record = read_record(directory.path)
    assert record is not None
    assert record.id == "ef" * 16


def test_a_record_that_cannot_be_read_does_not_block_the_name(tmp_path: Path) -> None:
    (tmp_path / "calm-otter").mkdir(mode=0o700)
    (tmp_path / "calm-otter" / "head.json").write_text("{")
    assert ClusterDirectory.claim(tmp_path, make_record()).record.id == "ab" * 16


def test_another_host_counts_as_alive_unless_it_says_that_nobody_listens() -> None:
    record = replace(make_record(), host="elsewhere")
    assert is_alive(record)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert is_alive(replace(record, address=f"tls://127.0.0.1:{port}"))
    assert not is_alive(replace(record, address=f"tls://127.0.0.1:{port}"))
    assert not is_alive(replace(record, state="ended"))


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "x" * 41, "-a", "a\n"])
def test_a_name_is_checked_before_anything_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a cluster"):
        ClusterDirectory.claim(tmp_path, make_record(name))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_others_can_enter_or_have_put_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("")
    for name in ("open", "link", "file"):
        with pytest.raises(CredentialError):
            ClusterDirectory.claim(tmp_path, make_record(name))
    with pytest.raises(ConfigError, match="STATE_DIRECTORY"):
        ClusterDirectory.claim(tmp_path / "file" / "state", make_record())
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_records_are_listed_with_what_is_over(tmp_path: Path) -> None:
    first = ClusterDirectory.claim(tmp_path, make_record("a"))
    program = ProgramRecord(command=("x",), state="finished", started=1.0, ended=2.0, exit_code=3)
    first.update(state="ended", program=program)
    ClusterDirectory.claim(tmp_path, make_record("b"))
    (tmp_path / "not-a-cluster").mkdir()
    assert [record.name for record in list_records(tmp_path)] == ["a", "b"]
    assert list_records(tmp_path)[0].program == program
    assert list_records(tmp_path / "nothing") == []


def test_remove_leaves_nothing_but_what_was_there_before(tmp_path: Path) -> None:
    directory = ClusterDirectory.claim(tmp_path, make_record())
    for _ in range(2):
        directory.remove(reason="over")
    assert list(tmp_path.iterdir()) == []

    ClusterDirectory.claim(tmp_path, dead(make_record())).head_log.write_text("of yore")
    second = ClusterDirectory.claim(tmp_path, make_record())
    second.client_file.write_text("secret")
    second.remove(reason="refused")
    assert sorted(path.name for path in second.path.iterdir()) == ["head.json", "head.log.old"]
    record = read_record(second.path)
    assert record is not None
    assert (record.state, record.reason) == ("ended", "refused")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_record_of_somebody_else_is_none(tmp_path: Path) -> None:
    directory = ClusterDirectory.claim(tmp_path, make_record())
    os.chown(directory.path / "head.json", 12345, 12345)
    assert read_record(directory.path) is None
    assert list_records(tmp_path) == []
