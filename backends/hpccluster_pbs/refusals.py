"""What qsub's complaints mean. Texts were seen on OpenPBS 23.06.06; those of Torque are noted.

The first question is not what is wrong but whether there is a job. Where the server was not reached, or its answer was lost,
there may be one. Any other error is the server's answer or qsub's own check of its arguments: then there is none, whatever the
words are (a site's hooks use words of their own). The exit code is the number of PBS's error modulo 256.
"""

from __future__ import annotations

import re

from hpccluster.backend.dialect import CommandResult
from hpccluster.backend.refusal import Refusal
from hpccluster.errors import BackendError, BackendUnavailable, CommandFailed
from hpccluster_pbs.options import DIRECTIVES, PBSOptions, options_of

UNREACHABLE = re.compile(
    r"cannot connect|couldn't connect|could not connect|connection (?:refused|reset|timed out)|no route to host|"
    r"unknown host|timed? ?out|communication failure|end of file|premature end|protocol|background qsub|broken pipe|"
    r"server (?:is )?(?:shutting down|too busy|currently too busy)|pbs_iff|munge|authenticat|errno=|try again|"
    r"temporarily unavailable|system error|internal (?:server )?error|no permission to connect",
    re.IGNORECASE,
)
"""The server was not reached, did not answer, or did not finish."""

NOT_SET_UP = re.compile(r"pbsconf error|pbs conf variables not found", re.IGNORECASE)
"""There is no configuration of PBS: nothing was sent."""

_LIMIT_CODES = (38, 39)
"""Of qsub: a limit on jobs or resources in the queue; "not now", that is."""

_HOOK_CODE = 32
"""Of qsub: a hook of the site has refused the job, in whatever words it likes (PBSE_HOOKERROR of pbs_error.h)."""

CAUSES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        r"unknown queue|queue is not enabled|no default queue|access to queue is denied|cannot locate queue",
        "QUEUE",
        ("queue",),
    ),
    (
        r"would exceed|maximum number of jobs|already in (?:complex|queue)|exceeds the (?:queue|server) limit",
        "LIMIT",
        (),
    ),
    (r"illegal -N|job name is too long", "NAME", ("name",)),
    (r"script contains cr|script is empty", "SCRIPT", ()),
    (r"invalid option|illegal -|directive error", "OPTION", ()),
    (r"bad uid|bad gid|bad user", "USER", ()),
    (r"resource_list\.walltime|max walltime|walltime", "TIME", ("walltime",)),
    (r"violates queue and/or server|exceeds? queue resource|cannot satisfy queue|array job exceeds", "LIMITS", ()),
    (r"account", "ACCOUNT", ("account",)),
    (r"project", "PROJECT", ("project",)),
    (
        r"unknown resource|illegal attribute or resource value|cannot be used with|cannot have \"place\"|resource",
        "RESOURCE",
        ("resources", "place"),
    ),
    (
        r"usage:|error \(15002\)|cannot send environment|undefined attribute",
        "OPTION",
        (),
    ),
    (r"unauthorized|not authorized|permission|acl", "PERMISSION", ("queue",)),
)
"""A pattern, the cause in the error's code, and the names of the template's context that may be to blame."""

HINTS = {
    "QUEUE": "see the queues with: qstat -Q",
    "LIMIT": "you have as many jobs, or as much of a resource, in the queue as is allowed: some must end first",
    "LIMITS": "walltime, cores or memory are outside of what the queue takes: see resources_max and resources_min in "
    "qstat -Q -f, or choose another queue=",
    "TIME": "see the limits of queues (resources_max.walltime) with: qstat -Q -f",
    "RESOURCE": "this PBS does not know such a resource, or not such a value of it; say in its words what a job is to ask "
    "for: resource_spec=",
    "USER": "PBS takes no jobs of this user (of root, never)",
    "NAME": "this PBS wants shorter or simpler names: give the cluster one, name=",
    "PERMISSION": "you may not use this queue, or not from this host; choose another queue=",
    "OPTION": "check job_extra_directives; a directive that your PBS does not know (old ones: -k) goes into "
    "job_directives_skip",
}


