"""The SSH backend: a job is one session on one host, which runs the rendered ``ssh.sh``.

The session's standard input first carries the script and the credential, then a byte every few seconds for as long as we
live and want the job: it is the job's life line. When it ends, or falls silent, the job ends itself (see the template); so
nothing outlives its owner, whether that was killed or the network between was cut. The output of a job comes back over
its connection into a file here. Ids are words of ours (``ssh-3``).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from hpccluster.backend.base import CredentialWay
from hpccluster.backend.own_jobs import OwnJob, OwnJobsBackend
from hpccluster.backend.registry import get_runner
from hpccluster.backend.remote import RunnerFactory
from hpccluster.backend.runner import Runner, RunningCommand
from hpccluster.backend.template import TemplateContext, load_template, render_template
from hpccluster.errors import BackendError, BackendUnavailable, CommandFailed, SubmitRefused
from hpccluster.ids import JobId, JobName
from hpccluster.job import JobSpec, JobState, JobStatus
from hpccluster_ssh import refusals
from hpccluster_ssh.options import HostOptions, SSHOptions, python_of, worker_arguments_on
from hpccluster_ssh.placing import SETTLED, Place, Places

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "ssh.sh"
GRACE = 6.0
"""Seconds that the template gives to workers that are told to leave, before the end by force."""
CANCEL_TIME = GRACE + 3.0
"""Seconds that `cancel` waits for the end of jobs."""
EXIT_NO_HEAD = 75
"""Of workers that did not reach the head."""
_BEGINNING = 4096
"""Bytes of a job's output to keep: enough for why it could not begin."""
SILENCE = 5
"""Signs of life that may be missing before a job ends by itself."""

_NO_PLACE = "hpccluster: no place for the files of the job"
_EXIT_NO_PLACE = 73
_ACCEPT = (
    f"u=$(umask); umask 077; n='{_NO_PLACE}'; "
    'd=$(mktemp -d "${TMPDIR:-/tmp}/hpccluster-XXXXXXXXXX") || { echo "$n"; exit 73; }; '
    "t=; if command -v timeout >/dev/null; then t='timeout 60'; fi; "
    'e=$($t dd bs=1 count="$1" of="$d/job.sh" 2>&1; $t dd bs=1 count="$2" of="$d/worker.json" 2>&1); '
    'if [ "$(wc -c <"$d/job.sh")" -ne "$1" ] || [ "$(wc -c <"$d/worker.json")" -ne "$2" ]; '
    'then rm -rf "$d"; echo "$e"; echo "$n"; exit 73; fi; '
    'umask "$u"; shift 2; kill -s 0 -- "-$$" 2>/dev/null || set -- setsid "$@"; exec "$@" "$d/job.sh" "$d"'
)
"""Takes script and credential, of so many bytes, from standard input into a private directory, and becomes the script, as
the leader of a process group. One line, which any login shell passes on unchanged."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SSHContext(TemplateContext):
    """The names that ``ssh.sh`` may use."""

    silence: int
    """Seconds without a sign of life after which the job ends by itself."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Job(OwnJob):
    place: Place
    log: int
    """Descriptor of the file for its output."""
    begun: float
    life: asyncio.Task[None] = field(init=False)
    command: RunningCommand | None = None
    """Once its session has begun."""
    said: bytearray = field(default_factory=bytearray)
    """The beginning of its output."""
    code: int | None = None
    error: BackendError | None = None
    """Why it could not be started, or that the connection was lost."""


