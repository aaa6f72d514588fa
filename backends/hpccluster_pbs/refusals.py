"""What qsub's complaints mean. Texts were seen on OpenPBS 23.06.06; those of Torque are noted.

The first question is not what is wrong but whether there is a job. Where the server was not reached, or its answer was lost,
there may be one. Any other error of qsub's is the server's answer or its own check of its arguments: then there is none, whatever the
words are (a site's hooks use words of their own). The exit code is the number of PBS's error modulo 256; Torque's are others.
"""

from __future__ import annotations

import re

from hpccluster.backend.dialect import CommandResult
from hpccluster.backend.refusal import Complaint, Refusal, SubmitCommand
from hpccluster.errors import BackendError, BackendUnavailable
from hpccluster_pbs.options import DIRECTIVES, Flavour, PBSOptions, options_of

UNREACHABLE = re.compile(
    r"cannot connect|couldn't connect|could not connect|connection (?:refused|reset|timed out)|no route to host|"
    r"(?<!or )unknown host|timed? ?out|communication failure|end of file|premature end|protocol|background qsub|broken pipe|"
    r"server (?:is )?(?:shutting down|too busy|currently too busy)|pbs_iff|munge|authenticat|(?:invalid|expired) credential|errno=|try again|"
    r"temporarily unavailable|system error|internal (?:server )?error|no permission to connect",
    re.IGNORECASE,
)
"""The server was not reached, did not answer, or did not finish."""

NOT_SET_UP = re.compile(r"pbsconf error|pbs conf variables not found", re.IGNORECASE)
"""There is no configuration of PBS: nothing was sent."""

_NO_ANSWER_CODES = frozenset(
    number % 256
    for number in (
        15010,  # a system call failed
        15011,  # internal error
        15031,  # the connection broke within the conversation: "Error (15031) submitting job", or no words at all
        15033,  # no free connections
        15034,  # no server
        15056,  # the same as 15031, in the other half of the protocol
        15060,  # it is being stopped
        15117,  # its table of connections is full
        15161,  # it could not save the job: its datastore is down, and it stops itself then
        15208,  # try again
    )
)
"""Of qsub: errors of ``pbs_error.h`` that are of the way to the server, or of the server itself, and say nothing about the
job. That it could not be reached (15008, and 15007 for a failed login) shares its codes with refusals, and is known by
its words."""

_LIMIT_CODES = (38, 39)
"""Of qsub: a limit on jobs or resources in the queue; "not now", that is."""

_HOOK_CODE = 32
"""Of qsub: a hook of the site has refused the job, in whatever words it likes (PBSE_HOOKERROR of pbs_error.h)."""

_COMPLAINTS = (
    Complaint(
        r"unknown queue|queue is not enabled|no default queue|access to queue is denied|cannot locate queue",
        "QUEUE",
        ("queue",),
    ),
    Complaint(
        r"would exceed|maximum number of jobs|already in (?:complex|queue)|exceeds the (?:queue|server) limit", "LIMIT"
    ),
    Complaint(r"illegal -N|job name is too long", "NAME", ("name",)),
    Complaint(r"script contains cr|script is empty|jobscript size", "SCRIPT"),
    Complaint(r"invalid option|illegal -|directive error", "OPTION"),
    Complaint(r"bad uid|bad gid|bad user", "USER"),
    Complaint(r"access from host not allowed", "PERMISSION", ("queue",)),
    Complaint(r"resource_list\.walltime|max walltime|walltime", "TIME", ("walltime",)),
    Complaint(
        r"violates queue and/or server|exceeds? queue resource|cannot satisfy queue|array job exceeds|"
        r"rejected by all possible destinations",
        "LIMITS",
    ),
    Complaint(r"account", "ACCOUNT", ("account",)),
    Complaint(r"project", "PROJECT", ("project",)),
    Complaint(
        r"unknown resource|illegal attribute or resource value|cannot be used with|cannot have \"place\"|resource",
        "RESOURCE",
        ("resources", "place"),
    ),
    Complaint(r"usage:|error \(15002\)|cannot send environment|undefined attribute", "OPTION"),
    Complaint(r"unauthorized|not authorized|permission|acl", "PERMISSION", ("queue",)),
)

_HINTS = {
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

_QSUB = SubmitCommand(system="PBS", name="qsub", prefix="#PBS", complaints=_COMPLAINTS, hints=_HINTS)


def classify(result: CommandResult, script: str, options: PBSOptions, flavour: Flavour) -> BackendError:
    """What a failed qsub means: `SubmitRefused` where there certainly is no job, else `CommandFailed`."""
    code = result.returncode if flavour == "openpbs" else None  # Torque numbers its errors otherwise
    complaint = result.stderr or result.stdout
    said = clean(complaint) or complaint.strip()[:300]
    summary = said or f"exit code {result.returncode}"
    if NOT_SET_UP.search(said):
        return BackendUnavailable(f"PBS is not set up on this host: {summary}", code="HPC-BACKEND-COMMAND")
    # these quote words of the site: of its queues, of its hooks
    is_answer = code in (_HOOK_CODE, *_LIMIT_CODES)
    if code in _NO_ANSWER_CODES or (UNREACHABLE.search(said) and not is_answer):
        return _QSUB.unanswered(summary)
    if not said or result.returncode < 0 or re.search(r"^[0-9]+(?:\[\])?(?:\.\S+)?$", result.stdout, re.MULTILINE):
        return _QSUB.unclear(summary)
    if code in _LIMIT_CODES:
        return _refusal(Complaint("", "LIMIT"), said, script, options).error()
    kind = _QSUB.complaint(said)
    if kind is None and not re.search(r"^qsub: ", complaint, re.MULTILINE):
        return _QSUB.unclear(summary)  # not its words: of a wrapper, of the shell
    return _refusal(kind or Complaint("", "REFUSED"), said, script, options).error()


def _refusal(complaint: Complaint, said: str, script: str, options: PBSOptions) -> Refusal:
    blamed = _named(said) or complaint.blamed
    option, value = _option(blamed, said, options)
    directive = _directive(script, said, blamed)
    own = options.job_extra_directives
    return _QSUB.refusal(complaint.cause, said, option=option, value=value, directive=directive, own=own)


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
    """The directive that is to blame: one whose text is in the message, or what usually is."""
    directives = _QSUB.directives(script)
    quoted = [directive for directive in directives if f"directive error: {directive}" in said]
    named = re.search(r"(?:illegal|invalid option --) ['\"]?-?([A-Za-z])\b", said)
    spellings = {f"-{named[1]}"} if named else {spelling for name in blamed for spelling in DIRECTIVES[name]}
    fitting = [directive for directive in directives if spellings.intersection(options_of(directive))]
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
