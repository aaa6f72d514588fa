"""Another user of the same machine, against real clusters: what they can read, connect to, put in the way, and hold up.

The state directory and TMPDIR of the clusters lie where everybody may look, and the owner's umask is 0: what protects them
is what they do themselves. Needs root, to be two users.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpccluster.head.directory import list_records, read_record
from support.cluster_processes import VARIABLE, processes_of, wait_until_gone
from support.ordinary_user import UserMissing, as_user, ordinary_user

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users: run these tests as root"),
]

OWNER = """
import json, sys
from hpccluster import Client, LocalCluster
with LocalCluster(n_workers=1, threads_per_worker=1, name="calm-otter") as cluster, Client(cluster) as client:
    print(json.dumps({"address": cluster.scheduler_address, "answer": client.submit(pow, 2, 5).result(timeout=30)}), flush=True)
    for line in sys.stdin:
        with Client(cluster) as another:
            print(json.dumps(another.submit(pow, 2, int(line)).result(timeout=30)), flush=True)
"""
SUBMITTED = """
import sys, time
from pathlib import Path
from hpccluster import Client
with Client() as client:
    print("sum", client.submit(sum, [1, 2]).result(timeout=30), flush=True)
    while not Path(sys.argv[1]).exists():
        time.sleep(0.05)
"""
STRANGER = """
import json, socket, ssl, sys
host, port, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
heard = b""
with socket.create_connection((host, port), timeout=20) as raw:
    try:
        if how == "tls":
            with context.wrap_socket(raw) as channel:
                channel.sendall(b"x" * 100)
                heard = channel.recv(4096)
        else:
            raw.sendall(b"GET /json HTTP/1.0\\r\\n\\r\\n" if how == "http" else bytes(range(256)) * 64)
            while data := raw.recv(4096):
                heard += data
    except (ssl.SSLError, ConnectionError) as error:
        print(type(error).__name__, error, file=sys.stderr)
print(json.dumps(heard.decode("latin-1")))
"""
CROWD = """
import socket, sys
held = []
for number in range(400):
    try:
        held.append(socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5))
        if number % 2:
            held[-1].sendall(b"\\x16\\x03\\x01\\x02\\x00\\x01")
    except OSError:
        pass
print(len(held), flush=True)
sys.stdin.read()
"""


@dataclass
class Place:
    """A directory that everybody may look into, and the two users."""

    base: Path
    stranger: str

    @property
    def state(self) -> Path:
        return self.base / "state"

    def environment(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("HPCCLUSTER_", "XDG_"))}
        own = {"HOME": str(self.base / "home"), "TMPDIR": str(self.base / "tmp"), VARIABLE: str(self.state)}
        return kept | own

    def owner(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True, umask=0,
            env=self.environment(), cwd=self.base,
        )  # fmt: skip

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line tool as the owner."""
        run = [sys.executable, "-c", "from hpccluster.cli.main import main; main()", *arguments]
        return subprocess.run(
            run, env=self.environment(), cwd=self.base, capture_output=True, text=True, timeout=60, umask=0
        )

    def other(self, *argv: str) -> str:
        """What the other user's command prints; its errors do not count."""
        command = as_user(self.stranger, argv)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, cwd="/", env={"PATH": os.environ["PATH"]}
        )
        return done.stdout

    def secrets(self) -> list[str]:
        """Lines of all private keys that lie in the state directory."""
        keys = [
            str(json.loads(path.read_text()).get("key", ""))
            for path in self.state.rglob("*.json")
            if path.name != "head.json"
        ]
        return [line for key in keys for line in key.splitlines() if len(line) > 20 and "-----" not in line]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    try:
        stranger = ordinary_user()
    except UserMissing as missing:
        pytest.skip(str(missing))
    base = Path(tempfile.mkdtemp(prefix="hpc-two-users-"))
    try:
        base.chmod(0o755)
        for name, mode in (("home", 0o755), ("tmp", 0o1777), ("open", 0o1777)):
            (base / name).mkdir()
            (base / name).chmod(mode)
        yield Place(base, stranger)
        wait_until_gone(base / "state")
    finally:
        shutil.rmtree(base)


@dataclass
class Running:
    """A cluster of `LocalCluster` and one of `hpccluster submit`."""

    place: Place
    owner: subprocess.Popen[str]
    address: tuple[str, str]

    def power(self, exponent: int) -> Any:
        """What a new client of the owner gets."""
        assert self.owner.stdin is not None
        assert self.owner.stdout is not None
        self.owner.stdin.write(f"{exponent}\n")
        self.owner.stdin.flush()
        return json.loads(self.owner.stdout.readline())


