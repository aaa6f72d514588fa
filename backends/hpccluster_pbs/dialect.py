"""How PBS is spoken to: command lines, and what they print. Pure; tested with recorded outputs.

A dialect never changes. What is learnt about the commands of a site (is it Torque, does the server keep a history, which
forms does qstat know) is told by `PBSDialect.read` as a better dialect, which whoever asks uses from then on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from hpccluster.backend.dialect import CommandResult, Dialect
from hpccluster.backend.options import Safe
from hpccluster.backend.template import TemplateContext
from hpccluster.errors import BackendError, PollFailed
from hpccluster.ids import JobId, JobName
from hpccluster.job import JobSpec, JobState, JobStatus
from hpccluster.units import format_clock
from hpccluster_pbs import refusals, words
from hpccluster_pbs.options import Flavour, PBSOptions, no_placement
from hpccluster_pbs.reports import DELIMITER, Form, Report, number_of, parse_denials, parse_reports

# a number alone is what Torque's commands on top of Slurm print; the server's name holds a letter, or "1.5" would be an id
_ID = re.compile(r"[1-9][0-9]*(?:\[[0-9]*\])?(?:\.(?=[0-9.-]*[A-Za-z])[A-Za-z0-9][A-Za-z0-9_.-]*)?")
_JOB_NAME = Safe(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,229}", "at most 230 letters, digits and _ . -")
# -o takes what precedes a colon for a host
_PATH = Safe(
    r"[\w.@+=/~%{}() -]+", "a path of letters, digits, blanks and _ . @ + = / ~ % { } ( ) - (no comma, no colon)"
)
_SHELL = re.compile(r"/[A-Za-z0-9_./+-]+")

DELIVERED = ".pbs"
"""Ending of what PBS delivers when a job has ended, where the job itself writes its log."""
LIVE = ".live"
"""Ending of what a job writes while it runs, where PBS was to write its log and delivers it only at the end."""

_NEXT: Mapping[Form, Form] = {"dsv": "json", "json": "text"}
"""The form to ask for when one is not to be had."""

_DATA_CODES = (0, 35, 153)
"""Of qstat: all told; 35 and 153 where some job was finished or unknown, and the others are told all the same."""

EXPRESS_ABOVE = 20
"""Jobs above which one request is made for all of them (``-E``). Otherwise qstat makes a connection, and a login, for each:
with some hundred jobs that takes seconds, and the host runs out of the ports that logins need. But of an express request PBS
does not say which jobs are unknown."""

UNREADABLE = "HPC-POLL-UNREADABLE"

_GONE = re.compile(
    r"Unknown Job Id|Job has finished|finished array subjob|invalid state for job - COMPLETE|nonexistent job",
    re.IGNORECASE,
)
_UNREACHED_NODE = re.compile(r"could not connect to MOM|Server could not connect", re.IGNORECASE)
_ILL_FORMED = re.compile(r"illegally formed job identifier", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PBSContext(TemplateContext):
    """What the template for PBS may use besides; an unset value is empty."""

    queue: str
    account: str
    project: str
    resources: str
    """What one job asks for: ``select=1:ncpus=8:mem=32gb``, in Torque ``nodes=1:ppn=8``."""
    total_memory: str
    """Torque's ``mem``; empty where it is in ``resources``."""
    place: str
    walltime: str
    """``HH:MM:SS``"""
    keep_files: str
    """``oed``: PBS writes the output straight to its place."""
    output_path: str
    """Where PBS puts the output; not ``log_path`` where it delivers it only when the job has ended."""
    live_path: str
    """Where the job writes what PBS was to write straight to ``log_path``, and keeps to itself instead."""
    requeue: str
    """``y`` or ``n``"""
    umask: str
    shell: str
    """The program that Torque runs the script with; OpenPBS heeds the first line."""
    mark: str
    """Tells the cluster's jobs from those of another cluster of the same name."""
    extra_directives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one qstat has told."""

    statuses: Mapping[JobId, JobStatus]
    """Of every id that was asked for; UNKNOWN where nothing was said."""
    owners: Mapping[JobId, str]
    better: PBSDialect | None = None
    """What to ask again with: this answer is of no use then."""
    untold: frozenset[JobId] = frozenset()
    """Jobs that an express request was silent about: they have to be asked for one by one."""


@dataclass(frozen=True, slots=True)
class PBSDialect(Dialect[PBSOptions]):
    """PBS by qsub, qstat, qselect and qdel."""

    system = "PBS"
    template = "pbs.sh"

    flavour: Flavour = "openpbs"
    form: Form = "dsv"
    history: bool = True
    """Whether to ask for finished jobs, too. A server without a history tells nothing at all then."""
    express: bool = True
    """Whether many jobs are asked for in one request."""
    directory: str = ""
    """Where the commands are, where that is not on ``PATH``; ends with a slash."""

    @classmethod
    def of(cls, flavour: Flavour) -> PBSDialect:
        """What to begin with."""
        return cls(flavour) if flavour == "openpbs" else cls(flavour, "text", history=False, express=False)

    def command(self, name: str, *arguments: str) -> tuple[str, ...]:
        """The command line of one of PBS's commands."""
        return (f"{self.directory}{name}", *arguments)

    def one_by_one(self) -> PBSDialect:
        """The same without express requests."""
        return replace(self, express=False)

    # ---------------------------------------------------------------------------------------------------------- script

    def context(self, spec: JobSpec, options: PBSOptions) -> PBSContext:
        left_out = options.left_out()
        is_torque = self.flavour == "torque"

        def text(name: str, value: str | None) -> str:
            return "" if value is None or name in left_out else value

        if is_torque and options.place is not None:
            raise no_placement(options.place)
        log_path = _PATH.check("log_directory", spec.log_path or "/dev/null")
        keep_files = "" if is_torque else text("keep_files", "oed")
        is_live = bool(keep_files) or log_path == "/dev/null"
        resources, total_memory = resources_of(spec, options, self.flavour)
        return PBSContext.of(
            spec,
            options,
            name=_JOB_NAME.check("name", spec.name),
            log_path=log_path,
            queue=text("queue", options.queue),
            account=text("account", options.account),
            project=text("project", options.project),
            resources=text("resources", resources),
            total_memory=text("total_memory", total_memory),
            place=text("place", options.place),
            walltime=text("walltime", None if spec.walltime is None else format_clock(spec.walltime)),
            keep_files=keep_files,
            output_path=log_path if is_live else f"{log_path}{DELIVERED}",
            live_path=f"{log_path}{LIVE}" if keep_files and log_path != "/dev/null" else "",
            requeue=text("requeue", {True: "y", False: "n", None: None}[options.requeue]),
            umask=text("umask", options.umask),
            shell=text("shell", shell_of(options.shebang)) if is_torque else "",
            mark=text("mark", re.sub(r"[^A-Za-z0-9_.-]", "_", spec.comment)),
            extra_directives=options.job_extra_directives,
        )

    def check_id(self, job: JobId) -> None:
        if _ID.fullmatch(job) is None:
            raise ValueError(f"not the id of a PBS job: {job!r}")

    # ---------------------------------------------------------------------------------------------------------- submit

    def submit_command(self, spec: JobSpec, options: PBSOptions) -> Sequence[str]:
        # Without -f, OpenPBS hands the submission to a background process: a qsub that was given up would still submit.
        # (Torque's -f means something else.)
        return self.command("qsub", *(("-f",) if self.flavour == "openpbs" else ()))

    def submit_environment(self, context: TemplateContext) -> Mapping[str, str | None]:
        return {"PBS_DPREFIX": None}  # what directives begin with

    def parse_submit(self, result: CommandResult) -> JobId:
        # a site's wrapper may print lines of its own before
        for line in reversed(result.stdout.splitlines()):
            if _ID.fullmatch(line.strip()):
                return JobId(line.strip())
        raise ValueError(f"no job id in {result.stdout!r}")

    def submit_error(self, result: CommandResult, script: str, options: PBSOptions) -> BackendError:
        return refusals.classify(result, script, options, self.flavour)

    # ------------------------------------------------------------------------------------------------------------ poll

    def query_environment(self) -> Mapping[str, str | None]:
        # qstat prints times in the zone of its caller, without saying which
        return {"TZ": "UTC"}

    def poll_command(self, ids: Collection[JobId]) -> Sequence[str]:
        history = ("-x",) if self.history else ()
        # the text form is not asked to be wide (-w): old versions do not know that, and wrapped lines can be joined
        form = {"dsv": ("-F", "dsv", "-D", DELIMITER), "json": ("-F", "json"), "text": ()}[self.form]
        express = ("-E",) if self.express and len(ids) > EXPRESS_ABOVE else ()
        return self.command("qstat", *history, *express, "-f", *form, *sorted(ids))

    def parse_poll(self, result: CommandResult) -> list[JobStatus]:
        return [_status(report) for report in self._reports(result)]

    def read(self, result: CommandResult, ids: Collection[JobId]) -> Answer:
        """What qstat told of these jobs. Raises `PollFailed`.

        A job is ABSENT only where that was said; of one that is not mentioned nothing is known.
        """
        denials = parse_denials(result.stderr)
        if better := self._better(result):
            return Answer({}, {}, better)
        try:
            told = {number_of(report.id): report for report in self._reports(result)}
        except PollFailed as error:
            if "-E" in result.argv and not refusals.UNREACHABLE.search(result.stderr):
                return Answer({}, {}, self.one_by_one())
            if self.form == "text" or error.code != UNREADABLE:
                raise
            return Answer({}, {}, replace(self, form=_NEXT[self.form]))
        denied = {number_of(job) for job in denials.unknown}
        # Torque's commands on top of Slurm leave unknown jobs out, and say so by the exit code at most
        is_silent_denial = self.flavour == "torque" and not denied
        is_express = "-E" in result.argv
        statuses, owners, untold = {}, {}, set()
        for job in ids:
            report = told.get(number_of(job))
            if report is not None:
                statuses[job] = words.status_of(job, report.attributes)
                owners[job] = report.attributes.get("Job_Owner", "").partition("@")[0]
            elif is_express:
                untold.add(job)
                statuses[job] = JobStatus(id=job, state=JobState.UNKNOWN, reason="qstat said nothing about it")
            elif number_of(job) in denied or is_silent_denial:
                statuses[job] = JobStatus(id=job, state=JobState.ABSENT)
            elif self.form == "json" and len(ids) > 1:
                return Answer({}, {}, replace(self, form="text"))  # of several jobs it prints the first
            else:
                statuses[job] = JobStatus(id=job, state=JobState.UNKNOWN, reason="qstat said nothing about it")
        return Answer(statuses, owners, untold=frozenset(untold))

    def _better(self, result: CommandResult) -> PBSDialect | None:
        """The dialect that this answer asks for."""
        denials = parse_denials(result.stderr)
        if denials.no_history and self.history:
            return replace(self, history=False)
        if denials.finished and not self.history and self.flavour == "openpbs":
            return replace(self, history=True)  # it was switched on meanwhile
        if denials.no_form and result.returncode != 0 and "-E" in result.argv:
            return self.one_by_one()
        if denials.no_form and result.returncode != 0 and self.form != "text":
            return replace(self, form=_NEXT[self.form])
        return None

    def _reports(self, result: CommandResult) -> list[Report]:
        denials = parse_denials(result.stderr)
        rest = "\n".join(line for line in denials.rest.splitlines() if not _ILL_FORMED.search(line))
        failed = result.returncode not in _DATA_CODES and (rest or not denials.rest)
        if failed or refusals.UNREACHABLE.search(rest):
            said = rest or result.stdout.strip() or f"exit code {result.returncode}"
            raise PollFailed(f"{result.argv[0]} failed: {said}", code="HPC-POLL-FAILED", details={"said": said})
        try:
            return parse_reports(result.stdout, self.form)
        except ValueError as error:
            raise PollFailed(
                f"{result.argv[0]} printed what cannot be read: {error}",
                code=UNREADABLE,
                details={"said": str(error)},
            ) from error

    # ------------------------------------------------------------------------------------------------------------ find

    def find_command(self, names: Collection[JobName]) -> Sequence[str]:
        """Everybody's live jobs with their names; only for where there is no qselect."""
        return replace(self, history=False).poll_command(())

    def select_command(self, user: str) -> Sequence[str]:
        """The ids of a user's jobs that wait or run. Names would have to be given one by one, and are cut in lists."""
        states = ("-s", "EHQRTW") if self.flavour == "torque" else ()
        return self.command("qselect", "-u", user, *states)

    def parse_select(self, result: CommandResult) -> list[JobId]:
        """What qselect printed. Raises `PollFailed`."""
        if result.returncode != 0:
            said = result.stderr.strip() or f"exit code {result.returncode}"
            raise PollFailed(f"qselect failed: {said}", code="HPC-POLL-FAILED", details={"said": said})
        return [JobId(line.strip()) for line in result.stdout.splitlines() if _ID.fullmatch(line.strip())]

    # ---------------------------------------------------------------------------------------------------------- cancel

    def cancel_command(self, ids: Collection[JobId], *, force: bool = False) -> Sequence[str]:
        """``force``: do not wait for the node. Torque has that for its managers only, and is just asked again."""
        forced = ("-W", "force") if force and self.flavour == "openpbs" else ()
        return self.command("qdel", *forced, *sorted(ids))

    def cancel_problem(self, result: CommandResult) -> str:
        if result.returncode == 0:
            return ""
        lines = (result.stderr or result.stdout).splitlines()
        problems = [line.strip() for line in lines if line.strip() and not _GONE.search(line)]
        return "\n".join(problems)

    def is_unanswered(self, result: CommandResult) -> bool:
        """Whether the server was not reached: then nothing was asked for."""
        return result.returncode != 0 and bool(refusals.UNREACHABLE.search(_UNREACHED_NODE.sub("", result.stderr)))

    def is_unreached(self, result: CommandResult, job: JobId) -> bool:
        """Whether the server could not tell the job's node."""
        lines = [line for line in result.stderr.splitlines() if _UNREACHED_NODE.search(line)]
        return any(number_of(word) == number_of(job) for line in lines for word in line.split())

    def explain(self, status: JobStatus) -> str:
        return words.explain(status)


