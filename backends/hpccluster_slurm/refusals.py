"""What sbatch's complaints mean. Texts were seen on Slurm 22.05 and are those of Slurm's ``slurm_errno.c``.

The first question is not what is wrong but whether there is a job. When the controller did not answer, there may be one (it
may take the submission minutes after sbatch has failed). Only an answer that certainly is the controller's, or sbatch's own
check of its arguments, says that there is none; a text that we do not know says nothing.
"""

from __future__ import annotations

import re

from hpccluster.backend.dialect import CommandResult
from hpccluster.backend.refusal import Complaint, Refusal, SubmitCommand
from hpccluster.errors import BackendError, BackendUnavailable
from hpccluster_slurm.options import DIRECTIVES, SlurmOptions, option_of

UNREACHABLE = re.compile(
    r"timed out|unable to contact|connection (?:refused|reset|failure)|connect failure|zero bytes were transmitted|"
    r"temporarily unable|temporarily unavailable|standby|protocol authentication|authentication credential|munge|"
    r"broken pipe|no route to host|transport endpoint|unexpected message|lost connection|communication connection|"
    r"communications? (?:failure|shutdown)|header lengths|problem talking to|"
    r"reached now|slurmctld|controller",
    re.IGNORECASE,
)
"""The controller was not reached, or did not answer in time."""

NOT_SET_UP = re.compile(r"could not establish a configuration source", re.IGNORECASE)
"""sbatch knew no controller to ask: there is no slurm.conf, and nobody to fetch it from."""

_ARGUMENTS = (
    r"unrecognized option|invalid option|requires an argument|ambiguous|mutually exclusive|invalid numeric value|"
    r"invalid --|only permitted by root|not a valid|invalid job array"
)
_OTHER_ANSWER = (
    r"batch job submission failed: "
    r"(?:unspecified error|invalid|requested|disabled|job|user|.*not (?:available|supported))"
)

_COMPLAINTS = (
    Complaint(r"partition specified|partition name", "PARTITION", ("queue",)),
    Complaint(r"group not permitted", "GROUP", ("queue",)),
    # what one job asks for, before the general line on accounting and QOS that follows it
    Complaint(r"MaxWallDurationPerJob", "TIME", ("walltime",)),
    Complaint(r"(?:Assoc|QOS)(?:Max\w*PerJob|Min)", "LIMITS"),
    Complaint(r"violates accounting/qos|submit limit|max submit|maxsubmit|job limit", "LIMIT"),
    # "account or account/partition combination": a partition may take the jobs of certain accounts only
    Complaint(r"account|trackable", "ACCOUNT", ("account", "queue")),
    Complaint(r"\bqos\b", "QOS", ("qos",)),
    Complaint(r"time limit|--time|timelimit", "TIME", ("walltime",)),
    Complaint(r"node count|--nodes", "NODES", ("nodes",)),
    Complaint(r"memory specification|--mem|memory", "MEMORY", ("memory",)),
    Complaint(r"\(gres\)|--gres|--gpus|generic resource|\bgpus?\b", "GRES", ("gres",)),
    Complaint(r"processors|cpu count|--cpus-per-task|--ntasks", "CPUS", ("cpus",)),
    Complaint(r"feature|--constraint", "CONSTRAINT", ("constraint",)),
    Complaint(r"license", "LICENSE"),
    Complaint(r"reservation", "RESERVATION", ("reservation",)),
    Complaint(r"node name", "NODELIST", ("exclude",)),
    Complaint(r"--signal", "SIGNAL", ("signal",)),
    Complaint(r"dependency", "DEPENDENCY"),
    Complaint(r"node configuration|partition configuration|node not available|nodes required", "CONFIGURATION"),
    Complaint(r"dos line breaks|not look like a batch script|script is empty", "SCRIPT"),
    Complaint(_ARGUMENTS, "OPTION"),
    Complaint(r"permission denied|not authorized|not permitted|access denied", "PERMISSION"),
    Complaint(_OTHER_ANSWER, "REFUSED"),
)

CONTEXT_OPTION = {"cpus": "cores", "nodes": ""}
"""Names of the template's context that come from an option of another name."""

