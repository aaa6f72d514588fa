"""A real Slurm for tests: munged, slurmctld and three slurmd of its own, in a directory of its own, on free ports.

Needs the Debian packages slurm-wlm and munge (or the like), no running service and no configuration under /etc. As root,
the daemons run as root and jobs as an ordinary user ($HPCCLUSTER_TEST_USER, else ``hpctest``, which is made if it does not
exist); otherwise everything runs as whoever runs the tests. There is no accounting database, so ``sacct`` has nothing
to tell. Everything is ended by `PrivateSlurm.stop`, the processes of jobs included.

All nodes are this machine: jobs on each of them see the same files, processes and loopback address.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from support.deadline import wait_until
from support.ordinary_user import UserMissing, as_user, ordinary_user, python_for, system_path

PROGRAMS = ("setpriv", "munged", "munge", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
NODES = 3
NODE_CPUS = 4
NODE_MEMORY = 8000
"""MiB that each node says it has."""

PREFIX = "hpccluster-slurm-"
OWNER = "owner.pid"
"""Holds the number of the process whose Slurm it is."""


class SlurmMissing(Exception):
    """This machine cannot run a Slurm of its own; the message says what is missing."""


def missing_programs() -> list[str]:
    """What must be installed before a private Slurm can start."""
    return [name for name in PROGRAMS if shutil.which(name, path=system_path()) is None]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


def _ordinary_user() -> str | None:
    try:
        return ordinary_user() if os.geteuid() == 0 else None
    except UserMissing as missing:
        raise SlurmMissing(str(missing)) from None


def _remove(directory: Path) -> None:
    """Kill what still works in a directory of ours or carries its SLURM_CONF (slurmstepd and jobs outlive slurmd)."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            inside = Path(process.cwd()).is_relative_to(directory)
            if inside or process.environ().get("SLURM_CONF") == str(directory / "slurm.conf"):
                process.kill()
    shutil.rmtree(directory, ignore_errors=True)


def _sweep() -> None:
    """Remove what test runs that were killed have left."""
    for directory in Path("/tmp").glob(f"{PREFIX}*"):
        if directory.owner() != pwd.getpwuid(os.geteuid()).pw_name:
            continue
        try:
            owner = int((directory / OWNER).read_text())
        except (OSError, ValueError):
            continue
        if not psutil.pid_exists(owner):
            _remove(directory)