@pytest.fixture(scope="module")
def running(place: Place) -> Iterator[Running]:
    over = place.base / "over"
    (place.base / "program.py").write_text(SUBMITTED)
    python = (sys.executable, "program.py", str(over))
    owner = place.owner(OWNER)
    try:
        submitted = place.command("submit", "--name", "sweep", "--workers", "1", "--", *python)
        assert submitted.returncode == 0, submitted.stderr
        assert owner.stdout is not None
        said: Mapping[str, Any] = json.loads(owner.stdout.readline())
        assert said["answer"] == 32
        host, _, port = str(said["address"]).partition("://")[2].rpartition(":")
        yield Running(place, owner, (host, port))
    finally:
        over.touch()
        owner.communicate(timeout=30)
        place.command("down", "sweep")


def test_nothing_on_disk_can_be_read_or_changed(running: Running) -> None:
    place = running.place
    assert place.secrets(), "there are private keys to be protected"
    assert str(place.state) in place.other("find", str(place.base), "-maxdepth", "1"), "the other user can look"
    for folder in (place.state, place.base / "tmp"):
        seen = place.other(
            "find", str(folder), "-mindepth", "1", "!", "-type", "l", "(", "-readable", "-o", "-writable", ")"
        )
        assert seen == ""
    for path in place.state.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_no_secret_is_in_arguments_or_environments(running: Running) -> None:
    secrets = running.place.secrets()
    processes = processes_of(running.place.state)
    assert len(processes) >= 5, "heads, nannies, workers, the owner and the program"
    for pid in processes:
        shown = Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
        assert not [secret for secret in secrets if secret in shown], processes[pid]
    readable = running.place.other(
        "sh", "-c", "for p; do cat /proc/$p/environ /proc/$p/fd/0 && echo $p; done", "sh", *map(str, processes)
    )
    assert readable == ""


@pytest.mark.parametrize("how", ["tls", "http", "garbage"])
def test_a_stranger_hears_nothing(running: Running, how: str) -> None:
    heard = json.loads(running.place.other("/usr/bin/python3", "-c", STRANGER, *running.address, how))
    assert not re.search("calm-otter|worker|hpccluster", heard), heard
    assert running.power(6) == 64


def test_the_door_is_on_loopback_only(running: Running) -> None:
    assert running.address[0] == "127.0.0.1"
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True).stdout
    pids = {str(pid) for pid, line in processes_of(running.place.state).items()}
    ours = [line for line in listening.splitlines() if pids & set(re.findall(r"pid=(\d+)", line))]
    assert ours
    assert all(line.split()[3].startswith("127.0.0.1:") for line in ours), ours


def test_half_open_connections_and_garbage_keep_nobody_out(running: Running) -> None:
    command = as_user(running.place.stranger, ["/usr/bin/python3", "-c", CROWD, *running.address])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as crowd:
        try:
            assert crowd.stdout is not None
            assert int(crowd.stdout.readline()) > 50
            assert running.power(7) == 128
        finally:
            crowd.kill()


@pytest.mark.parametrize("kind", ["directory", "link", "link to the owner's"])
def test_a_state_directory_that_another_has_put_there_is_refused(place: Place, kind: str) -> None:
    """Where everybody may write, the other user was first."""
    name = str(place.base / "open" / kind.replace(" ", "-").replace("'", ""))
    target = place.base / "victim"
    target.mkdir(exist_ok=True)
    if kind == "directory":
        place.other("mkdir", "-m", "755", name)
    else:
        place.other("mkdir", f"{name}.real")
        place.other("ln", "-s", f"{name}.real" if kind == "link" else str(target), name)
    assert Path(name).lstat().st_uid != os.geteuid()
    program = "import sys; from hpccluster import LocalCluster\nLocalCluster(n_workers=1, state_directory=sys.argv[1]).close()"
    _, said = place.owner(program, name).communicate(timeout=60)
    assert f"{name} belongs to user" in said, said
    assert list(target.iterdir()) == []


def test_a_state_directory_that_everybody_may_change_is_refused(place: Place) -> None:
    folder = place.base / "anybody"
    folder.mkdir()
    folder.chmod(0o777)
    program = "import sys; from hpccluster import LocalCluster\nLocalCluster(n_workers=1, state_directory=sys.argv[1]).close()"
    _, said = place.owner(program, str(folder)).communicate(timeout=60)
    assert f"everybody may replace what is in {folder} (mode 0777)" in said
    folder.chmod(0o1777)
    owner = place.owner(program, str(folder))
    _, said = owner.communicate(timeout=60)
    assert (owner.returncode, said) == (0, ""), "as /tmp is: each keeps what is theirs"


def test_a_record_of_another_is_not_believed(place: Place) -> None:
    """In a shared directory, somebody else's cluster is none of ours: its options would be acted upon."""
    shared = place.base / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    record = {"name": "evil", "id": "0" * 32, "backend": "ssh", "host": "h", "pid": 1, "process_start": "x", "created": 1.0,
              "options": {"hosts": ["evil.example"]}}  # fmt: skip
    script = 'mkdir -m 755 "$1/evil" && printf %s "$2" >"$1/evil/head.json"'
    place.other("sh", "-c", script, "sh", str(shared), json.dumps(record))
    assert (shared / "evil" / "head.json").exists()
    assert read_record(shared / "evil") is None
    assert list_records(shared) == []