_HINTS = {
    "LIMIT": "you have as many jobs in the queue as this account, QOS or partition allows: they must end first",
    "LIMITS": "it asks for more (or less) than one job of this account or QOS may: sacctmgr show qos format=name,maxtres,mintres",
    "CONFIGURATION": "no node (of this partition) has that many cores and GPUs, and that much memory: ask for less",
    "MEMORY": "no node (of this partition) has that much memory for one job: ask for less",
    "CPUS": "no node (of this partition) has that many cores: ask for less",
    "TIME": "see the limits of partitions with: sinfo -o '%P %l', of QOS with: sacctmgr show qos format=name,maxwall",
    "GRES": "see what nodes offer with: sinfo -o '%P %G'",
    "CONSTRAINT": "see the features of nodes with: sinfo -o '%P %f'",
    "RESERVATION": "see the reservations with: scontrol show reservation",
    "ACCOUNT": "see your accounts with: sacctmgr show associations user=$USER format=account,partition,qos",
    "QOS": "see your QOS with: sacctmgr show associations user=$USER format=account,partition,qos",
    "OPTION": "check job_extra_directives; a directive that your Slurm does not know goes into job_directives_skip",
}

_SBATCH = SubmitCommand(system="Slurm", name="sbatch", prefix="#SBATCH", complaints=_COMPLAINTS, hints=_HINTS)


def classify(result: CommandResult, script: str, options: SlurmOptions) -> BackendError:
    """What a failed sbatch means: `SubmitRefused` or `BackendUnavailable` where there certainly is no job, else `CommandFailed`."""
    said = clean(result.stderr or result.stdout)
    summary = said or f"exit code {result.returncode}"
    if NOT_SET_UP.search(said) and not result.stdout.strip():
        return BackendUnavailable(
            f"sbatch finds no Slurm here: {said}\n  fix: use a host that can submit jobs (ssh= does so from here), "
            "or set $SLURM_CONF, also for programs that a login shell does not start",
            code="HPC-SUBMIT-CONFIGURATION-MISSING",
            details={"said": said},
        )
    if UNREACHABLE.search(said):
        return _SBATCH.unanswered(summary)
    # in the raw text, where the general line is still a line of its own
    complaint = _SBATCH.complaint(result.stderr or result.stdout)
    if complaint is None or result.returncode < 0 or re.search(r"^[0-9]+(?:;|$)", result.stdout):
        return _SBATCH.unclear(summary)
    return _refusal(complaint, said, script, options).error()


def _refusal(complaint: Complaint, said: str, script: str, options: SlurmOptions) -> Refusal:
    option = value = ""
    for name in complaint.blamed:
        option = CONTEXT_OPTION.get(name, name)
        found = getattr(options, option, None)
        value = "" if found is None else str(found)
        if value:
            break
    directive = _directive(script, said, complaint.blamed)
    own = options.job_extra_directives
    return _SBATCH.refusal(complaint.cause, said, option=option, value=value, directive=directive, own=own)


def _directive(script: str, said: str, blamed: tuple[str, ...]) -> str:
    """The directive that is to blame: by the name of an option in the message, or by what usually is."""
    named = re.search(r"(--[a-z-]+)", said)
    for wanted in ((named[1],) if named else (), *(DIRECTIVES[name] for name in blamed)):
        for directive in _SBATCH.directives(script):
            if option_of(directive) in wanted:
                return directive
    return ""


def clean(text: str) -> str:
    """Slurm's words without its prefixes. The general line "Batch job submission failed" goes where another tells more."""
    lines = [re.sub(r"^sbatch: (?:(?:error|fatal): )?", "", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(('Try "sbatch', "See 'sbatch"))]
    final = "Batch job submission failed: "
    own = [line for line in lines if not line.startswith(final)]
    general = [line.removeprefix(final) if not own else line for line in lines if line.startswith(final)]
    # "invalid partition specified: x" says all that "Invalid partition name specified" says
    if own and general and re.search(r"invalid partition", general[0], re.IGNORECASE):
        general = []
    return "\n".join([*own, *general])