class SSHBackend(OwnJobsBackend[_Job]):
    """Jobs are sessions on hosts. ``make_runner``: the one that the options name, if it is not given."""

    credential_way: CredentialWay = "stdin"
    places_jobs = True

    def __init__(self, options: SSHOptions, make_runner: RunnerFactory | None = None) -> None:
        super().__init__("ssh", cancel_time=CANCEL_TIME)
        self.options = options
        self.places = Places(options.host_options())
        self._make_runner = make_runner
        self._runners: dict[int, Runner] = {}

    @property
    def towards(self) -> tuple[str, ...]:
        hosts = []
        for place in self.places.all:
            with contextlib.suppress(BackendUnavailable):  # its jobs will say what is wrong
                hosts.append(self._runner(place).first_host())
        return tuple(filter(None, hosts))

    def _runner(self, place: Place) -> Runner:
        """The one that keeps the connection to this host. Raises `BackendUnavailable` where there is no such runner."""
        if place.index not in self._runners:
            make_runner = self._make_runner = self._make_runner or get_runner(self.options.runner)
            self._runners[place.index] = make_runner(place.host.target(self.options.connect_options))
        return self._runners[place.index]

    @functools.cached_property
    def _template(self) -> Template:
        return load_template(TEMPLATE, self.options.template)

    def render(self, spec: JobSpec) -> str:
        hosts = self.options.host_options()
        return self._render(spec, hosts[0])

    def _render(self, spec: JobSpec, host: HostOptions) -> str:
        spec = self._on(spec, host)
        context = SSHContext.of(spec, self.options, silence=self._silence)
        return render_template(self._template, context, source=self.options.template or TEMPLATE)

    def _on(self, spec: JobSpec, host: HostOptions) -> JobSpec:
        """The job as it is on this host: its interpreter, its share of the host, its variables."""
        shared = python_of(self.options)
        command = spec.command
        if command[: len(shared)] == shared:
            rest = command[len(shared) :]
            command = (*python_of(self.options.on(host)), *rest, *worker_arguments_on(self.options, host))
        more = tuple((name, str(value)) for name, value in host.env.items())
        return replace(spec, command=command, environment=(*spec.environment, *more))

    # -------------------------------------------------------------------------------------------------------------- jobs

    async def submit(self, spec: JobSpec, credential: bytes | None = None) -> JobId:
        loop = asyncio.get_running_loop()
        place = self.places.take(loop.time())
        try:
            script = self._render(spec, place.host).encode()
            self._runner(place)
            log = _open_log(spec.log_path)
        except BaseException:
            self.places.leave(place)
            raise
        job = _Job(id=self._next_id(), name=spec.name, place=place, log=log, begun=loop.time())
        job.life = loop.create_task(self._live(job, script, credential or b""), name=job.id)
        job.life.add_done_callback(functools.partial(self._over, job))
        self._keep(job, spec.walltime)
        return job.id

    async def route(self, job: JobName, host: str, port: int) -> tuple[str, int]:
        for known in self._jobs.values():
            if known.name == job and self.options.on(known.place.host).tunnel:
                return "127.0.0.1", await self._runner(known.place).reach(host, port)
        return host, port

    async def _live(self, job: _Job, script: bytes, credential: bytes) -> None:
        """From the connection to the end of the session."""
        runner = self._runner(job.place)
        try:
            if credential and self.options.on(job.place.host).tunnel:
                credential = await _through(runner, credential)
            sizes = (str(len(script)), str(len(credential)))
            argv = ("/bin/sh", "-c", _ACCEPT, "hpccluster", *sizes, *self.options.interpreter())
            command = job.command = await runner.start(argv, output=functools.partial(_write, job))
            line = asyncio.create_task(self._speak(command, script + credential))
            try:
                job.code = await command.wait()
            finally:
                line.cancel()
                command.close()
                await asyncio.wait([line])
            if job.code == _EXIT_NO_PLACE and _NO_PLACE in (said := job.said.decode(errors="replace")):
                job.error = refusals.no_place(job.place.name, said.replace(_NO_PLACE, ""))
        except BackendError as error:
            job.error = error if job.command is None else self._lost(job, error)
            _write(job, f"hpccluster: {error}\n".encode())

    def _lost(self, job: _Job, error: BackendError) -> BackendError:
        """What the loss of a command means for a job."""
        said = error.details.get("said")
        return CommandFailed(
            f"{job.place.name}: connection lost{f' ({said})' if said else ''}; "
            f"what runs there ends within {self._silence + GRACE:.0f} s",
            code=error.code,
            details=error.details,
        )

    @property
    def _silence(self) -> int:
        """Seconds without a sign of life after which a job ends by itself."""
        return math.ceil(SILENCE * self.options.connect_options.keepalive)

    async def _speak(self, command: RunningCommand, first: bytes) -> None:
        """The life line."""
        with contextlib.suppress(BackendError):  # whoever waits for the command is told, too
            await command.write(first)
            while True:
                await asyncio.sleep(self.options.connect_options.keepalive)
                await command.write(b".")

    def _over(self, job: _Job, life: asyncio.Task[None]) -> None:
        if not life.cancelled() and (bug := life.exception()) is not None:
            _log.error("job %s", job.id, exc_info=bug)
            job.error = BackendError(f"it could not be watched: {bug!r}")
        os.close(job.log)
        now = asyncio.get_running_loop().time()
        lived = 0.0 if job.command is None else now - job.begun
        if job.why is None and (job.code != 0 or lived < SETTLED):
            job.place.failed(_problem(job), now=now, lived=lived)
        elif lived >= SETTLED:
            job.place.was_of_use()
        self.places.leave(job.place)
        job.over()

    def _stop(self, job: _Job) -> None:
        if job.command is None:
            job.life.cancel()
        else:
            job.command.close()

    # -------------------------------------------------------------------------------------------------------- questions

    def _status(self, job: _Job) -> JobStatus:
        status = JobStatus(
            id=job.id,
            state=JobState.RUNNING,
            name=job.name,
            raw_state="running",
            node=job.place.name,
            workers=job.place.host.processes or self.options.processes or 1,
            python=python_of(self.options.on(job.place.host))[0],
        )
        if not job.ended.is_set():
            if job.command is None:
                return replace(status, state=JobState.PENDING, raw_state="connecting", reason="connecting")
            return status
        if job.why is None and job.error is not None:
            problem = str(job.error)
            return replace(
                status,
                state=JobState.NODE_FAIL,
                raw_state="host failed",
                reason=problem.partition("\n")[0],
                code=job.error.code,
                problem=problem,
            )
        return job.verdict(status, job.code)

    def explain(self, status: JobStatus) -> str:
        if status.exit_code == EXIT_NO_HEAD:
            return (
                "no way leads from this host to the head: tunnel=True takes both directions through the SSH connection"
            )
        return ""

    def forgive(self) -> None:
        self.places.forgive()

    async def close(self) -> None:
        # A connection is what keeps its jobs alive: those of hosts that have jobs stay.
        for place in self.places.all:
            if not place.jobs and (runner := self._runners.pop(place.index, None)) is not None:
                await runner.close()


