"""A dockerised Slurm (`ci/slurm-docker`) of one test session: its containers, commands in them, and what may befall a node.

A watching process takes everything down when the tests' end of its pipe closes: at the end of the session, and as well
when the tests are killed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import docker
from docker.errors import DockerException
from docker.models.containers import Container
from docker.models.networks import Network
from docker.utils.socket import consume_socket_output, demux_adaptor, frames_iter

from hpccluster.backend.dialect import CommandResult
from support.deadline import wait_until
from support.docker_image import ROOT, DockerMissing, image_for

NODES = ("n1", "n2")
READY = 120.0
"""Seconds until the whole cluster is ready, and until a node that was lost is back."""
PYTHON = "/opt/hpccluster/bin/python"


class DockerSlurm:
    """The cluster, as a site's user (``ana``) and its operator see it."""

    user = "ana"
    home = "/home/ana"
    python = PYTHON

    def __init__(self, client: docker.DockerClient, project: str) -> None:
        self._client = client
        self._project = project
        self._watcher: subprocess.Popen[bytes] | None = None

    # ------------------------------------------------------------------------------------------------------ up and down

    @classmethod
    def start(cls) -> DockerSlurm:
        """Build what is not built, start everything and wait until it is ready. Raises `DockerMissing`."""
        try:
            client = docker.from_env(timeout=200)
            client.ping()
        except DockerException as error:
            raise DockerMissing(f"no Docker daemon answers ({error})") from error
        compose = _compose()
        image = image_for(client)
        made = cls(client, f"hpccluster-e2e-{uuid.uuid4().hex[:10]}")
        try:
            made._up(compose, image)
        except BaseException:
            made.stop()
            raise
        return made

    def _up(self, compose: list[str], image: str) -> None:
        command = [*compose, "--project-name", self._project, "--file", str(ROOT / "ci/slurm-docker/compose.yaml")]
        environment = os.environ | {"HPCCLUSTER_SLURM_IMAGE": image}
        self._watcher = subprocess.Popen(
            ["sh", "-c", 'cat; exec "$@"', "sh", *command, "down", "--volumes", "--timeout", "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
        up = subprocess.run(
            [*command, "up", "--detach", "--no-build"], capture_output=True, text=True, timeout=120, env=environment
        )
        assert up.returncode == 0, up.stdout + up.stderr
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Until accounting, controller and all nodes serve."""
        try:
            wait_until(self._is_ready, "all nodes are ready", timeout=READY)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None

    def _is_ready(self) -> bool:
        return self.run("login", ["entrypoint", "ready"], user="root", timeout=10).returncode == 0

    def stop(self) -> None:
        """Take down the containers, networks and volumes of this session. Idempotent."""
        if self._watcher is not None:
            assert self._watcher.stdin is not None
            self._watcher.stdin.close()
            self._watcher.wait(timeout=120)
            self._watcher = None
        self._client.close()

    def said(self, lines: int = 15) -> str:
        """The last words of every container, for a person who looks for what went wrong."""
        found = self._client.containers.list(all=True, filters={"label": self._label})
        return "\n".join(
            f"--- {one.name} ({one.status})\n{one.logs(tail=lines).decode(errors='replace')}" for one in found
        )

    # --------------------------------------------------------------------------------------------------------- commands

    @property
    def _label(self) -> str:
        return f"com.docker.compose.project={self._project}"

    def container(self, service: str) -> Container:
        """The container of a service, as it is now."""
        labels = [self._label, f"com.docker.compose.service={service}"]
        (found,) = self._client.containers.list(all=True, filters={"label": labels})
        return found

    def run(
        self,
        service: str,
        argv: Sequence[str],
        *,
        user: str | None = None,
        stdin: str | None = None,
        environment: Mapping[str, str | None] | None = None,
        timeout: float = 60.0,
    ) -> CommandResult:
        """Run a command in a container; ended by force after ``timeout`` (then its exit code is 124 or 137)."""
        changes = dict(environment or {})
        removed = [f"--unset={name}" for name, value in changes.items() if value is None]
        added = [f"{name}={value}" for name, value in changes.items() if value is not None]
        command = ["timeout", "--kill-after=1", f"{timeout:g}", "env", *removed, *added, *argv]
        api = self._client.api
        made = api.exec_create(
            self.container(service).id,
            command,
            user=user or self.user,
            workdir=self.home,
            stdin=stdin is not None,
        )["Id"]
        if stdin is None:
            out, err = api.exec_start(made, demux=True)
        else:
            with contextlib.closing(api.exec_start(made, socket=True)) as stream:
                out, err = _converse(stream, stdin.encode())
        # its output may end a moment before the daemon has noticed its end
        wait_until(lambda: not api.exec_inspect(made)["Running"], f"{argv[0]} ends")
        return CommandResult(tuple(argv), api.exec_inspect(made)["ExitCode"], _text(out), _text(err))

    def run_as_user(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the login host, as the user in their home."""
        done = self.run("login", argv, stdin=stdin, environment=env, timeout=timeout)
        return subprocess.CompletedProcess(list(argv), done.returncode, done.stdout, done.stderr)

    def popen_as_user(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        """The same without waiting; standard streams are pipes. (Its process is docker's client: see `DockerSite`.)"""
        pipe = subprocess.PIPE
        command = ["docker", "exec", "--interactive", "--user", self.user, "--workdir", self.home]
        return subprocess.Popen(
            [*command, self.container("login").id or "", *argv], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def admin(self, *argv: str) -> str:
        """What a command says to the operator, on the controller."""
        done = self.run("controller", argv, user="root", timeout=20)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """A file of the user, private to them."""
        done = self.run("login", ["sh", "-c", 'umask 077; cat >"$1"', "sh", path], stdin=text)
        assert done.returncode == 0, done.stderr

    # ------------------------------------------------------------------------------------------------------------- jobs

    def queue(self) -> list[str]:
        """Jobs in the queue, of whomever: id, name and state."""
        return self.admin("squeue", "--noheader", "--format=%A %j %T").splitlines()

    def processes(self) -> list[str]:
        """Processes of users' clusters on any host that can be looked at: host and command line."""
        found = []
        for service in ("login", *NODES):
            if self.container(service).status != "running":
                continue
            listed = self.run(service, ["ps", "-u", self.user, "-o", "args="], user="root").stdout.splitlines()
            found += [f"{service}: {line}" for line in listed if "hpccluster" in line]
        return found

    def cancel_all(self) -> None:
        """Cancel every job and wait until none is listed."""
        if jobs := [line.split()[0] for line in self.queue()]:
            self.admin("scancel", *jobs)
        wait_until(lambda: not self.queue(), "an empty queue", timeout=30)

    # ----------------------------------------------------------------------------------------------------------- faults

    def state_of(self, node: str) -> str:
        """What Slurm thinks of a node: ``idle``, ``mixed``, ``down*``."""
        return self.admin("sinfo", "--noheader", f"--nodes={node}", "--partition=normal", "--format=%T").strip()

    def crash(self, node: str) -> None:
        """A node loses power."""
        self.container(node).kill()

    def freeze(self, node: str) -> None:
        """A node hangs."""
        self.container(node).pause()

    def cut_off(self, node: str) -> None:
        """A node loses its network; what runs on it runs on."""
        self._network().disconnect(self.container(node))

    def reconnect(self, node: str) -> None:
        """It gets its network again."""
        self._network().connect(self.container(node), aliases=[node])

    @contextlib.contextmanager
    def unplugged(self, node: str) -> Iterator[None]:
        """A node's cable is pulled for the time of a block; its address stays."""
        self._set_link(node, "down")
        try:
            yield
        finally:
            self._set_link(node, "up")

    def _set_link(self, node: str, state: str) -> None:
        done = self.run(node, ["ip", "link", "set", "eth0", state], user="root")
        assert done.returncode == 0, done.stdout + done.stderr

    def _network(self) -> Network:
        (found,) = self._client.networks.list(filters={"label": self._label})
        return found

    @contextlib.contextmanager
    def another_host(self, name: str, *, volumes: list[str]) -> Iterator[Container]:
        """A host of the same image by itself: it belongs to no cluster, and runs munge only."""
        made = self._client.containers.run(
            self.container("login").image or "",
            ["login"],
            detach=True,
            init=True,
            hostname=name,
            extra_hosts={"controller": "127.0.0.1"},
            tmpfs={"/secret": ""},
            volumes=volumes,
        )
        try:
            yield made
        finally:
            made.remove(force=True, v=True)

    def mend(self) -> None:
        """Whatever has befallen the nodes, they serve again."""
        for node in NODES:
            if self._repair(self.container(node), node):
                # a daemon that slept does not know what it has missed: let it register
                self.run(node, ["pkill", "--signal=HUP", "--exact", "slurmd"], user="root")
        for node in NODES:
            wait_until(functools.partial(self._is_back, node), f"{node} is back", timeout=READY)
        self.wait_until_ready()

    def _repair(self, container: Container, node: str) -> bool:
        """Undo what has befallen a node; False where nothing has."""
        cut_off = not container.attrs["NetworkSettings"]["Networks"]
        if container.status == "running" and not cut_off:
            return False
        if container.status == "paused":
            container.unpause()
        if container.status == "exited":
            container.start()
        if cut_off:
            self.reconnect(node)
        return True

    def _is_back(self, node: str) -> bool:
        state = self.state_of(node)
        # Slurm drains a node on which a requeued job meets its former self
        if state.startswith("drain"):
            self.admin("scontrol", "update", f"nodename={node}", "state=resume")
        return state in ("idle", "mixed", "allocated", "completing")


def _compose() -> list[str]:
    """The command that is compose here: the plugin of docker, or the older program."""
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=30)
        if asked.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise DockerMissing("neither 'docker compose' nor docker-compose is here")


def _converse(stream: Any, stdin: bytes) -> tuple[bytes | None, bytes | None]:
    """Say all of ``stdin`` to an exec session, and hear stdout and stderr to their end."""
    connection: socket.socket = getattr(stream, "_sock", stream)
    connection.sendall(stdin)
    connection.shutdown(socket.SHUT_WR)
    frames = (demux_adaptor(*frame) for frame in frames_iter(stream, tty=False))  # type: ignore[no-untyped-call]
    out, err = consume_socket_output(frames, demux=True)
    return out, err


def _text(said: bytes | None) -> str:
    return (said or b"").decode(errors="replace")


__all__ = ["NODES", "DockerMissing", "DockerSlurm"]
