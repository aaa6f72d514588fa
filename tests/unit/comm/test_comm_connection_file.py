"""Connection files: written for their owner only, read only if nobody else could have."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpccluster.comm.authority import Authority
from hpccluster.comm.connection_file import (
    ConnectionFile,
    find_connection_file,
    known_directories,
    private_directory,
    read_connection_file,
    remember_directory,
    state_directory,
    write_connection_file,
)
from hpccluster.comm.tls import Security
from hpccluster.errors import ClusterNotFound, CredentialError
from hpccluster.protocol.messages import Role
from support.comm_peers import CLUSTER

NOW = datetime.now(UTC)
ISSUED = Authority(CLUSTER)


def connection_file(
    role: Role = Role.CLIENT, *, changed: dict[str, Any] | None = None, **changes: Any
) -> ConnectionFile:
    issued = ISSUED.issue(role, "test")
    values: dict[str, Any] = {
        "cluster": CLUSTER,
        "name": "calm-otter",
        "role": role,
        "addresses": ("tls://10.0.0.1:8786", "tls://10.1.0.1:8786"),
        "ca": ISSUED.ca_pem,
        "certificate": issued.certificate_pem,
        "key": issued.key_pem,
        "created": NOW,
        "expires": NOW + timedelta(days=90),
    }
    return ConnectionFile(**(values | changes | (changed or {})))


@pytest.fixture(params=[0o000, 0o077, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "calm-otter" / "client.json"
    write_connection_file(path, connection_file())
    return path


def refusal(path: Path, role: Role = Role.CLIENT) -> str:
    with pytest.raises(CredentialError) as error:
        read_connection_file(path, role)
    text = str(error.value)
    assert str(path) in text
    assert role.value in text
    assert "fix: " in text
    assert len(text.splitlines()) <= 3
    return text


@pytest.mark.usefixtures("umask")
def test_only_the_owner_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "calm-otter" / "client.json"
    write_connection_file(path, connection_file())
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["client.json"]


def test_it_comes_out_as_it_went_in_and_knows_where_it_was(written: Path) -> None:
    file = read_connection_file(written, Role.CLIENT)
    assert file.path == str(written)
    assert file.addresses == ("tls://10.0.0.1:8786", "tls://10.1.0.1:8786")
    holder = Security.from_connection_file(file)
    assert holder is not None
    assert (holder.cluster, holder.role, holder.origin) == (CLUSTER, Role.CLIENT, str(written))
    assert "path" not in msgspec.json.decode(written.read_bytes())
    assert file.key not in repr(file)


def test_it_can_be_replaced(written: Path) -> None:
    write_connection_file(written, connection_file(addresses=("tls://h:1",)))
    assert read_connection_file(written, Role.CLIENT).addresses == ("tls://h:1",)


def test_what_cannot_be_used_is_refused_with_file_role_and_fix(written: Path) -> None:
    assert "no worker connection file" in refusal(written.with_name("worker.json"), Role.WORKER)
    assert "is one for a client" in refusal(written, Role.WORKER)
    written.chmod(0o440)
    assert "open to others (mode 0440)" in refusal(written)
    written.chmod(0o600)
    written.write_text("{")
    assert "not whole" in refusal(written)
    written.write_bytes(bytes(100_000))
    assert "larger than" in refusal(written)
    written.unlink()
    written.mkdir()
    assert "not a regular file" in refusal(written)


def test_an_expired_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c" / "client.json"
    write_connection_file(path, connection_file(expires=NOW - timedelta(seconds=1)))
    assert "has expired on" in refusal(path)


@pytest.mark.parametrize("missing", ["ca", "certificate", "key"])
def test_half_a_credential_is_refused(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "c" / "client.json"
    write_connection_file(path, connection_file(changed={missing: ""}))
    assert "lacks one of" in refusal(path)


def test_a_symbolic_link_and_a_pipe_are_not_followed(written: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(written)
    assert "symbolic links are not followed" in refusal(link)
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe, 0o600)
    assert "not a regular file" in refusal(pipe)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_anothers_file_or_directory_is_refused(written: Path) -> None:
    os.chown(written, 65534, -1)
    assert "belongs to user 65534" in refusal(written)
    os.chown(written, 0, -1)
    os.chown(written.parent, 65534, -1)
    with pytest.raises(CredentialError, match="belongs to user 65534"):
        write_connection_file(written, connection_file())


def test_nothing_is_written_where_others_could_reach_it(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "file").touch()
    for name, words in (("link", "symbolic link"), ("open", "mode 0755"), ("file", "not a directory")):
        with pytest.raises(CredentialError, match=words):
            write_connection_file(tmp_path / name / "client.json", connection_file())
    private = private_directory(tmp_path / "private")
    (private / "client.json").symlink_to(victim)
    with pytest.raises(CredentialError, match="not replaced"):
        write_connection_file(private / "client.json", connection_file())
    assert victim.read_text() == "untouched"
    assert [entry.name for entry in private.iterdir()] == ["client.json"]


def test_a_late_file_is_waited_for(written: Path) -> None:
    """Nothing, then half of it, then the whole: what a shared file system shows."""
    whole = written.read_bytes()
    late = written.with_name("late.json")
    steps = [whole[:100], whole]

    def come() -> None:
        for content in steps:
            temporary = late.with_suffix(".new")
            temporary.touch(0o600)
            temporary.write_bytes(content)
            temporary.rename(late)

    timer = threading.Timer(0.05, come)
    timer.start()
    try:
        assert read_connection_file(late, Role.CLIENT, wait=10).name == "calm-otter"
    finally:
        timer.join()


def test_waiting_ends(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="no client connection file"):
        read_connection_file(tmp_path / "never.json", Role.CLIENT, wait=0.05)


def test_a_cluster_is_found_by_name_address_and_path(written: Path, tmp_path: Path) -> None:
    for where in ("calm-otter", "tls://10.1.0.1:8786", str(written), str(written.parent) + "/"):
        assert find_connection_file(where, Role.CLIENT, tmp_path) == written
    with pytest.raises(ClusterNotFound, match=r"'brave-owl'.*\n  known: calm-otter"):
        find_connection_file("brave-owl", Role.CLIENT, tmp_path)
    with pytest.raises(ClusterNotFound):
        find_connection_file("tls://10.9.9.9:1", Role.CLIENT, tmp_path)
    with pytest.raises(CredentialError, match="no connection file for a worker"):
        find_connection_file("calm-otter", Role.WORKER, tmp_path)


def test_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCCLUSTER_STATE_DIRECTORY", str(tmp_path / "a" / "state"))
    assert state_directory() == tmp_path / "a" / "state"
    assert stat.S_IMODE(state_directory().stat().st_mode) == 0o700
    monkeypatch.delenv("HPCCLUSTER_STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_directory() == tmp_path / "xdg" / "hpccluster"


def test_other_state_directories_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCCLUSTER_STATE_DIRECTORY", str(tmp_path / "usual"))
    other, gone = tmp_path / "scratch", tmp_path / "gone"
    other.mkdir()
    for place in (other, gone, other, tmp_path / "usual"):
        remember_directory(place)
    assert known_directories() == [tmp_path / "usual", other]
    assert (tmp_path / "usual" / "places").read_text() == f"{other}\n{gone}\n"
    path = other / "calm-otter" / "client.json"
    write_connection_file(path, connection_file(Role.CLIENT))
    assert find_connection_file("calm-otter", Role.CLIENT) == path
    monkeypatch.setenv("HPCCLUSTER_STATE_DIRECTORY", str(gone / "a-file"))
    gone.write_text("")
    remember_directory(other)  # no usual one: no help, and no failure