async def _through(runner: Runner, credential: bytes) -> bytes:
    """The credential with addresses that lead through the connection. Raises `BackendUnavailable`."""
    told = msgspec.json.decode(credential)
    for key in ("addresses", "engine_addresses"):
        through = []
        for address in map(urlsplit, told.get(key, ())):
            assert address.hostname
            assert address.port
            through.append(f"{address.scheme}://127.0.0.1:{await runner.forward(address.hostname, address.port)}")
        # the first ones are tried first; by the others the head is known to its other workers
        told[key] = [*through, *told.get(key, ())]
    return msgspec.json.encode(told)


def _open_log(path: str) -> int:
    """Raises `SubmitRefused`."""
    try:
        if not path:
            return os.open(os.devnull, os.O_WRONLY)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SubmitRefused(
            f"the output of the job cannot be written here: {path}: {error.strerror or error}\n  fix: set log_directory=",
            code="HPC-SUBMIT-LOG",
            details={"said": str(error), "path": path},
        ) from error


def _write(job: _Job, data: bytes) -> None:
    """Output that cannot be written (a full disk) is lost: no reason to end the job."""
    job.said += data[: _BEGINNING - len(job.said)]
    if not job.ended.is_set():  # else its file is closed
        with contextlib.suppress(OSError):
            os.write(job.log, data)


def _problem(job: _Job) -> str:
    if job.error is not None:
        return str(job.error)
    how = f"by signal {-job.code}" if job.code is not None and job.code < 0 else f"with exit code {job.code}"
    return f"{job.place.name}: its last job, {job.id}, ended {how}; its log says why"