def classify(result: CommandResult, script: str, options: PBSOptions) -> BackendError:
    """What a failed qsub means: `SubmitRefused` where there certainly is no job, else `CommandFailed`."""
    complaint = result.stderr or result.stdout
    said = clean(complaint) or complaint.strip()[:300]
    summary = said or f"exit code {result.returncode}"
    if NOT_SET_UP.search(said):
        return BackendUnavailable(f"PBS is not set up on this host: {summary}", code="HPC-BACKEND-COMMAND")
    if UNREACHABLE.search(said) and result.returncode != _HOOK_CODE:
        return CommandFailed(
            f"qsub did not get an answer from PBS: {summary}; the job may exist all the same",
            code="HPC-SUBMIT-UNREACHABLE",
            details={"said": said},
        )
    if not said or result.returncode < 0 or re.search(r"^[0-9]+(?:\[\])?(?:\.\S+)?$", result.stdout, re.MULTILINE):
        return CommandFailed(
            f"qsub failed: {summary}; it is not known whether there is a job",
            code="HPC-SUBMIT-UNKNOWN",
            details={"said": said},
        )
    if result.returncode in _LIMIT_CODES:
        return _refusal("LIMIT", (), said, script, options).error()
    cause = next((item for item in CAUSES if re.search(item[0], said, re.IGNORECASE)), ("", "REFUSED", ()))
    return _refusal(cause[1], cause[2], said, script, options).error()


def _refusal(cause: str, blamed: tuple[str, ...], said: str, script: str, options: PBSOptions) -> Refusal:
    blamed = _named(said) or blamed
    directive = _directive(script, said, blamed)
    option, value = _option(blamed, said, options)
    if directive.removeprefix("#PBS ") in options.job_extra_directives:
        option, value = "job_extra_directives", directive.removeprefix("#PBS ")
    return Refusal(
        system="PBS",
        command="qsub",
        code=f"HPC-SUBMIT-{cause}",
        said=said,
        option=option if value else "",
        value=value,
        directive=directive,
        hint=HINTS.get(cause, ""),
    )


def _named(said: str) -> tuple[str, ...]:
    """The name of the context whose directive the message names."""
    if match := re.search(r"illegal (-[A-Za-z]) value|directive error: (-[A-Za-z])", said):
        letter = match[1] or match[2]
        return tuple(name for name, spellings in DIRECTIVES.items() if letter in spellings)
    return ()


def _option(blamed: tuple[str, ...], said: str, options: PBSOptions) -> tuple[str, str]:
    """The option that is to blame, and its value."""
    if "resources" in blamed:
        if options.resource_spec is not None:
            return "resource_spec", options.resource_spec
        for word, name in (("gpus", "gpus"), ("mem", "memory"), ("cpus", "cores"), ("place", "place")):
            found = getattr(options, name)
            if word in said.lower() and found:
                return name, str(found)
        return "", ""
    for name in blamed:
        if (found := getattr(options, name, None)) is not None:
            return name, str(found)
    return "", ""


def _directive(script: str, said: str, blamed: tuple[str, ...]) -> str:
    """The line of the script that is to blame: one whose text is in the message, or what usually is."""
    lines = [line for line in script.splitlines() if line.startswith("#PBS ")]
    quoted = [line for line in lines if f"directive error: {line.removeprefix('#PBS ')}" in said]
    named = re.search(r"(?:illegal|invalid option --) ['\"]?-?([A-Za-z])\b", said)
    spellings = {f"-{named[1]}"} if named else {spelling for name in blamed for spelling in DIRECTIVES[name]}
    fitting = [line for line in lines if spellings.intersection(options_of(line.removeprefix("#PBS ")))]
    return next(iter([*quoted, *fitting]), "")


def clean(text: str) -> str:
    """PBS's words without its prefixes, and without the usage that it prints after some errors."""
    lines = []
    for line in text.splitlines():
        if line.lower().startswith("usage:"):
            break
        own = re.sub(r"^qsub: ", "", line).strip()
        # Torque: "submit error (Unknown queue MSG=cannot locate queue)"
        lines.append(re.sub(r"^submit error \((.*)\)$", r"\1", own))
    return "\n".join(line for line in lines if line)