class PrivateSlurm:
    """A running Slurm. Made by `start`."""

    def __init__(self, directory: Path, user: str | None) -> None:
        self.directory = directory
        """World-readable; removed at the end."""
        self.user = user
        """The name of the user that jobs run as, where it is not the one that runs the tests."""
        self.conf = directory / "slurm.conf"
        self.home = directory / "home"
        """Home and working directory of that user."""
        self.nodes = tuple(f"n{number}" for number in range(1, NODES + 1))
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    # ------------------------------------------------------------------------------------------------------------- life

    @classmethod
    def start(cls) -> PrivateSlurm:
        """Raises `SlurmMissing` where programs or permissions are missing."""
        if missing := missing_programs():
            raise SlurmMissing(f"not installed: {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)")
        user = _ordinary_user()
        _sweep()
        slurm = cls(Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp")), user)
        try:
            slurm._start()
        except BaseException:
            slurm.stop()
            raise
        return slurm

    def _start(self) -> None:
        self.directory.chmod(0o755)
        (self.directory / OWNER).write_text(str(os.getpid()))
        for name in ("run", "log", "spool", "home"):
            (self.directory / name).mkdir(mode=0o755)
        (self.directory / "state").mkdir(mode=0o700)
        if self.user is not None:
            account = pwd.getpwnam(self.user)
            os.chown(self.home, account.pw_uid, account.pw_gid)
        self._write_configuration()
        self._start_munge()
        self._spawn("slurmctld", "slurmctld", "-D")
        for node in self.nodes:
            (self.directory / "spool" / node).mkdir()
            self._spawn(node, "slurmd", "-D", "-N", node)
        wait_until(self._all_idle, f"all nodes idle (see {self.directory}/log)", timeout=30.0)

    def _write_configuration(self) -> None:
        host = socket.gethostname().split(".")[0]
        controller, *ports = _free_ports(1 + NODES)
        owner = pwd.getpwuid(os.geteuid()).pw_name
        run, log = self.directory / "run", self.directory / "log"
        settings = {
            "ClusterName": "private",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": controller,
            "SlurmUser": owner,
            "SlurmdUser": owner,
            "AuthType": "auth/munge",
            # cred_expire is also what a requeued job waits before it starts again; 5 s is the least
            "AuthInfo": f"socket={run}/munge.sock,cred_expire=5",
            "CredType": "cred/munge",
            "MpiDefault": "none",
            "SwitchType": "switch/none",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "StateSaveLocation": self.directory / "state",
            "SlurmctldPidFile": run / "slurmctld.pid",
            "SlurmdPidFile": run / "slurmd-%n.pid",
            "SlurmdSpoolDir": self.directory / "spool" / "%n",
            "SlurmctldLogFile": log / "slurmctld.log",
            "SlurmdLogFile": log / "slurmd-%n.log",
            # the nodes say that they are larger than this machine may be
            "SlurmdParameters": "config_overrides",
            # the defaults start a job after up to 3 s
            "SchedulerParameters": "sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "DefMemPerCPU": 100,
            "GresTypes": "gpu",
            "ReturnToService": 1,
            "EnforcePartLimits": "ALL",
            "JobRequeue": 1,
            "KillWait": 3,
            "MinJobAge": 300,
            "SlurmdTimeout": 10,
            "MessageTimeout": 3,
            "TCPTimeout": 2,
            "MailProg": "/bin/true",
            "AccountingStorageType": "accounting_storage/none",
            "JobAcctGatherType": "jobacct_gather/none",
        }
        lines = [f"{key}={value}" for key, value in settings.items()]
        for node, port in zip(self.nodes, ports, strict=True):
            lines.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
                f"CPUs={NODE_CPUS} RealMemory={NODE_MEMORY} Feature=plain"
            )
        lines += [
            "PartitionName=normal Nodes=ALL Default=YES MaxTime=120 DefaultTime=10 State=UP",
            "PartitionName=short Nodes=ALL MaxTime=1 DefaultTime=1 State=UP",
            "PartitionName=closed Nodes=ALL State=DOWN",
            "PartitionName=staff Nodes=ALL AllowGroups=daemon State=UP",
        ]
        self.conf.write_text("\n".join(lines) + "\n")
        self.conf.chmod(0o644)
        # no control groups are used; left to find out by itself, slurmd asks systemd for one where the host has cgroup v2
        cgroups = self.conf.with_name("cgroup.conf")
        cgroups.write_text("CgroupPlugin=cgroup/v1\n")
        cgroups.chmod(0o644)

    def _start_munge(self) -> None:
        run = self.directory / "run"
        key = self.directory / "munge.key"
        key.touch(mode=0o400)
        key.chmod(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        socket_path = f"{run}/munge.sock"
        self._spawn(
            "munged", "munged", "--foreground", f"--key-file={key}", f"--socket={socket_path}",
            f"--pid-file={run}/munged.pid", f"--log-file={self.directory}/log/munged.log", f"--seed-file={run}/munge.seed",
        )  # fmt: skip

        def answers() -> bool:
            try:
                done = self._command("munge", "-n", "-S", socket_path)
            except subprocess.TimeoutExpired:
                return False
            return done.returncode == 0

        wait_until(answers, f"munged answers (see {self.directory}/log/munged.log)")

    def _spawn(self, name: str, *argv: str) -> None:
        with (self.directory / "log" / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                # however this process ends, its daemons end with it
                ["setpriv", "--pdeathsig=KILL", "--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.directory,
                env={"PATH": system_path(), "SLURM_CONF": str(self.conf), "LC_ALL": "C"},
            )

    def _all_idle(self) -> bool:
        states = self._command("sinfo", "-h", "-N", "-p", "normal", "-o", "%T").stdout.split()
        return len(states) == NODES and set(states) <= {"idle", "mixed", "allocated", "completing"}

    def stop(self) -> None:
        """End all jobs and daemons and remove the files. Idempotent."""
        self.resume_controller()
        if "slurmctld" in self._daemons:
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                self.cancel_all()
        for _, daemon in reversed(self._daemons.items()):
            daemon.kill()
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()
        _remove(self.directory)

    # -------------------------------------------------------------------------------------------------------------- use

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a user of this Slurm."""
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self.home),
            "USER": self.user or pwd.getpwuid(os.geteuid()).pw_name,
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
            "SLURM_CONF": str(self.conf),
            **more,
        }

    def as_user(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs ``argv`` as the user of jobs."""
        return as_user(self.user, argv)

    def run_as_user(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the user, in the user's home, with SLURM_CONF set. ``env`` adds to `environment`."""
        return subprocess.run(
            self.as_user(argv),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self.home,
            env=self.environment(**(env or {})),
        )

    def popen_as_user(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """The same without waiting; standard input and output are pipes."""
        return subprocess.Popen(
            self.as_user(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env=self.environment(**(env or {})),
        )

    @functools.cached_property
    def python(self) -> str:
        """An interpreter that the user can run and that imports hpccluster and all that it needs."""
        try:
            return python_for(self.user, self.directory)
        except UserMissing as missing:
            raise SlurmMissing(str(missing)) from None

    def shared_directory(self, name: str) -> Path:
        """A new directory below the user's home, owned by the user."""
        path = self.home / name
        path.mkdir(parents=True)
        if self.user is not None:
            account = pwd.getpwnam(self.user)
            os.chown(path, account.pw_uid, account.pw_gid)
        return path

    def job_ids(self) -> list[str]:
        """The ids of jobs that wait or run."""
        done = self._command("squeue", "-h", "-o", "%A")
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def cancel_all(self) -> None:
        """Cancel every job, and wait until none is listed."""
        if jobs := self.job_ids():
            self._command("scancel", "--signal=KILL", "--full", *jobs)
            self._command("scancel", *jobs)
        wait_until(lambda: not self.job_ids(), "no jobs are left")

    def freeze_controller(self) -> None:
        """Commands now time out, and what they asked for may happen later."""
        self._daemons["slurmctld"].send_signal(signal.SIGSTOP)

    def resume_controller(self) -> None:
        if daemon := self._daemons.get("slurmctld"):
            daemon.send_signal(signal.SIGCONT)

    def admin(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """A command as the owner of the daemons (``scontrol update ...``)."""
        return self._command(*argv)

    def _command(self, *argv: str) -> subprocess.CompletedProcess[str]:
        variables = {"PATH": system_path(), "SLURM_CONF": str(self.conf), "LC_ALL": "C"}
        return subprocess.run(argv, capture_output=True, text=True, timeout=20, env=variables, stdin=subprocess.DEVNULL)
