"""The options of the SSH backend: which hosts, what each of them gives, and how to reach them."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, field, replace
from typing import Annotated

from msgspec import Meta, Struct

from hpccluster.backend.options import LINE, SHEBANG, JobOptions, bad_value
from hpccluster.backend.remote import RemoteTarget
from hpccluster.errors import ConfigError
from hpccluster.resources import JobResources, make_resources
from hpccluster.units import parse_bytes

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9_.-]+)?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")
_FORM = re.compile(
    r"(?:(?P<user>.+)@)?(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^:\[\]]+|[^\[\]]*:[^\[\]]*:[^\[\]]*))(?::(?P<port>[0-9]+))?"
)


Positive = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]


class ConnectOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to connect. What is not said is as the SSH configuration file says."""

    user: str | None = None
    port: Port | None = None
    identity_file: Annotated[str | tuple[str, ...], Meta(description="Private keys to try before the agent's")] = ()
    known_hosts: Annotated[str | None, Meta(description="A known_hosts file in place of the user's")] = None
    config_file: Annotated[str | None, Meta(description="An SSH configuration file in place of ~/.ssh/config")] = None
    proxy_jump: Annotated[str | None, Meta(description="Hosts to go through: [user@]host[:port][,...]; 'none'")] = None
    connect_timeout: Annotated[float, Meta(gt=0, description="Seconds for one connection, at each hop")] = 10.0
    keepalive: Annotated[
        float,
        Meta(
            ge=0.5,
            description="Seconds between signs of life: after three without an answer a connection counts as lost, after "
            "five that did not come the workers on the host end",
        ),
    ] = 5.0


class HostOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One host. What it does not say is as the cluster's options of the same names say."""

    host: Annotated[str, Meta(description="Name, address, or an alias of the SSH configuration file")]
    user: str | None = None
    port: Port | None = None
    jobs: Annotated[Positive, Meta(description="How many jobs may run there at once")] = 1
    cores: Annotated[
        Positive | None, Meta(description="CPU cores of a job there; by default all, shared by its jobs")
    ] = None
    processes: Annotated[Positive | None, Meta(description="Workers of a job there")] = None
    memory: Annotated[
        str | int | None, Meta(description="Memory of a job there; by default all, shared by its jobs; 0 is no limit")
    ] = None
    python: Annotated[str | None, Meta(description="The interpreter there")] = None
    env: Annotated[dict[str, str | int | float], Meta(description="More environment variables of its workers")] = {}
    interface: Annotated[str | None, Meta(description="Network interface of its workers")] = None
    local_directory: Annotated[
        str | None, Meta(description="Directory there for temporary files ($TMPDIR of tasks)")
    ] = None
    tunnel: Annotated[bool | None, Meta(description="Its workers reach the head through the SSH connection")] = None

    @property
    def name(self) -> str:
        """The host as people write it."""
        return self.target().name

    def target(self, connect: ConnectOptions | None = None) -> RemoteTarget:
        """Where and how to connect. Raises `ValueError` for what cannot be a host."""
        connect = connect or ConnectOptions()
        identities = connect.identity_file
        return RemoteTarget(
            host=self.host,
            user=self.user or connect.user,
            port=self.port or connect.port,
            identity_files=(identities,) if isinstance(identities, str) else identities,
            known_hosts=connect.known_hosts,
            config_file=connect.config_file,
            proxy_jump=connect.proxy_jump,
            connect_timeout=connect.connect_timeout,
            keepalive=connect.keepalive,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SSHOptions(JobOptions):
    """Options of clusters on hosts that are reached by SSH. ``cores``, ``memory``, ``processes`` and the like are those of
    one job on one host, as far as the host itself does not say otherwise.

    A job without ``cores`` has all cores of its host, one without ``memory`` all of its memory; ``memory=0`` means no limit.
    There is one worker in a job unless ``processes`` says more.
    """

    hosts: Annotated[
        tuple[str | HostOptions, ...] | None,
        Meta(
            description="'host', 'user@host:port', or mappings {host, user, port, jobs, cores, processes, memory, ...}"
        ),
    ] = None
    runner: Annotated[str, Meta(description="What connects: 'asyncssh' or 'paramiko'"), LINE] = "asyncssh"
    connect_options: Annotated[ConnectOptions, Meta(description="How to connect: keys, known hosts, jump hosts")] = (
        field(default_factory=ConnectOptions)
    )
    tunnel: Annotated[
        bool,
        Meta(description="Workers reach the head through the SSH connection, for hosts from which no way leads to it"),
    ] = False
    shebang: Annotated[str, Meta(description="What runs the job script on the host"), SHEBANG] = "#!/bin/sh"

    def __post_init__(self) -> None:
        JobOptions.__post_init__(self)
        self.interpreter()
        seen: set[str] = set()
        for entry in self.hosts or ():
            host = _parse(entry)
            self.on(host)  # its values are checked as the cluster's own are
            if host.name in seen:
                raise _bad(host.name, f"listed twice; for two jobs there, write {{host: {host.host}, jobs: 2}}")
            seen.add(host.name)

    def required_options(self) -> tuple[str, ...]:
        return ("hosts",)

    def resources(self) -> JobResources:
        if not self.hosts:
            raise ConfigError(
                'missing: hosts (give hosts=["host1", "user@host2:port", ...])',
                code="HPC-CONFIG-MISSING",
                details={"options": "hosts"},
            )
        processes = self.processes or 1
        memory = None if self.memory is None else parse_bytes(self.memory) or None
        cores = self.cores or processes
        return make_resources(cores, memory, processes, self.gpus, whole_host=self.cores is None)

    def interpreter(self) -> tuple[str, ...]:
        """The words that run the job script on a host."""
        try:
            return tuple(shlex.split(self.shebang.removeprefix("#!")))
        except ValueError as error:
            raise bad_value("shebang", self.shebang, str(error)) from None

    def first_jobs(self) -> int:
        return sum(host.jobs for host in self.host_options())

    def host_options(self) -> tuple[HostOptions, ...]:
        """All hosts as mappings, in order."""
        return tuple(_parse(entry) for entry in self.hosts or ())

    def on(self, host: HostOptions) -> SSHOptions:
        """The options of a job on this host. Raises `ConfigError` that names the host."""
        names = ("cores", "processes", "memory", "python", "interface", "local_directory", "tunnel")
        said = {name: getattr(host, name) for name in names if getattr(host, name) is not None}
        try:
            options = replace(self, hosts=None, env={**self.env, **host.env}, **said)
            if options.cores is not None:
                make_resources(options.cores, None, options.processes or 1)
        except (ConfigError, ValueError) as error:
            raise _bad(host.name, str(error)) from None
        return options


def worker_arguments_on(options: SSHOptions, host: HostOptions) -> tuple[str, ...]:
    """What a job on this host adds to the command that all jobs have: of an argument said twice the last one counts."""
    here = options.on(host)
    processes = here.processes or 1
    arguments = ["--nworkers", str(processes)]
    if here.cores is None:
        arguments += ["--nthreads", "auto"]
    else:
        arguments += ["--nthreads", str(here.cores // processes)]
    if here.memory is None:
        arguments += ["--memory-limit", "auto"]
    else:
        arguments += ["--memory-limit", str(parse_bytes(here.memory))]
    if host.jobs > 1 and (here.cores is None or here.memory is None):
        arguments += ["--share", str(host.jobs)]
    if host.interface is not None:
        arguments += ["--interface", host.interface]
    elif here.tunnel and here.interface is None:
        arguments += ["--host", "auto"]  # by itself it would be the one on the way to the head, which is loopback now
    if host.local_directory is not None:
        arguments += ["--local-directory", host.local_directory]
    return tuple(arguments)


def python_of(options: JobOptions) -> tuple[str, ...]:
    """The words that start the interpreter."""
    return (sys.executable,) if options.python is None else tuple(shlex.split(options.python))


def _parse(entry: str | HostOptions) -> HostOptions:
    """A host in either form, checked. Raises `ConfigError`."""
    if isinstance(entry, HostOptions):
        host = entry
    else:
        form = _FORM.fullmatch(entry)
        if form is None or not 0 < int(form["port"] or 22) < 65536:
            raise _bad(entry, "expected host, user@host, host:port, or a mapping {host: ..., ...}")
        name, port = form["six"] or form["host"], form["port"]
        host = HostOptions(host=name, user=form["user"], port=int(port) if port else None)
    if _HOST.fullmatch(host.host) is None:
        raise _bad(host.host, "not the name or address of a host")
    if host.user is not None and _USER.fullmatch(host.user) is None:
        raise _bad(host.host, f"not the name of a user: {host.user!r}")
    return host


def _bad(host: str, why: str) -> ConfigError:
    return ConfigError(f"hosts: {host!r}: {why}", code="HPC-CONFIG-VALUE", details={"option": "hosts", "value": host})