def flavour_of(result: CommandResult) -> Flavour | None:
    """What the command is, from what it says when asked for its version; None where that is neither."""
    said = f"{result.stdout}\n{result.stderr}"
    if re.search(r"^\s*pbs_version\s*=", said, re.MULTILINE):
        return "openpbs"
    if re.search(r"^\s*version:\s*\S", said, re.MULTILINE | re.IGNORECASE):
        return "torque"
    return None


def resources_of(spec: JobSpec, options: PBSOptions, flavour: Flavour) -> tuple[str, str | None]:
    """What a job asks for, and Torque's memory beside it."""
    if options.resource_spec is not None:
        return options.resource_spec, None
    memory = options.requested_memory()
    size = memory_text(memory) if memory else None  # 0 is all of a node's: PBS cannot say that, but place=excl
    cpus, gpus = options.requested_cpus(), spec.resources.gpus
    if flavour == "torque":
        return f"nodes=1:ppn={cpus}" + (f":gpus={gpus}" if gpus else ""), size
    return f"select=1:ncpus={cpus}" + (f":mem={size}" if size else "") + (f":ngpus={gpus}" if gpus else ""), None


def memory_text(size: int) -> str:
    """Bytes in PBS's units, exactly or rounded up to whole kb (which are of 1024 bytes)."""
    amount, units = -(-size // 1024), ["kb", "mb", "gb", "tb"]
    while amount % 1024 == 0 and len(units) > 1:
        amount //= 1024
        units.pop(0)
    return f"{amount}{units[0]}"


def shell_of(shebang: str) -> str | None:
    """The shell of a script's first line: ``#!/usr/bin/env bash`` -> ``/bin/bash``; None for what is no plain path."""
    first, *rest = [*shebang.removeprefix("#!").split(), ""][:2]
    path = f"/bin/{rest[0]}" if first.endswith("/env") and rest and rest[0] else first
    return path if _SHELL.fullmatch(path) else None


def _status(report: Report) -> JobStatus:
    return words.status_of(JobId(report.id), report.attributes)
